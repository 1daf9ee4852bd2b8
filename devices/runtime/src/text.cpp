// Text for people and text from outside: UTF-8 that is checked, and errors as one line.
#include "text.h"

#include <array>

namespace es {

std::int32_t next_point(std::string_view text, std::size_t &at) {
    const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
    const std::uint8_t first = byte(at++);
    if (first < 0x80) return first;
    const int more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : 1;
    if (first < 0xC2 || first > 0xF4) return -1;
    std::int32_t point = first & (0x3F >> more);
    for (int i = 0; i < more; ++i) {
        if (at >= text.size() || (byte(at) & 0xC0) != 0x80) return -1;
        point = point << 6 | (byte(at++) & 0x3F);
    }
    constexpr std::array<std::int32_t, 4> least{0, 0x80, 0x800, 0x10000};
    const bool surrogate = point >= 0xD800 && point <= 0xDFFF;
    return point < least[static_cast<std::size_t>(more)] || point > 0x10FFFF || surrogate ? -1 : point;
}

bool plain_text(std::string_view text) {
    for (std::size_t at = 0; at < text.size();) {
        const std::int32_t point = next_point(text, at);
        if (point < 0x20 || (point >= 0x7F && point < 0xA0)) return false;
    }
    return true;
}

std::string shown(std::string_view text, std::size_t longest) {
    constexpr char digits[] = "0123456789abcdef";
    std::string made = "'";
    for (std::size_t at = 0; at < text.size();) {
        if (made.size() > longest) return made + "...'";
        const std::size_t from = at;
        std::int32_t point = next_point(text, at);
        if (point < 0) at = from + 1;
        // Marks that turn the direction of writing can make a line say what it does not.
        const bool turns = (point >= 0x200B && point <= 0x200F) || (point >= 0x2028 && point <= 0x202E) ||
                           (point >= 0x2066 && point <= 0x2069);
        if (point < 0x20 || (point >= 0x7F && point < 0xA0) || turns) {
            for (std::size_t i = from; i < at; ++i) {
                const auto byte = static_cast<std::uint8_t>(text[i]);
                (((made += "\\x") += digits[byte >> 4])) += digits[byte & 15];
            }
        } else {
            made.append(text, from, at - from);
        }
    }
    return made + "'";
}

std::string told(const std::string &what, const std::string &got, const std::string &possible,
                 const std::string &fix) {
    std::string parts;
    const auto add = [&](const char *name, const std::string &part) {
        if (!part.empty()) parts += (parts.empty() ? "" : "; ") + std::string(name) + part;
    };
    add("got ", got);
    add("possible: ", possible);
    const bool alone = parts.empty();  // "what; fix: ..." as the Python side writes it
    add("fix: ", fix);
    return parts.empty() ? what : what + (alone ? "; " : ": ") + parts;
}

}  // namespace es
