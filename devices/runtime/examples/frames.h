/* frames.h - frames from a V4L2 camera, or from a file that stands in for one. For camera.c.
 *
 * A camera is read by memory-mapped streaming: four buffers, of which the newest filled one is taken and older ones are
 * handed back. Where all are full, the driver has dropped frames since: then all go back and the next one is waited
 * for, so that a slow reader sees the present and not the past. The frame stays where the driver put it: it is read in
 * place until the next call. A file holds frames one after another, without head and without gaps.
 */
#ifndef EDGESKIN_FRAMES_H
#define EDGESKIN_FRAMES_H

#include <edgeskin.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FRAMES_BUFFERS = 4, FRAMES_WAIT_MS = 5000 };

typedef enum frames_state { FRAMES_OK, FRAMES_END, FRAMES_INTERRUPTED, FRAMES_FAILED } frames_state;

typedef struct frames {
    const char *path;
    int fd, camera, loop;
    es_image image; /* of the newest frame; `pixels` points into a buffer of this struct */
    uint8_t *buffer[FRAMES_BUFFERS];
    size_t length[FRAMES_BUFFERS];
    int buffers, held; /* held: number of the buffer that `image` is in, -1: none */
    size_t frame_size;
} frames;

static int frames_refuse(const frames *from, const char *what, const char *got, const char *fix) {
    fprintf(stderr, "camera: %s: %s; got: %s; fix: %s\n", from->path, what, got, fix);
    return 0;
}

/* Bytes of a frame without gaps. */
static size_t frames_bytes(int format, int width, int height) {
    const size_t pixels = (size_t)width * (size_t)height;
    return format == ES_NV12 ? pixels * 3 / 2 : format == ES_YUYV ? pixels * 2 : pixels * 3;
}

/* ---- A file ------------------------------------------------------------------------------------------------------ */

static int frames_open_file(frames *from) {
    struct stat found;
    if (fstat(from->fd, &found) != 0) return frames_refuse(from, "cannot be read", strerror(errno), "check the path");
    from->frame_size = frames_bytes(from->image.format, from->image.width, from->image.height);
    if (S_ISREG(found.st_mode) && (found.st_size == 0 || (size_t)found.st_size % from->frame_size != 0)) {
        char got[96];
        snprintf(got, sizeof got, "%lld bytes, of which a frame has %zu", (long long)found.st_size, from->frame_size);
        return frames_refuse(from, "does not hold whole frames", got, "give its --size and --format");
    }
    from->loop = from->loop && S_ISREG(found.st_mode); /* a pipe cannot be read again */
    from->buffer[0] = (uint8_t *)malloc(from->frame_size);
    if (!from->buffer[0]) return frames_refuse(from, "no room for a frame", "out of memory", "send smaller frames");
    from->image.pixels = from->buffer[0];
    return 1;
}

static frames_state frames_next_of_file(frames *from) {
    size_t done = 0;
    int rewound = 0;
    while (done < from->frame_size) {
        const ssize_t count = read(from->fd, from->buffer[0] + done, from->frame_size - done);
        if (count > 0) {
            done += (size_t)count;
            rewound = 0;
        } else if (count < 0) {
            if (errno == EINTR) return FRAMES_INTERRUPTED;
            frames_refuse(from, "cannot be read", strerror(errno), "check the file");
            return FRAMES_FAILED;
        } else if (done) {
            frames_refuse(from, "ends within a frame", "fewer bytes than a frame has", "give its --size and --format");
            return FRAMES_FAILED;
        } else if (!from->loop || rewound || lseek(from->fd, 0, SEEK_SET) != 0) {
            return FRAMES_END;
        } else {
            rewound = 1;
        }
    }
    return FRAMES_OK;
}

/* ---- A camera ---------------------------------------------------------------------------------------------------- */

/* ioctl that a signal does not disturb. */
static int frames_ask(int fd, unsigned long request, void *argument) {
    int done;
    do done = ioctl(fd, request, argument);
    while (done != 0 && errno == EINTR);
    return done;
}

/* What the driver says of its colours. */
static int frames_colour(const struct v4l2_pix_format *format) {
    unsigned encoding = format->ycbcr_enc, range = format->quantization;
    if (encoding == V4L2_YCBCR_ENC_DEFAULT) encoding = V4L2_MAP_YCBCR_ENC_DEFAULT(format->colorspace);
    if (range == V4L2_QUANTIZATION_DEFAULT)
        range = V4L2_MAP_QUANTIZATION_DEFAULT(0, format->colorspace, encoding);
    if (encoding == V4L2_YCBCR_ENC_709) return ES_BT709;
    return range == V4L2_QUANTIZATION_FULL_RANGE ? ES_JPEG : ES_BT601;
}

/* Ask for the format and size wished for, else for the other format; sizes are the driver's to change. */
static int frames_negotiate(frames *from) {
    const int wished = from->image.format == ES_NV12 ? 0 : 1;
    int turn;
    for (turn = 0; turn < 2; ++turn) {
        const int yuyv = turn == 0 ? wished : !wished;
        struct v4l2_format format;
        struct v4l2_pix_format *pixels = &format.fmt.pix;
        memset(&format, 0, sizeof format);
        format.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
        pixels->width = (unsigned)from->image.width;
        pixels->height = (unsigned)from->image.height;
        pixels->pixelformat = yuyv ? V4L2_PIX_FMT_YUYV : V4L2_PIX_FMT_NV12;
        pixels->field = V4L2_FIELD_NONE;
        if (frames_ask(from->fd, VIDIOC_S_FMT, &format) != 0) {
            if (errno == EBUSY)
                return frames_refuse(from, "is in use", strerror(errno), "stop the program that uses the camera");
            continue;
        }
        if (pixels->pixelformat != (yuyv ? V4L2_PIX_FMT_YUYV : V4L2_PIX_FMT_NV12)) continue;
        if (pixels->width < 2 || pixels->width > 16384 || pixels->height < 2 || pixels->height > 16384 ||
            pixels->bytesperline > 1u << 20)
            return frames_refuse(from, "gives frames of a size that cannot be used", "below 2 or above 16384 pixels",
                                 "choose another --size");
        from->image.format = yuyv ? ES_YUYV : ES_NV12;
        from->image.width = (int32_t)pixels->width;
        from->image.height = (int32_t)pixels->height;
        from->image.stride = (int32_t)pixels->bytesperline;
        from->image.colour = frames_colour(pixels);
        from->frame_size = yuyv ? (size_t)pixels->bytesperline * pixels->height
                                : (size_t)pixels->bytesperline * pixels->height * 3 / 2;
        return 1;
    }
    return frames_refuse(from, "offers neither YUYV nor NV12", "another pixel format",
                         "v4l2-ctl --list-formats shows what it has; a raw sensor needs libcamera before it");
}

static int frames_enqueue(frames *from, int number) {
    struct v4l2_buffer buffer;
    memset(&buffer, 0, sizeof buffer);
    buffer.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    buffer.memory = V4L2_MEMORY_MMAP;
    buffer.index = (unsigned)number;
    return frames_ask(from->fd, VIDIOC_QBUF, &buffer) == 0;
}

static int frames_open_camera(frames *from) {
    struct v4l2_capability able;
    struct v4l2_requestbuffers asked;
    enum v4l2_buf_type type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    unsigned has;
    memset(&able, 0, sizeof able);
    memset(&asked, 0, sizeof asked);
    if (frames_ask(from->fd, VIDIOC_QUERYCAP, &able) != 0)
        return frames_refuse(from, "is no camera", strerror(errno), "pass a V4L2 device, or a file with --file");
    has = able.capabilities & V4L2_CAP_DEVICE_CAPS ? able.device_caps : able.capabilities;
    if (!(has & V4L2_CAP_VIDEO_CAPTURE) || !(has & V4L2_CAP_STREAMING))
        return frames_refuse(from, "cannot stream single-plane video", (const char *)able.card,
                             "v4l2-ctl --list-devices shows the others of this camera");
    if (!frames_negotiate(from)) return 0;
    asked.count = FRAMES_BUFFERS;
    asked.type = type;
    asked.memory = V4L2_MEMORY_MMAP;
    if (frames_ask(from->fd, VIDIOC_REQBUFS, &asked) != 0 || asked.count < 2)
        return frames_refuse(from, "gives no buffers", strerror(errno), "stop the program that uses the camera");
    for (; from->buffers < (int)asked.count && from->buffers < FRAMES_BUFFERS; ++from->buffers) {
        struct v4l2_buffer buffer;
        void *memory;
        memset(&buffer, 0, sizeof buffer);
        buffer.type = type;
        buffer.memory = V4L2_MEMORY_MMAP;
        buffer.index = (unsigned)from->buffers;
        if (frames_ask(from->fd, VIDIOC_QUERYBUF, &buffer) != 0 || buffer.length < from->frame_size)
            return frames_refuse(from, "gives too small buffers", "less than a frame", "choose another --size");
        memory = mmap(NULL, buffer.length, PROT_READ, MAP_SHARED, from->fd, (off_t)buffer.m.offset);
        if (memory == MAP_FAILED) return frames_refuse(from, "cannot be mapped", strerror(errno), "free memory");
        from->buffer[from->buffers] = (uint8_t *)memory;
        from->length[from->buffers] = buffer.length;
        if (!frames_enqueue(from, from->buffers))
            return frames_refuse(from, "takes no buffers", strerror(errno), "plug the camera in again");
    }
    if (frames_ask(from->fd, VIDIOC_STREAMON, &type) != 0)
        return frames_refuse(from, "does not start", strerror(errno), "choose a smaller --size, or another USB port");
    return 1;
}

static frames_state frames_broken(const frames *from, const char *what) {
    frames_refuse(from, what, strerror(errno), "plug the camera in again");
    return FRAMES_FAILED;
}

/* Hand the frame that is held back to the driver. */
static int frames_release(frames *from) {
    const int number = from->held;
    from->held = -1;
    return number < 0 || frames_enqueue(from, number);
}

/* Take the newest filled buffer; the number of whole frames that there were, -1 on a fault. */
static int frames_drain(frames *from) {
    int found = 0;
    for (;;) {
        struct v4l2_buffer buffer;
        memset(&buffer, 0, sizeof buffer);
        buffer.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
        buffer.memory = V4L2_MEMORY_MMAP;
        if (frames_ask(from->fd, VIDIOC_DQBUF, &buffer) != 0) return errno == EAGAIN ? found : -1;
        if (buffer.flags & V4L2_BUF_FLAG_ERROR) { /* a broken frame */
            if (!frames_enqueue(from, (int)buffer.index)) return -1;
            continue;
        }
        if (!frames_release(from)) return -1;
        from->held = (int)buffer.index;
        ++found;
    }
}

static frames_state frames_next_of_camera(frames *from) {
    int waited = 0;
    if (!frames_release(from)) return frames_broken(from, "takes no buffers");
    for (;; waited = 1) {
        const int found = frames_drain(from);
        struct pollfd wait;
        int ready;
        if (found < 0) return frames_broken(from, "gives no frames");
        if (found > 0 && (waited || found < from->buffers - 1)) {
            from->image.pixels = from->buffer[from->held];
            return FRAMES_OK;
        }
        if (!frames_release(from)) return frames_broken(from, "takes no buffers");
        wait.fd = from->fd;
        wait.events = POLLIN;
        ready = poll(&wait, 1, FRAMES_WAIT_MS);
        if (ready < 0 && errno == EINTR) return FRAMES_INTERRUPTED;
        if (ready == 0) errno = ETIMEDOUT;
        if (ready <= 0) return frames_broken(from, "gives no frames");
    }
}

/* ---- Both -------------------------------------------------------------------------------------------------------- */

/* 1: `from` gives frames. `path`, `camera`, `loop` and the image's format and size say what is wished for. */
static int frames_open(frames *from) {
    from->held = -1;
    from->fd = open(from->path, (from->camera ? O_RDWR | O_NONBLOCK : O_RDONLY) | O_CLOEXEC);
    if (from->fd < 0) {
        const char *fix = errno == EACCES ? "add the user to the group video" : "check the path and the cable";
        return frames_refuse(from, "cannot be opened", strerror(errno), fix);
    }
    return from->camera ? frames_open_camera(from) : frames_open_file(from);
}

static frames_state frames_next(frames *from) {
    return from->camera ? frames_next_of_camera(from) : frames_next_of_file(from);
}

static void frames_close(frames *from) {
    int number;
    if (from->camera && from->fd >= 0) {
        enum v4l2_buf_type type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
        frames_ask(from->fd, VIDIOC_STREAMOFF, &type);
        for (number = 0; number < from->buffers; ++number) munmap(from->buffer[number], from->length[number]);
    } else {
        free(from->buffer[0]);
    }
    if (from->fd >= 0) close(from->fd);
    from->fd = -1;
}

#endif
