// Golden cases: frames and logits out of the stored .npz that numpy.savez writes.
#pragma once

#include <cstdint>
#include <vector>

namespace es {

struct Golden {
    int images = 0, height = 0, width = 0, rows = 0, logit_count = 0;
    std::vector<std::uint8_t> frames;  // [images, height, width, 3]
    std::vector<float> logits;         // [rows, logit_count]: a row an image, or three of two
};

// Throws Fault ES_TAMPERED: no such archive, compressed, not C-ordered uint8 `frames` and float32 `logits`.
Golden read_golden(const std::uint8_t *data, std::size_t size);

}  // namespace es
