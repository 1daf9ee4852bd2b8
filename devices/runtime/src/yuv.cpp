// YUV -> RGB in 16-bit whole numbers, eight pixels at a time. The arithmetic is written once in the compiler's vectors;
// only the two operations that these lack, the high half of a product and the saturating narrowing, name a processor.
#include "yuv.h"

#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace es {
namespace {

using Words = std::int16_t __attribute__((vector_size(16)));
using Units = std::uint16_t __attribute__((vector_size(16)));
using Pairs = std::uint32_t __attribute__((vector_size(16)));  // of two neighbouring pixels
using Octet = std::uint8_t __attribute__((vector_size(8)));
using Quads = std::uint16_t __attribute__((vector_size(8)));

constexpr int kBlock = 16;  // pixels of a step
constexpr int kBits = 5;    // fraction of the sums: 255 * 1.17 + 127 * 2.12 of them stay below 2 ** 15

// a * b / 65536, rounded down.
inline Words high(Words a, Words b) {
#if defined(__SSE2__)
    return reinterpret_cast<Words>(_mm_mulhi_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#elif defined(__ARM_NEON)
    const int16x8_t x = reinterpret_cast<int16x8_t>(a), y = reinterpret_cast<int16x8_t>(b);
    return reinterpret_cast<Words>(vcombine_s16(vshrn_n_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), 16),
                                                vshrn_n_s32(vmull_s16(vget_high_s16(x), vget_high_s16(y)), 16)));
#else
    Words found{};
    for (int i = 0; i < 8; ++i) found[i] = static_cast<std::int16_t>((std::int32_t{a[i]} * b[i]) >> 16);
    return found;
#endif
}

// Sixteen sums as grey levels, clipped to 0..255.
inline void store(Words a, Words b, std::uint8_t *out) {
    a >>= kBits, b >>= kBits;
#if defined(__SSE2__)
    _mm_storeu_si128(reinterpret_cast<__m128i *>(out),
                     _mm_packus_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#elif defined(__ARM_NEON)
    vst1q_u8(out, vcombine_u8(vqmovun_s16(reinterpret_cast<int16x8_t>(a)), vqmovun_s16(reinterpret_cast<int16x8_t>(b))));
#else
    for (int i = 0; i < 8; ++i) {
        out[i] = static_cast<std::uint8_t>(a[i] < 0 ? 0 : a[i] > 255 ? 255 : a[i]);
        out[i + 8] = static_cast<std::uint8_t>(b[i] < 0 ? 0 : b[i] > 255 ? 255 : b[i]);
    }
#endif
}

// Weights of luma << 7 and of (chroma - 128) << 8, each for the high half of its product; what a sum begins with:
// black's offset, half a grey level, and half a unit for each product that was rounded down.
struct Weights {
    std::int16_t luma, red_v, green_u, green_v, blue_u, start, start_green;
};

constexpr std::int16_t whole(double value) { return static_cast<std::int16_t>(value < 0 ? value - 0.5 : value + 0.5); }

// red, blue: their shares of luma.
constexpr Weights weights(double red, double blue, bool full) {
    const double luma = full ? 1 : 255.0 / 219, chroma = full ? 1 : 255.0 / 224, black = full ? 0 : 16 * luma;
    const double of_luma = luma * (1 << kBits) * 512, of_chroma = 2 * chroma * (1 << kBits) * 256;
    const double green = 1 - red - blue, start = (0.5 - black) * (1 << kBits);
    return {whole(of_luma),
            whole(of_chroma * (1 - red)),
            whole(-of_chroma * (1 - blue) * blue / green),
            whole(-of_chroma * (1 - red) * red / green),
            whole(of_chroma * (1 - blue)),
            whole(start + 1.0),
            whole(start + 1.5)};
}

// By es_colour: ITU-R BT.601-7, BT.709-6 and JFIF 1.02.
constexpr Weights kWeights[] = {weights(0.299, 0.114, false), weights(0.2126, 0.0722, false),
                                weights(0.299, 0.114, true)};

struct Matrix {
    explicit Matrix(es_colour colour) : Matrix(kWeights[colour]) {}
    Words luma, red_v, green_u, green_v, blue_u, start, start_green;

  private:
    explicit Matrix(const Weights &w)
        : luma(Words{} + w.luma),
          red_v(Words{} + w.red_v),
          green_u(Words{} + w.green_u),
          green_v(Words{} + w.green_v),
          blue_u(Words{} + w.blue_u),
          start(Words{} + w.start),
          start_green(Words{} + w.start_green) {}
};

// What chroma adds to eight pixels. Comes as U << 8 and V << 8.
struct Tint {
    Words red, green, blue;
};

inline Tint tint(Units u, Units v, const Matrix &m) {
    const Words a = reinterpret_cast<Words>(u ^ 0x8000), b = reinterpret_cast<Words>(v ^ 0x8000);
    return {high(b, m.red_v) + m.start, high(a, m.green_u) + high(b, m.green_v) + m.start_green,
            high(a, m.blue_u) + m.start};
}

template <typename To>
inline To load(const std::uint8_t *from) {
    To found;
    std::memcpy(&found, from, sizeof found);
    return found;
}

// Eight pixels' chroma of NV12: four times U, V.
inline Tint tint_nv12(const std::uint8_t *chroma, const Matrix &m) {
    const Pairs wide = __builtin_convertvector(load<Quads>(chroma), Pairs);
    const Units twice = reinterpret_cast<Units>(wide | wide << 16);
    return tint(twice << 8, twice & 0xff00, m);
}

inline void block_nv12(const std::uint8_t *luma, const Tint &a, const Tint &b, const Matrix &m, std::uint8_t *red,
                       std::uint8_t *green, std::uint8_t *blue) {
    const Words p = high(__builtin_convertvector(load<Octet>(luma), Words) << 7, m.luma);
    const Words q = high(__builtin_convertvector(load<Octet>(luma + 8), Words) << 7, m.luma);
    store(p + a.red, q + b.red, red);
    store(p + a.green, q + b.green, green);
    store(p + a.blue, q + b.blue, blue);
}

// Eight pixels of YUYV: their sums. Memory is little-endian: Y is the low half of each unit.
inline Tint sums_yuyv(const std::uint8_t *pixels, const Matrix &m) {
    const Pairs pairs = load<Pairs>(pixels);
    const Pairs u = pairs & 0xff00u, v = pairs & 0xff000000u;
    const Tint t = tint(reinterpret_cast<Units>(u | u << 16), reinterpret_cast<Units>(v | v >> 16), m);
    const Words y = high(reinterpret_cast<Words>((reinterpret_cast<Units>(pairs) & 0xff) << 7), m.luma);
    return {y + t.red, y + t.green, y + t.blue};
}

inline void block_yuyv(const std::uint8_t *pixels, const Matrix &m, std::uint8_t *red, std::uint8_t *green,
                       std::uint8_t *blue) {
    const Tint a = sums_yuyv(pixels, m), b = sums_yuyv(pixels + kBlock, m);
    store(a.red, b.red, red);
    store(a.green, b.green, green);
    store(a.blue, b.blue, blue);
}

// The last pixels of a row, fewer than a block: converted apart, so that nothing beyond the row is touched.
struct Rest {
    std::uint8_t in[2 * kBlock] = {}, chroma[kBlock] = {}, out[3][kBlock];
    void give(const Planes &planes, int k, int x, int count) const {
        for (int p = 0; p < 3; ++p) std::memcpy(planes.at(p, k) + x, out[p], static_cast<std::size_t>(count));
    }
};

inline std::size_t chroma_bytes(int pixels) { return static_cast<std::size_t>((pixels + 1) / 2 * 2); }

}  // namespace

void nv12_rows(const std::uint8_t *const *luma, int rows, const std::uint8_t *chroma, int width, es_colour colour,
               const Planes &out) {
    const Matrix m(colour);
    int x = 0;
    for (; x + kBlock <= width; x += kBlock) {
        const Tint a = tint_nv12(chroma + x, m), b = tint_nv12(chroma + x + 8, m);
        for (int k = 0; k < rows; ++k)
            block_nv12(luma[k] + x, a, b, m, out.at(0, k) + x, out.at(1, k) + x, out.at(2, k) + x);
    }
    if (x == width) return;
    Rest rest;
    std::memcpy(rest.chroma, chroma + x, chroma_bytes(width - x));
    const Tint a = tint_nv12(rest.chroma, m), b = tint_nv12(rest.chroma + 8, m);
    for (int k = 0; k < rows; ++k) {
        std::memcpy(rest.in, luma[k] + x, static_cast<std::size_t>(width - x));
        block_nv12(rest.in, a, b, m, rest.out[0], rest.out[1], rest.out[2]);
        rest.give(out, k, x, width - x);
    }
}

void yuyv_row(const std::uint8_t *pixels, int width, es_colour colour, const Planes &out) {
    const Matrix m(colour);
    int x = 0;
    for (; x + kBlock <= width; x += kBlock)
        block_yuyv(pixels + 2 * x, m, out.at(0, 0) + x, out.at(1, 0) + x, out.at(2, 0) + x);
    if (x == width) return;
    Rest rest;
    std::memcpy(rest.in, pixels + 2 * x, 2 * chroma_bytes(width - x));
    block_yuyv(rest.in, m, rest.out[0], rest.out[1], rest.out[2]);
    rest.give(out, 0, x, width - x);
}

}  // namespace es
