// YUV -> RGB for rows of camera frames. Planes out, as the halvings want them.
#pragma once

#include <edgeskin.h>

#include <cstddef>
#include <cstdint>

namespace es {

// Where rows go: plane p (red, green, blue) of row k begins at planes + p * plane + k * row.
struct Planes {
    std::uint8_t *planes;
    std::ptrdiff_t plane, row;
    std::uint8_t *at(int p, int k) const { return planes + p * plane + k * row; }
};

// Each U and V serves the pixels it was taken from, as it is: two of a row, and in NV12 of two rows. Every result is
// within 0.6 grey levels of the exact product of the colour's matrix in real numbers, and the same on every processor.
// (libyuv's own conversion holds coefficients in 6 bits, of 2 at most: BT.709's blue is up to 14 levels off.)

// One or two rows of NV12 that share one row of chroma. luma[k], chroma: the first pixel, of an even column.
void nv12_rows(const std::uint8_t *const *luma, int rows, const std::uint8_t *chroma, int width, es_colour colour,
               const Planes &out);

// One row of YUYV from an even column on.
void yuyv_row(const std::uint8_t *pixels, int width, es_colour colour, const Planes &out);

}  // namespace es
