// Time of one frame's preparation, built on request alone:
//     g++ -std=c++17 -O3 -Iinclude -Isrc tests/bench_prepare.cpp src/{prepare,pixels,yuv,text}.cpp -lyuv -o bench
// Prints the median and the least of 400 runs after warm-up, one thread, 1920 x 1080 -> 224 x 224.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "prepare.h"

int main() {
    constexpr int width = 1920, height = 1080, runs = 400;
    std::vector<std::uint8_t> pixels(std::size_t{4} * width * height), frame(3 * 224 * 224);
    std::uint32_t state = 1;
    for (auto &byte : pixels) byte = static_cast<std::uint8_t>((state = state * 1664525 + 1013904223) >> 24);
    es::Preparer preparer({224, 224, 0, true}, width);
    const struct {
        const char *name;
        es_format format;
    } formats[] = {{"RGB", ES_RGB}, {"BGR", ES_BGR}, {"RGBA", ES_RGBA}, {"NV12", ES_NV12}, {"YUYV", ES_YUYV}};
    for (const auto &[name, format] : formats) {
        es_image image;
        ES_INIT(image);
        image.format = format, image.width = width, image.height = height, image.pixels = pixels.data();
        es::check_image(image, width);
        std::vector<double> spent_ms;
        for (int i = 0; i < runs + 50; ++i) {
            const auto start = std::chrono::steady_clock::now();
            preparer.run(image, frame.data());
            const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start;
            if (i >= 50) spent_ms.push_back(spent.count());
        }
        std::sort(spent_ms.begin(), spent_ms.end());
        std::printf("%-5s p50 %.3f ms, least %.3f ms\n", name, spent_ms[runs / 2], spent_ms[0]);
    }
}
