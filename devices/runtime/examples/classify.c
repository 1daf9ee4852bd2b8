/* classify - one lesion through libedgeskin, in one file of C99 that is C++ as well.
 *
 *     cc -std=c99 -I include examples/classify.c -L BUILD -ledgeskin -o classify
 *     classify [OPTIONS] BUNDLE [DERMOSCOPIC.ppm [CLINICAL.ppm]]
 *
 * Opens the bundle, tests it, and classifies; without an image it ends after the self-test. Images are binary PPM (P6,
 * 8 bits a channel), as `convert photo.jpg photo.ppm` or `djpeg photo.jpg > photo.ppm` writes them.
 *
 * Exit codes: 0 classified (or tested, without an image), 1 not assessable, 2 anything that failed.
 *
 * Research software, not a medical device.
 */
#include <edgeskin.h>

#include <stdio.h>
#include <stdlib.h>

enum { CLASSIFIED = 0, NOT_ASSESSABLE = 1, FAILED = 2 };

static const char usage[] =
    "usage: classify [OPTIONS] BUNDLE [DERMOSCOPIC.ppm [CLINICAL.ppm]]\n"
    "  --backend-path DIR  folder with the engine's libraries  (or EDGESKIN_BACKEND_PATH)\n"
    "  --key HEX           Ed25519 public key, 64 digits: the bundle must be signed by it  (or EDGESKIN_KEY)\n"
    "  --json              print one JSON object\n"
    "  --verbose           say what the library says while it opens the bundle\n";

/* ---- Images ------------------------------------------------------------------------------------------------------ */

#define MAX_SIDE 16384

typedef struct picture {
    int width, height;
    uint8_t *pixels; /* RGB, rows without gaps */
} picture;

static int refuse(const char *path, const char *got, const char *fix) {
    fprintf(stderr, "classify: %s cannot be read; got: %s; fix: %s\n", path, got, fix);
    return 0;
}

/* The next number of a PPM's head, and the one white space behind it; comments run from # to the end of the line.
 * -1: no number, or one above the limit. */
static int head_number(FILE *file, int limit) {
    int value = 0, digits = 0, c = getc(file);
    while (c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '#') {
        if (c == '#')
            while (c != '\n' && c != EOF) c = getc(file);
        else
            c = getc(file);
    }
    for (; c >= '0' && c <= '9'; c = getc(file), ++digits) {
        value = value * 10 + (c - '0');
        if (value > limit) return -1;
    }
    return digits && (c == ' ' || c == '\t' || c == '\r' || c == '\n') ? value : -1;
}

/* 1: `made` holds the image, to be freed by free(made->pixels). 0: nothing was kept, and why was said. */
static int read_ppm(const char *path, picture *made) {
    static const char fix[] = "write a binary PPM: P6, sides of 1 to 16384 pixels, 255 levels";
    FILE *file = fopen(path, "rb");
    size_t size = 0;
    int levels;
    made->pixels = NULL;
    if (!file) return refuse(path, "no such file, or no permission", "check the path");
    if (getc(file) != 'P' || getc(file) != '6') {
        fclose(file);
        return refuse(path, "no P6 at its start", fix);
    }
    made->width = head_number(file, MAX_SIDE);
    made->height = head_number(file, MAX_SIDE);
    levels = head_number(file, 65535);
    if (made->width < 1 || made->height < 1 || levels != 255) {
        fclose(file);
        return refuse(path, "a head of another form", fix);
    }
    size = 3 * (size_t)made->width * (size_t)made->height;
    made->pixels = (uint8_t *)malloc(size);
    if (!made->pixels) {
        fclose(file);
        return refuse(path, "out of memory", "send a smaller image");
    }
    if (fread(made->pixels, 1, size, file) != size || getc(file) != EOF) {
        free(made->pixels);
        made->pixels = NULL;
        fclose(file);
        return refuse(path, "another number of bytes than its head says", fix);
    }
    fclose(file);
    return 1;
}

static es_image as_image(const picture *given) {
    es_image image;
    ES_INIT(image);
    image.format = ES_RGB;
    image.width = given->width;
    image.height = given->height;
    image.pixels = given->pixels;
    return image;
}

/* ---- Options ----------------------------------------------------------------------------------------------------- */

typedef struct arguments {
    const char *bundle, *dermoscopic, *clinical, *backend_path, *key;
    int json, verbose;
} arguments;

static const char *from_environment(const char *name) {
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

/* 1: `given` is complete. */
static int parse(int argc, char **argv, arguments *given) {
    int i, count = 0;
    const char **places[3];
    memset(given, 0, sizeof *given);
    places[0] = &given->bundle;
    places[1] = &given->dermoscopic;
    places[2] = &given->clinical;
    given->backend_path = from_environment("EDGESKIN_BACKEND_PATH");
    given->key = from_environment("EDGESKIN_KEY");
    for (i = 1; i < argc; ++i) {
        if (strcmp(argv[i], "--json") == 0) {
            given->json = 1;
        } else if (strcmp(argv[i], "--verbose") == 0) {
            given->verbose = 1;
        } else if (strcmp(argv[i], "--backend-path") == 0 && i + 1 < argc) {
            given->backend_path = argv[++i];
        } else if (strcmp(argv[i], "--key") == 0 && i + 1 < argc) {
            given->key = argv[++i];
        } else if (argv[i][0] == '-' || count == 3) {
            return 0;
        } else {
            *places[count++] = argv[i];
        }
    }
    return count > 0;
}

/* 64 hexadecimal digits -> 32 bytes. */
static int read_key(const char *digits, uint8_t key[32]) {
    size_t i;
    if (strlen(digits) != 64 || strspn(digits, "0123456789abcdefABCDEF") != 64) return 0;
    for (i = 0; i < 32; ++i) {
        char pair[3] = {0, 0, 0};
        pair[0] = digits[2 * i];
        pair[1] = digits[2 * i + 1];
        key[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return 1;
}

static void log_line(void *context, es_log_level level, const char *line) {
    static const char *const names[] = {"info", "warning", "error"};
    (void)context;
    fprintf(stderr, "classify: %s: %s\n", names[level], line);
}

/* ---- What is printed --------------------------------------------------------------------------------------------- */

static void print_quality(uint32_t flags) {
    uint32_t bit;
    if (!flags) printf("good");
    for (bit = 1; flags; flags &= ~bit, bit <<= 1)
        if (flags & bit) printf("%s%s", es_quality_name(bit), flags & ~bit ? ", " : "");
}

static void print_text(const es_model_info *info, const es_selftest_report *tested, const es_result *result) {
    int task;
    printf("bundle      %s, manifest %.12s, %s, %dx%d px%s\n", info->name, info->sha256, info->precision, info->width,
           info->height, info->phantom ? ", trained on drawn lesions: for tests alone" : "");
    printf("engine      %s, %d threads%s%s\n", info->backend, info->threads, *info->fallback ? ", fallen back: " : "",
           info->fallback);
    printf("signature   %s%.16s\n", *info->signed_by ? "right, key " : "not asked for", info->signed_by);
    printf("opened      verified in %.1f ms, loaded in %.1f ms\n", info->verify_us / 1e3, info->load_us / 1e3);
    printf("self-test   %d of %d golden cases, logits within %.2g, %.1f ms\n", tested->cases - tested->failed,
           tested->cases, tested->max_abs_error, tested->elapsed_us / 1e3);
    if (!result) return;
    printf("quality     dermoscopic: ");
    print_quality(result->quality[1]);
    if (result->images == 2) {
        printf("; clinical: ");
        print_quality(result->quality[0]);
    }
    printf("\n");
    if (result->assessable) {
        for (task = 0; task < info->task_count; ++task) {
            const int at = info->first[task] + result->predicted[task];
            printf("%-11s %s %.3f\n", info->tasks[task], info->classes[at], result->probabilities[at]);
        }
        if (result->has_score) printf("score       %d\n", result->score);
        printf("decision    P(%s) = %.3f, threshold %.3f: %s\n", info->target, result->target_probability,
               result->threshold, result->refer ? "refer" : "do not refer");
    } else {
        printf("decision    not assessable\n");
    }
    printf("timing      prepare %.2f, quality %.2f, infer %.2f, decide %.2f, total %.2f ms\n", result->prepare_us / 1e3,
           result->quality_us / 1e3, result->infer_us / 1e3, result->decide_us / 1e3, result->total_us / 1e3);
}

/* A string of JSON. The library lets no control characters pass in names. */
static void print_string(const char *text) {
    putchar('"');
    for (; *text; ++text) {
        if (*text == '"' || *text == '\\') putchar('\\');
        putchar(*text);
    }
    putchar('"');
}

static void print_field(const char *name, const char *text) {
    printf(", \"%s\": ", name);
    print_string(text);
}

static void print_flags(const char *name, uint32_t flags) {
    uint32_t bit;
    printf("\"%s\": [", name);
    for (bit = 1; flags; flags &= ~bit, bit <<= 1)
        if (flags & bit) printf("\"%s\"%s", es_quality_name(bit), flags & ~bit ? ", " : "");
    printf("]");
}

/* Probabilities of every class, by task. */
static void print_tasks(const char *name, const es_model_info *info, const double *values) {
    int task, at;
    printf("\"%s\": {", name);
    for (task = 0; task < info->task_count; ++task) {
        if (task) printf(", ");
        print_string(info->tasks[task]);
        for (at = info->first[task]; at < info->first[task + 1]; ++at) {
            printf(at == info->first[task] ? ": {" : ", ");
            print_string(info->classes[at]);
            printf(": %.17g", values[at]);
        }
        printf("}");
    }
    printf("}");
}

static void print_json(const es_model_info *info, const es_selftest_report *tested, const es_result *result) {
    int task;
    printf("{\"bundle\": {\"name\": ");
    print_string(info->name);
    print_field("sha256", info->sha256);
    print_field("backend", info->backend);
    print_field("fallback", info->fallback);
    print_field("signed_by", info->signed_by);
    print_field("precision", info->precision);
    printf(", \"width\": %d, \"height\": %d, \"threads\": %d, \"phantom\": %s, \"verify_us\": %d, \"load_us\": %d}",
           info->width, info->height, info->threads, info->phantom ? "true" : "false", info->verify_us, info->load_us);
    printf(", \"selftest\": {\"cases\": %d, \"failed\": %d, \"max_abs_error\": %.9g, \"elapsed_us\": %d}",
           tested->cases, tested->failed, tested->max_abs_error, tested->elapsed_us);
    if (result) {
        printf(", \"assessable\": %s, \"quality\": {", result->assessable ? "true" : "false");
        if (result->images == 2) {
            print_flags("clinical", result->quality[0]);
            printf(", ");
        }
        print_flags("dermoscopic", result->quality[1]);
        printf("}");
        if (result->assessable) {
            printf(", \"predicted\": {");
            for (task = 0; task < info->task_count; ++task) {
                if (task) printf(", ");
                print_string(info->tasks[task]);
                printf(": ");
                print_string(info->classes[info->first[task] + result->predicted[task]]);
            }
            printf("}, ");
            print_tasks("probabilities", info, result->probabilities);
            printf(", \"branches\": {");
            if (result->images == 2) {
                print_tasks("clinical", info, result->clinical);
                printf(", ");
            }
            print_tasks("dermoscopic", info, result->dermoscopic);
            if (result->has_fused) {
                printf(", ");
                print_tasks("fused", info, result->fused);
            }
            printf("}, \"score\": ");
            if (result->has_score)
                printf("%d", result->score);
            else
                printf("null");
            printf(", \"decision\": {\"title\": ");
            print_string(info->target);
            printf(", \"probability\": %.17g, \"threshold\": %.17g, \"refer\": %s}", result->target_probability,
                   result->threshold, result->refer ? "true" : "false");
        }
        printf(", \"timings_us\": {\"prepare\": %d, \"quality\": %d, \"infer\": %d, \"decide\": %d, \"total\": %d}",
               result->prepare_us, result->quality_us, result->infer_us, result->decide_us, result->total_us);
    }
    printf("}\n");
}

/* ---- The program ------------------------------------------------------------------------------------------------- */

static int failed(void) {
    fprintf(stderr, "classify: %s\n", es_last_error());
    return FAILED;
}

static int classify(es_model *model, const arguments *given, const picture *dermoscopic, const picture *clinical) {
    es_model_info info;
    es_selftest_report tested;
    es_result result;
    es_status status;
    const int any = dermoscopic->pixels != NULL, both = clinical->pixels != NULL;
    ES_INIT(info);
    ES_INIT(tested);
    ES_INIT(result);
    status = es_info(model, &info);
    if (status == ES_OK) status = es_selftest(model, &tested);
    if (status == ES_OK && any) {
        const es_image seen = as_image(dermoscopic), around = as_image(clinical);
        status = es_classify(model, both ? &around : NULL, &seen, &result);
    }
    if (status != ES_OK) return failed();
    if (given->json)
        print_json(&info, &tested, any ? &result : NULL);
    else
        print_text(&info, &tested, any ? &result : NULL);
    return any && !result.assessable ? NOT_ASSESSABLE : CLASSIFIED;
}

int main(int argc, char **argv) {
    arguments given;
    picture dermoscopic = {0, 0, NULL}, clinical = {0, 0, NULL};
    es_options options;
    es_model *model = NULL;
    es_status status;
    uint8_t key[32];
    int code = FAILED;
    if (!parse(argc, argv, &given)) {
        fputs(usage, stderr);
        return FAILED;
    }
    if (!ES_LIBRARY_FITS()) {
        fprintf(stderr,
                "classify: another libedgeskin; got: %s, ABI %u, es_result of %u bytes; possible: ABI %u, %u or ",
                es_version(), (unsigned)es_abi_version(), (unsigned)es_result_size(), (unsigned)ES_ABI_VERSION,
                (unsigned)sizeof(es_result));
        fputs("more; fix: install the one of the header that this was compiled against\n", stderr);
        return FAILED;
    }
    ES_INIT(options);
    options.backend_path = given.backend_path;
    if (given.verbose) options.log = log_line;
    if (given.key) {
        if (!read_key(given.key, key)) {
            fprintf(stderr, "classify: no public key; got: %s; possible: 64 hexadecimal digits; fix: --key HEX\n",
                    given.key);
            return FAILED;
        }
        options.public_key = key;
    }
    if ((given.dermoscopic && !read_ppm(given.dermoscopic, &dermoscopic)) ||
        (given.clinical && !read_ppm(given.clinical, &clinical))) {
        free(dermoscopic.pixels);
        return FAILED;
    }
    options.max_width = dermoscopic.width > clinical.width ? dermoscopic.width : clinical.width;
    status = es_open(given.bundle, &options, &model);
    code = status == ES_OK ? classify(model, &given, &dermoscopic, &clinical) : failed();
    es_close(model);
    free(dermoscopic.pixels);
    free(clinical.pixels);
    return code;
}
