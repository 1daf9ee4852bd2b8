/* What a bundle says on this processor: answers BUNDLE ENGINE_FOLDER LIMIT_MS [CLINICAL DERMOSCOPIC]...
 *
 * The images are binary PPM files without comments; "-" as CLINICAL gives the dermoscopic image alone. Prints one line
 * for the self-test and one for each lesion, words and numbers apart by spaces. All lesions are asked for, also after a
 * failed self-test: what then comes back is part of what is tested. */
#include <edgeskin.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint8_t *read_ppm(const char *path, es_image *image) {
    FILE *file = fopen(path, "rb");
    int width = 0, height = 0;
    uint8_t *pixels = NULL;
    size_t bytes;
    if (!file) return NULL;
    if (fscanf(file, "P6 %d %d 255", &width, &height) == 2 && fgetc(file) != EOF && width > 0 && height > 0) {
        bytes = 3u * (size_t)width * (size_t)height;
        pixels = malloc(bytes);
        if (pixels && fread(pixels, 1, bytes, file) != bytes) {
            free(pixels);
            pixels = NULL;
        }
    }
    fclose(file);
    ES_INIT(*image);
    image->format = ES_RGB, image->width = width, image->height = height, image->pixels = pixels;
    return pixels;
}

int main(int count, char **words) {
    es_model *model = NULL;
    es_options options;
    es_model_info info;
    es_selftest_report report;
    es_status status;
    int i, k, failed = 0;
    if (count < 4 || count % 2 != 0) {
        fprintf(stderr, "answers BUNDLE ENGINE_FOLDER LIMIT_MS [CLINICAL DERMOSCOPIC]...\n");
        return 2;
    }
    ES_INIT(options);
    options.backend_path = words[2];
    options.selftest_limit_ms = atoi(words[3]);
    status = es_open(words[1], &options, &model);
    if (status != ES_OK) {
        fprintf(stderr, "es_open %d %s\n", status, es_last_error());
        return 1;
    }
    ES_INIT(info);
    es_info(model, &info);
    printf("opened %s verify_us %d load_us %d\n", info.backend, info.verify_us, info.load_us);
    ES_INIT(report);
    status = es_selftest(model, &report);
    printf("selftest %d cases %d failed %d error %.6f us %d\n", status, report.cases, report.failed,
           report.max_abs_error, report.elapsed_us);
    if (status != ES_OK) fprintf(stderr, "es_selftest %s\n", es_last_error());
    fflush(stdout);
    for (i = 4; i < count && !failed; i += 2) {
        es_image clinical, dermoscopic;
        es_result result;
        const int pair = strcmp(words[i], "-") != 0;
        uint8_t *first = pair ? read_ppm(words[i], &clinical) : NULL;
        uint8_t *second = read_ppm(words[i + 1], &dermoscopic);
        failed = (pair && !first) || !second;
        if (!failed) {
            ES_INIT(result);
            status = es_classify(model, pair ? &clinical : NULL, &dermoscopic, &result);
            printf("lesion %d images %d assessable %d refer %d target %.9f threshold %.9f predicted", status, result.images,
                   result.assessable, result.refer, result.target_probability, result.threshold);
            for (k = 0; k < info.task_count; ++k) printf(" %d", result.predicted[k]);
            printf(" probabilities");
            for (k = 0; k < (result.assessable ? info.logit_count : 0); ++k) printf(" %.9f", result.probabilities[k]);
            printf(" logits");
            for (k = 0; k < result.images * info.logit_count; ++k) printf(" %.6f", (double)result.logits[k]);
            printf("\n");
            fflush(stdout);
        }
        free(first);
        free(second);
    }
    es_close(model);
    if (failed) fprintf(stderr, "cannot read %s %s\n", words[i - 2], words[i - 1]);
    return failed ? 3 : 0;
}
