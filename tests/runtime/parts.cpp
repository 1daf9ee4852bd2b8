// Plain C entries to the parts of libedgeskin that test_prepare_parity.py compares with Python.
#include <edgeskin.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>

#include "decide.h"
#include "fault.h"
#include "prepare.h"

namespace {

thread_local char fault_line[512];

int fail(const es::Fault &fault) {
    std::snprintf(fault_line, sizeof fault_line, "%s", fault.what());
    return fault.status();
}

struct parts_geometry {
    int width, height, border_px, crop;
};

es::Geometry geometry(const parts_geometry &wanted) {
    return {wanted.width, wanted.height, wanted.border_px, wanted.crop != 0};
}

}  // namespace

extern "C" {

const char *parts_fault() { return fault_line; }

int parts_cut(const parts_geometry *wanted, int width, int height, int *found) {
    try {
        const es::Cut box = es::cut(width, height, geometry(*wanted));
        const int all[] = {box.left, box.top, box.right, box.bottom, box.halvings_x, box.halvings_y};
        std::memcpy(found, all, sizeof all);
        return ES_OK;
    } catch (const es::Fault &fault) {
        return fail(fault);
    }
}

void *parts_preparer(const parts_geometry *wanted, int max_width) {
    return new es::Preparer(geometry(*wanted), max_width);
}

void parts_free(void *preparer) { delete static_cast<es::Preparer *>(preparer); }

int parts_prepare(void *preparer, int max_width, const es_image *image, std::uint8_t *frame) {
    try {
        es::check_image(*image, max_width);
        static_cast<es::Preparer *>(preparer)->run(*image, frame);
        return ES_OK;
    } catch (const es::Fault &fault) {
        return fail(fault);
    }
}

// shape: tasks, the target's task, whether there is a score, positive classes, whether there is a fused head. classes: of
// each task. points: of every class. weights: of each task the dermoscopic weight, the temperatures clinical,
// dermoscopic, alone, and weight and temperature of a fused head.
// whole: refer, has_score, score, has_fused, predicted. real: target_probability, threshold, then all probabilities,
// those of the clinical image, of the dermoscopic one and of a fused head.
void parts_decide(const int *shape, const int *classes, const int *points, const int *positive, const double *weights,
                  double threshold, int mode, const float *logits, int *whole, double *real) {
    es::Manifest manifest;
    for (int t = 0; t < shape[0]; ++t) {
        es::Task task;
        for (int c = 0; c < classes[t]; ++c) {
            task.classes.push_back(std::to_string(c));
            task.points.push_back(points[manifest.logits++]);
        }
        const double *own = weights + 6 * t;
        task.dermoscopic_weight = own[0], task.temperature_clinical = own[1];
        task.temperature_dermoscopic = own[2], task.temperature_alone = own[3];
        task.fused_weight = own[4], task.temperature_fused = own[5];
        manifest.tasks.push_back(task);
    }
    manifest.target_task = static_cast<std::size_t>(shape[1]);
    manifest.has_score = shape[2] != 0;
    manifest.fused_head = shape[4] != 0;
    for (int i = 0; i < shape[3]; ++i) manifest.positive.push_back(static_cast<std::size_t>(positive[i]));
    manifest.thresholds[static_cast<std::size_t>(mode)] = threshold;
    es_result result;
    ES_INIT(result);
    es::decide(manifest, static_cast<es::Mode>(mode), logits, result);
    whole[0] = result.refer, whole[1] = result.has_score, whole[2] = result.score;
    whole[3] = result.has_fused;
    std::copy_n(result.predicted, shape[0], whole + 4);
    real[0] = result.target_probability, real[1] = result.threshold;
    real = std::copy_n(result.probabilities, manifest.logits, real + 2);
    real = std::copy_n(result.clinical, manifest.logits, real);
    real = std::copy_n(result.dermoscopic, manifest.logits, real);
    std::copy_n(result.fused, manifest.logits, real);
}

}  // extern "C"
