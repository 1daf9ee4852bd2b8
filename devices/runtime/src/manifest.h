// manifest.json as the runtime needs it: a bundle's names, hashes, geometry, calibration and golden cases.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "quality.h"

namespace es {

constexpr std::size_t kManifestLimit = 16u << 20;  // bytes, as in edgeskin/opening.py; a manifest is some 20 kB

enum Mode { kDermoscopic = 0, kPair = 1 };  // images of a mode: mode + 1

struct FileEntry {
    std::string sha256;  // 64 hexadecimal digits, lower case
    std::uint64_t size_bytes = 0;
    bool reference = false;  // may be left out together
};

struct Graph {
    std::string file;
    std::string precision;  // "int8", "fp16", "fp32"
};

struct GoldenCase {
    std::string name, file;
    Mode mode = kPair;
    double tolerance = 0;
};

struct Task {
    std::string name;
    std::vector<std::string> classes;
    std::vector<int> points;
    double dermoscopic_weight = 0.5;  // beside the clinical image, which has the rest
    double fused_weight = 0;          // of a fused head's probability; both images' own have the rest
    double temperature_clinical = 1, temperature_dermoscopic = 1, temperature_alone = 1, temperature_fused = 1;
};

struct Geometry {
    int width = 0, height = 0, border_px = 0;
    bool crop = true;  // else stretch
};

struct Tuning {
    std::string processor;
    int cores = 0, threads = 0;
    std::string precision_hint;
};

struct Fallback {
    std::string target;
    bool reference = false;  // the FP32 graphs instead of the core ones
};

// What a TensorRT engine is bound to.
struct Compatibility {
    std::string arch, sm, tensorrt;
};

struct Manifest {
    std::string name, target, precision, inference_precision;
    bool phantom = false;
    bool kit = false;
    std::vector<Task> tasks;  // in the order of the logits
    std::size_t logits = 0;
    bool fused_head = false;  // a pair is given a third row of logits
    std::size_t target_task = 0;
    std::vector<std::size_t> positive;  // class numbers within the target's task
    std::string target_title;
    bool has_score = false;
    Geometry geometry;
    std::array<double, 2> thresholds{};  // by Mode
    std::array<Graph, 2> graphs, reference;  // by Mode
    std::vector<GoldenCase> golden;
    std::map<std::string, FileEntry> files;
    std::vector<Tuning> tuning;
    std::vector<Fallback> fallback;
    std::map<std::string, std::string> built_with;  // package -> version, of the exporting machine
    bool bound = false;                             // `compatibility` holds
    Compatibility compatibility;
    Quality quality;

    // Rows of logits that the graph of a mode gives: one an image, and a pair's third one.
    std::size_t rows(Mode mode) const { return mode == kDermoscopic ? 1u : fused_head ? 3u : 2u; }
};

// Read the manifest. Throws Fault: ES_MANIFEST (no JSON, over a limit, a key twice, a field missing or of the wrong
// kind), ES_FORMAT (another format version, a build kit), ES_UNSAFE (a file name that leads out of the bundle).
Manifest parse_manifest(std::string_view text);

// The same; `once_known` is called as soon as the text is JSON of a known format, before any field is read: the place
// for the seal and the signature. What it throws goes through.
Manifest parse_manifest(std::string_view text, const std::function<void()> &once_known);

// Whether a file of a bundle may have this name: the same rule as edgeskin.spec.manifest.safe_name.
bool safe_name(std::string_view name);

}  // namespace es
