// Image -> frame in one pass over the rows: a cascade of halvings, each fed with pairs of rows by the one before, then
// bilinear sampling. Memory grows with the image's width alone. edgeskin/preprocess.py defines every rounding.
#include "prepare.h"

#include <libyuv.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "fault.h"
#include "pixels.h"
#include "text.h"

namespace es {
namespace {

constexpr int kSteps = 15;  // halvings of an axis: 16384 pixels to one need 14
constexpr int kAlign = 64;  // bytes; rows begin there, and have as many to spare on both sides
constexpr int kBits = 8;    // of a bilinear weight
constexpr int kOne = 1 << kBits;

// a / b, half to even: as Python's round(a / b) for such numbers.
std::int64_t rounded(std::int64_t a, std::int64_t b) {
    const std::int64_t whole = a / b, twice = 2 * (a % b);
    return whole + (twice > b || (twice == b && whole % 2 != 0));
}

struct Span {
    int start, end, halvings;
};

// Start, end and halvings of one axis: halved while at least twice too long.
Span span(int start, int length, int size) {
    int halvings = 0;
    while (length / size >> (halvings + 1)) ++halvings;
    const int over = length % (1 << halvings);
    return {start + over / 2, start + over / 2 + length - over, halvings};
}

// An output pixel's two neighbours, `first` and the one behind it, and the weight of the latter in 1 / 256.
struct Tap {
    int first;
    std::int32_t weight;
};

// Pixel centres lie at half numbers; beyond the first and the last centre the edge goes on.
Tap tap(int i, int available, int size) {
    // Volatile: a processor that multiplies and subtracts with one rounding would find other neighbours and weights.
    // Not available / size, whose last bit may differ and turn a tie.
    const volatile double scaled = 1.0 / (static_cast<double>(size) / available) * (i + 0.5);
    const double centre = std::clamp(scaled - 0.5, 0.0, static_cast<double>(available - 1));
    const int first = std::min(static_cast<int>(centre), std::max(0, available - 2));
    const double weight = (centre - first) * kOne;
    const auto low = static_cast<std::int32_t>(weight);
    const double left = weight - low;
    return {first, low + (left > 0.5 || (left == 0.5 && low % 2 != 0))};
}

// Bytes from one row of a buffer to the next.
int pitch(int width) {
    const int bytes = (width + 2 * kAlign - 1) / kAlign * kAlign;
    return bytes % 4096 == 0 ? bytes + kAlign : bytes;  // else six rows would fight for the same lines of the cache
}

// A width that libyuv's vectors divide; what lies beyond the row is the buffer's own, and is not used.
int filled(int width) { return (width + kAlign - 1) / kAlign * kAlign; }

// Halve a row's length alone.
void halve_columns(const std::uint8_t *__restrict from, int width, std::uint8_t *__restrict to) {
    for (int x = 0; x < width; ++x) to[x] = static_cast<std::uint8_t>((from[2 * x] + from[2 * x + 1] + 1) >> 1);
}

// The taps of a row, for each number of an interleaved one.
struct Taps {
    std::vector<int> first;              // of each pixel
    std::vector<std::uint16_t> weights;  // thrice each pixel's
    std::vector<std::uint16_t> pairs;    // room: both neighbours in two bytes
};

// Sample a row of three planes: interleaved, times 256, at most 255 * 256. The compiler makes vectors of the second
// loop, because the first has gathered for it.
void across(const std::uint8_t *__restrict row, std::ptrdiff_t plane, Taps &taps, std::uint16_t *__restrict out) {
    std::uint16_t *__restrict pairs = taps.pairs.data();
    for (const int first : taps.first) {
        const std::uint8_t *p = row + first;
        for (int c = 0; c < 3; ++c, p += plane) *pairs++ = static_cast<std::uint16_t>(p[0] | p[1] << 8);
    }
    pairs = taps.pairs.data();
    const std::uint16_t *__restrict weights = taps.weights.data();
    const std::size_t count = taps.pairs.size();
    for (std::size_t x = 0; x < count; ++x) {  // modulo 2 ** 16
        const auto left = static_cast<std::uint16_t>(pairs[x] & 255), right = static_cast<std::uint16_t>(pairs[x] >> 8);
        const auto step = static_cast<std::uint16_t>(right - left);
        out[x] = static_cast<std::uint16_t>(left * kOne + static_cast<std::uint16_t>(step * weights[x]));
    }
}

// Mix two sampled rows.
void down(const std::vector<std::uint16_t> &first, const std::vector<std::uint16_t> &second, std::int32_t weight,
          std::uint8_t *__restrict out) {
    const std::uint16_t *__restrict a = first.data(), *__restrict b = second.data();
    const auto of_a = static_cast<std::uint16_t>(kOne - weight), of_b = static_cast<std::uint16_t>(weight);
    const std::size_t count = first.size();
    for (std::size_t x = 0; x < count; ++x) {
        const std::uint32_t mixed = std::uint32_t{a[x]} * of_a + std::uint32_t{b[x]} * of_b;
        out[x] = static_cast<std::uint8_t>((mixed + (1 << (2 * kBits - 1))) >> (2 * kBits));
    }
}

}  // namespace

Cut cut(int width, int height, const Geometry &geometry) {
    const std::int64_t border = 2 * std::int64_t{geometry.border_px};
    const std::int64_t inner_width = width - border, inner_height = height - border;
    if (inner_width < 1 || inner_height < 1)
        throw Fault(ES_IMAGE, told("the image is smaller than its border",
                                   std::to_string(width) + "x" + std::to_string(height) + " with border " +
                                       std::to_string(geometry.border_px),
                                   "", "give a larger image, or export the bundle with a lower border_px"));
    std::int64_t wide = inner_width, tall = inner_height;
    if (geometry.crop) {
        const std::int64_t one = 1;
        wide = std::min(wide, std::max(one, rounded(inner_height * geometry.width, geometry.height)));
        tall = std::min(tall, std::max(one, rounded(inner_width * geometry.height, geometry.width)));
    }
    const Span x = span(static_cast<int>((width - wide) / 2), static_cast<int>(wide), geometry.width);
    const Span y = span(static_cast<int>((height - tall) / 2), static_cast<int>(tall), geometry.height);
    return {x.start, y.start, x.end, y.end, x.halvings, y.halvings};
}

struct Preparer::Rows {
    Rows(const Geometry &wanted, int max_width) : geometry(wanted) {
        // A step that leaves the width as it is comes only when that is below twice the frame's.
        std::size_t bytes = 0;
        for (std::size_t k = 0; k < kSteps; ++k) {
            room[k] = buffer(std::max(max_width >> k, std::min(max_width, 2 * wanted.width)));
            bytes += room[k];
        }
        memory.resize(bytes);
        const auto across_all = static_cast<std::size_t>(wanted.width);
        taps = {std::vector<int>(across_all), std::vector<std::uint16_t>(3 * across_all),
                std::vector<std::uint16_t>(3 * across_all)};
        for (auto &row : sampled) row.resize(3 * across_all);
    }

    static std::size_t buffer(int width) { return kAlign + 6 * static_cast<std::size_t>(pitch(width)); }

    void run(const es_image &image, std::uint8_t *frame);
    void pull(int step, const Planes &out);
    void sample(std::vector<std::uint16_t> &out);
    void aim(int width);

    enum class Halve { both, rows, columns };
    struct Step {
        Halve halve;
        int width;           // of its source's rows
        std::uint8_t *pair;  // two rows of the source: each plane's one below the other
        int pitch;
    };

    const Geometry geometry;
    std::array<std::size_t, kSteps> room{};  // bytes of each step's buffer
    std::vector<std::uint8_t> memory;
    Taps taps;
    int taps_for = 0;  // columns that they were made for
    std::array<std::vector<std::uint16_t>, 2> sampled;

    std::array<Step, kSteps> steps{};  // the last one holds the rows that are sampled
    int last = 0;
    const Pixels *pixels = nullptr;
    int next = 0;  // row of the image
};

// The next row after `step` halvings.
void Preparer::Rows::pull(int step, const Planes &out) {
    if (step == 0) {
        pixels->read(next++, 1, out);
        return;
    }
    const Step &s = steps[static_cast<std::size_t>(step - 1)];
    const Planes pair{s.pair, 2 * s.pitch, s.pitch};
    if (s.halve != Halve::columns && step == 1) {
        pixels->read(next, 2, pair);
        next += 2;
    } else {
        pull(step - 1, pair);
        if (s.halve != Halve::columns) pull(step - 1, {pair.planes + s.pitch, pair.plane, pair.row});
    }
    const int plane = static_cast<int>(out.plane);
    switch (s.halve) {
        case Halve::both:  // (a + b + c + d + 2) >> 2: libyuv's box of exactly 2 x 2
            libyuv::ScalePlane(s.pair, s.pitch, filled(s.width), 6, out.planes, plane, filled(s.width) / 2, 3,
                               libyuv::kFilterBox);
            break;
        case Halve::rows:  // (a + b + 1) >> 1
            libyuv::InterpolatePlane(s.pair, 2 * s.pitch, s.pair + s.pitch, 2 * s.pitch, out.planes, plane,
                                     filled(s.width), 3, 128);
            break;
        case Halve::columns:
            for (int p = 0; p < 3; ++p) halve_columns(pair.at(p, 0), s.width / 2, out.at(p, 0));
    }
}

// Make the taps for rows of that width.
void Preparer::Rows::aim(int width) {
    if (taps_for == width) return;
    taps_for = width;
    std::size_t x = 0;
    for (int i = 0; i < geometry.width; ++i) {
        const Tap found = tap(i, width, geometry.width);
        taps.first[static_cast<std::size_t>(i)] = found.first;
        for (int c = 0; c < 3; ++c) taps.weights[x++] = static_cast<std::uint16_t>(found.weight);
    }
}

void Preparer::Rows::sample(std::vector<std::uint16_t> &out) {
    const Step &end = steps[static_cast<std::size_t>(last)];
    pull(last, {end.pair, end.pitch, 0});
    across(end.pair, end.pitch, taps, out.data());
}

void Preparer::Rows::run(const es_image &image, std::uint8_t *frame) {
    const Cut box = cut(image.width, image.height, geometry);
    const Pixels reader(image, box.left, box.right - box.left);
    pixels = &reader, next = box.top;

    int width = box.right - box.left, height = box.bottom - box.top;
    last = std::max(box.halvings_x, box.halvings_y);
    std::uint8_t *free = memory.data();
    for (int k = 0; k <= last; ++k) {
        const bool x = k < box.halvings_x, y = k < box.halvings_y;
        steps[static_cast<std::size_t>(k)] = {x && y ? Halve::both : y ? Halve::rows : Halve::columns, width,
                                              free + kAlign, pitch(width)};
        free += room[static_cast<std::size_t>(k)];
        if (x) width /= 2;
        if (y) height /= 2;
    }
    aim(width);

    std::array<int, 2> held{-1, -1};  // which row each of `sampled` holds
    int pulled = 0;
    const auto at_hand = [&](int row, std::size_t spare) {
        const std::size_t old = held[0] == row ? 0 : 1;
        if (held[old] == row) return old;
        for (; pulled <= row; ++pulled) sample(sampled[spare]);
        held[spare] = row;
        return spare;
    };
    for (int y = 0; y < geometry.height; ++y, frame += sampled[0].size()) {
        const Tap mix = tap(y, height, geometry.height);
        const std::size_t first = at_hand(mix.first, 0);  // a new one comes with a new second
        const std::size_t second = at_hand(std::min(mix.first + 1, height - 1), 1 - first);
        down(sampled[first], sampled[second], mix.weight, frame);
    }
    pixels = nullptr;
}

Preparer::Preparer(const Geometry &geometry, int max_width) : rows_(std::make_unique<Rows>(geometry, max_width)) {}

Preparer::~Preparer() = default;

void Preparer::run(const es_image &image, std::uint8_t *frame) { rows_->run(image, frame); }

}  // namespace es
