// Prepare images in files: frames IN OUT. IN holds jobs one after the other, OUT gets their frames.
// A job: ten 32-bit numbers (format, width, height, stride, colour; frame width, height, border, crop; bytes), then the
// image's bytes.
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <vector>

#include "fault.h"
#include "prepare.h"

int main(int count, char **words) {
    if (count != 3) return 2;
    std::ifstream in(words[1], std::ios::binary);
    std::ofstream out(words[2], std::ios::binary);
    std::int32_t job[10];
    while (in.read(reinterpret_cast<char *>(job), sizeof job)) {
        std::vector<std::uint8_t> bytes(static_cast<std::size_t>(job[9]));
        if (!in.read(reinterpret_cast<char *>(bytes.data()), job[9])) return 3;
        es::Geometry geometry;
        geometry.width = job[5], geometry.height = job[6], geometry.border_px = job[7], geometry.crop = job[8] != 0;
        es_image image;
        ES_INIT(image);
        image.format = job[0], image.width = job[1], image.height = job[2], image.stride = job[3], image.colour = job[4];
        image.pixels = bytes.data();
        try {
            es::check_image(image, 4096);
            es::Preparer preparer(geometry, 4096);
            std::vector<std::uint8_t> frame(3 * static_cast<std::size_t>(job[5]) * static_cast<std::size_t>(job[6]));
            preparer.run(image, frame.data());
            out.write(reinterpret_cast<const char *>(frame.data()), static_cast<std::streamsize>(frame.size()));
        } catch (const es::Fault &fault) {
            std::fprintf(stderr, "%s\n", fault.what());
            return 4;
        }
    }
    return out.flush() ? 0 : 5;
}
