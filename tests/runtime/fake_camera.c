/* A V4L2 driver inside the program: linked with examples/camera.c through --wrap, it answers for /dev/fake.
 *
 * Frames have numbers, which their first byte tells. A frame comes to pass when somebody waits for one, and BURST of
 * them while a classification runs; one that finds no queued buffer is dropped, as drivers do. What is classified is
 * told on stderr. Settings come from the environment: FORMATS ("YUYV NV12"), BURST, BROKEN (every so-manieth frame is
 * flagged), UNPLUG (after so many frames), CARD (capabilities), COLOURS (a V4L2_COLORSPACE_).
 */
#define _GNU_SOURCE
#include <edgeskin.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST = 4, PAGE = 4096 };

static struct {
    int fd, on, count, next;       /* next: number of the frame to come */
    int queued[MOST], n_queued;    /* buffers that the driver may fill, the oldest first */
    int filled[MOST], n_filled;    /* buffers that hold a frame, the oldest first */
    unsigned char *memory;
    size_t length;
    struct v4l2_pix_format format;
} driver = {-1, 0, 0, 0, {0}, 0, {0}, 0, NULL, 0, {0}};

static long setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? strtol(text, NULL, 0) : otherwise;
}

static int first(int *list, int *count) {
    const int value = list[0];
    memmove(list, list + 1, sizeof *list * (size_t)--*count);
    return value;
}

static void tick(void) {
    const int number = driver.next++;
    if (!driver.n_queued) return; /* dropped */
    const int buffer = first(driver.queued, &driver.n_queued);
    memset(driver.memory + (size_t)buffer * driver.length, number, driver.length);
    driver.filled[driver.n_filled++] = buffer;
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    const int mode = flags & O_CREAT ? va_arg(more, int) : 0;
    va_end(more);
    if (strcmp(path, "/dev/fake") != 0) return __real_open(path, flags, mode);
    return driver.fd = memfd_create("camera", MFD_CLOEXEC);
}

int __real_poll(struct pollfd *, nfds_t, int);
int __wrap_poll(struct pollfd *, nfds_t, int);
int __wrap_poll(struct pollfd *wait, nfds_t count, int limit_ms) {
    if (count != 1 || wait->fd != driver.fd) return __real_poll(wait, count, limit_ms);
    if (!driver.n_filled) tick();
    return 1;
}

static int set_format(struct v4l2_format *format) {
    const char *offered = getenv("FORMATS") ? getenv("FORMATS") : "YUYV NV12";
    const unsigned wanted = format->fmt.pix.pixelformat;
    char name[5] = {(char)wanted, (char)(wanted >> 8), (char)(wanted >> 16), (char)(wanted >> 24), 0};
    if (!strstr(offered, name)) format->fmt.pix.pixelformat = V4L2_PIX_FMT_MJPEG; /* the driver's own choice */
    format->fmt.pix.width = 320; /* the only size it has, with rows that end in a gap */
    format->fmt.pix.height = 240;
    format->fmt.pix.bytesperline = wanted == V4L2_PIX_FMT_YUYV ? 704 : 384;
    format->fmt.pix.colorspace = (unsigned)setting("COLOURS", V4L2_COLORSPACE_SMPTE170M);
    driver.format = format->fmt.pix;
    return 0;
}

static int queue(const struct v4l2_buffer *buffer) {
    driver.queued[driver.n_queued++] = (int)buffer->index;
    return 0;
}

static int dequeue(struct v4l2_buffer *buffer) {
    const long broken = setting("BROKEN", 0);
    if (driver.next > setting("UNPLUG", 1L << 30)) return errno = ENODEV, -1;
    if (!driver.n_filled) return errno = EAGAIN, -1;
    buffer->index = (unsigned)first(driver.filled, &driver.n_filled);
    if (broken && driver.memory[buffer->index * driver.length] % broken == 0) buffer->flags = V4L2_BUF_FLAG_ERROR;
    return 0;
}

static int buffers(struct v4l2_requestbuffers *asked) {
    const size_t size = (size_t)driver.format.bytesperline * driver.format.height * 2;
    driver.count = asked->count < MOST ? (int)asked->count : MOST;
    driver.length = (size + PAGE - 1) / PAGE * PAGE;
    asked->count = (unsigned)driver.count;
    if (ftruncate(driver.fd, (off_t)(driver.length * MOST)) != 0) return -1;
    driver.memory = mmap(NULL, driver.length * MOST, PROT_READ | PROT_WRITE, MAP_SHARED, driver.fd, 0);
    return driver.memory == MAP_FAILED ? -1 : 0;
}

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...) {
    va_list more;
    va_start(more, request);
    void *argument = va_arg(more, void *);
    va_end(more);
    struct v4l2_buffer *buffer = argument;
    if (fd != driver.fd) return __real_ioctl(fd, request, argument);
    switch (request) {
        case VIDIOC_QUERYCAP:
            ((struct v4l2_capability *)argument)->capabilities =
                (unsigned)setting("CARD", V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING);
            return 0;
        case VIDIOC_S_FMT: return set_format(argument);
        case VIDIOC_REQBUFS: return buffers(argument);
        case VIDIOC_QUERYBUF:
            buffer->length = (unsigned)driver.length;
            buffer->m.offset = (unsigned)(buffer->index * driver.length);
            return 0;
        case VIDIOC_QBUF: return queue(buffer);
        case VIDIOC_DQBUF: return dequeue(buffer);
        case VIDIOC_STREAMON:
            driver.on = 1;
            for (int i = 0; i < setting("BURST", 0); ++i) tick(); /* while the bundle is opened */
            return 0;
        case VIDIOC_STREAMOFF: driver.on = 0; return 0;
        default: return errno = ENOTTY, -1;
    }
}

es_status __real_es_classify(es_model *, const es_image *, const es_image *, es_result *);
es_status __wrap_es_classify(es_model *, const es_image *, const es_image *, es_result *);
es_status __wrap_es_classify(es_model *model, const es_image *clinical, const es_image *seen, es_result *result) {
    fprintf(stderr, "classified %d: format %d, %dx%d, stride %d, colour %d\n", seen->pixels[0], seen->format, seen->width,
            seen->height, seen->stride, seen->colour);
    const es_status status = __real_es_classify(model, clinical, seen, result);
    for (int i = 0; i < setting("BURST", 0); ++i) tick();
    /* No buffer may be the driver's and the reader's at once, nor lost. */
    if (driver.n_queued + driver.n_filled != driver.count - 1) fprintf(stderr, "a buffer went astray\n");
    return status;
}
