// manifest.json -> Manifest: what a good one gives, and one fault at a time.
#include "manifest.h"

#include "copies.h"

namespace es::copies {
namespace {

json plain() { return json::parse(read(tiny() / "manifest.json")); }

Manifest parse(const json &manifest) { return parse_manifest(manifest.dump()); }

TEST(Manifest, TheTinyBundleSaysWhatItIs) {
    const Manifest made = parse_manifest(read(tiny() / "manifest.json"));
    EXPECT_EQ(made.name, "tiny");
    EXPECT_EQ(made.target, "onnxruntime");
    EXPECT_EQ(made.precision, "int8");
    EXPECT_EQ(made.inference_precision, "f32");
    EXPECT_TRUE(made.phantom);
    EXPECT_FALSE(made.kit);
    ASSERT_EQ(made.tasks.size(), 8u);
    EXPECT_EQ(made.logits, 24u);
    EXPECT_EQ(made.tasks[0].name, "DIAG");
    EXPECT_EQ(made.tasks[0].classes, (std::vector<std::string>{"BCC", "NEV", "MEL", "MISC", "SK"}));
    EXPECT_EQ(made.tasks[1].points, (std::vector<int>{0, 0, 2}));
    EXPECT_EQ(made.tasks[7].name, "RS");
    EXPECT_EQ(made.tasks[2].dermoscopic_weight, 0.6);
    EXPECT_EQ(made.tasks[2].temperature_alone, 1.0);
    EXPECT_EQ(made.target_task, 0u);
    EXPECT_EQ(made.positive, (std::vector<std::size_t>{2}));
    EXPECT_EQ(made.target_title, "melanoma");
    EXPECT_TRUE(made.has_score);
    EXPECT_EQ(made.geometry.width, 32);
    EXPECT_EQ(made.geometry.height, 32);
    EXPECT_EQ(made.geometry.border_px, 0);
    EXPECT_TRUE(made.geometry.crop);
    EXPECT_EQ(made.thresholds[kPair], 0.3);
    EXPECT_EQ(made.thresholds[kDermoscopic], 0.35);
    EXPECT_EQ(made.graphs[kPair].file, "model/pair.onnx");
    EXPECT_EQ(made.graphs[kPair].precision, "int8");
    EXPECT_EQ(made.reference[kDermoscopic].file, "reference/dermoscopic.onnx");
    EXPECT_EQ(made.reference[kDermoscopic].precision, "fp32");
    ASSERT_EQ(made.golden.size(), 4u);
    EXPECT_EQ(made.golden[2].name, "dermoscopic-0");
    EXPECT_EQ(made.golden[2].mode, kDermoscopic);
    EXPECT_EQ(made.golden[2].tolerance, 0.25);
    EXPECT_EQ(made.files.size(), 9u);
    EXPECT_EQ(made.files.at("lesions.json").size_bytes, 334u);
    EXPECT_TRUE(made.files.at("reference/pair.onnx").reference);
    EXPECT_FALSE(made.files.at("model/pair.onnx").reference);
    EXPECT_EQ(made.built_with.at("onnxruntime"), "1.32.0");
    EXPECT_TRUE(made.tuning.empty());
    EXPECT_TRUE(made.fallback.empty());
    EXPECT_FALSE(made.bound);
    EXPECT_EQ(made.quality.black_luma, Quality().black_luma);
}

TEST(Manifest, WhatMayBeLeftOutHasItsDefault) {
    json manifest = plain();
    manifest["task_schema"].erase("score");
    manifest["task_schema"]["target"].erase("title");
    for (auto &task : manifest["task_schema"]["tasks"]) {
        for (auto &entry : task["classes"]) entry.erase("points");
    }
    for (auto &fusion : manifest["fusion"]) fusion = {{"dermoscopic_weight", 1}};
    for (const char *key : {"fit", "resize", "border_px", "mean", "std"}) manifest["preprocess"].erase(key);
    manifest["recipe"] = {{"target", "onnxruntime"}, {"precision", "int8"}};
    for (const char *key : {"network", "data", "roles", "parameters", "research_use", "stage"}) manifest.erase(key);
    const Manifest made = parse(manifest);
    EXPECT_FALSE(made.has_score);
    EXPECT_EQ(made.target_title, "melanoma");
    EXPECT_EQ(made.tasks[1].points, (std::vector<int>{0, 0, 0}));
    EXPECT_EQ(made.tasks[0].dermoscopic_weight, 1.0);
    EXPECT_EQ(made.tasks[0].temperature_clinical, 1.0);
    EXPECT_TRUE(made.geometry.crop);
    EXPECT_EQ(made.inference_precision, "f32");
}

TEST(Manifest, ReadsWhatTheTinyBundleLacks) {
    json manifest = plain();
    manifest["fusion"]["PN"]["temperature_clinical"] = 1.5;
    manifest["fusion"]["PN"]["temperature_dermoscopic"] = 0.5;
    manifest["preprocess"]["fit"] = "stretch";
    manifest["preprocess"]["border_px"] = 7;
    manifest["recipe"]["inference_precision"] = "auto";
    manifest["task_schema"]["score"] = nullptr;
    manifest["tuning"] = json::parse(R"([{"processor": "A", "cores": 4, "engine": "e", "threads": 2,
        "precision_hint": "bf16", "p50_ms": {}, "measured": "x"}])");
    manifest["fallback"] = json::parse(R"([{"target": "openvino"}, {"target": "onnxruntime", "graphs": "reference"}])");
    manifest["quality"] = json::parse(R"({"dark_luma": 0, "swapped_weights": [1, -2, 3, 4, 5, 6, 7, 1000000],
        "swapped_threshold": -9007199254740992, "fails": ["empty", "vignette"]})");
    const Manifest made = parse(manifest);
    EXPECT_EQ(made.tasks[1].temperature_clinical, 1.5);
    EXPECT_EQ(made.tasks[1].temperature_dermoscopic, 0.5);
    EXPECT_FALSE(made.geometry.crop);
    EXPECT_EQ(made.geometry.border_px, 7);
    EXPECT_EQ(made.inference_precision, "auto");
    EXPECT_FALSE(made.has_score);
    ASSERT_EQ(made.tuning.size(), 1u);
    EXPECT_EQ(made.tuning[0].processor, "A");
    EXPECT_EQ(made.tuning[0].cores, 4);
    EXPECT_EQ(made.tuning[0].threads, 2);
    EXPECT_EQ(made.tuning[0].precision_hint, "bf16");
    ASSERT_EQ(made.fallback.size(), 2u);
    EXPECT_EQ(made.fallback[0].target, "openvino");
    EXPECT_FALSE(made.fallback[0].reference);
    EXPECT_TRUE(made.fallback[1].reference);
    EXPECT_EQ(made.quality.dark_luma, 0);
    EXPECT_EQ(made.quality.bright_luma, Quality().bright_luma);
    EXPECT_EQ(made.quality.swapped_weights[1], -2);
    EXPECT_EQ(made.quality.swapped_weights[7], 1000000);
    EXPECT_EQ(made.quality.swapped_threshold, -(std::int64_t{1} << 53));
    EXPECT_EQ(made.quality.fails, ES_Q_EMPTY | ES_Q_VIGNETTE);
}

void make_tensorrt(json &manifest) {
    manifest["target"] = manifest["recipe"]["target"] = "tensorrt";
    manifest["compatibility"] = {{"device", "jetson"}, {"arch", "aarch64"}, {"sm", "8.7"}, {"tensorrt", "10.3.0"}};
}

TEST(Manifest, AnEngineIsBoundToItsDevice) {
    json manifest = plain();
    make_tensorrt(manifest);
    const Manifest made = parse(manifest);
    EXPECT_TRUE(made.bound);
    EXPECT_EQ(made.compatibility.arch, "aarch64");
    EXPECT_EQ(made.compatibility.sm, "8.7");
    EXPECT_EQ(made.compatibility.tensorrt, "10.3.0");
}

TEST(Manifest, ABuildKitIsNamedWithItsCure) {
    json manifest = plain();
    make_tensorrt(manifest);
    manifest["stage"] = "kit";
    std::string line;
    EXPECT_EQ(status_of([&] { parse(manifest); }, &line), ES_FORMAT);
    EXPECT_NE(line.find("edgeskin build"), std::string::npos);
}

TEST(Manifest, EveryFlagOfTheQualityGateHasTheNameThatTheInterfaceGives) {
    for (std::uint32_t bit = ES_Q_EMPTY; bit <= ES_Q_SWAPPED; bit <<= 1) {
        json manifest = plain();
        manifest["quality"] = {{"fails", {es_quality_name(bit)}}};
        EXPECT_EQ(parse(manifest).quality.fails, bit);
    }
}

TEST(Manifest, TheBindingOfAnEngineIsChecked) {
    const auto with = [](const char *key, const json &value) {
        return status_of([&] {
            json manifest = plain();
            make_tensorrt(manifest);
            manifest["compatibility"][key] = value;
            parse(manifest);
        });
    };
    EXPECT_EQ(with("arch", "riscv64"), ES_MANIFEST);
    for (const char *sm : {"", "8", "8.", ".7", "8.7.1", "8.x", " 8.7", "8..7"}) EXPECT_EQ(with("sm", sm), ES_MANIFEST);
    for (const char *version : {"10", "10.", "10.3.x", "v10.3"}) EXPECT_EQ(with("tensorrt", version), ES_MANIFEST);
    EXPECT_EQ(with("tensorrt", "10.13.3.9"), ES_OK);
    json manifest = plain();
    manifest["target"] = manifest["recipe"]["target"] = "tensorrt";
    EXPECT_EQ(status_of([&] { parse(manifest); }), ES_MANIFEST);  // without any
}

TEST(Manifest, AFusedHeadGivesPairsAThirdRow) {
    json manifest = plain();
    EXPECT_EQ(parse(manifest).rows(kPair), 2u);
    manifest["network"]["fused_head"] = true;
    manifest["fusion"]["PN"]["fused_weight"] = 0.35;
    manifest["fusion"]["PN"]["temperature_fused"] = 1.5;
    const Manifest made = parse(manifest);
    EXPECT_EQ(made.rows(kPair), 3u);
    EXPECT_EQ(made.rows(kDermoscopic), 1u);
    EXPECT_EQ(made.tasks[0].fused_weight, 0.0);
    EXPECT_EQ(made.tasks[1].fused_weight, 0.35);
    EXPECT_EQ(made.tasks[1].temperature_fused, 1.5);
}

// Python refuses unknown keys at every level. Here they are refused where they could change a result, and every key that
// Python knows is known.
TEST(Manifest, UnknownKeysAreRefusedWhereTheyCouldMatter) {
    for (const char *where : {"", "/preprocess", "/fusion/PN", "/thresholds", "/thresholds/pair", "/task_schema",
                              "/task_schema/target", "/task_schema/tasks/0", "/task_schema/tasks/0/classes/0",
                              "/files/lesions.json", "/graphs/pair", "/golden/0", "/quality", "/fallback/0"}) {
        json manifest = plain();
        manifest["quality"] = json::object();
        manifest["fallback"] = {{{"target", "openvino"}}};
        EXPECT_EQ(status_of([&] { parse(manifest); }), ES_OK);
        manifest[json::json_pointer(where)]["treshold"] = 1;
        std::string line;
        EXPECT_EQ(status_of([&] { parse(manifest); }, &line), ES_MANIFEST) << where;
        EXPECT_NE(line.find("unknown key: got 'treshold'"), std::string::npos) << line;
    }
}

TEST(Manifest, EveryKeyThatPythonWritesIsKnown) {
    const fs::path published = tiny() / ".." / ".." / ".." / "edgeskin" / "spec" / "manifest.schema.json";
    if (!fs::exists(published)) GTEST_SKIP() << "needs edgeskin/spec/manifest.schema.json";
    const json schema = json::parse(read(published));
    const std::pair<const char *, const char *> places[] = {
        {"", ""}, {"Preprocess", "/preprocess"}, {"Fusion", "/fusion/PN"}, {"Thresholds", "/thresholds"},
        {"Threshold", "/thresholds/pair"}, {"Schema", "/task_schema"}, {"Target", "/task_schema/target"},
        {"Task", "/task_schema/tasks/0"}, {"ClassSpec", "/task_schema/tasks/0/classes/0"},
        {"FileEntry", "/files/lesions.json"}, {"GraphEntry", "/graphs/pair"}, {"GoldenCase", "/golden/0"},
        {"Quality", "/quality"}, {"Fallback", "/fallback/0"}};
    for (const auto &[name, where] : places) {
        const json &keys = *name ? schema["$defs"][name]["properties"] : schema["properties"];
        ASSERT_FALSE(keys.empty()) << name;
        for (const auto &[key, unused] : keys.items()) {
            json manifest = plain();
            manifest["quality"] = json::object();
            manifest["fallback"] = {{{"target", "openvino"}}};
            manifest[json::json_pointer(where)][key] = nullptr;
            std::string line;
            status_of([&] { parse(manifest); }, &line);
            EXPECT_EQ(line.find("unknown key"), std::string::npos) << line;
        }
    }
}

TEST(Manifest, HasNoMoreTasksAndClassesThanAResultHasRoomFor) {
    const auto of = [](int tasks, int classes) {
        json manifest = plain();
        json all = json::array(), fusion = json::object();
        for (int t = 0; t < tasks; ++t) {
            json list = json::array();
            for (int c = 0; c < classes; ++c) list.push_back({{"name", "C" + std::to_string(c)}});
            all.push_back({{"name", "T" + std::to_string(t)}, {"classes", list}});
            fusion["T" + std::to_string(t)] = {{"dermoscopic_weight", 0.5}};
        }
        manifest["task_schema"] = {{"name", "many"}, {"tasks", all}, {"target", {{"task", "T0"}, {"positive", {"C0"}}}}};
        manifest["fusion"] = fusion;
        return status_of([&] { parse(manifest); });
    };
    EXPECT_EQ(of(ES_MAX_TASKS, ES_MAX_LOGITS / ES_MAX_TASKS), ES_OK);
    EXPECT_EQ(of(ES_MAX_TASKS + 1, 2), ES_MANIFEST);
    EXPECT_EQ(of(ES_MAX_TASKS, ES_MAX_LOGITS / ES_MAX_TASKS + 1), ES_MANIFEST);
    EXPECT_EQ(of(1, ES_MAX_LOGITS), ES_OK);
    EXPECT_EQ(of(1, ES_MAX_LOGITS + 1), ES_MANIFEST);
}

constexpr char kHash[] = "\"ca5b3483d38907c863d19f0d24be7156ee461123743be03c98d04d0274891cc9\"";

TEST(Manifest, ListsNoMoreFilesThanItsLimit) {
    const auto with = [](int files) {
        json manifest = plain();
        const int more = files - static_cast<int>(manifest["files"].size());
        for (int i = 0; i < more; ++i) {
            manifest["files"]["x" + std::to_string(i)] = {{"sha256", json::parse(kHash)}, {"size_bytes", 1}};
        }
        return status_of([&] { parse(manifest); });
    };
    EXPECT_EQ(with(10000), ES_OK);
    EXPECT_EQ(with(10001), ES_MANIFEST);
}

TEST(Manifest, TooLargeIsRefusedBeforeItIsParsed) {
    std::string line;
    EXPECT_EQ(status_of([&] { parse_manifest(std::string(kManifestLimit + 1, ' ')); }, &line), ES_MANIFEST);
    EXPECT_NE(line.find("too large"), std::string::npos);
}

TEST(Manifest, CutAnywhereIsRefused) {
    const std::string text = read(tiny() / "manifest.json");
    for (std::size_t keep = 0; keep + 2 <= text.size(); ++keep) {
        ASSERT_EQ(status_of([&] { parse_manifest(std::string_view(text).substr(0, keep)); }), ES_MANIFEST) << keep;
    }
}

TEST(Manifest, TheSealIsAskedForOnceTheFormatIsKnownAndBeforeAnyField) {
    bool asked = false;
    const auto ask = [&] { asked = true; };
    EXPECT_EQ(status_of([&] { parse_manifest("{}", ask); }), ES_FORMAT);
    EXPECT_EQ(status_of([&] { parse_manifest("[]", ask); }), ES_FORMAT);
    EXPECT_EQ(status_of([&] { parse_manifest("{", ask); }), ES_MANIFEST);
    EXPECT_FALSE(asked);
    const auto refuse = [] { throw Fault(ES_TAMPERED, "no seal"); };
    const std::string bare = "{\"format\": \"edgeskin-bundle\", \"format_version\": 1}";
    EXPECT_EQ(status_of([&] { parse_manifest(bare, refuse); }), ES_TAMPERED);
    EXPECT_EQ(status_of([&] { parse_manifest(bare, ask); }), ES_MANIFEST);
    EXPECT_TRUE(asked);
}

TEST(SafeName, IsAPlainRelativePath) {
    for (const char *name : {"a", "model/pair.onnx", "a b", "...", "a..b", "caf\xc3\xa9.bin", "a/.hidden", "-x"}) {
        EXPECT_TRUE(safe_name(name)) << name;
    }
    for (const char *name : {"", "/", "/etc/passwd", "a/", "a//b", ".", "..", "../x", "a/../b", "a/..", "./a", "C:x",
                             "a\\b", "a*", "a?", "a\"b", "<", ">", "a|b", "a\nb", "a\x7f", "\x01", "\xff", "a\xc0\xaf",
                             "\xed\xa0\x80", "\xc2\x85"}) {
        EXPECT_FALSE(safe_name(name)) << name;
    }
    EXPECT_FALSE(safe_name(std::string_view("a\0b", 3)));
    EXPECT_TRUE(safe_name(std::string(200, 'x')));
    EXPECT_FALSE(safe_name(std::string(201, 'x')));
    std::string accents;
    for (int i = 0; i < 200; ++i) accents += "\xc3\xa9";
    EXPECT_TRUE(safe_name(accents));  // characters count, as in Python, not bytes
    EXPECT_FALSE(safe_name(accents + "x"));
}

TEST(SafeName, IsAskedOfEveryListedFile) {
    for (const char *name : {"../evil", "/etc/evil", "a\\..\\evil", "model//x", "C:evil", "./x", "a\nb", "manifest.json",
                             "manifest.sha256", "manifest.sig"}) {
        json manifest = plain();
        manifest["files"][name] = manifest["files"]["lesions.json"];
        std::string line;
        EXPECT_EQ(status_of([&] { parse(manifest); }, &line), ES_UNSAFE) << name;
    }
}

}  // namespace
}  // namespace es::copies
