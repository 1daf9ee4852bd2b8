// For tests of what comes before an engine: copies of the tiny bundle, and ways to spoil them. In memory where that is.
#pragma once

#include <gtest/gtest.h>
#include <sodium.h>
#include <stdlib.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fault.h"
#include "trust.h"

namespace es::copies {

namespace fs = std::filesystem;
using nlohmann::json;

inline fs::path tiny() {
    const char *given = std::getenv("EDGESKIN_TEST_BUNDLE");
#ifdef EDGESKIN_TEST_BUNDLE
    return given ? given : EDGESKIN_TEST_BUNDLE;
#else
    return given ? given : "tests/golden/tiny-onnxruntime";
#endif
}

inline std::string read(const fs::path &path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

inline void write(const fs::path &path, const std::string &bytes) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    ASSERT_TRUE(file.good()) << path;
}

// The status of the fault that `act` throws, ES_OK where it throws none; its line in `line`.
inline es_status status_of(const std::function<void()> &act, std::string *line = nullptr) {
    try {
        act();
    } catch (const Fault &fault) {
        if (line) *line = fault.what();
        EXPECT_EQ(std::string(fault.what()).find('\n'), std::string::npos);
        EXPECT_STRNE(fault.what(), "");
        return fault.status();
    }
    return ES_OK;
}

struct Pair {
    PublicKey open{};
    std::array<std::uint8_t, crypto_sign_SECRETKEYBYTES> secret{};

    explicit Pair(std::uint8_t seed) {
        std::array<std::uint8_t, crypto_sign_SEEDBYTES> bytes{};
        bytes.fill(seed);
        EXPECT_GE(sodium_init(), 0);
        crypto_sign_seed_keypair(open.data(), secret.data(), bytes.data());
    }
};

inline std::string base64(const std::uint8_t *data, std::size_t size) {
    std::string made(sodium_base64_encoded_len(size, sodium_base64_VARIANT_ORIGINAL), '\0');
    sodium_bin2base64(made.data(), made.size(), data, size, sodium_base64_VARIANT_ORIGINAL);
    made.pop_back();
    return made;
}

inline std::string signature(const Pair &pair, const std::string &signed_bytes) {
    std::array<std::uint8_t, crypto_sign_BYTES> value{};
    crypto_sign_detached(value.data(), nullptr, reinterpret_cast<const unsigned char *>(signed_bytes.data()),
                         signed_bytes.size(), pair.secret.data());
    return "ed25519 " + base64(pair.open.data(), pair.open.size()) + "\n" + base64(value.data(), value.size()) + "\n";
}

// A copy of the tiny bundle, gone after the test.
class Copied : public ::testing::Test {
  protected:
    void SetUp() override {
        const fs::path memory = "/dev/shm";
        std::string name = (access(memory.c_str(), W_OK) == 0 ? memory : fs::temp_directory_path()) / "edgeskin-XXXXXX";
        ASSERT_NE(mkdtemp(name.data()), nullptr);
        folder = name;
        root = folder / "bundle";
        fs::copy(tiny(), root, fs::copy_options::recursive);
    }
    void TearDown() override { fs::remove_all(folder); }

    es_status open(const PublicKey *key = nullptr, bool required = false) {
        return status_of([&] { opened = open_trusted(root, key, required, nullptr); }, &line);
    }

    void expect(es_status status, const std::string &mentions, const PublicKey *key = nullptr) {
        line.clear();
        EXPECT_EQ(open(key), status) << line;
        EXPECT_NE(line.find(mentions), std::string::npos) << line;
    }

    void put_manifest(const std::string &text) {
        write(root / "manifest.json", text);
        write(root / "manifest.sha256", sha256_hex(text.data(), text.size()) + "  manifest.json\n");
    }

    // Edit the manifest as an attacker would who also mends the seal.
    void reseal(const std::function<void(json &)> &change) {
        json manifest = json::parse(read(root / "manifest.json"));
        change(manifest);
        put_manifest(manifest.dump(2) + "\n");
    }

    void sign(const Pair &pair) { write(root / "manifest.sig", signature(pair, read(root / "manifest.json"))); }

    fs::path folder, root;
    Trusted opened;
    std::string line;
};

}  // namespace es::copies
