// Pixel formats -> rows of three planes, red, green, blue.
#pragma once

#include <edgeskin.h>

#include "yuv.h"

namespace es {

// Reads rows of an image that has passed check_image.
class Pixels {
  public:
    // The columns left .. left + width - 1.
    Pixels(const es_image &image, int left, int width);

    // Rows y .. y + rows - 1, one or two of them. Writes also the byte before each row of `out`.
    void read(int y, int rows, const Planes &out) const;

  private:
    void read_nv12(int y, int rows, const Planes &out) const;

    const std::uint8_t *pixels_, *chroma_ = nullptr;
    std::ptrdiff_t stride_, chroma_stride_ = 0;
    int format_, width_;
    int odd_ = 0;  // columns that are read before the first one, because chroma belongs to pairs
    es_colour colour_;
};

}  // namespace es
