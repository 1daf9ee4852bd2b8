// Image -> frame: the same cut, halvings and bilinear sampling as edgeskin/preprocess.py, bit for bit; yuv.h says how
// NV12 and YUYV become RGB.
#pragma once

#include <edgeskin.h>

#include <cstdint>
#include <memory>

#include "manifest.h"

namespace es {

// Which part of an image becomes the frame, in whole pixels, and how often each axis is halved.
struct Cut {
    int left, top, right, bottom, halvings_x, halvings_y;
};

// Throws Fault ES_IMAGE: nothing is left between the borders.
Cut cut(int width, int height, const Geometry &geometry);

// Throws Fault ES_IMAGE: format, size, stride or pointers that cannot be read. Touches no pixel.
void check_image(const es_image &image, int max_width);

// Holds every buffer that any image up to max_width pixels needs: run() allocates nothing.
class Preparer {
  public:
    Preparer(const Geometry &geometry, int max_width);
    ~Preparer();
    Preparer(const Preparer &) = delete;
    Preparer &operator=(const Preparer &) = delete;

    // frame: uint8 RGB [height, width, 3]. The image must have passed check_image.
    void run(const es_image &image, std::uint8_t *frame);

  private:
    struct Rows;
    std::unique_ptr<Rows> rows_;
};

}  // namespace es
