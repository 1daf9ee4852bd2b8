// One bit of a bundle is another one: refused, and with the status that says where. One random bit of every byte of the
// manifest; all eight of each where EDGESKIN_ALL_BITS is set; 10,000 anywhere else.
#include <fcntl.h>
#include <unistd.h>

#include <map>
#include <random>

#include "copies.h"

namespace es::copies {
namespace {

// A sanitizer makes it ten times slower, and is there for the code, which a part of the flips goes through as well.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::size_t kPart = 10;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
constexpr std::size_t kPart = 10;
#else
constexpr std::size_t kPart = 1;
#endif
#else
constexpr std::size_t kPart = 1;
#endif

class Flips : public Copied {
  protected:
    // Flips it on the disk, in place, and back.
    es_status with(const std::string &name, std::size_t at, int bit, const PublicKey *key) {
        const std::string path = root / name;
        const int file = ::open(path.c_str(), O_RDWR);
        char byte = 0;
        EXPECT_EQ(pread(file, &byte, 1, static_cast<off_t>(at)), 1);
        const char other = static_cast<char>(byte ^ (1 << bit));
        EXPECT_EQ(pwrite(file, &other, 1, static_cast<off_t>(at)), 1);
        const es_status found = open(key);
        EXPECT_EQ(pwrite(file, &byte, 1, static_cast<off_t>(at)), 1);
        ::close(file);
        return found;
    }
};

std::size_t keys(const json &value) {
    std::size_t found = value.is_object() ? value.size() : 0;
    if (value.is_structured()) {
        for (const auto &entry : value) found += keys(entry);
    }
    return found;
}

// What the text deserves, by another way: the tree of all of it, which holds fewer keys than the text names where one
// is there twice.
es_status expected(const std::string &text) {
    std::size_t named = 0;
    const auto count = [&](int, json::parse_event_t event, json &) {
        named += event == json::parse_event_t::key;
        return true;
    };
    const json tree = json::parse(text, count, false);
    if (tree.is_discarded() || keys(tree) != named) return ES_MANIFEST;
    const bool known = tree.is_object() && tree.value("format", json()) == "edgeskin-bundle" &&
                       tree.value("format_version", json()) == 1;
    return known ? ES_TAMPERED : ES_FORMAT;
}

TEST_F(Flips, OfTheManifest) {
    std::string text = read(root / "manifest.json");
    const bool all = std::getenv("EDGESKIN_ALL_BITS") != nullptr;
    std::mt19937 random(20260101);
    std::map<es_status, int> seen;
    for (std::size_t at = 0; at < text.size(); at += kPart) {
        const int chosen = static_cast<int>(random() % 8);
        for (int bit = all ? 0 : chosen; bit < (all ? 8 : chosen + 1); ++bit) {
            text[at] = static_cast<char>(text[at] ^ (1 << bit));
            const es_status found = with("manifest.json", at, bit, nullptr);
            ASSERT_EQ(found, expected(text)) << "byte " << at << ", bit " << bit << ": " << line;
            ASSERT_NE(found, ES_OK);
            text[at] = static_cast<char>(text[at] ^ (1 << bit));
            ++seen[found];
        }
    }
    EXPECT_GT(seen[ES_MANIFEST], 100);
    EXPECT_GT(seen[ES_TAMPERED], 100);
    EXPECT_GT(seen[ES_FORMAT], 0);
    EXPECT_EQ(seen.size(), 3u);
    EXPECT_EQ(open(), ES_OK);
}

// The same under a mended seal, as an attacker would who has no key: whatever the manifest then says, it is refused.
TEST_F(Flips, OfASignedManifestUnderAMendedSeal) {
    const Pair pair(7);
    sign(pair);
    const std::string text = read(root / "manifest.json");
    std::mt19937 random(20260102);
    for (std::size_t i = 0; i < 1000 / kPart; ++i) {
        std::string other = text;
        const std::size_t at = random() % text.size();
        other[at] = static_cast<char>(other[at] ^ (1 << (random() % 8)));
        put_manifest(other);
        const es_status would = expected(other);
        ASSERT_EQ(open(&pair.open), would == ES_TAMPERED ? ES_SIGNATURE : would) << line;
    }
}

TEST_F(Flips, OfTheFiles) {
    const Pair pair(7);
    sign(pair);
    std::vector<std::pair<std::string, std::size_t>> files;
    for (const auto &entry : fs::recursive_directory_iterator(root)) {
        const std::string name = fs::relative(entry.path(), root);
        if (entry.is_regular_file() && name != "manifest.json") files.emplace_back(name, entry.file_size());
    }
    std::sort(files.begin(), files.end());
    ASSERT_EQ(files.size(), 11u);
    std::mt19937 random(20260103);
    for (std::size_t i = 0; i < 10000 / kPart; ++i) {
        const auto &[name, size] = files[random() % files.size()];
        const std::size_t at = random() % size;
        const int bit = static_cast<int>(random() % 8);
        const es_status right = name == "manifest.sig" ? ES_SIGNATURE : ES_TAMPERED;
        ASSERT_EQ(with(name, at, bit, &pair.open), right) << name << ", byte " << at << ", bit " << bit << ": " << line;
        ASSERT_NE(line.find(name == "manifest.sig" ? "sign" : name), std::string::npos) << line;
    }
    EXPECT_EQ(open(&pair.open), ES_OK);
}

}  // namespace
}  // namespace es::copies
