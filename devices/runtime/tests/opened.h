// For tests of the C interface: a bundle that an engine here can open, and ways to spoil a copy of it.
#pragma once

#include <edgeskin.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "trust.h"

namespace es::test {

namespace fs = std::filesystem;

inline std::string variable(const char *name) {
    const char *value = std::getenv(name);
    return value ? value : "";
}

inline std::string slurp(const fs::path &path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

inline void spill(const fs::path &path, const std::string &bytes) {
    std::ofstream(path, std::ios::binary | std::ios::trunc)
        .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// A bundle for an engine that the environment names; without it these tests cannot run and say so.
class Opened : public ::testing::Test {
  protected:
    void SetUp() override {
        libraries = variable("EDGESKIN_TEST_OPENVINO_LIBRARIES");
        if (libraries.empty()) GTEST_SKIP() << "needs EDGESKIN_TEST_OPENVINO_LIBRARIES, the folder of libopenvino_c.so";
        std::string name = (fs::temp_directory_path() / "edgeskin-XXXXXX").string();
        ASSERT_NE(mkdtemp(name.data()), nullptr);
        folder = name;
        fs::copy(EDGESKIN_TEST_BUNDLE, folder / "bundle", fs::copy_options::recursive);
        // The committed bundle is for ONNX Runtime; OpenVINO reads the same graphs.
        reseal([](nlohmann::json &manifest) { manifest["target"] = manifest["recipe"]["target"] = "openvino"; });
        if (fp32) take_fp32();
        ES_INIT(options);
        options.backend_path = libraries.c_str();
    }

    void TearDown() override {
        es_close(model);
        if (!folder.empty()) fs::remove_all(folder);
    }

    fs::path bundle() const { return folder / "bundle"; }

    // Change the manifest, rewrite every file's size and hash, and seal.
    void reseal(const std::function<void(nlohmann::json &)> &change = [](nlohmann::json &) {}) {
        auto manifest = nlohmann::json::parse(slurp(bundle() / "manifest.json"));
        for (auto &[name, entry] : manifest["files"].items()) {
            const std::string bytes = slurp(bundle() / name);
            entry["size_bytes"] = bytes.size();
            entry["sha256"] = sha256_hex(bytes.data(), bytes.size());
        }
        change(manifest);
        const std::string text = manifest.dump(2) + "\n";
        spill(bundle() / "manifest.json", text);
        spill(bundle() / "manifest.sha256", sha256_hex(text.data(), text.size()) + "  manifest.json\n");
    }

    es_status open() { return es_open(bundle().c_str(), &options, &model); }

    void ready() {
        ASSERT_EQ(open(), ES_OK) << es_last_error();
        ASSERT_EQ(es_selftest(model, nullptr), ES_OK) << es_last_error();
    }

    // Run the FP32 graphs in place of the INT8 ones. Valgrind's processor has no VNNI, and there INT8 sums overflow and
    // logits are off by whole units: a self-test finds that, and these tests could not go on.
    void take_fp32() {
        const auto manifest = nlohmann::json::parse(slurp(bundle() / "manifest.json"));
        for (const char *mode : {"pair", "dermoscopic"})
            spill(bundle() / manifest["graphs"][mode]["file"].get<std::string>(),
                  slurp(bundle() / manifest["reference"][mode]["file"].get<std::string>()));
        reseal([](nlohmann::json &changed) {
            for (auto &entry : changed["golden"]) entry["tolerance"] = 1.0;  // golden logits are those of INT8
        });
    }

    std::string libraries;
    const bool fp32 = !variable("EDGESKIN_TEST_FP32").empty();
    fs::path folder;
    es_options options{};
    es_model *model = nullptr;
};

// A photograph that can be assessed: a dark, textured lesion on skin.
struct Picture {
    int width, height;
    std::vector<std::uint8_t> pixels;

    explicit Picture(int w = 160, int h = 120, unsigned seed = 1)
        : width(w), height(h), pixels(static_cast<std::size_t>(3 * w * h)) {
        std::uint32_t noise = seed * 2654435761u + 1;
        for (int y = 0; y < h; ++y)
            for (int x = 0; x < w; ++x) {
                noise = noise * 1664525u + 1013904223u;
                const int dx = 8 * (x - w / 2) / w, dy = 8 * (y - h / 2) / h;
                const int grain = static_cast<int>(noise >> 27) - 16;
                const bool inside = dx * dx + dy * dy < 3;
                const int colour[3] = {inside ? 105 : 205, inside ? 70 : 165, inside ? 60 : 145};
                for (int c = 0; c < 3; ++c)
                    pixels[static_cast<std::size_t>(3 * (y * w + x) + c)] =
                        static_cast<std::uint8_t>(colour[c] + grain + 8 * ((x / 4 + y / 4) % 2));
            }
    }

    es_image image() const {
        es_image made;
        ES_INIT(made);
        made.format = ES_RGB;
        made.width = width;
        made.height = height;
        made.pixels = pixels.data();
        return made;
    }
};

}  // namespace es::test
