/* edgeskin.h - open a bundle that `edgeskin export` made and classify lesions with it, from C99 or C++.
 *
 *     es_model *model = NULL;
 *     es_image image;
 *     es_result result;
 *     if (es_open("bundle", NULL, &model) != ES_OK || es_selftest(model, NULL) != ES_OK) {
 *         fprintf(stderr, "%s\n", es_last_error());
 *         es_close(model);
 *         return 1;
 *     }
 *     ES_INIT(image);
 *     image.format = ES_RGB, image.width = 1920, image.height = 1080, image.pixels = pixels;
 *     ES_INIT(result);
 *     if (es_classify(model, NULL, &image, &result) == ES_OK && result.assessable)
 *         printf("P(melanoma) = %.3f\n", result.target_probability);
 *     es_close(model);
 *
 * Research software, not a medical device.
 *
 * Life of a model: es_open verifies and loads; until es_selftest has passed, es_classify refuses (ES_UNTESTED); once a
 * self-test has failed, it refuses for good (ES_SELFTEST_FAILED): close the model. That is the safe state.
 *
 * Memory: the caller owns every struct and every pixel buffer, the library copies what it keeps. A model owns what
 * es_info points to. After es_open, es_classify allocates nothing in the library's own code; engines may.
 *
 * Threads: different models may be used by different threads at once. One model serves one call at a time: a second
 * call while one runs returns ES_BUSY and changes nothing. es_close must come after the last call has returned.
 *
 * Boundary: nothing is thrown, printed or aborted. Every struct begins with `size`, set by the caller to sizeof of the
 * struct, so that a library may grow them; a size the library does not know gives ES_VERSION.
 */
#ifndef EDGESKIN_H
#define EDGESKIN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define ES_API
#else
#define ES_API __attribute__((visibility("default")))
#endif

/* Changes when a caller must be compiled anew. */
#define ES_ABI_VERSION 1u

/* Zero a struct of this header and set its size: every field then has its default. */
#define ES_INIT(record) (memset(&(record), 0, sizeof(record)), (void)((record).size = sizeof(record)))

/* Limits of a bundle that this library opens. */
#define ES_MAX_TASKS 16
#define ES_MAX_LOGITS 256 /* classes of all tasks together */

typedef enum es_status {
    ES_OK = 0,
    ES_ARGUMENT = 1,         /* a null pointer or an option out of its range */
    ES_VERSION = 2,          /* struct size or ABI of another version of this library */
    ES_NOT_FOUND = 3,        /* no bundle there */
    ES_IO = 4,               /* the system refused to read */
    ES_MANIFEST = 5,         /* the manifest is no valid JSON, too large, or lacks a field */
    ES_FORMAT = 6,           /* a bundle of another format version, a .zip, or a build kit */
    ES_TAMPERED = 7,         /* a hash, a size or the list of files is not the manifest's */
    ES_UNSAFE = 8,           /* a link, a device or a path that leads out of the bundle */
    ES_SIGNATURE = 9,        /* no signature, a wrong one, or one by another key */
    ES_INCOMPATIBLE = 10,    /* made for another system, processor, GPU or engine version */
    ES_BACKEND = 11,         /* no engine that this bundle may use works here */
    ES_UNTESTED = 12,        /* es_selftest has not passed yet */
    ES_SELFTEST_FAILED = 13, /* safe state: this model answers no more */
    ES_BUSY = 14,            /* another call on this model is running */
    ES_IMAGE = 15,           /* size, stride or pixel format that cannot be read */
    ES_DEADLINE = 16,        /* the call ran past its deadline; there is no result */
    ES_ENGINE = 17,          /* the engine failed, or gave a number that is not finite */
    ES_MEMORY = 18,          /* out of memory */
    ES_INTERNAL = 19         /* a fault of this library */
} es_status;

/* Bytes in memory order. YUV is BT.601, limited range, unless `colour` says otherwise. */
typedef enum es_format {
    ES_RGB = 1,  /* 3 bytes a pixel */
    ES_BGR = 2,  /* 3 bytes a pixel */
    ES_RGBA = 3, /* 4 bytes a pixel, alpha ignored */
    ES_GREY = 4, /* refused with ES_IMAGE: the networks need colour */
    ES_NV12 = 5, /* `pixels`: Y; `chroma`: U and V in turn, at half size; width and height even */
    ES_YUYV = 6  /* 2 bytes a pixel: Y U Y V; width even */
} es_format;

typedef enum es_colour { ES_BT601 = 0, ES_BT709 = 1, ES_JPEG = 2 /* BT.601, full range */ } es_colour;

/* An image, read during the call only. Top row first. */
typedef struct es_image {
    size_t size;           /* sizeof(es_image) */
    int32_t format;        /* es_format */
    int32_t width, height; /* pixels, 1 .. 16384 */
    int32_t stride;        /* bytes from one row to the next, of `pixels`; 0: rows lie without gaps */
    const uint8_t *pixels;
    const uint8_t *chroma; /* NV12 alone; NULL: it follows the last row of Y */
    int32_t chroma_stride; /* bytes; 0: as `stride` */
    int32_t colour;        /* es_colour; NV12 and YUYV alone */
} es_image;

/* What is wrong with an image, as bits; `es_quality_name` has their names. Which of them make a lesion "not assessable"
 * and where their thresholds lie is in the bundle's manifest. */
#define ES_Q_EMPTY (1u << 0)     /* nothing to see: black or uniform */
#define ES_Q_DARK (1u << 1)      /* under-exposed */
#define ES_Q_BRIGHT (1u << 2)    /* over-exposed */
#define ES_Q_SATURATED (1u << 3) /* too many pixels at the end of the scale */
#define ES_Q_BLURRED (1u << 4)   /* out of focus or moved */
#define ES_Q_VIGNETTE (1u << 5)  /* the dermoscope's rim covers much of the frame */
#define ES_Q_IDENTICAL (1u << 6) /* the same image in both inputs; set on both */
#define ES_Q_SWAPPED (1u << 7)   /* clinical and dermoscopic look exchanged; set on both */

typedef enum es_log_level { ES_LOG_INFO = 0, ES_LOG_WARNING = 1, ES_LOG_ERROR = 2 } es_log_level;

/* One line of text without line feed, valid during the call. Called on the thread that called the library. */
typedef void (*es_log)(void *context, es_log_level level, const char *line);

/* How to open. All zero but `size`: the bundle's own target, all cores, no deadline, the compiled-in key if any. */
typedef struct es_options {
    size_t size;               /* sizeof(es_options) */
    const char *backend_path;  /* folder with the engine's shared libraries; NULL: the system's search path */
    const char *backend;       /* "openvino", "onnxruntime", "tensorrt"; NULL: the manifest's order */
    int32_t modes;             /* graphs to load: 0 both, 1 dermoscopic alone, 2 pairs alone */
    int32_t threads;           /* for inference; 0: as tuned for this processor, else every core in reach */
    int32_t deadline_ms;       /* es_classify gives up after so long; 0: never */
    int32_t selftest_limit_ms; /* es_selftest fails after so long; 0: 60,000 */
    int32_t max_width;         /* widest image, pixels, for which buffers are made; 0: 8192 */
    const uint8_t *public_key; /* 32 bytes, Ed25519: the bundle must be signed by it; NULL: the compiled-in key */
    int32_t require_signature; /* not 0: refuse unsigned bundles also where no key is compiled in (then: always) */
    int32_t no_fallback;       /* not 0: the manifest's target or nothing */
    es_log log;                /* NULL: silence */
    void *log_context;
} es_options;

/* What es_open found. Strings belong to the model and live until es_close. */
typedef struct es_model_info {
    size_t size;               /* sizeof(es_model_info) */
    const char *name;          /* of the bundle */
    const char *sha256;        /* of its manifest, which names every file's hash: stands for the whole bundle */
    const char *backend;       /* engine in use and its version, "openvino 2026.4.1" */
    const char *fallback;      /* "" or why the manifest's target is not in use */
    const char *signed_by;     /* "" where no signature was asked for, else SHA-256 of the public key */
    const char *precision;     /* "int8", "fp16", "fp32" of the graphs in use */
    const char *target;        /* title of the decision, "melanoma" */
    int32_t width, height;     /* of the network's frame, pixels */
    int32_t threads;           /* 0: the engine's own choice */
    int32_t phantom;           /* 1: trained on drawn lesions, for tests alone */
    int32_t task_count;
    int32_t logit_count;                    /* classes of all tasks together */
    const char *tasks[ES_MAX_TASKS];        /* names, in the order of es_result.predicted */
    int32_t first[ES_MAX_TASKS + 1];        /* task t has the classes first[t] .. first[t + 1] - 1 */
    const char *classes[ES_MAX_LOGITS];     /* names, in the order of es_result.probabilities */
    int32_t verify_us, load_us;             /* of es_open: hashes, signature, manifest; loading by the engine */
} es_model_info;

/* What a self-test found. */
typedef struct es_selftest_report {
    size_t size;             /* sizeof(es_selftest_report) */
    int32_t cases, failed;   /* golden cases run, and how many of them failed */
    double max_abs_error;    /* largest |logit - expected| */
    int32_t elapsed_us;
} es_selftest_report;

/* What es_classify found. Probabilities 0..1. A caller compiled when this struct still ended before `fused` passes that
 * smaller size, and is given what it knows. */
typedef struct es_result {
    size_t size;                          /* sizeof(es_result) */
    int32_t assessable;                   /* 0: no class, no score, no decision: all fields below `quality` are zero */
    uint32_t quality[2];                  /* ES_Q_ bits of the clinical [0] and the dermoscopic image [1] */
    int32_t images;                       /* 2: clinical and dermoscopic; 1: dermoscopic alone */
    int32_t refer;                        /* 1: target_probability >= threshold */
    double target_probability, threshold; /* e.g. of melanoma; the operating point of the mode */
    int32_t has_score, score;             /* e.g. the seven-point score, where the schema has one */
    int32_t predicted[ES_MAX_TASKS];      /* class with the highest probability, counted from the task's first */
    double probabilities[ES_MAX_LOGITS];  /* of both images together */
    double clinical[ES_MAX_LOGITS];       /* what each image says by itself */
    double dermoscopic[ES_MAX_LOGITS];
    float logits[2 * ES_MAX_LOGITS];      /* as the engine gave them: images x logit_count */
    int32_t prepare_us, quality_us, infer_us, decide_us, total_us; /* timings are filled also if not assessable */
    int32_t has_fused;                    /* 1: a pair, and a network with a third classifier, on both images */
    double fused[ES_MAX_LOGITS];          /* what that one says; zero where there is none */
    float fused_logits[ES_MAX_LOGITS];    /* as the engine gave them: logit_count */
} es_result;

typedef struct es_model es_model;

/* ABI of the library in use; compare with ES_ABI_VERSION. */
ES_API uint32_t es_abi_version(void);

/* Bytes of es_result as the library in use knows it. Less than sizeof(es_result): the library is older than this
 * header, and es_classify would refuse with ES_VERSION. A library from before es_result.fused lacks this function:
 * linker and loader say so, dlsym gives NULL. */
ES_API size_t es_result_size(void);

/* 1: the library in use serves a program that was compiled against this header. Ask before es_open. */
#define ES_LIBRARY_FITS() (es_abi_version() == ES_ABI_VERSION && es_result_size() >= sizeof(es_result))

/* Version of the library, "0.1.0". Static. */
ES_API const char *es_version(void);

/* Verify the bundle in the folder `path`, then load it. `options` may be NULL. On error *model is NULL. Blocks for as
 * long as the engine takes to compile the graphs. The folder may be removed or replaced afterwards: nothing is read
 * from it again. */
ES_API es_status es_open(const char *path, const es_options *options, es_model **model);

/* Put the bundle's golden cases to the engine: logits within the bundle's tolerance, decisions equal. `found` may be
 * NULL. May be repeated, for example once a day; a failure is final. */
ES_API es_status es_selftest(es_model *model, es_selftest_report *found);

/* Classify one lesion. `clinical` may be NULL, `dermoscopic` not. On any error `result` is zero but for its size. */
ES_API es_status es_classify(es_model *model, const es_image *clinical, const es_image *dermoscopic, es_result *result);

/* What was opened. Cheap, and allowed while another call runs. */
ES_API es_status es_info(const es_model *model, es_model_info *info);

/* Free a model; NULL does nothing. */
ES_API void es_close(es_model *model);

/* A short text for a status, "the bundle's signature is missing or wrong". Static. */
ES_API const char *es_strerror(es_status status);

/* What, got, possible, fix of the last call that failed on this thread, one line; "" if none has. Lives until the next
 * call on this thread. */
ES_API const char *es_last_error(void);

/* Name of one ES_Q_ bit, "blurred"; NULL for no such bit. Static. */
ES_API const char *es_quality_name(uint32_t bit);

/* Why an engine cannot be used here, NULL if it can. `backend_path` as in es_options. The text lives as that of
 * es_last_error. */
ES_API const char *es_supports(const char *backend, const char *backend_path);

#ifdef __cplusplus
}
#endif

#endif
