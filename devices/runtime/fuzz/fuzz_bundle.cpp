// Any bytes as a folder: laid out, sealed anew so that half of them pass the hashes, opened, and the golden cases read.
//   fuzz_bundle -dict=fuzz_bundle.dict -max_len=16384 seeds/fuzz_bundle
//
// The input is one byte of choices and then entries: kind, length of the name, name, length of the content (two bytes,
// the lower one first), content. fuzz/make_seeds.py writes the same.
#include <fcntl.h>
#include <sodium.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fault.h"
#include "npz.h"
#include "text.h"
#include "trust.h"

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

enum Choice : std::uint8_t { kReseal = 1, kSign = 2, kKey = 4, kRequire = 8 };
enum Kind : std::uint8_t { kFile = 0, kFolder = 1, kLink = 2, kPipe = 3, kKinds = 4 };

struct Entry {
    Kind kind;
    std::string name, content;
};

void hold(bool condition) {
    if (!condition) std::abort();
}

std::vector<Entry> read_entries(const std::uint8_t *data, std::size_t size) {
    std::vector<Entry> entries;
    std::size_t at = 0;
    const auto take = [&](std::size_t count) {
        count = std::min(count, size - at);
        std::string part(reinterpret_cast<const char *>(data) + at, count);
        at += count;
        return part;
    };
    while (size - at >= 2 && entries.size() < 64) {
        Entry entry{static_cast<Kind>(data[at] % kKinds), "", ""};
        const std::size_t length = data[at + 1];
        at += 2;
        entry.name = take(length);
        if (size - at < 2) break;
        const std::size_t bytes = data[at] | static_cast<std::size_t>(data[at + 1]) << 8;
        at += 2;
        entry.content = take(bytes);
        entries.push_back(std::move(entry));
    }
    return entries;
}

// What may be written below the temporary folder without leaving it.
bool stays_inside(const std::string &name) {
    if (name.empty() || name.find('\0') != std::string::npos || name.front() == '/') return false;
    for (const fs::path &part : fs::path(name)) {
        if (part == ".." || part == "." || part.empty() || part.native().size() > 200) return false;
    }
    return true;
}

struct Keys {
    es::PublicKey open{};
    std::array<std::uint8_t, crypto_sign_SECRETKEYBYTES> secret{};
    Keys() {
        hold(sodium_init() >= 0);
        const std::array<std::uint8_t, crypto_sign_SEEDBYTES> seed{7};
        crypto_sign_seed_keypair(open.data(), secret.data(), seed.data());
    }
    static std::string base64(const std::uint8_t *data, std::size_t size) {
        std::string made(sodium_base64_encoded_len(size, sodium_base64_VARIANT_ORIGINAL), '\0');
        sodium_bin2base64(made.data(), made.size(), data, size, sodium_base64_VARIANT_ORIGINAL);
        made.pop_back();
        return made;
    }
    std::string sign(const std::string &text) const {
        std::array<std::uint8_t, crypto_sign_BYTES> value{};
        crypto_sign_detached(value.data(), nullptr, reinterpret_cast<const unsigned char *>(text.data()), text.size(),
                             secret.data());
        return "ed25519 " + base64(open.data(), open.size()) + "\n" + base64(value.data(), value.size()) + "\n";
    }
};

Entry *find(std::vector<Entry> &entries, const std::string &name) {
    for (Entry &entry : entries) {
        if (entry.kind == kFile && entry.name == name) return &entry;
    }
    return nullptr;
}

void put(std::vector<Entry> &entries, const std::string &name, std::string content) {
    if (Entry *found = find(entries, name)) {
        found->content = std::move(content);
    } else {
        entries.push_back({kFile, name, std::move(content)});
    }
}

// As an attacker would who mends every hash, and the seal.
void reseal(std::vector<Entry> &entries) {
    Entry *manifest = find(entries, "manifest.json");
    if (!manifest) return;
    json tree = json::parse(manifest->content, nullptr, false);
    if (tree.is_object() && tree.contains("files") && tree["files"].is_object()) {
        for (auto &[name, entry] : tree["files"].items()) {
            const Entry *file = find(entries, name);
            if (!file || !entry.is_object()) continue;
            entry["size_bytes"] = file->content.size();
            entry["sha256"] = es::sha256_hex(file->content.data(), file->content.size());
        }
        manifest->content = tree.dump(-1, ' ', false, json::error_handler_t::replace);
    }
    const std::string text = manifest->content;  // put() may move what `manifest` points to
    put(entries, "manifest.sha256", es::sha256_hex(text.data(), text.size()) + "  manifest.json\n");
}

// Files and folders first, links last: nothing is ever written through a link.
void lay_out(const std::vector<Entry> &entries, const fs::path &root) {
    for (const bool links : {false, true}) {
        for (const Entry &entry : entries) {
            if (links != (entry.kind == kLink || entry.kind == kPipe) || !stays_inside(entry.name)) continue;
            const fs::path path = root / entry.name;
            std::error_code ignored;
            if (!links) fs::create_directories(entry.kind == kFolder ? path : path.parent_path(), ignored);
            if (entry.kind == kFile) {
                const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
                if (file < 0) continue;
                hold(::write(file, entry.content.data(), entry.content.size()) ==
                     static_cast<ssize_t>(entry.content.size()));
                ::close(file);
            } else if (entry.kind == kLink) {
                fs::create_symlink(fs::path(entry.content.substr(0, entry.content.find('\0'))), path, ignored);
            } else if (entry.kind == kPipe) {
                (void)::mkfifo(path.c_str(), 0600);
            }
        }
    }
}

std::vector<std::string> everything(const es::Manifest &manifest) {
    std::vector<std::string> names;
    for (const auto &[name, entry] : manifest.files) names.push_back(name);
    return names;
}

void open(const fs::path &root, const Keys &keys, std::uint8_t choice) {
    const bool keyed = choice & kKey;
    const es::Trusted made = es::open_trusted(root, keyed ? &keys.open : nullptr, choice & kRequire, everything);
    hold(keyed || !(choice & kRequire));
    hold(made.signed_by.empty() != keyed);
    for (const auto &[name, bytes] : made.files) {
        const es::FileEntry &entry = made.manifest.files.at(name);
        hold(bytes.size() == entry.size_bytes && es::sha256_hex(bytes.data(), bytes.size()) == entry.sha256);
    }
    for (const es::GoldenCase &found : made.manifest.golden) {
        const es::Bytes &bytes = made.files.at(found.file);
        const es::Golden golden = es::read_golden(bytes.data(), bytes.size());
        const auto count = static_cast<std::size_t>(golden.images);
        hold(golden.frames.size() == count * static_cast<std::size_t>(golden.height * golden.width * 3));
        const auto rows = static_cast<std::size_t>(golden.rows);
        hold(rows == count || (count == 2 && rows == 3));
        hold(golden.logits.size() == rows * static_cast<std::size_t>(golden.logit_count));
    }
}

fs::path scratch() {
    std::string name = (::access("/dev/shm", W_OK) == 0 ? "/dev/shm" : fs::temp_directory_path().string()) +
                       "/edgeskin-fuzz-XXXXXX";
    hold(::mkdtemp(name.data()) != nullptr);
    return name;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    static const Keys keys;
    if (size < 1) return 0;
    const std::uint8_t choice = data[0];
    std::vector<Entry> entries = read_entries(data + 1, size - 1);
    if (choice & kReseal) reseal(entries);
    if (choice & kSign) {
        if (const Entry *manifest = find(entries, "manifest.json")) {
            put(entries, "manifest.sig", keys.sign(std::string(manifest->content)));
        }
    }
    const fs::path root = scratch();
    lay_out(entries, root);
    try {
        open(root, keys, choice);
    } catch (const es::Fault &fault) {
        hold(fault.status() > ES_ARGUMENT && fault.status() <= ES_SIGNATURE);
        hold(es::plain_text(fault.what()));
    }
    fs::remove_all(root);
    return 0;
}
