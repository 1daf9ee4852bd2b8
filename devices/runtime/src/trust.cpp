// Verify a bundle before any of its bytes are used. The order of the checks is that of edgeskin/opening.py, so that the
// same fault has the same name on both sides: names, JSON, format, seal, then the signature, fields, list, hashes.
#include "trust.h"

#include <pthread.h>
#include <sodium.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <set>
#include <string_view>
#include <system_error>
#include <thread>

#include "fault.h"
#include "folder.h"
#include "machine.h"
#include "text.h"

namespace es {
namespace {

constexpr char kManifest[] = "manifest.json", kSeal[] = "manifest.sha256", kSignature[] = "manifest.sig";
constexpr char kAgain[] = "copy or export the bundle again";
constexpr std::size_t kSignatureLimit = 4 << 10;  // bytes, as in edgeskin/opening.py
constexpr std::size_t kSignatureSize = 142, kKeyText = 44, kValueText = 88;
constexpr unsigned kThreads = 4;
constexpr std::uint64_t kWorthThreads = 1 << 20;  // bytes; less is hashed sooner than a thread has started

std::string hexadecimal(const std::uint8_t *hash) {
    std::array<char, 2 * crypto_hash_sha256_BYTES + 1> text{};
    sodium_bin2hex(text.data(), text.size(), hash, crypto_hash_sha256_BYTES);
    return text.data();
}

Fault damaged(const Folder &folder, const std::string &name, const std::string &how) {
    return {ES_TAMPERED, told("tampered or damaged bundle " + shown(folder.path(), 300), name + ": " + how, "", kAgain)};
}

Fault unsigned_or_wrong(const Folder &folder, const std::string &what, const std::string &got, const std::string &fix) {
    return {ES_SIGNATURE, told(what + ": bundle " + shown(folder.path(), 300), got, "", fix)};
}

// A small file as a whole, or nothing where it has more than `most` bytes.
std::optional<std::string> small_file(const Folder &folder, const char *name, std::size_t most) {
    std::string made;
    const auto keep = [&](const std::uint8_t *data, std::size_t size) {
        made.append(reinterpret_cast<const char *>(data), size);
    };
    if (folder.read(name, most, nullptr, keep) > most) return std::nullopt;
    return made;
}

// Ed25519 over the manifest's bytes, as edgeskin/signing.py writes it: two lines, and only one spelling of them. The
// key in the file says which key to look for and proves nothing: what verifies is the key that the caller trusts.
void check_signature(const Folder &folder, const std::string &text, const std::string &manifest, const PublicKey &key) {
    constexpr std::string_view head = "ed25519 ";
    std::array<std::uint8_t, crypto_sign_PUBLICKEYBYTES> claimed{};
    std::array<std::uint8_t, crypto_sign_BYTES> value{};
    const auto decode = [&](std::size_t from, std::size_t length, std::uint8_t *bytes, std::size_t size) {
        std::size_t written = 0;
        std::array<char, kValueText + 1> again{};
        constexpr int variant = sodium_base64_VARIANT_ORIGINAL;
        return sodium_base642bin(bytes, size, text.data() + from, length, nullptr, &written, nullptr, variant) == 0 &&
               written == size && text.compare(from, length, sodium_bin2base64(again.data(), length + 1, bytes, size,
                                                                               variant)) == 0;
    };
    const bool form = text.size() == kSignatureSize && text.compare(0, head.size(), head) == 0 && text[52] == '\n' &&
                      text[141] == '\n' && decode(head.size(), kKeyText, claimed.data(), claimed.size()) &&
                      decode(53, kValueText, value.data(), value.size());
    if (!form) {
        throw unsigned_or_wrong(folder, "the signature cannot be read",
                                std::string(kSignature) + " of " + std::to_string(text.size()) + " bytes",
                                "get the bundle again from who signed it");
    }
    if (claimed != key) {
        throw unsigned_or_wrong(folder, "signed by another key",
                                sha256_hex(claimed.data(), claimed.size()).substr(0, 16) + " instead of " +
                                    sha256_hex(key.data(), key.size()).substr(0, 16),
                                "get the bundle from the holder of your key");
    }
    if (crypto_sign_verify_detached(value.data(), reinterpret_cast<const unsigned char *>(manifest.data()),
                                    manifest.size(), key.data()) != 0) {
        throw unsigned_or_wrong(folder, "the signature does not hold",
                                std::string(kManifest) + " or " + kSignature + " changed after it was signed",
                                "do not use this bundle; get it again from its maker");
    }
}

// Whether the reference is left out. Throws where a file is unlisted or missing.
bool check_names(const Folder &folder, const std::vector<std::string> &names, const Manifest &manifest) {
    std::set<std::string_view> present;
    for (const std::string &name : names) {
        if (name == kManifest || name == kSeal || name == kSignature) continue;
        if (!manifest.files.count(name)) {
            throw Fault(ES_TAMPERED, told("unlisted file in bundle " + shown(folder.path(), 300), shown(name), "",
                                          std::string("remove it, or ") + kAgain));
        }
        present.insert(name);
    }
    bool lean = false;
    for (const auto &[name, entry] : manifest.files) lean = lean || entry.reference;
    for (const auto &[name, entry] : manifest.files) lean = lean && !(entry.reference && present.count(name));
    for (const auto &[name, entry] : manifest.files) {
        if (!present.count(name) && !(lean && entry.reference)) {
            throw Fault(ES_TAMPERED, told("incomplete bundle " + shown(folder.path(), 300), "no file " + shown(name),
                                          "", kAgain));
        }
    }
    return lean;
}

// One file of the list. The bytes are read once: what is hashed is what is kept.
struct Check {
    const std::string *name;
    const FileEntry *entry;
    Bytes *kept;  // nullptr: not wanted
    std::optional<Fault> fault;
};

void run(const Folder &folder, Check &check) {
    const std::uint64_t size = check.entry->size_bytes;
    const auto wrong_size = [&](std::uint64_t found) {
        return damaged(folder, *check.name,
                       (found > size ? "more than " : std::to_string(found) + " bytes instead of ") +
                           std::to_string(size) + (found > size ? " bytes" : ""));
    };
    crypto_hash_sha256_state state;
    crypto_hash_sha256_init(&state);
    const auto begin = [&](std::uint64_t found) {
        if (found != size) throw wrong_size(found);  // before a byte is read, and before memory is taken
        if (check.kept) check.kept->reserve(static_cast<std::size_t>(size));
    };
    const auto take = [&](const std::uint8_t *data, std::size_t count) {
        crypto_hash_sha256_update(&state, data, count);
        if (check.kept) check.kept->insert(check.kept->end(), data, data + count);
    };
    const std::uint64_t found = folder.read(*check.name, size, begin, take);
    if (found != size) throw wrong_size(found);
    std::array<std::uint8_t, crypto_hash_sha256_BYTES> hash{};
    crypto_hash_sha256_final(&state, hash.data());
    const std::string text = hexadecimal(hash.data());
    if (text != check.entry->sha256) {
        throw damaged(folder, *check.name,
                      "SHA-256 " + text.substr(0, 12) + "... instead of " + check.entry->sha256.substr(0, 12) + "...");
    }
}

// All of them, on several threads where it is worth it. The fault thrown is that of the first name in order, whichever
// thread met it first.
void run_all(const Folder &folder, std::vector<Check> &checks) {
    std::vector<Check *> largest_first;
    std::uint64_t total = 0;
    for (Check &check : checks) {
        largest_first.push_back(&check);
        total += check.entry->size_bytes;
    }
    std::stable_sort(largest_first.begin(), largest_first.end(),
                     [](const Check *a, const Check *b) { return a->entry->size_bytes > b->entry->size_bytes; });
    std::atomic<std::size_t> next{0};
    std::atomic<bool> no_memory{false};
    const auto work = [&]() noexcept {
        for (std::size_t i = next++; i < largest_first.size(); i = next++) {
            try {
                run(folder, *largest_first[i]);
            } catch (const Fault &fault) {
                largest_first[i]->fault = fault;
            } catch (const std::exception &) {
                no_memory = true;
            }
        }
    };
    std::vector<std::thread> helpers;
    const unsigned wanted = total < kWorthThreads ? 1 : std::min(kThreads, static_cast<unsigned>(usable_cores()));
    helpers.reserve(wanted);
    try {
        while (helpers.size() + 1 < wanted) helpers.emplace_back(work);
    } catch (const std::system_error &) {
        // The system gives no more threads: those that there are do it.
    }
    work();
    for (std::thread &helper : helpers) helper.join();
    for (const Check &check : checks) {
        if (check.fault) throw *check.fault;
    }
    if (no_memory) throw Fault(ES_MEMORY, told("out of memory", "a bundle of " + std::to_string(total) + " bytes", "", ""));
}

}  // namespace

std::string sha256_hex(const void *data, std::size_t size) {
    std::array<std::uint8_t, crypto_hash_sha256_BYTES> hash{};
    crypto_hash_sha256(hash.data(), static_cast<const unsigned char *>(data), size);
    return hexadecimal(hash.data());
}

Trusted open_trusted(const std::string &path, const PublicKey *key, bool require_signature,
                     std::vector<std::string> (*keep)(const Manifest &)) {
    if (sodium_init() < 0) throw Fault(ES_INTERNAL, "libsodium cannot be used here");
    const Folder folder(path);
    const std::vector<std::string> names = folder.listing();
    const auto there = [&](const char *name) { return std::binary_search(names.begin(), names.end(), name); };
    if (!there(kManifest)) {
        throw Fault(ES_NOT_FOUND, told("not a bundle", shown(path, 300) + " without " + kManifest, "",
                                       "pass the folder that holds it"));
    }
    const auto signature = there(kSignature) ? small_file(folder, kSignature, kSignatureLimit) : std::nullopt;
    if (there(kSignature) && !signature) {
        throw damaged(folder, kSignature, "more than " + std::to_string(kSignatureLimit) + " bytes");
    }
    const auto text = small_file(folder, kManifest, kManifestLimit);
    if (!text) {
        throw Fault(ES_MANIFEST, told(shown(path, 300) + ": manifest.json is too large", "",
                                      "at most " + std::to_string(kManifestLimit) + " bytes", kAgain));
    }
    Trusted made;
    made.sha256 = sha256_hex(text->data(), text->size());
    const auto seal_and_signature = [&] {
        if (!there(kSeal)) {
            throw Fault(ES_TAMPERED, told("incomplete bundle " + shown(path, 300), std::string("no file ") + kSeal, "",
                                          kAgain));
        }
        const std::string sealed = made.sha256 + "  " + kManifest + "\n";  // as sha256sum writes it
        if (small_file(folder, kSeal, sealed.size()) != sealed) {
            throw damaged(folder, kManifest, std::string("its hash is not the one in ") + kSeal);
        }
        if (!key && require_signature) {
            throw unsigned_or_wrong(folder, "a signature is required", "no key to check it with",
                                    "pass the public key in es_options.public_key");
        }
        if (!key) return;
        if (!signature) {
            throw unsigned_or_wrong(folder, "not signed", std::string("no file ") + kSignature,
                                    "get it signed from its maker, or sign it: edgeskin sign BUNDLE --key NAME.key");
        }
        check_signature(folder, *signature, *text, *key);
        made.signed_by = sha256_hex(key->data(), key->size());
    };
    try {
        made.manifest = parse_manifest(*text, seal_and_signature);
    } catch (const Fault &fault) {
        const std::string line = fault.what();
        if (line.rfind(kManifest, 0) != 0) throw;  // else it speaks of the manifest, and not yet of where that lies
        throw Fault(fault.status(), shown(path, 300) + ": " + line);
    }
    made.lean = check_names(folder, names, made.manifest);
    if (keep) {
        for (const std::string &name : keep(made.manifest)) {
            const auto found = made.manifest.files.find(name);
            if (found == made.manifest.files.end()) {
                throw Fault(ES_MANIFEST, told("the manifest lacks a file that its graphs need", shown(name), "", kAgain));
            }
            if (!(made.lean && found->second.reference)) made.files.emplace(name, Bytes());
        }
    }
    std::vector<Check> checks;
    for (const auto &[name, entry] : made.manifest.files) {
        if (made.lean && entry.reference) continue;
        const auto kept = made.files.find(name);
        checks.push_back({&name, &entry, kept == made.files.end() ? nullptr : &kept->second, std::nullopt});
    }
    run_all(folder, checks);
    return made;
}

}  // namespace es
