// Whether a frame can be judged: the definitions of edgeskin/quality.py, in whole numbers, so that both agree.
#pragma once

#include <edgeskin.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace es {

constexpr std::size_t kLooks = 8;   // numbers that tell a clinical from a dermoscopic frame
constexpr int kMaxFrameSide = 4096;  // pixels, as in edgeskin/spec/preprocess.py
constexpr int kMinFrameSide = 32;

// Thresholds: object "quality" of the manifest, edgeskin/spec/quality.py. A key has the name of its field, all are
// whole numbers; where the manifest has no "quality", or it lacks a key, these defaults hold, which are Python's.
// Luma 0..255; x16 counts 1/16 of a grey level; shares and ratios count 1/10,000.
struct Quality {
    std::int32_t black_luma = 12;           // 0..256, as every luma and level
    std::int32_t black_share = 9500;        // 0..10001, as every share
    std::int32_t spread_x16 = 12;           // 0..4096
    std::int32_t dark_luma = 60;
    std::int32_t dark_share = 7500;
    std::int32_t bright_luma = 228;
    std::int32_t bright_share = 5000;
    std::int32_t saturated_level = 250;
    std::int32_t saturated_share = 2000;
    std::int32_t blurred_clinical = 4900;     // 0..10001
    std::int32_t blurred_dermoscopic = 4780;  // 0..10001
    std::int32_t rim_luma = 48;
    std::int32_t vignette_share = 3500;
    std::int32_t identical_x16 = 96;                      // 0..4096
    std::array<std::int32_t, kLooks> swapped_weights{};   // "swapped_weights": 8 numbers, -1,000,000 .. 1,000,000
    std::int64_t swapped_threshold = 0;                   // -2^53 .. 2^53
    // "fails": names as es_quality_name gives them, each once; ES_Q_ bits that make a lesion not assessable.
    std::uint32_t fails = ES_Q_EMPTY | ES_Q_DARK | ES_Q_BRIGHT | ES_Q_SATURATED | ES_Q_BLURRED | ES_Q_IDENTICAL |
                          ES_Q_SWAPPED;
};

// What is measured on one frame.
struct Features {
    std::int32_t black = 0, dark = 0, bright = 0, saturated = 0;  // shares, 1/10,000
    std::int32_t sharpness = 0;                                   // 1/10,000
    std::int32_t corner = 0;                                      // share, 1/10,000
    std::int32_t spread_x16 = 0;
    // luma, red - green, green - blue, spread, centre - rim, sharpness, fine and coarse texture
    std::array<std::int32_t, kLooks> look{};
};

// Flags of one frame, uint8 RGB [height, width, 3] without gaps, sides kMinFrameSide .. kMaxFrameSide. ES_Q_IDENTICAL
// and ES_Q_SWAPPED are never among them: see assess_pair. Allocates nothing, some 30 KiB of stack.
std::uint32_t assess(const std::uint8_t *frame, int width, int height, bool dermoscopic, const Quality &quality,
                     Features &features);

// Flags of a pair of frames of one size: ES_Q_IDENTICAL and ES_Q_SWAPPED, which hold for both images. Not to be asked
// where either frame is empty. `clinical` and `dermoscopic` are what assess() measured.
struct Pair {
    const std::uint8_t *clinical, *dermoscopic;
};
std::uint32_t assess_pair(const Pair &frames, int width, int height, const Features &clinical,
                          const Features &dermoscopic, const Quality &quality);

// All of it: flags of the clinical [0] and the dermoscopic frame [1]. `clinical` may be nullptr: flags[0] is then 0.
// Returns whether the lesion can be judged.
bool judge(const std::uint8_t *clinical, const std::uint8_t *dermoscopic, int width, int height, const Quality &quality,
           std::uint32_t flags[2]);

}  // namespace es
