// Logits -> probabilities -> decision, in the order and the precision of edgeskin/decide.py.
#include "decide.h"

#include <algorithm>
#include <cmath>

namespace es {
namespace {

void softmax(const float *logits, std::size_t count, double temperature, double *out) {
    double top = logits[0] / temperature, sum = 0;
    for (std::size_t i = 1; i < count; ++i) top = std::max(top, logits[i] / temperature);
    for (std::size_t i = 0; i < count; ++i) sum += out[i] = std::exp(logits[i] / temperature - top);
    for (std::size_t i = 0; i < count; ++i) out[i] /= sum;
}

}  // namespace

void decide(const Manifest &manifest, Mode mode, const float *logits, es_result &result) {
    result.target_probability = 0;
    result.has_score = manifest.has_score;
    result.score = 0;
    result.has_fused = mode == kPair && manifest.fused_head;
    std::fill_n(result.clinical, manifest.logits, 0.0);
    std::fill_n(result.fused, manifest.logits, 0.0);
    std::size_t first = 0;
    for (std::size_t t = 0; t < manifest.tasks.size(); ++t) {
        const Task &task = manifest.tasks[t];
        const std::size_t count = task.classes.size();
        double *together = result.probabilities + first, *dermoscopic = result.dermoscopic + first;
        if (mode == kPair) {
            double *clinical = result.clinical + first;
            softmax(logits + first, count, task.temperature_clinical, clinical);
            softmax(logits + manifest.logits + first, count, task.temperature_dermoscopic, dermoscopic);
            const double share = task.dermoscopic_weight;
            for (std::size_t i = 0; i < count; ++i) together[i] = share * dermoscopic[i] + (1 - share) * clinical[i];
            if (manifest.fused_head) {
                double *fused = result.fused + first;
                softmax(logits + 2 * manifest.logits + first, count, task.temperature_fused, fused);
                const double third = task.fused_weight;
                if (third != 0)
                    for (std::size_t i = 0; i < count; ++i) together[i] = (1 - third) * together[i] + third * fused[i];
            }
        } else {
            softmax(logits + first, count, task.temperature_alone, dermoscopic);
            std::copy_n(dermoscopic, count, together);
        }
        const auto best = static_cast<std::size_t>(std::max_element(together, together + count) - together);
        result.predicted[t] = static_cast<std::int32_t>(best);
        if (manifest.has_score) result.score += task.points[best];
        if (t == manifest.target_task)
            for (const std::size_t positive : manifest.positive) result.target_probability += together[positive];
        first += count;
    }
    result.threshold = manifest.thresholds[mode];
    result.refer = result.target_probability >= result.threshold;
}

}  // namespace es
