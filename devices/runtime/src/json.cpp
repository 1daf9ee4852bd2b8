// JSON from outside: parsed under limits, then read value by value, each with the path that leads to it.
#include "json.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "fault.h"
#include "text.h"

namespace es {
namespace {

constexpr char kAgain[] = "copy or export the bundle again";
constexpr std::size_t kText = 1024;  // bytes

// Looks at every value before one is kept: what it refuses is never built.
class Guard : public nlohmann::json_sax<Json> {
  public:
    bool null() override { return value(); }
    bool boolean(bool) override { return value(); }
    bool number_integer(number_integer_t) override { return value(); }
    bool number_unsigned(number_unsigned_t) override { return value(); }
    bool number_float(number_float_t number, const string_t &) override {
        return std::isfinite(number) ? value() : stop("a number that is not finite");
    }
    bool string(string_t &text) override { return length(text) && value(); }
    bool binary(binary_t &) override { return stop("binary data"); }
    bool start_object(std::size_t) override { return open(); }
    bool start_array(std::size_t) override { return open(); }
    bool end_object() override { return close(); }
    bool end_array() override { return close(); }
    bool key(string_t &name) override {
        if (!length(name)) return false;
        return keys_.back().insert(name).second || stop("the key " + shown(name) + " twice");
    }
    bool parse_error(std::size_t position, const std::string &, const nlohmann::detail::exception &fault) override {
        // 406: the library met a number beyond what a double can hold.
        if (fault.id == 406) return stop("a number that is not finite");
        return stop("no JSON at byte " + std::to_string(position));
    }

    const std::string &why() const { return why_; }

  private:
    bool stop(std::string why) {
        why_ = std::move(why);
        return false;
    }
    bool value() { return ++values_ <= kJsonValues || stop("more than " + std::to_string(kJsonValues) + " values"); }
    bool length(const string_t &text) {
        return text.size() <= kJsonString || stop("a text of more than " + std::to_string(kJsonString) + " bytes");
    }
    bool open() {
        if (keys_.size() >= kJsonDepth) return stop("nested deeper than " + std::to_string(kJsonDepth));
        keys_.emplace_back();
        return value();
    }
    bool close() {
        keys_.pop_back();
        return true;
    }

    std::vector<std::set<std::string>> keys_;  // of the objects that are open, empty for a list
    std::size_t values_ = 0;
    std::string why_;
};

std::string kind(const Json &value) {
    if (value.is_object()) return "an object";
    if (value.is_array()) return "a list of " + std::to_string(value.size());
    if (value.is_string()) return shown(value.get_ref<const std::string &>());
    return value.dump();  // null, a truth value or a number: short, and plain ASCII
}

std::string range(const std::string &least, const std::string &most) { return "from " + least + " to " + most; }

std::string brief(double number) { return Json(number).dump(); }

}  // namespace

Json parse_json(std::string_view text, const std::string &name) {
    Guard guard;
    // The library takes a zero byte for the end, and would not look at what comes behind it; and it takes a byte order
    // mark, which the Python side does not.
    const std::size_t bad = text.substr(0, 3) == "\xef\xbb\xbf" ? 0 : text.find('\0');
    if (bad != std::string_view::npos) {
        throw Fault(ES_MANIFEST, told(name + " cannot be read", "no JSON at byte " + std::to_string(bad + 1), "", kAgain));
    }
    if (!Json::sax_parse(text.begin(), text.end(), &guard)) {
        throw Fault(ES_MANIFEST, told(name + " cannot be read", guard.why(), "", kAgain));
    }
    Json made = Json::parse(text.begin(), text.end(), nullptr, false);
    if (made.is_discarded()) throw Fault(ES_INTERNAL, name + ": two passes over the same JSON differ");
    return made;
}

Node Node::below(const Json &value, std::string_view step) const {
    return Node(value, name_, path_ + (path_.empty() ? "" : ".") + std::string(step));
}

void Node::refuse(const std::string &possible) const {
    const std::string place = path_.empty() ? "" : ": " + path_;
    throw Fault(ES_MANIFEST, told(name_ + place, kind(*value_), possible, kAgain));
}

void Node::fault(const std::string &what, const std::string &got) const {
    const std::string place = path_.empty() ? "" : ": " + path_;
    throw Fault(ES_MANIFEST, told(name_ + place + ": " + what, got, "", kAgain));
}

std::optional<Node> Node::find(const char *key) const {
    if (!value_->is_object()) refuse("an object");
    const auto found = value_->find(key);
    if (found == value_->end()) return std::nullopt;
    return below(*found, key);
}

void Node::only(std::initializer_list<const char *> known) const {
    if (!value_->is_object()) refuse("an object");
    for (const auto &[key, entry] : value_->items()) {
        const auto same = [&name = key](const char *other) { return name == other; };
        if (std::any_of(known.begin(), known.end(), same)) continue;
        throw Fault(ES_MANIFEST, told(name_ + (path_.empty() ? "" : ": " + path_) + ": unknown key", shown(key), "",
                                      "remove it, or update libedgeskin if a newer edgeskin wrote it"));
    }
}

Node Node::at(const char *key) const {
    if (const auto found = find(key)) return *found;
    throw Fault(ES_MANIFEST, told(name_ + ": " + path_ + (path_.empty() ? "" : ".") + key, "nothing", "", kAgain));
}

std::vector<Node> Node::list(std::size_t least, std::size_t most) const {
    if (!value_->is_array() || value_->size() < least || value_->size() > most) {
        refuse("a list of " + range(std::to_string(least), std::to_string(most)));
    }
    std::vector<Node> made;
    made.reserve(value_->size());
    for (const Json &entry : *value_) made.push_back(below(entry, std::to_string(made.size())));
    return made;
}

std::vector<std::pair<std::string, Node>> Node::members(std::size_t most) const {
    if (!value_->is_object()) refuse("an object");
    if (value_->size() > most) fault("too many entries", std::to_string(value_->size()));
    std::vector<std::pair<std::string, Node>> made;
    made.reserve(value_->size());
    for (const auto &[key, entry] : value_->items()) {
        made.emplace_back(key, below(entry, plain_text(key) ? key : shown(key)));
    }
    return made;
}

bool Node::boolean() const {
    if (!value_->is_boolean()) refuse("true, false");
    return value_->get<bool>();
}

std::int64_t Node::integer(std::int64_t least, std::int64_t most) const {
    // Unsigned and signed are kinds of their own in the library: what is beyond int64 must not wrap around.
    const bool fits = value_->is_number_unsigned()
                          ? value_->get<std::uint64_t>() <= static_cast<std::uint64_t>(INT64_MAX)
                          : value_->is_number_integer();
    if (fits) {
        const auto found = value_->get<std::int64_t>();
        if (found >= least && found <= most) return found;
    }
    refuse("a whole number " + range(std::to_string(least), std::to_string(most)));
}

double Node::number(double least, double most) const {
    if (value_->is_number()) {
        const auto found = value_->get<double>();
        if (std::isfinite(found) && found >= least && found <= most) return found;
    }
    refuse("a number " + range(brief(least), brief(most)));
}

double Node::positive() const {
    if (value_->is_number()) {
        const auto found = value_->get<double>();
        if (std::isfinite(found) && found > 0) return found;
    }
    refuse("a number above 0");
}

std::string Node::text(std::size_t least_bytes) const {
    if (value_->is_string()) {
        const auto &found = value_->get_ref<const std::string &>();
        if (found.size() >= least_bytes && found.size() <= kText && plain_text(found)) return found;
    }
    refuse("text without control characters, " + range(std::to_string(least_bytes), std::to_string(kText)) + " bytes");
}

std::string Node::one_of(std::initializer_list<const char *> possible) const {
    std::string names;
    for (const char *name : possible) {
        if (value_->is_string() && value_->get_ref<const std::string &>() == name) return name;
        names += (names.empty() ? "" : ", ") + std::string(name);
    }
    refuse(names);
}

}  // namespace es
