// Exits with 0 if preparing images of every format and deciding allocate nothing, neither through operator new nor
// through malloc, which libyuv calls where it needs room. A program of its own, because it replaces both.
#include <edgeskin.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "decide.h"
#include "prepare.h"

extern "C" void *__libc_malloc(std::size_t);
extern "C" void *__libc_calloc(std::size_t, std::size_t);
extern "C" void *__libc_realloc(void *, std::size_t);
extern "C" void *__libc_memalign(std::size_t, std::size_t);

static volatile long calls = 0;  // operator new comes here too

extern "C" void *malloc(std::size_t size) { return calls = calls + 1, __libc_malloc(size); }
extern "C" void *calloc(std::size_t n, std::size_t size) { return calls = calls + 1, __libc_calloc(n, size); }
extern "C" void *realloc(void *old, std::size_t size) { return calls = calls + 1, __libc_realloc(old, size); }
extern "C" void *memalign(std::size_t to, std::size_t size) { return calls = calls + 1, __libc_memalign(to, size); }
extern "C" void *aligned_alloc(std::size_t to, std::size_t size) { return memalign(to, size); }
extern "C" int posix_memalign(void **found, std::size_t to, std::size_t size) {
    *found = memalign(to, size);
    return *found ? 0 : 12;
}

int main() {
    const long first = calls;
    delete new std::vector<char>(100);
    if (calls < first + 2) return std::puts("the counter does not count"), 2;

    std::vector<std::uint8_t> pixels(4 * 1000 * 702, 77), frame(3 * 64 * 48);
    es::Manifest manifest;
    manifest.tasks.resize(2);
    for (auto &task : manifest.tasks) task.classes.resize(3), task.points.resize(3);
    manifest.logits = 6, manifest.has_score = true, manifest.positive = {1};
    const std::vector<float> logits(12, 0.5f);
    int failed = 0;
    for (const bool crop : {true, false}) {
        es::Preparer preparer({64, 48, 3, crop}, 1000);
        for (const int format : {ES_RGB, ES_BGR, ES_RGBA, ES_NV12, ES_YUYV})
            for (const int width : {1000, 998, 402, 66, 10})
                for (const int height : {702, 100, 8}) {
                    es_image image;
                    ES_INIT(image);
                    image.format = format, image.width = width, image.height = height, image.pixels = pixels.data();
                    const long before = calls;
                    es::check_image(image, 1000);
                    preparer.run(image, frame.data());
                    if (calls == before) continue;
                    std::printf("%ld allocations for %dx%d format %d\n", calls - before, width, height, format);
                    failed = 1;
                }
    }
    es_result result;
    ES_INIT(result);
    const long before = calls;
    es::decide(manifest, es::kPair, logits.data(), result);
    es::decide(manifest, es::kDermoscopic, logits.data(), result);
    if (calls != before) failed = 1, std::printf("%ld allocations to decide\n", calls - before);
    return failed;
}
