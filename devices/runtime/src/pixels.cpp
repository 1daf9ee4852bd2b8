// Pixel formats -> rows of three planes, and which images can be read at all.
#include "pixels.h"

#include <libyuv.h>

#include <limits>
#include <string>

#include "fault.h"
#include "prepare.h"
#include "text.h"

namespace es {
namespace {

constexpr int kLongest = 16384;  // pixels of a side

int pixel_bytes(int format) { return format == ES_RGBA ? 4 : format == ES_NV12 ? 1 : format == ES_YUYV ? 2 : 3; }

[[noreturn]] void refuse(const char *what, const std::string &got, const std::string &possible,
                         const std::string &fix) {
    throw Fault(ES_IMAGE, told(what, got, possible, fix));
}

std::string size_text(const es_image &image) {
    return std::to_string(image.width) + "x" + std::to_string(image.height);
}

// Refuse rows that overlap, and planes that no address space holds.
void check_plane(const char *what, std::int64_t stride, std::int64_t row, std::int64_t rows) {
    if (stride < row)
        refuse(what, std::to_string(stride) + " bytes", "0, or at least " + std::to_string(row),
               "give the bytes from one row to the next");
    if ((rows - 1) * stride + row > std::numeric_limits<std::ptrdiff_t>::max())
        refuse(what, std::to_string(stride) + " bytes", "an image that fits into memory", "check stride and height");
}

std::int64_t stride_of(const es_image &image) {
    return image.stride != 0 ? image.stride : std::int64_t{image.width} * pixel_bytes(image.format);
}

}  // namespace

void check_image(const es_image &image, int max_width) {
    if (image.format == ES_GREY)
        refuse("grey images cannot be classified, the networks need colour", "ES_GREY",
               "ES_RGB, ES_BGR, ES_RGBA, ES_NV12, ES_YUYV", "give the camera's colour image");
    if (image.format < ES_RGB || image.format > ES_YUYV)
        refuse("unknown pixel format", std::to_string(image.format), "ES_RGB, ES_BGR, ES_RGBA, ES_NV12, ES_YUYV",
               "set es_image.format");
    if (image.width < 1 || image.height < 1 || image.width > kLongest || image.height > kLongest)
        refuse("wrong image size", size_text(image), "1x1 to 16384x16384", "set es_image.width and height in pixels");
    if (image.width > max_width)
        refuse("the image is wider than the model's buffers", std::to_string(image.width) + " pixels",
               "1 to " + std::to_string(max_width), "raise es_options.max_width");
    if (!image.pixels)
        refuse("the image has no pixels", "es_image.pixels = NULL", "", "point es_image.pixels to the top row");
    const bool nv12 = image.format == ES_NV12, yuyv = image.format == ES_YUYV;
    if ((nv12 && (image.width % 2 != 0 || image.height % 2 != 0)) || (yuyv && image.width % 2 != 0))
        refuse("wrong image size for its format", size_text(image) + (nv12 ? " NV12" : " YUYV"),
               nv12 ? "even width and height" : "even width", "set es_image.width and height as the camera has them");
    if ((nv12 || yuyv) && (image.colour < ES_BT601 || image.colour > ES_JPEG))
        refuse("unknown colour matrix", std::to_string(image.colour), "ES_BT601, ES_BT709, ES_JPEG",
               "set es_image.colour");
    const std::int64_t stride = stride_of(image), row = std::int64_t{image.width} * pixel_bytes(image.format);
    check_plane("wrong image stride", stride, row, image.height);
    if (!nv12) return;
    const std::int64_t chroma_stride = image.chroma_stride != 0 ? image.chroma_stride : stride;
    check_plane("wrong chroma stride", chroma_stride, image.width, image.height / 2);
    if (!image.chroma)
        check_plane("wrong image stride", stride, row, std::int64_t{image.height} + image.height / 2);
}

Pixels::Pixels(const es_image &image, int left, int width)
    : pixels_(image.pixels),
      stride_(static_cast<std::ptrdiff_t>(stride_of(image))),
      format_(image.format),
      width_(width),
      colour_(static_cast<es_colour>(image.colour)) {
    if (format_ == ES_NV12 || format_ == ES_YUYV) odd_ = left % 2;
    pixels_ += std::ptrdiff_t{left - odd_} * pixel_bytes(format_);
    if (format_ != ES_NV12) return;
    chroma_ = (image.chroma ? image.chroma : image.pixels + image.height * stride_) + (left - odd_);
    chroma_stride_ = image.chroma_stride != 0 ? image.chroma_stride : stride_;
}

void Pixels::read(int y, int rows, const Planes &out) const {
    if (format_ == ES_NV12) return read_nv12(y, rows, out);
    for (int k = 0; k < rows; ++k) {
        const std::uint8_t *row = pixels_ + (y + k) * stride_;
        std::uint8_t *first = out.at(0, k), *second = out.at(1, k), *third = out.at(2, k);
        switch (format_) {
            case ES_RGB:
                libyuv::SplitRGBPlane(row, 0, first, 0, second, 0, third, 0, width_, 1);
                break;
            case ES_BGR:
                libyuv::SplitRGBPlane(row, 0, third, 0, second, 0, first, 0, width_, 1);
                break;
            case ES_RGBA:  // libyuv's ARGB lies in memory as B, G, R, A
                libyuv::SplitARGBPlane(row, 0, third, 0, second, 0, first, 0, nullptr, 0, width_, 1);
                break;
            default:
                yuyv_row(row, width_ + odd_, colour_, {first - odd_, out.plane, 0});
        }
    }
}

void Pixels::read_nv12(int y, int rows, const Planes &out) const {
    const std::uint8_t *luma[] = {pixels_ + y * stride_, pixels_ + (y + rows - 1) * stride_};
    const Planes begin{out.planes - odd_, out.plane, out.row};
    if (rows == 2 && y % 2 != 0) {  // an odd row and the even one below it have different chroma
        read_nv12(y, 1, out);
        read_nv12(y + 1, 1, {out.planes + out.row, out.plane, out.row});
        return;
    }
    nv12_rows(luma, rows, chroma_ + y / 2 * chroma_stride_, width_ + odd_, colour_, begin);
}

}  // namespace es
