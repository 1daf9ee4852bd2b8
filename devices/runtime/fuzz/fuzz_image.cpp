// Any bytes as an image: es_image's fields, a geometry and pixels. What check_image takes must be prepared within the
// buffers; what it refuses must be a fault with one line. Pixels and frame touch a page that nobody may touch: libyuv
// is not built with AddressSanitizer, and is caught there with the first byte beyond.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "fault.h"
#include "prepare.h"

namespace {

// Numbers from the head of the input, pixels from its rest.
class Input {
  public:
    Input(const std::uint8_t *data, std::size_t size) : data_(data), size_(size) {}

    template <typename T>
    T take() {
        T value{};
        const std::size_t count = std::min(sizeof value, size_);
        if (count > 0) std::memcpy(&value, data_, count);
        data_ += count, size_ -= count;
        return value;
    }

    // The rest of the input over and over.
    void fill(std::uint8_t *to, std::size_t bytes) const {
        for (std::size_t i = 0; i < bytes; ++i)
            to[i] = static_cast<std::uint8_t>(size_ > 0 ? data_[i % size_] + i / size_ : i * 37);
    }

  private:
    const std::uint8_t *data_;
    std::size_t size_;
};

constexpr std::size_t kMost = 1 << 17;  // bytes of a buffer: larger images are only checked
constexpr std::size_t kPage = 1 << 16;  // of any processor

// Room for one buffer, between two pages that may not be touched.
class Arena {
  public:
    Arena() {
        void *memory = mmap(nullptr, kMost + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) std::abort();
        base_ = static_cast<std::uint8_t *>(memory) + kPage;
        if (mprotect(base_, kMost, PROT_READ | PROT_WRITE) != 0) std::abort();
    }
    std::uint8_t *buffer(std::size_t bytes, bool at_end) { return base_ + (at_end ? kMost - bytes : 0); }

  private:
    std::uint8_t *base_;
};

void refused(const es::Fault &fault) {
    const std::string line = fault.what();
    if (fault.status() != ES_IMAGE || line.empty() || line.find('\n') != std::string::npos) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    Input input(data, size);
    es_image image;
    ES_INIT(image);
    const auto hints = input.take<std::uint8_t>();  // bits that keep most inputs among the images that pass
    const auto number = [&](bool small) {
        return small ? std::int32_t{input.take<std::uint8_t>()} : input.take<std::int32_t>();
    };
    image.format = number((hints & 1) == 0);
    image.width = number((hints & 2) == 0);
    image.height = number((hints & 4) == 0);
    image.stride = number((hints & 8) == 0);
    image.chroma_stride = number((hints & 16) == 0);
    image.colour = number((hints & 32) == 0);
    if ((hints & 1) == 0) image.format %= 8;
    if ((hints & 8) == 0 && image.stride != 0) image.stride += image.width % 16384 * (image.format == ES_RGBA ? 4 : 3);
    if ((hints & 16) == 0 && image.chroma_stride != 0) image.chroma_stride += image.width % 16384;
    if ((hints & 32) == 0) image.colour %= 4;
    es::Geometry geometry;
    geometry.width = 1 + input.take<std::uint8_t>() % 80, geometry.height = 1 + input.take<std::uint8_t>() % 80;
    const auto border = input.take<std::uint8_t>();
    geometry.border_px = border < 250 ? border % 32 : 1 << (border - 225);
    geometry.crop = (hints & 64) == 0;
    const auto last = input.take<std::uint16_t>();
    const int max_width = 1 + last % 16384;
    const bool at_end = (last & 0x8000) == 0;

    std::uint8_t nothing = 0;
    image.pixels = &nothing;
    try {
        es::check_image(image, max_width);
    } catch (const es::Fault &fault) {
        return refused(fault), 0;
    }
    // It passed: the fields are those of an image, whose buffers follow from them.
    const int bytes = image.format == ES_RGBA ? 4 : image.format == ES_NV12 ? 1 : image.format == ES_YUYV ? 2 : 3;
    const std::int64_t row = std::int64_t{image.width} * bytes, stride = image.stride != 0 ? image.stride : row;
    if (stride < row || image.width > max_width) std::abort();
    const bool nv12 = image.format == ES_NV12, apart = nv12 && (hints & 128) != 0;
    const std::int64_t chroma_stride = image.chroma_stride != 0 ? image.chroma_stride : stride;
    const std::int64_t chroma_size = nv12 ? (image.height / 2 - 1) * chroma_stride + image.width : 0;
    const std::int64_t luma_size = (image.height - 1) * stride + row;
    const std::int64_t held = nv12 && !apart ? image.height * stride + chroma_size : luma_size;
    const auto most = static_cast<std::int64_t>(kMost);
    if (held > most || chroma_size > most) return 0;
    static Arena pixels, chroma, frames;
    const auto filled = [&](Arena &arena, std::int64_t count) {
        const auto size_of = static_cast<std::size_t>(count);
        std::uint8_t *made = arena.buffer(size_of, at_end);
        input.fill(made, size_of);
        return made;
    };
    image.pixels = filled(pixels, held);
    image.chroma = apart ? filled(chroma, chroma_size) : nullptr;
    const auto count = static_cast<std::size_t>(3 * geometry.width * geometry.height);
    std::uint8_t *frame = frames.buffer(count, at_end);
    es::Preparer preparer(geometry, max_width);
    try {
        preparer.run(image, frame);
    } catch (const es::Fault &fault) {
        return refused(fault), 0;
    }
    const std::string first(reinterpret_cast<const char *>(frame), count);
    std::memset(frame, 0x5a, count);
    preparer.run(image, frame);  // nothing is left over from the call before, and every byte is written
    if (std::memcmp(first.data(), frame, count) != 0) std::abort();
    return 0;
}
