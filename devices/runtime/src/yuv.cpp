// YUV -> RGB in 16-bit whole numbers, sixteen pixels at a time. The arithmetic is written once in the compiler's
// vectors; only what these lack names a processor: the high half of a product, clipping to bytes, putting even and odd
// pixels in turn.
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
using Bytes = std::uint8_t __attribute__((vector_size(16)));

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first of two bytes is taken for a unit's low half");

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

// Sixteen words as bytes, clipped to 0..255.
inline Bytes narrow(Words a, Words b) {
#if defined(__SSE2__)
    return reinterpret_cast<Bytes>(_mm_packus_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#elif defined(__ARM_NEON)
    return reinterpret_cast<Bytes>(
        vcombine_u8(vqmovun_s16(reinterpret_cast<int16x8_t>(a)), vqmovun_s16(reinterpret_cast<int16x8_t>(b))));
#else
    Bytes found{};
    for (int i = 0; i < 8; ++i) {
        found[i] = static_cast<std::uint8_t>(a[i] < 0 ? 0 : a[i] > 255 ? 255 : a[i]);
        found[i + 8] = static_cast<std::uint8_t>(b[i] < 0 ? 0 : b[i] > 255 ? 255 : b[i]);
    }
    return found;
#endif
}

// The sums of eight even and of eight odd pixels as grey levels in their order.
inline void store(Words even, Words odd, std::uint8_t *out) {
    const Bytes apart = narrow(even >> kBits, odd >> kBits);
#if defined(__SSE2__)
    const auto x = reinterpret_cast<__m128i>(apart);
    _mm_storeu_si128(reinterpret_cast<__m128i *>(out), _mm_unpacklo_epi8(x, _mm_srli_si128(x, 8)));
#elif defined(__ARM_NEON)
    const auto x = reinterpret_cast<uint8x16_t>(apart);
    vst2_u8(out, {{vget_low_u8(x), vget_high_u8(x)}});
#else
    for (int i = 0; i < kBlock; ++i) out[i] = apart[i / 2 + i % 2 * 8];
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

template <typename To>
inline To load(const std::uint8_t *from) {
    To found;
    std::memcpy(&found, from, sizeof found);
    return found;
}

// What chroma adds to sixteen pixels, two of which share each lane.
struct Tint {
    Words red, green, blue;
};

// chroma: eight times U, V.
inline Tint tint(Units chroma, const Matrix &m) {
    const Words u = reinterpret_cast<Words>(chroma << 8 ^ 0x8000);
    const Words v = reinterpret_cast<Words>((chroma & 0xff00) ^ 0x8000);
    return {high(v, m.red_v) + m.start, high(u, m.green_u) + high(v, m.green_v) + m.start_green,
            high(u, m.blue_u) + m.start};
}

// Sixteen pixels.
inline void block(Units luma, const Tint &t, const Matrix &m, std::uint8_t *red, std::uint8_t *green,
                  std::uint8_t *blue) {
    const Words even = high(reinterpret_cast<Words>(luma << 7 & 0x7f80), m.luma);
    const Words odd = high(reinterpret_cast<Words>(luma >> 1 & 0x7f80), m.luma);
    store(even + t.red, odd + t.red, red);
    store(even + t.green, odd + t.green, green);
    store(even + t.blue, odd + t.blue, blue);
}

// Sixteen pixels of YUYV: luma is the low half of each unit, chroma the high one.
inline void block_yuyv(const std::uint8_t *pixels, const Matrix &m, std::uint8_t *red, std::uint8_t *green,
                       std::uint8_t *blue) {
    const Units a = load<Units>(pixels), b = load<Units>(pixels + kBlock);
    const Bytes luma = narrow(reinterpret_cast<Words>(a & 0xff), reinterpret_cast<Words>(b & 0xff));
    const Bytes chroma = narrow(reinterpret_cast<Words>(a >> 8), reinterpret_cast<Words>(b >> 8));
    block(reinterpret_cast<Units>(luma), tint(reinterpret_cast<Units>(chroma), m), m, red, green, blue);
}

// The last pixels of a row, fewer than a block: converted apart, so that nothing beyond the row is touched.
struct Rest {
    std::uint8_t in[2 * kBlock] = {}, chroma[kBlock] = {}, out[3][kBlock];
    void give(const Planes &planes, int k, int x, int count) const {
        for (int p = 0; p < 3; ++p) std::memcpy(planes.at(p, k) + x, out[p], static_cast<std::size_t>(count));
    }
};

inline std::size_t chroma_bytes(int pixels) { return static_cast<std::size_t>((pixels + 1) / 2 * 2); }

template <int rows>
void nv12(const std::uint8_t *const *luma, const std::uint8_t *chroma, int width, es_colour colour, const Planes &out) {
    const Matrix m(colour);
    const std::uint8_t *from[rows];
    std::uint8_t *to[rows][3];
    for (int k = 0; k < rows; ++k) {
        from[k] = luma[k];
        for (int p = 0; p < 3; ++p) to[k][p] = out.at(p, k);
    }
    int x = 0;
    for (; x + kBlock <= width; x += kBlock) {
        const Tint t = tint(load<Units>(chroma + x), m);
        for (int k = 0; k < rows; ++k)
            block(load<Units>(from[k] + x), t, m, to[k][0] + x, to[k][1] + x, to[k][2] + x);
    }
    if (x == width) return;
    Rest rest;
    std::memcpy(rest.chroma, chroma + x, chroma_bytes(width - x));
    const Tint t = tint(load<Units>(rest.chroma), m);
    for (int k = 0; k < rows; ++k) {
        std::memcpy(rest.in, luma[k] + x, static_cast<std::size_t>(width - x));
        block(load<Units>(rest.in), t, m, rest.out[0], rest.out[1], rest.out[2]);
        rest.give(out, k, x, width - x);
    }
}

}  // namespace

void nv12_rows(const std::uint8_t *const *luma, int rows, const std::uint8_t *chroma, int width, es_colour colour,
               const Planes &out) {
    (rows == 2 ? nv12<2> : nv12<1>)(luma, chroma, width, colour, out);
}

void yuyv_row(const std::uint8_t *pixels, int width, es_colour colour, const Planes &out) {
    const Matrix m(colour);
    std::uint8_t *const red = out.at(0, 0), *const green = out.at(1, 0), *const blue = out.at(2, 0);
    int x = 0;
    for (; x + kBlock <= width; x += kBlock) block_yuyv(pixels + 2 * x, m, red + x, green + x, blue + x);
    if (x == width) return;
    Rest rest;
    std::memcpy(rest.in, pixels + 2 * x, 2 * chroma_bytes(width - x));
    block_yuyv(rest.in, m, rest.out[0], rest.out[1], rest.out[2]);
    rest.give(out, 0, x, width - x);
}

}  // namespace es
