// soak BUNDLE LIBRARIES COUNT [THREADS]: classifies one pair COUNT times on one handle a thread, and prints as JSON
// what that cost in memory and time. Allocations are those of the calling thread outside the engine, after es_open.
#include <edgeskin.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "model.h"

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define ES_COUNTING 1
extern "C" void *__libc_malloc(std::size_t);
extern "C" void *__libc_calloc(std::size_t, std::size_t);
extern "C" void *__libc_realloc(void *, std::size_t);
extern "C" void *__libc_memalign(std::size_t, std::size_t);

namespace {
thread_local bool watching = false;
std::atomic<long> allocations{0}, engine_allocations{0};

void count() {
    if (watching) (es::in_engine ? engine_allocations : allocations).fetch_add(1);
}
}  // namespace

extern "C" void *malloc(std::size_t size) { return count(), __libc_malloc(size); }
extern "C" void *calloc(std::size_t n, std::size_t size) { return count(), __libc_calloc(n, size); }
extern "C" void *realloc(void *old, std::size_t size) { return count(), __libc_realloc(old, size); }
extern "C" void *memalign(std::size_t to, std::size_t size) { return count(), __libc_memalign(to, size); }
extern "C" void *aligned_alloc(std::size_t to, std::size_t size) { return memalign(to, size); }
extern "C" int posix_memalign(void **found, std::size_t to, std::size_t size) {
    *found = memalign(to, size);
    return *found ? 0 : 12;
}
#else
namespace {
thread_local bool watching = false;
std::atomic<long> allocations{-1}, engine_allocations{-1};  // a sanitizer's own allocator is not ours to replace
}  // namespace
#endif

namespace {

long resident_kb() {
    long pages = 0, resident = 0;
    if (FILE *file = std::fopen("/proc/self/statm", "r")) {
        if (std::fscanf(file, "%ld %ld", &pages, &resident) != 2) resident = 0;
        std::fclose(file);
    }
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

struct Done {
    std::vector<std::int32_t> total_us;
    long warm_kb = 0, end_kb = 0;
    const char *failed = nullptr;
    std::uint32_t quality = 0;
};

void work(const char *bundle, const char *libraries, long count, int threads, Done &done) {
    es_options options;
    ES_INIT(options);
    options.backend_path = libraries;
    options.threads = threads;
    es_model *model = nullptr;
    if (es_open(bundle, &options, &model) != ES_OK || es_selftest(model, nullptr) != ES_OK) {
        std::fprintf(stderr, "%s\n", es_last_error());
        done.failed = "es_open or es_selftest";
        es_close(model);
        return;
    }
    const int width = 640, height = 480;
    std::vector<std::uint8_t> first(3u * width * height), second(first.size());
    std::uint32_t noise = 1;
    for (std::size_t i = 0; i < first.size(); ++i) {  // bright grain round a dark lesion
        noise = noise * 1664525u + 1013904223u;
        const int x = static_cast<int>(i / 3) % width - width / 2, y = static_cast<int>(i / 3) / width - height / 2;
        const bool inside = x * x + y * y < 90 * 90;
        const int colour[3] = {205, 165, 145};
        first[i] = static_cast<std::uint8_t>(colour[i % 3] / (inside ? 2 : 1) + static_cast<int>(noise >> 27));
        second[i] = static_cast<std::uint8_t>(colour[i % 3] / (x * x + y * y < 160 * 160 ? 2 : 1) +
                                              static_cast<int>(noise >> 28));
    }
    es_image clinical, dermoscopic;
    ES_INIT(clinical);
    clinical.format = ES_RGB;
    clinical.width = width;
    clinical.height = height;
    clinical.pixels = first.data();
    dermoscopic = clinical;
    dermoscopic.pixels = second.data();
    done.total_us.reserve(static_cast<std::size_t>(count));
    const long warm = std::min<long>(count / 10, 1000);
    static thread_local es_result result;
    for (long i = 0; i < count + warm; ++i) {
        ES_INIT(result);
        watching = true;
        const es_status status = es_classify(model, &clinical, &dermoscopic, &result);
        watching = false;
        if (status != ES_OK || !result.assessable) {
            std::fprintf(stderr, "%s\n", status ? es_last_error() : "not assessable");
            done.failed = "es_classify";
            done.quality = result.quality[0] | result.quality[1];
            break;
        }
        if (i >= warm) done.total_us.push_back(result.total_us);
        if (i + 1 == warm) done.warm_kb = resident_kb();
    }
    done.end_kb = resident_kb();  // the model still open
    es_close(model);
}

}  // namespace

int main(int count, char **words) {
    if (count < 4) {
        std::fprintf(stderr, "usage: soak BUNDLE LIBRARIES COUNT [THREADS]\n");
        return 2;
    }
    const long n = std::atol(words[3]);
    const int threads = count > 4 ? std::atoi(words[4]) : 1;
    std::vector<Done> done(static_cast<std::size_t>(threads));
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i)
        others.emplace_back(work, words[1], words[2], n, 1, std::ref(done[static_cast<std::size_t>(i)]));
    work(words[1], words[2], n, threads > 1 ? 1 : 0, done[0]);
    for (std::thread &other : others) other.join();
    std::vector<std::int32_t> all;
    for (const Done &each : done) {
        if (each.failed) {
            std::fprintf(stderr, "%s failed, quality %u\n", each.failed, each.quality);
            return 1;
        }
        all.insert(all.end(), each.total_us.begin(), each.total_us.end());
    }
    std::sort(all.begin(), all.end());
    const auto at = [&all](double share) {
        return all[static_cast<std::size_t>(share * static_cast<double>(all.size() - 1))];
    };
    std::printf(
        "{\"classifications\": %zu, \"threads\": %d, \"allocations\": %ld, \"engine_allocations\": %ld, \"warm_kb\": "
        "%ld, \"end_kb\": %ld, "
        "\"p50_us\": %d, \"p90_us\": %d, \"p99_us\": %d, \"max_us\": %d}\n",
        all.size(), threads, allocations.load(), engine_allocations.load(), done[0].warm_kb, done[0].end_kb, at(0.5),
        at(0.9), at(0.99), all.back());
    return 0;
}
