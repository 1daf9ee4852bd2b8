// Text for people and text from outside: UTF-8 that is checked, and errors as one line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace es {

// The code point at `at`, which moves behind it; -1 where the bytes are no UTF-8 (overlong and surrogates included).
std::int32_t next_point(std::string_view text, std::size_t &at);

// UTF-8 without control characters: what may enter a line of text.
bool plain_text(std::string_view text);

// 'text' in quotes for an error line: bytes that could break the line or the reader's terminal as \xHH, cut if long.
std::string shown(std::string_view text, std::size_t longest = 80);

// "what: got G; possible: P; fix: F", each part left out where it is empty.
std::string told(const std::string &what, const std::string &got, const std::string &possible, const std::string &fix);

}  // namespace es
