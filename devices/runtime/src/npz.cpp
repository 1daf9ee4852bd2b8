// Golden cases out of the stored .npz that numpy.savez writes. Its hash has been verified: a checksum within is not
// looked at. Every offset and length is.
#include "npz.h"

#include <edgeskin.h>

#include <cmath>
#include <cstring>
#include <string>
#include <string_view>

#include "fault.h"
#include "text.h"

namespace es {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "little-endian numbers are copied as they lie");

[[noreturn]] void refuse(const std::string &got) {
    throw Fault(ES_TAMPERED, told("a golden case cannot be read", got, "an archive as numpy.savez writes it",
                                  "export the bundle again"));
}

// Bytes with an end, and numbers read from them.
struct View {
    const std::uint8_t *data;
    std::size_t size;

    View part(std::size_t from, std::size_t length) const {
        if (from > size || length > size - from) refuse("an archive that is cut off");
        return {data + from, length};
    }
    std::uint32_t number(std::size_t from, std::size_t bytes) const {
        const View at = part(from, bytes);
        std::uint32_t made = 0;
        for (std::size_t i = bytes; i-- > 0;) made = made << 8 | at.data[i];
        return made;
    }
    std::string_view text() const { return {reinterpret_cast<const char *>(data), size}; }
};

// The bytes of a stored member. The sizes are those of the central directory: numpy writes the local header before it
// knows them, and puts them into a zip64 field there.
View member(const View &archive, std::string_view name) {
    constexpr std::size_t end_size = 22, entry_size = 46, local_size = 30;
    if (archive.size < end_size) refuse("no archive");
    const View end = archive.part(archive.size - end_size, end_size);
    if (end.text().substr(0, 4) != std::string_view("PK\5\6", 4) || end.number(20, 2) != 0) refuse("no archive");
    if (end.number(8, 2) != 2 || end.number(10, 2) != 2) refuse("an archive without its two members");
    const View directory = archive.part(end.number(16, 4), end.number(12, 4));
    std::size_t at = 0;
    for (int i = 0; i < 2; ++i) {
        const View entry = directory.part(at, entry_size);
        if (entry.text().substr(0, 4) != std::string_view("PK\1\2", 4)) refuse("a broken list of members");
        const std::size_t named = entry.number(28, 2);
        const View found = directory.part(at + entry_size, named);
        at += entry_size + named + entry.number(30, 2) + entry.number(32, 2);
        if (found.text() != name) continue;
        constexpr std::uint32_t sizes_behind = 1 << 3, utf8 = 1 << 11;  // flags that change nothing here
        if (entry.number(10, 2) != 0 || (entry.number(8, 2) & ~(sizes_behind | utf8))) refuse("a compressed member");
        if (entry.number(20, 4) != entry.number(24, 4)) refuse("a member of two sizes");
        const std::size_t where = entry.number(42, 4);
        const View local = archive.part(where, local_size);
        if (local.text().substr(0, 4) != std::string_view("PK\3\4", 4) || local.number(26, 2) != named ||
            archive.part(where + local_size, named).text() != name) {
            refuse("a member that is not where the list says");
        }
        return archive.part(where + local_size + named + local.number(28, 2), entry.number(20, 4));
    }
    refuse("no member " + std::string(name));
}

struct Array {
    std::vector<std::size_t> shape;
    View items;
};

// "(1, 32, 32, 3)": numpy writes a comma behind the only number of a shape too; ours have two or four.
std::vector<std::size_t> read_shape(std::string_view text) {
    std::vector<std::size_t> shape;
    std::size_t at = 0;
    while (at < text.size()) {
        if (!shape.empty()) {
            if (text.substr(at, 2) != ", ") refuse("a shape that cannot be read");
            at += 2;
        }
        std::size_t number = 0, from = at;
        for (; at < text.size() && text[at] >= '0' && text[at] <= '9' && at - from < 8; ++at) {
            number = number * 10 + static_cast<std::size_t>(text[at] - '0');
        }
        if (at == from || number == 0 || text[from] == '0') refuse("a shape that cannot be read");
        shape.push_back(number);
    }
    return shape;
}

Array read_array(const View &file, const std::string &type, std::size_t item) {
    if (file.size < 12 || file.text().substr(0, 6) != std::string_view("\x93NUMPY", 6)) refuse("no .npy");
    const unsigned version = file.data[6];
    if ((version != 1 && version != 2) || file.data[7] != 0) refuse("a .npy of another version");
    const std::size_t digits = version == 1 ? 2 : 4;
    const View head = file.part(8 + digits, file.number(8, digits));
    const std::string before = "{'descr': '" + type + "', 'fortran_order': False, 'shape': (";
    constexpr std::string_view after = "), }";
    std::string_view text = head.text();
    if (text.empty() || text.back() != '\n') refuse("a .npy without an end of its head");
    text.remove_suffix(1);
    text = text.substr(0, text.find_last_not_of(' ') + 1);
    if (text.size() < before.size() + after.size() || text.substr(0, before.size()) != before ||
        text.substr(text.size() - after.size()) != after) {
        refuse("a .npy that is not " + type + ", row by row");
    }
    text.remove_prefix(before.size());
    text.remove_suffix(after.size());
    Array made{read_shape(text), {nullptr, 0}};
    const std::size_t from = 8 + digits + head.size;
    made.items = file.part(from, file.size - from);
    std::size_t bytes = item;
    for (const std::size_t length : made.shape) {
        if (length > made.items.size / bytes) refuse("a .npy shorter than its shape");
        bytes *= length;
    }
    if (bytes != made.items.size) refuse("a .npy longer than its shape");
    return made;
}

}  // namespace

Golden read_golden(const std::uint8_t *data, std::size_t size) {
    const View archive{data, size};
    const Array frames = read_array(member(archive, "frames.npy"), "|u1", 1);
    const Array logits = read_array(member(archive, "logits.npy"), "<f4", sizeof(float));
    const auto &shape = frames.shape;
    if (shape.size() != 4 || shape[0] > 2 || shape[1] > 4096 || shape[2] > 4096 || shape[3] != 3) {
        refuse("frames that are not [images, height, width, 3]");
    }
    if (logits.shape.size() != 2 || logits.shape[1] > ES_MAX_LOGITS ||
        (logits.shape[0] != shape[0] && !(shape[0] == 2 && logits.shape[0] == 3))) {
        refuse("logits that are not [images, classes], or [3, classes] of two images");
    }
    Golden made;
    made.images = static_cast<int>(shape[0]);
    made.height = static_cast<int>(shape[1]);
    made.width = static_cast<int>(shape[2]);
    made.rows = static_cast<int>(logits.shape[0]);
    made.logit_count = static_cast<int>(logits.shape[1]);
    made.frames.assign(frames.items.data, frames.items.data + frames.items.size);
    made.logits.resize(logits.items.size / sizeof(float));
    std::memcpy(made.logits.data(), logits.items.data, logits.items.size);
    for (const float logit : made.logits) {
        if (!std::isfinite(logit)) refuse("a logit that is not finite");
    }
    return made;
}

}  // namespace es
