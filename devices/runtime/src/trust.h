// Verify a bundle before any of its bytes are used: names, links, sizes, hashes, signature.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "manifest.h"

namespace es {

using Bytes = std::vector<std::uint8_t>;
using PublicKey = std::array<std::uint8_t, 32>;

struct Trusted {
    Manifest manifest;
    std::string sha256;     // of manifest.json, hexadecimal
    std::string signed_by;  // "" or the SHA-256 of the public key, hexadecimal
    bool lean = false;      // the FP32 reference was left out
    // The verified bytes themselves. An engine is given these, never the file again: what was hashed is what is used.
    std::map<std::string, Bytes> files;
};

// Open the folder `path` (which may itself be reached by a link; nothing in it may be one).
// key: the bundle must be signed by it; nullptr: a signature is not looked at, unless require_signature, which refuses.
// keep: files whose bytes are wanted; the others are hashed and dropped. Called once the manifest is known.
// Throws Fault: ES_NOT_FOUND, ES_IO, ES_MANIFEST, ES_FORMAT, ES_TAMPERED, ES_UNSAFE, ES_SIGNATURE.
Trusted open_trusted(const std::string &path, const PublicKey *key, bool require_signature,
                     std::vector<std::string> (*keep)(const Manifest &));

// Hexadecimal SHA-256.
std::string sha256_hex(const void *data, std::size_t size);

}  // namespace es
