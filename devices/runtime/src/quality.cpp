// Whether a frame can be judged: edgeskin/quality.py in C++. Whole numbers alone, so that both give the same flags.
#include "quality.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace es {
namespace {

constexpr std::int64_t kUnit = 10000;  // of shares and ratios
constexpr int kParts = 8;              // along each side
constexpr int kStep = 2;               // rows 0, 2, 4 ... are measured
constexpr int kColourStep = 8;         // of them, colours on rows 0, 8, 16 ...

// 16 bytes at once, written with the compilers' own vectors: neither SSE2 nor NEON is named, and -O2 is enough.
constexpr int kBlock = 16;
typedef std::uint8_t Bytes16 __attribute__((vector_size(kBlock)));
typedef std::uint16_t Words8 __attribute__((vector_size(kBlock)));

using Row = std::array<std::uint8_t, kMaxFrameSide>;

inline std::uint8_t luma(const std::uint8_t *pixel) {
    return static_cast<std::uint8_t>((77u * pixel[0] + 150u * pixel[1] + 29u * pixel[2] + 128u) >> 8);
}

void luma_row(const std::uint8_t *pixels, int width, Row &row) {
    for (int x = 0; x < width; ++x) row[static_cast<std::size_t>(x)] = luma(pixels + 3 * x);
}

inline Bytes16 load(const std::uint8_t *from) {
    Bytes16 bytes;
    std::memcpy(&bytes, from, sizeof bytes);
    return bytes;
}

// Each word gets the sum of its two bytes, at most 510.
inline Words8 paired(Bytes16 bytes) {
    Words8 words;
    std::memcpy(&words, &bytes, sizeof words);
    return (words & 0xff) + (words >> 8);
}

inline std::uint32_t total(Words8 words) {
    std::uint32_t sum = 0;
    for (int k = 0; k < kBlock / 2; ++k) sum += words[k];
    return sum;
}

// How many values are below a limit of 0..256.
std::uint32_t below(const std::uint8_t *values, int count, std::int32_t limit) {
    if (limit > 255) return static_cast<std::uint32_t>(count);
    const auto bound = static_cast<std::uint8_t>(std::max(limit, 0));
    const Bytes16 bounds = Bytes16{} + bound;
    std::uint32_t found = 0;
    int at = 0;
    while (at + kBlock <= count) {
        Bytes16 counted = {};
        const int end = at + kBlock * std::min((count - at) / kBlock, 255);  // a byte counts up to 255
        for (; at < end; at += kBlock) counted -= reinterpret_cast<Bytes16>(load(values + at) < bounds);  // true is -1
        found += total(paired(counted));
    }
    for (; at < count; ++at) found += values[at] < bound;
    return found;
}

// Sum of max(0, |one - other| - 1): a difference of one grey level counts for nothing.
std::uint32_t excess(const std::uint8_t *one, const std::uint8_t *other, int count) {
    std::uint32_t sum = 0;
    int at = 0;
    while (at + kBlock <= count) {
        Words8 words = {};
        const int end = at + kBlock * std::min((count - at) / kBlock, 128);  // 128 * 508 fits into 16 bits
        for (; at < end; at += kBlock) {
            const Bytes16 a = load(one + at), b = load(other + at), apart = a > b ? a - b : b - a;
            words += paired(apart + reinterpret_cast<Bytes16>(apart > 0));
        }
        sum += total(words);
    }
    for (; at < count; ++at) sum += static_cast<std::uint32_t>(std::max(std::abs(one[at] - other[at]) - 1, 0));
    return sum;
}

std::int32_t share(std::uint64_t part, std::int64_t whole) {
    return static_cast<std::int32_t>(kUnit * static_cast<std::int64_t>(part) / whole);
}

std::int32_t sixteenths(std::uint64_t sum, std::int64_t count) {
    return static_cast<std::int32_t>(16 * static_cast<std::int64_t>(sum) / count);
}

// `near` over `far`; sharp where there is too little of either to tell.
std::int32_t sharpness(std::uint64_t near, std::uint64_t far, std::int64_t count) {
    if (16 * static_cast<std::int64_t>(far) < count) return kUnit;
    return static_cast<std::int32_t>(std::min<std::int64_t>(kUnit, kUnit * static_cast<std::int64_t>(near) /
                                                                       static_cast<std::int64_t>(far)));
}

// Edges of eight parts of a side.
std::array<int, kParts + 1> edges(int length) {
    std::array<int, kParts + 1> found{};
    for (int k = 0; k <= kParts; ++k) found[static_cast<std::size_t>(k)] = k * length / kParts;
    return found;
}

struct Sums {
    std::uint64_t black = 0, dark = 0, not_bright = 0, unsaturated = 0, corner = 0;
    std::uint64_t along_near = 0, along_far = 0, down_near = 0, down_far = 0;
    std::array<std::uint64_t, 3> colour{};
    std::array<std::array<std::uint64_t, kParts>, kParts> parts{};
};

Sums sums_of(const std::uint8_t *frame, int width, int height, const Quality &quality) {
    Sums sums;
    Row kept[3];  // this row, the one before, and the one before that
    std::array<std::uint16_t, kMaxFrameSide> columns{};  // of one strip: at most 256 rows, as a frame has 4096
    const int rows = (height + kStep - 1) / kStep, corner_rows = rows / 4, corner_columns = width / 4;
    const auto across = edges(width), down = edges(rows);
    std::size_t strip = 0;
    for (int y = 0; y < rows; ++y) {
        const std::uint8_t *pixels = frame + static_cast<std::size_t>(kStep * y) * static_cast<std::size_t>(width) * 3;
        Row &now = kept[y % 3];
        const std::uint8_t *row = now.data();
        luma_row(pixels, width, now);
        sums.black += below(row, width, quality.black_luma);
        sums.dark += below(row, width, quality.dark_luma);
        sums.not_bright += below(row, width, quality.bright_luma);
        sums.unsaturated += below(pixels, 3 * width, quality.saturated_level);
        sums.along_near += excess(row + 2, row, width - 2);
        sums.along_far += excess(row + 4, row, width - 4);
        if (y >= 1) sums.down_near += excess(row, kept[(y - 1) % 3].data(), width);
        if (y >= 2) sums.down_far += excess(row, kept[(y - 2) % 3].data(), width);
        if (y < corner_rows || y >= rows - corner_rows)
            sums.corner += below(row, corner_columns, quality.rim_luma) +
                           below(row + width - corner_columns, corner_columns, quality.rim_luma);
        if ((kStep * y) % kColourStep == 0)
            for (int x = 0; x < width; ++x)
                for (std::size_t c = 0; c < 3; ++c) sums.colour[c] += pixels[3 * x + static_cast<int>(c)];
        for (int x = 0; x < width; ++x) {
            auto &column = columns[static_cast<std::size_t>(x)];
            column = static_cast<std::uint16_t>(column + row[x]);
        }
        if (y + 1 == down[strip + 1]) {
            for (std::size_t part = 0; part < kParts; ++part)
                for (int x = across[part]; x < across[part + 1]; ++x)
                    sums.parts[strip][part] += columns[static_cast<std::size_t>(x)];
            columns.fill(0);
            ++strip;
        }
    }
    return sums;
}

}  // namespace

std::uint32_t assess(const std::uint8_t *frame, int width, int height, bool dermoscopic, const Quality &quality,
                     Features &features) {
    const Sums sums = sums_of(frame, width, height, quality);
    const std::int64_t rows = (height + kStep - 1) / kStep, count = rows * width;
    const auto across = edges(width), down = edges(static_cast<int>(rows));
    std::array<std::array<std::int32_t, kParts>, kParts> parts{};
    std::int32_t total = 0, inner = 0, rim = 0;
    for (std::size_t r = 0; r < kParts; ++r)
        for (std::size_t c = 0; c < kParts; ++c) {
            const std::int64_t size = std::int64_t{down[r + 1] - down[r]} * (across[c + 1] - across[c]);
            const std::int32_t mean = parts[r][c] = sixteenths(sums.parts[r][c], size);
            total += mean;
            if (r >= 2 && r < 6 && c >= 2 && c < 6) inner += mean;
            if (r == 0 || r == kParts - 1 || c == 0 || c == kParts - 1) rim += mean;
        }
    const std::int32_t mean = total / (kParts * kParts);
    std::int32_t spread = 0;
    for (const auto &strip : parts)
        for (const std::int32_t part : strip) spread += std::abs(part - mean);
    spread /= kParts * kParts;

    const std::int64_t coloured = (height + kColourStep - 1) / kColourStep * std::int64_t{width};
    const std::int32_t red = sixteenths(sums.colour[0], coloured), green = sixteenths(sums.colour[1], coloured),
                       blue = sixteenths(sums.colour[2], coloured);
    features.black = share(sums.black, count);
    features.dark = share(sums.dark, count);
    features.bright = share(static_cast<std::uint64_t>(count) - sums.not_bright, count);
    features.saturated = share(static_cast<std::uint64_t>(3 * count) - sums.unsaturated, 3 * count);
    features.sharpness = std::min(sharpness(sums.along_near, sums.along_far, count),
                                  sharpness(sums.down_near, sums.down_far, count));
    features.corner = share(sums.corner, 4 * (rows / 4) * (width / 4));
    features.spread_x16 = spread;
    const std::int32_t fine = sixteenths(sums.along_near + sums.down_near, count),
                       coarse = sixteenths(sums.along_far + sums.down_far, count);
    features.look = {mean, red - green, green - blue, spread, inner / 16 - rim / 28, features.sharpness, fine, coarse};

    if (features.black >= quality.black_share || spread < quality.spread_x16) return ES_Q_EMPTY;
    std::uint32_t flags = 0;
    const bool dark = features.dark >= quality.dark_share, bright = features.bright >= quality.bright_share;
    if (dark) flags |= ES_Q_DARK;
    if (bright) flags |= ES_Q_BRIGHT;
    if (features.saturated >= quality.saturated_share) flags |= ES_Q_SATURATED;
    if (!dark && !bright && features.sharpness < (dermoscopic ? quality.blurred_dermoscopic : quality.blurred_clinical))
        flags |= ES_Q_BLURRED;
    if (dermoscopic && !dark && features.corner >= quality.vignette_share) flags |= ES_Q_VIGNETTE;
    return flags;
}

std::uint32_t assess_pair(const Pair &frames, int width, int height, const Features &clinical,
                          const Features &dermoscopic, const Quality &quality) {
    const int rows = (height + kStep - 1) / kStep;
    std::uint64_t apart = 0;
    for (int y = 0; y < rows; ++y) {
        const std::size_t at = static_cast<std::size_t>(kStep * y) * static_cast<std::size_t>(width) * 3;
        for (int x = 0; x < width; ++x)
            apart += static_cast<std::uint64_t>(
                std::abs(luma(frames.clinical + at + 3 * x) - luma(frames.dermoscopic + at + 3 * x)));
    }
    std::uint32_t flags = 0;
    if (sixteenths(apart, std::int64_t{rows} * width) < quality.identical_x16) flags |= ES_Q_IDENTICAL;
    std::int64_t score = 0;
    bool known = false;
    for (std::size_t k = 0; k < kLooks; ++k) {
        known = known || quality.swapped_weights[k] != 0;
        score += std::int64_t{quality.swapped_weights[k]} * (clinical.look[k] - dermoscopic.look[k]);
    }
    if (known && score < quality.swapped_threshold) flags |= ES_Q_SWAPPED;
    return flags;
}

bool judge(const std::uint8_t *clinical, const std::uint8_t *dermoscopic, int width, int height, const Quality &quality,
           std::uint32_t flags[2]) {
    Features first, second;
    flags[0] = clinical ? assess(clinical, width, height, false, quality, first) : 0;
    flags[1] = assess(dermoscopic, width, height, true, quality, second);
    if (clinical && !((flags[0] | flags[1]) & ES_Q_EMPTY)) {
        const std::uint32_t both = assess_pair({clinical, dermoscopic}, width, height, first, second, quality);
        flags[0] |= both;
        flags[1] |= both;
    }
    return ((flags[0] | flags[1]) & quality.fails) == 0;
}

}  // namespace es
