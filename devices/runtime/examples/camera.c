/* camera - classifies what a camera sees, frame after frame: the service of a device.
 *
 *     camera BUNDLE --device /dev/video0 [--clinical-device /dev/video2] [OPTIONS]
 *     camera BUNDLE --file frames.yuv --size 1280x720 --format yuyv [--clinical-file other.yuv] [OPTIONS]
 *
 * Opens the bundle and tests it before the first frame, then prints one line a frame. Of a camera it takes the newest
 * frame there is; a file that stands in for one is read frame by frame. To systemd (Type=notify, WatchdogSec=) it says
 * READY=1 when the self-test has passed, and WATCHDOG=1 after each classification that succeeded: one that hangs, or a
 * camera that gives nothing, ends in a restart. What is not assessable is an answer, not a failure.
 *
 * Exit codes: 0 the file's end, --frames, SIGINT or SIGTERM; 1 a camera or a classification failed; 2 the bundle, its
 * self-test or the options.
 *
 * Research software, not a medical device.
 */
#include <edgeskin.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "frames.h"
#include "notify.h"

enum { ENDED = 0, BROKEN = 1, REFUSED = 2 };

static const char usage[] =
    "usage: camera BUNDLE --device DEV | --file FILE [OPTIONS]\n"
    "  --device DEV           V4L2 device of the dermoscopic camera, /dev/video0\n"
    "  --clinical-device DEV  V4L2 device of the clinical camera\n"
    "  --file FILE            frames without gaps, instead of the dermoscopic camera\n"
    "  --clinical-file FILE   instead of the clinical camera\n"
    "  --size WxH             wished for of a camera, or that of the file's frames (1280x720)\n"
    "  --format F             yuyv, nv12, or rgb of a file (yuyv)\n"
    "  --loop                 begin a file again at its end\n"
    "  --frames N             end after so many\n"
    "  --deadline MS          a classification that takes longer has failed\n"
    "  --backend-path DIR     folder with the engine's libraries  (or EDGESKIN_BACKEND_PATH)\n"
    "  --key HEX              Ed25519 public key, 64 digits  (or EDGESKIN_KEY)\n";

static volatile sig_atomic_t stop;

static void on_signal(int number) {
    (void)number;
    stop = 1;
}

/* Without SA_RESTART, so that waiting for a frame ends. */
static void catch_signals(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

/* ---- Options ----------------------------------------------------------------------------------------------------- */

typedef struct arguments {
    const char *bundle, *backend_path, *key;
    frames dermoscopic, clinical; /* path NULL: no clinical camera */
    long count, deadline_ms;      /* 0: without end, without deadline */
} arguments;

static const char *from_environment(const char *name) {
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

/* A whole number from 1 to `limit`; 0: something else. */
static long number(const char *text, long limit) {
    char *end = NULL;
    const long value = text && *text >= '0' && *text <= '9' ? strtol(text, &end, 10) : 0;
    return end && *end == '\0' && value >= 1 && value <= limit ? value : 0;
}

/* "1280x720" */
static int read_size(const char *text, es_image *image) {
    char width[8];
    const char *cross = strchr(text, 'x');
    if (!cross || cross == text || (size_t)(cross - text) >= sizeof width) return 0;
    memcpy(width, text, (size_t)(cross - text));
    width[cross - text] = '\0';
    image->width = (int32_t)number(width, 16384);
    image->height = (int32_t)number(cross + 1, 16384);
    return image->width && image->height;
}

static int read_format(const char *text) {
    if (strcmp(text, "yuyv") == 0) return ES_YUYV;
    if (strcmp(text, "nv12") == 0) return ES_NV12;
    return strcmp(text, "rgb") == 0 ? ES_RGB : 0;
}

/* An option that takes a value. 1: understood. */
static int take(arguments *given, const char *name, const char *value) {
    const int camera = strstr(name, "device") != NULL;
    if (strcmp(name, "--device") == 0 || strcmp(name, "--file") == 0) {
        given->dermoscopic.path = value;
        given->dermoscopic.camera = camera;
    } else if (strcmp(name, "--clinical-device") == 0 || strcmp(name, "--clinical-file") == 0) {
        given->clinical.path = value;
        given->clinical.camera = camera;
    } else if (strcmp(name, "--size") == 0) {
        return read_size(value, &given->dermoscopic.image);
    } else if (strcmp(name, "--format") == 0) {
        return (given->dermoscopic.image.format = read_format(value)) != 0;
    } else if (strcmp(name, "--frames") == 0) {
        return (given->count = number(value, 2000000000)) != 0;
    } else if (strcmp(name, "--deadline") == 0) {
        return (given->deadline_ms = number(value, 2000000000)) != 0;
    } else if (strcmp(name, "--backend-path") == 0) {
        given->backend_path = value;
    } else if (strcmp(name, "--key") == 0) {
        given->key = value;
    } else {
        return 0;
    }
    return 1;
}

static int parse(int argc, char **argv, arguments *given) {
    es_image *image = &given->dermoscopic.image;
    int i, known = 1;
    memset(given, 0, sizeof *given);
    ES_INIT(*image);
    image->format = ES_YUYV;
    image->width = 1280;
    image->height = 720;
    given->dermoscopic.fd = given->clinical.fd = -1;
    given->backend_path = from_environment("EDGESKIN_BACKEND_PATH");
    given->key = from_environment("EDGESKIN_KEY");
    for (i = 1; i < argc && known; ++i) {
        if (strcmp(argv[i], "--loop") == 0) {
            given->dermoscopic.loop = given->clinical.loop = 1;
        } else if (argv[i][0] == '-') {
            known = i + 1 < argc && take(given, argv[i], argv[i + 1]);
            ++i;
        } else {
            known = given->bundle == NULL;
            given->bundle = argv[i];
        }
    }
    given->clinical.image = *image;
    return known && given->bundle && given->dermoscopic.path;
}

/* 64 hexadecimal digits -> 32 bytes. */
static int read_key(const char *digits, uint8_t key[32]) {
    size_t i;
    if (strlen(digits) != 64 || strspn(digits, "0123456789abcdefABCDEF") != 64) return 0;
    for (i = 0; i < 32; ++i) {
        const char pair[3] = {digits[2 * i], digits[2 * i + 1], '\0'};
        key[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return 1;
}

/* ---- What is printed --------------------------------------------------------------------------------------------- */

static void print_flags(const char *name, uint32_t flags) {
    uint32_t bit;
    for (bit = 1; flags; flags &= ~bit, bit <<= 1)
        if (flags & bit) printf(" %s:%s", name, es_quality_name(bit));
}

static void print_result(long count, const es_model_info *info, const es_result *result) {
    int task;
    printf("frame %ld  ", count);
    if (result->assessable) {
        printf("%s %.3f %s", info->target, result->target_probability, result->refer ? "refer" : "no referral");
        for (task = 0; task < info->task_count; ++task) {
            const int at = info->first[task] + result->predicted[task];
            printf("  %s=%s %.3f", info->tasks[task], info->classes[at], result->probabilities[at]);
        }
        if (result->has_score) printf("  score %d", result->score);
    } else {
        printf("not assessable");
    }
    print_flags("clinical", result->quality[0]);
    print_flags("dermoscopic", result->quality[1]);
    printf("  %.2f ms\n", result->total_us / 1e3);
    fflush(stdout);
}

static void log_line(void *context, es_log_level level, const char *line) {
    static const char *const names[] = {"info", "warning", "error"};
    (void)context;
    fprintf(stderr, "camera: %s: %s\n", names[level], line);
}

static int failed(int code) {
    fprintf(stderr, "camera: %s\n", es_last_error());
    return code;
}

/* ---- The program ------------------------------------------------------------------------------------------------- */

static int watch(es_model *model, const es_model_info *info, arguments *given) {
    frames *const cameras[2] = {&given->dermoscopic, given->clinical.path ? &given->clinical : NULL};
    long count, camera;
    for (count = 1; !stop && (!given->count || count <= given->count); ++count) {
        es_result result;
        es_status status;
        for (camera = 0; camera < 2 && cameras[camera]; ++camera) {
            const frames_state state = frames_next(cameras[camera]);
            if (state == FRAMES_FAILED) return BROKEN;
            if (state != FRAMES_OK) return ENDED; /* the file's end, or one of our signals */
        }
        ES_INIT(result);
        status = es_classify(model, cameras[1] ? &cameras[1]->image : NULL, &cameras[0]->image, &result);
        if (status == ES_OK) {
            print_result(count, info, &result);
            notify("WATCHDOG=1");
        } else if (status == ES_DEADLINE) { /* the watchdog decides how many of these are too many */
            fprintf(stderr, "camera: frame %ld: %s\n", count, es_last_error());
        } else {
            return failed(BROKEN);
        }
    }
    return ENDED;
}

int main(int argc, char **argv) {
    arguments given;
    es_options options;
    es_model_info info;
    es_selftest_report tested;
    es_model *model = NULL;
    es_status status;
    uint8_t key[32];
    int code;
    if (!parse(argc, argv, &given)) {
        fputs(usage, stderr);
        return REFUSED;
    }
    if (!ES_LIBRARY_FITS()) {
        fprintf(stderr,
                "camera: another libedgeskin, %s; fix: install the one of the header this was compiled against\n",
                es_version());
        return REFUSED;
    }
    catch_signals();
    ES_INIT(options);
    ES_INIT(info);
    ES_INIT(tested);
    options.backend_path = given.backend_path;
    options.deadline_ms = (int32_t)given.deadline_ms;
    options.modes = given.clinical.path ? 2 : 1;
    options.log = log_line;
    if (given.key) {
        if (!read_key(given.key, key)) {
            fprintf(stderr, "camera: no public key; got: %s; possible: 64 hexadecimal digits; fix: --key HEX\n",
                    given.key);
            return REFUSED;
        }
        options.public_key = key;
    }
    if (!frames_open(&given.dermoscopic) || (given.clinical.path && !frames_open(&given.clinical))) {
        frames_close(&given.dermoscopic);
        frames_close(&given.clinical);
        return BROKEN;
    }
    options.max_width = given.dermoscopic.image.width > given.clinical.image.width ? given.dermoscopic.image.width
                                                                                   : given.clinical.image.width;
    status = es_open(given.bundle, &options, &model);
    if (status == ES_OK) status = es_info(model, &info);
    if (status == ES_OK) status = es_selftest(model, &tested);
    if (status == ES_OK) {
        printf("self-test passed: %d golden cases, bundle %s, %s\n", tested.cases, info.name, info.backend);
        fflush(stdout);
        notify("READY=1\nSTATUS=classifying");
        code = watch(model, &info, &given);
    } else {
        code = failed(REFUSED);
    }
    notify("STOPPING=1");
    es_close(model);
    frames_close(&given.dermoscopic);
    frames_close(&given.clinical);
    return code;
}
