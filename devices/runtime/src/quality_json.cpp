// Thresholds of the quality gate out of the manifest: the keys and ranges of edgeskin/spec/quality.py.
#include "quality_json.h"

namespace es {
namespace {

std::uint32_t read_flags(const Node &node) {
    std::uint32_t flags = 0;
    for (const Node &entry : node.list(0, 8)) {
        const std::string name = entry.one_of(
            {"empty", "dark", "bright", "saturated", "blurred", "vignette", "identical", "swapped"});
        const std::uint32_t bit = name == "empty"       ? ES_Q_EMPTY
                                  : name == "dark"      ? ES_Q_DARK
                                  : name == "bright"    ? ES_Q_BRIGHT
                                  : name == "saturated" ? ES_Q_SATURATED
                                  : name == "blurred"   ? ES_Q_BLURRED
                                  : name == "vignette"  ? ES_Q_VIGNETTE
                                  : name == "identical" ? ES_Q_IDENTICAL
                                                        : ES_Q_SWAPPED;
        if (flags & bit) entry.fault("a flag is named twice", name);
        flags |= bit;
    }
    return flags;
}

}  // namespace

Quality read_quality(const Node &node) {
    node.only({"black_luma", "black_share", "spread_x16", "dark_luma", "dark_share", "bright_luma", "bright_share",
               "saturated_level", "saturated_share", "blurred_clinical", "blurred_dermoscopic", "rim_luma",
               "vignette_share", "identical_x16", "swapped_weights", "swapped_threshold", "fails"});
    Quality made;
    const auto read = [&](const char *key, std::int32_t most, std::int32_t &field) {
        if (const auto found = node.find(key)) field = static_cast<std::int32_t>(found->integer(0, most));
    };
    constexpr std::int32_t level = 256, share = 10001, x16 = 4096;  // one above what can be measured: never, or always
    read("black_luma", level, made.black_luma);
    read("black_share", share, made.black_share);
    read("spread_x16", x16, made.spread_x16);
    read("dark_luma", level, made.dark_luma);
    read("dark_share", share, made.dark_share);
    read("bright_luma", level, made.bright_luma);
    read("bright_share", share, made.bright_share);
    read("saturated_level", level, made.saturated_level);
    read("saturated_share", share, made.saturated_share);
    read("blurred_clinical", share, made.blurred_clinical);
    read("blurred_dermoscopic", share, made.blurred_dermoscopic);
    read("rim_luma", level, made.rim_luma);
    read("vignette_share", share, made.vignette_share);
    read("identical_x16", x16, made.identical_x16);
    if (const auto found = node.find("swapped_weights")) {
        const std::vector<Node> weights = found->list(kLooks, kLooks);
        for (std::size_t i = 0; i < kLooks; ++i) {
            made.swapped_weights[i] = static_cast<std::int32_t>(weights[i].integer(-1000000, 1000000));
        }
    }
    if (const auto found = node.find("swapped_threshold")) {
        made.swapped_threshold = found->integer(-(std::int64_t{1} << 53), std::int64_t{1} << 53);
    }
    if (const auto found = node.find("fails")) made.fails = read_flags(*found);
    return made;
}

}  // namespace es
