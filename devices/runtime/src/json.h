// JSON from outside: parsed under limits, then read value by value, each with the path that leads to it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace es {

using Json = nlohmann::json;

constexpr std::size_t kJsonDepth = 32;       // a manifest has 7
constexpr std::size_t kJsonValues = 200000;  // a manifest has some 1,000
constexpr std::size_t kJsonString = 64 << 10;  // bytes

// Throws Fault ES_MANIFEST: no JSON, over a limit, a key twice in one object, a number that is not finite, bytes that
// are no UTF-8, or anything behind the document. `name` stands for the document in the error.
Json parse_json(std::string_view text, const std::string &name);

// A value and its path. Every getter throws Fault ES_MANIFEST "NAME: PATH: got ...; possible: ..." where the value is
// not what was asked for. It points into the document, which must outlive it.
class Node {
  public:
    Node(const Json &value, std::string name) : value_(&value), name_(std::move(name)) {}

    Node at(const char *key) const;                   // a field that must be there
    std::optional<Node> find(const char *key) const;  // one that may be left out
    void only(std::initializer_list<const char *> known) const;  // an object with no other keys
    std::vector<Node> list(std::size_t least, std::size_t most) const;
    std::vector<std::pair<std::string, Node>> members(std::size_t most) const;  // sorted by key

    bool boolean() const;
    std::int64_t integer(std::int64_t least, std::int64_t most) const;
    double number(double least, double most) const;  // both ends included
    double positive() const;                         // > 0
    std::string text(std::size_t least_bytes = 1) const;  // UTF-8 without control characters, at most 1,024 bytes
    std::string one_of(std::initializer_list<const char *> possible) const;
    bool is_null() const { return value_->is_null(); }

    [[noreturn]] void refuse(const std::string &possible) const;
    // The same where the value is of the right kind, and still cannot stand.
    [[noreturn]] void fault(const std::string &what, const std::string &got) const;

  private:
    Node(const Json &value, std::string name, std::string path)
        : value_(&value), name_(std::move(name)), path_(std::move(path)) {}
    Node below(const Json &value, std::string_view step) const;

    const Json *value_;
    std::string name_, path_;
};

}  // namespace es
