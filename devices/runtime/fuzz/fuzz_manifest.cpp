// Any bytes as a manifest: refused with a Fault, or understood so that everything the runtime indexes by it is in range.
//   fuzz_manifest -dict=fuzz_manifest.dict seeds/fuzz_manifest
#include <cmath>
#include <cstdlib>

#include "fault.h"
#include "manifest.h"
#include "text.h"

namespace {

void hold(bool condition) {
    if (!condition) std::abort();
}

void check(const es::Manifest &manifest) {
    std::size_t logits = 0;
    hold(!manifest.tasks.empty() && manifest.tasks.size() <= ES_MAX_TASKS);
    for (const es::Task &task : manifest.tasks) {
        hold(task.classes.size() >= 2 && task.points.size() == task.classes.size());
        hold(task.dermoscopic_weight >= 0 && task.dermoscopic_weight <= 1);
        hold(task.fused_weight >= 0 && task.fused_weight <= 1 && (manifest.fused_head || task.fused_weight == 0));
        for (const double t : {task.temperature_alone, task.temperature_clinical, task.temperature_dermoscopic,
                               task.temperature_fused}) {
            hold(std::isfinite(t) && t > 0);
        }
        for (const std::string &name : task.classes) hold(es::plain_text(name));
        logits += task.classes.size();
    }
    hold(logits == manifest.logits && logits <= ES_MAX_LOGITS && manifest.target_task < manifest.tasks.size());
    for (const std::size_t number : manifest.positive) {
        hold(number < manifest.tasks[manifest.target_task].classes.size());
    }
    const es::Geometry &geometry = manifest.geometry;
    hold(geometry.width >= 32 && geometry.width <= 4096 && geometry.height >= 32 && geometry.height <= 4096);
    hold(geometry.border_px >= 0);
    for (const auto &[name, file] : manifest.files) hold(es::safe_name(name) && file.sha256.size() == 64);
    for (const es::Graph &graph : manifest.graphs) hold(!manifest.files.at(graph.file).reference);
    for (const es::Graph &graph : manifest.reference) hold(manifest.files.count(graph.file) == 1);
    hold(!manifest.golden.empty());
    for (const es::GoldenCase &found : manifest.golden) {
        hold(!manifest.files.at(found.file).reference && std::isfinite(found.tolerance) && found.tolerance > 0);
    }
    for (const double value : manifest.thresholds) hold(value >= 0 && value <= 1);
    hold(!manifest.kit && manifest.bound == (manifest.target == "tensorrt"));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char *>(data), size);
    es::safe_name(text);
    try {
        check(es::parse_manifest(text));
    } catch (const es::Fault &fault) {
        hold(fault.status() == ES_MANIFEST || fault.status() == ES_FORMAT || fault.status() == ES_UNSAFE);
        hold(es::plain_text(fault.what()));
    }
    return 0;
}
