// Memory that ends, or begins, at a page nobody may touch: one byte too far is a crash.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

namespace es {

class Guarded {
  public:
    enum Side { kBefore, kBehind };

    Guarded(std::size_t bytes, Side side) {
        const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
        const std::size_t inner = (bytes + page - 1) / page * page;
        size_ = inner + 2 * page;
        void *memory = mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        EXPECT_NE(memory, MAP_FAILED);
        base_ = static_cast<std::uint8_t *>(memory);
        EXPECT_EQ(mprotect(base_ + page, inner, PROT_READ | PROT_WRITE), 0);
        data_ = base_ + page + (side == kBehind ? inner - bytes : 0);
    }
    ~Guarded() { munmap(base_, size_); }
    Guarded(const Guarded &) = delete;
    Guarded &operator=(const Guarded &) = delete;

    std::uint8_t *data() const { return data_; }

  private:
    std::uint8_t *base_, *data_;
    std::size_t size_;
};

}  // namespace es
