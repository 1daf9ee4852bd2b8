// manifest.json -> Manifest: the rules of edgeskin/spec/manifest.py for what the runtime reads. What it need not read
// (most of the network, the data, how the bundle came about) may be anything. A key that it does not know is refused
// wherever it could change a result: it would come from a newer edgeskin, or from a slip of the pen.
#include "manifest.h"

#include <algorithm>
#include <limits>

#include "fault.h"
#include "json.h"
#include "quality_json.h"
#include "schema_json.h"
#include "text.h"

namespace es {
namespace {

constexpr char kAgain[] = "copy or export the bundle again";
constexpr std::size_t kFiles = 10000;
constexpr std::int64_t kTotal = std::int64_t{4} << 30;  // bytes of all files together
constexpr std::int64_t kInt = std::numeric_limits<int>::max();

bool digits(std::string_view text, std::string_view known) {
    return !text.empty() && text.find_first_not_of(known) == std::string_view::npos;
}

// "10.13.3": whole numbers with dots between; `least` and `most`: how many of them.
bool dotted(std::string_view text, int least, int most) {
    int parts = 0;
    while (true) {
        const std::size_t end = std::min(text.find('.'), text.size());
        if (!digits(text.substr(0, end), "0123456789")) return false;
        ++parts;
        if (end == text.size()) return parts >= least && parts <= most;
        text.remove_prefix(end + 1);
    }
}

int whole(const Node &node, std::int64_t least, std::int64_t most) {
    return static_cast<int>(node.integer(least, most));
}

std::string target_name(const Node &node) { return node.one_of({"openvino", "onnxruntime", "tensorrt"}); }

std::string precision_name(const Node &node) { return node.one_of({"fp32", "fp16", "int8"}); }

void check_format(const Node &top, const Json &document) {
    const auto format = document.is_object() ? top.find("format") : std::nullopt;
    const bool ours = format && document["format"] == "edgeskin-bundle";
    if (!ours) throw Fault(ES_FORMAT, told("manifest.json has no format 'edgeskin-bundle'", "", "", kAgain));
    const auto found = document.find("format_version");
    if (found != document.end() && found->is_number_integer() && *found == 1) return;
    const bool newer = found != document.end() && found->is_number_integer() && *found > 1;
    const std::string got = found == document.end() ? "nothing" : found->is_number() ? found->dump() : "no number";
    throw Fault(ES_FORMAT, told("manifest.json: unknown format version", got, "1",
                                newer ? "it was written by a newer edgeskin: update the device's libedgeskin" : kAgain));
}

Geometry read_geometry(const Node &node) {
    node.only({"height", "width", "fit", "resize", "border_px", "mean", "std"});
    Geometry made;
    made.width = whole(node.at("width"), 32, 4096);
    made.height = whole(node.at("height"), 32, 4096);
    if (const auto border = node.find("border_px")) made.border_px = whole(*border, 0, 16384);
    if (const auto fit = node.find("fit")) made.crop = fit->one_of({"crop", "stretch"}) == "crop";
    if (const auto resize = node.find("resize")) resize->one_of({"halve+bilinear"});
    return made;
}

void read_files(const Node &node, Manifest &made) {
    std::int64_t total = 0;
    for (const auto &[name, entry] : node.members(kFiles)) {
        if (!safe_name(name) || name == "manifest.json" || name == "manifest.sha256" || name == "manifest.sig") {
            throw Fault(ES_UNSAFE, told("manifest.json lists an unsafe file name", shown(name), "", kAgain));
        }
        entry.only({"sha256", "size_bytes", "group"});
        FileEntry file;
        file.sha256 = entry.at("sha256").text();
        if (file.sha256.size() != 64 || !digits(file.sha256, "0123456789abcdef")) {
            entry.at("sha256").refuse("64 hexadecimal digits, lower case");
        }
        const std::int64_t size = entry.at("size_bytes").integer(0, kTotal);
        if ((total += size) > kTotal) node.fault("files are too large together", "more than 4 GiB");
        file.size_bytes = static_cast<std::uint64_t>(size);
        const auto group = entry.find("group");
        file.reference = group && group->one_of({"core", "reference"}) == "reference";
        made.files.emplace(name, std::move(file));
    }
}

// The name of a file that the manifest uses: it must be listed, and be there also in a lean bundle if it is `core`.
std::string used(const Node &node, const Manifest &made, bool core) {
    std::string name = node.text();
    const auto found = made.files.find(name);
    if (found == made.files.end()) node.fault("is used but not listed in files", shown(name));
    if (core && found->second.reference) node.fault("is needed to run and must be in group core", shown(name));
    return name;
}

std::array<Graph, 2> read_graphs(const Node &node, const Manifest &made, bool reference) {
    std::array<Graph, 2> graphs;
    if (node.members(2).size() != 2) node.fault("must be pair and dermoscopic", "");
    for (const Mode mode : {kDermoscopic, kPair}) {
        const Node entry = node.at(mode == kPair ? "pair" : "dermoscopic");
        entry.only({"file", "images", "precision"});
        entry.at("images").integer(mode + 1, mode + 1);
        auto &graph = graphs[static_cast<std::size_t>(mode)];
        graph.file = used(entry.at("file"), made, !reference);
        graph.precision = reference ? entry.at("precision").one_of({"fp32"}) : precision_name(entry.at("precision"));
    }
    return graphs;
}

void read_golden(const Node &node, Manifest &made) {
    for (const Node &entry : node.list(1, 1000)) {
        entry.only({"name", "mode", "file", "tolerance"});
        GoldenCase found;
        found.name = entry.at("name").text(0);
        found.mode = entry.at("mode").one_of({"pair", "dermoscopic"}) == "pair" ? kPair : kDermoscopic;
        found.file = used(entry.at("file"), made, true);
        found.tolerance = entry.at("tolerance").positive();
        made.golden.push_back(std::move(found));
    }
}

void read_tuning(const Node &node, Manifest &made) {
    for (const Node &entry : node.list(0, 1000)) {
        made.tuning.push_back({entry.at("processor").text(), whole(entry.at("cores"), 1, kInt),
                               whole(entry.at("threads"), 1, kInt), entry.at("precision_hint").one_of({"f32", "bf16"})});
    }
}

void read_fallback(const Node &node, Manifest &made) {
    for (const Node &entry : node.list(0, 16)) {
        entry.only({"target", "graphs"});
        const std::string target = entry.at("target").one_of({"openvino", "onnxruntime"});
        const auto graphs = entry.find("graphs");
        const bool reference = graphs && graphs->one_of({"core", "reference"}) == "reference";
        if (target == made.target && !reference) entry.fault("is the target itself", target);
        made.fallback.push_back({target, reference});
    }
}

void read_binding(const Node &top, Manifest &made) {
    const auto node = top.find("compatibility");
    made.bound = node && !node->is_null();
    if (made.bound != (made.target == "tensorrt")) top.fault("compatibility is for target tensorrt, which needs it", "");
    if (!made.bound) return;
    made.compatibility.arch = node->at("arch").one_of({"x86_64", "aarch64"});
    made.compatibility.sm = node->at("sm").text();
    if (!dotted(made.compatibility.sm, 2, 2)) node->at("sm").refuse("a compute capability like 8.7");
    made.compatibility.tensorrt = node->at("tensorrt").text();
    if (!dotted(made.compatibility.tensorrt, 2, 8)) node->at("tensorrt").refuse("a version like 10.3.0");
}

void read_network(const Node &top, Manifest &made) {
    const auto network = top.find("network");
    if (!network) return;
    if (const auto modalities = network->find("modalities")) modalities->one_of({"both"});
    if (const auto fused = network->find("fused_head")) made.fused_head = fused->boolean();
}

Manifest read(const Node &top) {
    // What this library does not know it cannot honour. The rest of these keys it need not read.
    top.only({"format", "format_version", "name", "target", "stage", "precision", "phantom", "research_use",
              "task_schema", "preprocess", "fusion", "thresholds", "recipe", "network", "parameters", "data", "roles",
              "lesion_hashes_file", "graphs", "reference", "golden", "files", "provenance", "tuning", "fallback",
              "gated", "compatibility", "fp16", "answers_file", "evidence_file", "quality"});
    Manifest made;
    made.name = top.at("name").text(0);
    const auto stage = top.find("stage");
    if (stage && stage->one_of({"ready", "kit"}) == "kit") {
        throw Fault(ES_FORMAT, told("the bundle is a build kit, not an engine", "", "",
                                    "build its engine on the device: edgeskin build KIT --out BUNDLE"));
    }
    made.target = target_name(top.at("target"));
    made.precision = precision_name(top.at("precision"));
    made.phantom = top.at("phantom").boolean();
    const Node recipe = top.at("recipe");
    if (target_name(recipe.at("target")) != made.target || precision_name(recipe.at("precision")) != made.precision) {
        recipe.fault("target and precision must be the bundle's", "others");
    }
    const auto hint = recipe.find("inference_precision");
    made.inference_precision = hint ? hint->one_of({"f32", "bf16", "default", "auto"}) : "f32";
    read_schema(top.at("task_schema"), made);
    read_network(top, made);
    read_fusion(top.at("fusion"), made);
    made.geometry = read_geometry(top.at("preprocess"));
    const Node thresholds = top.at("thresholds");
    thresholds.only({"pair", "dermoscopic"});
    for (const Mode mode : {kDermoscopic, kPair}) {
        const Node entry = thresholds.at(mode == kPair ? "pair" : "dermoscopic");
        entry.only({"value", "rule", "control_sensitivity", "control_specificity"});
        made.thresholds[static_cast<std::size_t>(mode)] = entry.at("value").number(0, 1);
    }
    read_files(top.at("files"), made);
    made.graphs = read_graphs(top.at("graphs"), made, false);
    made.reference = read_graphs(top.at("reference"), made, true);
    read_golden(top.at("golden"), made);
    used(top.at("lesion_hashes_file"), made, true);
    for (const char *key : {"evidence_file", "answers_file"}) {
        const auto found = top.find(key);
        if (found && !found->text(0).empty()) used(*found, made, false);
    }
    if (const auto found = top.find("tuning")) read_tuning(*found, made);
    if (const auto found = top.find("fallback")) read_fallback(*found, made);
    for (const auto &[name, version] : top.at("provenance").at("versions").members(1000)) {
        made.built_with.emplace(name, version.text(0));
    }
    read_binding(top, made);
    if (const auto found = top.find("quality")) made.quality = read_quality(*found);
    return made;
}

}  // namespace

bool safe_name(std::string_view name) {
    if (name.empty() || !plain_text(name) || name.find_first_of("\\:*?\"<>|") != std::string_view::npos) return false;
    std::size_t characters = 0;
    for (std::size_t at = 0; at < name.size(); ++characters) next_point(name, at);
    if (characters > 200) return false;
    while (true) {
        const std::size_t end = std::min(name.find('/'), name.size());
        const std::string_view part = name.substr(0, end);
        if (part.empty() || part == "." || part == "..") return false;
        if (end == name.size()) return true;
        name.remove_prefix(end + 1);
    }
}

Manifest parse_manifest(std::string_view text, const std::function<void()> &once_known) {
    if (text.size() > kManifestLimit) {
        throw Fault(ES_MANIFEST, told("manifest.json is too large", std::to_string(text.size()) + " bytes",
                                      "at most " + std::to_string(kManifestLimit), kAgain));
    }
    const Json document = parse_json(text, "manifest.json");
    const Node top(document, "manifest.json");
    check_format(top, document);
    if (once_known) once_known();
    return read(top);
}

Manifest parse_manifest(std::string_view text) { return parse_manifest(text, nullptr); }

}  // namespace es
