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

struct Wrong {
    const char *what;      // names the test
    const char *where;     // JSON pointer
    const char *value;     // JSON, or "" to remove the key
    es_status status;
    const char *mentions;  // in the line
};

void PrintTo(const Wrong &wrong, std::ostream *out) { *out << wrong.what; }

class Faults : public ::testing::TestWithParam<Wrong> {};

TEST_P(Faults, AreRefused) {
    const Wrong &wrong = GetParam();
    json manifest = plain();
    const json::json_pointer where(wrong.where);
    if (*wrong.value) {
        manifest[where] = json::parse(wrong.value);
    } else {
        manifest.at(where.parent_pointer()).erase(where.back());
    }
    std::string line;
    EXPECT_EQ(status_of([&] { parse(manifest); }, &line), wrong.status) << line;
    EXPECT_NE(line.find(wrong.mentions), std::string::npos) << line;
}

constexpr char kHash[] = "\"ca5b3483d38907c863d19f0d24be7156ee461123743be03c98d04d0274891cc9\"";

INSTANTIATE_TEST_SUITE_P(
    Manifest, Faults,
    ::testing::Values(
        Wrong{"NoFormat", "/format", "", ES_FORMAT, "format"},
        Wrong{"OtherFormat", "/format", "\"edgeskin-checkpoint\"", ES_FORMAT, "format"},
        Wrong{"FormatIsNoText", "/format", "1", ES_FORMAT, "format"},
        Wrong{"NoVersion", "/format_version", "", ES_FORMAT, "got nothing"},
        Wrong{"NewerVersion", "/format_version", "2", ES_FORMAT, "newer edgeskin"},
        Wrong{"OlderVersion", "/format_version", "0", ES_FORMAT, "got 0"},
        Wrong{"VersionIsTrue", "/format_version", "true", ES_FORMAT, "format version"},
        Wrong{"VersionIsText", "/format_version", "\"1\"", ES_FORMAT, "format version"},
        Wrong{"VersionIsBroken", "/format_version", "1.5", ES_FORMAT, "got 1.5"},
        Wrong{"NoName", "/name", "", ES_MANIFEST, "name: got nothing"},
        Wrong{"NameWithEscape", "/name", "\"a\\u001b[2J\"", ES_MANIFEST, "name"},
        Wrong{"NoTarget", "/target", "", ES_MANIFEST, "target"},
        Wrong{"OtherTarget", "/target", "\"tflite\"", ES_MANIFEST, "openvino, onnxruntime, tensorrt"},
        Wrong{"TargetIsNotTheRecipes", "/target", "\"openvino\"", ES_MANIFEST, "recipe"},
        Wrong{"PrecisionIsNotTheRecipes", "/precision", "\"fp32\"", ES_MANIFEST, "recipe"},
        Wrong{"OtherPrecision", "/precision", "\"int4\"", ES_MANIFEST, "fp32, fp16, int8"},
        Wrong{"OtherStage", "/stage", "\"draft\"", ES_MANIFEST, "stage"},
        Wrong{"PhantomIsOne", "/phantom", "1", ES_MANIFEST, "phantom: got 1"},
        Wrong{"NoRecipe", "/recipe", "", ES_MANIFEST, "recipe"},
        Wrong{"OtherHint", "/recipe/inference_precision", "\"fp8\"", ES_MANIFEST, "inference_precision"},
        Wrong{"NoTasks", "/task_schema/tasks", "[]", ES_MANIFEST, "task_schema.tasks"},
        Wrong{"TasksAreAnObject", "/task_schema/tasks", "{}", ES_MANIFEST, "task_schema.tasks"},
        Wrong{"TaskWithoutName", "/task_schema/tasks/0/name", "", ES_MANIFEST, "task_schema.tasks.0.name"},
        Wrong{"TaskWithDigitFirst", "/task_schema/tasks/1/name", "\"1N\"", ES_MANIFEST, "tasks.1.name"},
        Wrong{"TaskWithSpace", "/task_schema/tasks/1/name", "\"P N\"", ES_MANIFEST, "tasks.1.name"},
        Wrong{"TaskTwice", "/task_schema/tasks/1/name", "\"DIAG\"", ES_MANIFEST, "repeat"},
        Wrong{"OneClass", "/task_schema/tasks/1/classes", "[{\"name\": \"A\"}]", ES_MANIFEST, "a list of 1"},
        Wrong{"ClassTwice", "/task_schema/tasks/1/classes/1/name", "\"ABS\"", ES_MANIFEST, "class names repeat"},
        Wrong{"ClassWithoutName", "/task_schema/tasks/1/classes/1/name", "\"\"", ES_MANIFEST, "classes.1.name"},
        Wrong{"NegativePoints", "/task_schema/tasks/1/classes/1/points", "-1", ES_MANIFEST, "points"},
        Wrong{"HugePoints", "/task_schema/tasks/1/classes/1/points", "4294967296", ES_MANIFEST, "points"},
        Wrong{"BrokenPoints", "/task_schema/tasks/1/classes/1/points", "0.5", ES_MANIFEST, "points"},
        Wrong{"TargetOfNoTask", "/task_schema/target/task", "\"X\"", ES_MANIFEST, "target.task"},
        Wrong{"PositiveOfNoClass", "/task_schema/target/positive", "[\"X\"]", ES_MANIFEST, "positive.0"},
        Wrong{"PositiveTwice", "/task_schema/target/positive", "[\"MEL\", \"MEL\"]", ES_MANIFEST, "positive.1"},
        Wrong{"NoPositive", "/task_schema/target/positive", "[]", ES_MANIFEST, "positive"},
        Wrong{"ScoreWithoutThresholds", "/task_schema/score/thresholds", "[]", ES_MANIFEST, "score.thresholds"},
        Wrong{"NoFusionOfATask", "/fusion/PN", "", ES_MANIFEST, "every task"},
        Wrong{"FusionOfNoTask", "/fusion/X", "{\"dermoscopic_weight\": 1}", ES_MANIFEST, "every task"},
        Wrong{"FusionWithoutWeight", "/fusion/PN/dermoscopic_weight", "", ES_MANIFEST, "fusion.PN.dermoscopic_weight"},
        Wrong{"WeightAboveOne", "/fusion/PN/dermoscopic_weight", "1.01", ES_MANIFEST, "from 0.0 to 1.0"},
        Wrong{"WeightBelowZero", "/fusion/PN/dermoscopic_weight", "-0.01", ES_MANIFEST, "dermoscopic_weight"},
        Wrong{"WeightIsText", "/fusion/PN/dermoscopic_weight", "\"0.5\"", ES_MANIFEST, "dermoscopic_weight"},
        Wrong{"TemperatureZero", "/fusion/PN/temperature_alone", "0", ES_MANIFEST, "temperature_alone"},
        Wrong{"TemperatureNegative", "/fusion/PN/temperature_clinical", "-1", ES_MANIFEST, "temperature_clinical"},
        Wrong{"TemperatureNull", "/fusion/PN/temperature_dermoscopic", "null", ES_MANIFEST, "dermoscopic: got null"},
        Wrong{"Narrow", "/preprocess/width", "31", ES_MANIFEST, "from 32 to 4096"},
        Wrong{"Wide", "/preprocess/width", "4097", ES_MANIFEST, "preprocess.width"},
        Wrong{"High", "/preprocess/height", "1e9", ES_MANIFEST, "preprocess.height"},
        Wrong{"NoHeight", "/preprocess/height", "", ES_MANIFEST, "preprocess.height: got nothing"},
        Wrong{"NegativeBorder", "/preprocess/border_px", "-1", ES_MANIFEST, "border_px"},
        Wrong{"OtherFit", "/preprocess/fit", "\"pad\"", ES_MANIFEST, "crop, stretch"},
        Wrong{"OtherResize", "/preprocess/resize", "\"lanczos\"", ES_MANIFEST, "halve+bilinear"},
        Wrong{"ThresholdAboveOne", "/thresholds/pair/value", "1.5", ES_MANIFEST, "thresholds.pair.value"},
        Wrong{"NoThreshold", "/thresholds/dermoscopic", "", ES_MANIFEST, "thresholds.dermoscopic"},
        Wrong{"FilesAreAList", "/files", "[]", ES_MANIFEST, "files"},
        Wrong{"HashTooShort", "/files/lesions.json/sha256", "\"ab\"", ES_MANIFEST, "files.lesions.json.sha256"},
        Wrong{"HashInCapitals", "/files/lesions.json/sha256",
              "\"CA5B3483D38907C863D19F0D24BE7156EE461123743BE03C98D04D0274891CC9\"", ES_MANIFEST, "lower case"},
        Wrong{"NegativeSize", "/files/lesions.json/size_bytes", "-1", ES_MANIFEST, "size_bytes"},
        Wrong{"HugeSize", "/files/lesions.json/size_bytes", "18446744073709551615", ES_MANIFEST, "size_bytes"},
        Wrong{"TooMuchTogether", "/files/lesions.json/size_bytes", "4294967296", ES_MANIFEST, "4 GiB"},
        Wrong{"OtherGroup", "/files/lesions.json/group", "\"extra\"", ES_MANIFEST, "core, reference"},
        Wrong{"GraphIsNotListed", "/graphs/pair/file", "\"model/x.onnx\"", ES_MANIFEST, "not listed"},
        Wrong{"GraphLeadsOut", "/graphs/pair/file", "\"../pair.onnx\"", ES_MANIFEST, "not listed"},
        Wrong{"GraphInGroupReference", "/files/model~1pair.onnx/group", "\"reference\"", ES_MANIFEST, "group core"},
        Wrong{"GoldenInGroupReference", "/files/golden~1pair-0.npz/group", "\"reference\"", ES_MANIFEST, "group core"},
        Wrong{"NoPairGraph", "/graphs/pair", "", ES_MANIFEST, "pair and dermoscopic"},
        Wrong{"ThirdGraph", "/graphs/clinical", "{}", ES_MANIFEST, "graphs"},
        Wrong{"PairOfOneImage", "/graphs/pair/images", "1", ES_MANIFEST, "graphs.pair.images"},
        Wrong{"OtherGraphPrecision", "/graphs/pair/precision", "\"bf16\"", ES_MANIFEST, "graphs.pair.precision"},
        Wrong{"ReferenceInInt8", "/reference/pair/precision", "\"int8\"", ES_MANIFEST, "reference.pair.precision"},
        Wrong{"ReferenceIsNotListed", "/reference/pair/file", "\"x\"", ES_MANIFEST, "not listed"},
        Wrong{"NoGolden", "/golden", "[]", ES_MANIFEST, "golden"},
        Wrong{"GoldenOfAnotherMode", "/golden/0/mode", "\"clinical\"", ES_MANIFEST, "golden.0.mode"},
        Wrong{"GoldenIsNotListed", "/golden/0/file", "\"x\"", ES_MANIFEST, "not listed"},
        Wrong{"NoTolerance", "/golden/0/tolerance", "0", ES_MANIFEST, "golden.0.tolerance"},
        Wrong{"LesionsAreNotListed", "/lesion_hashes_file", "\"x\"", ES_MANIFEST, "not listed"},
        Wrong{"EvidenceIsNotListed", "/evidence_file", "\"evidence.json\"", ES_MANIFEST, "not listed"},
        Wrong{"VersionsAreAList", "/provenance/versions", "[]", ES_MANIFEST, "provenance.versions"},
        Wrong{"VersionIsANumber", "/provenance/versions/torch", "2", ES_MANIFEST, "versions.torch"},
        Wrong{"TuningWithoutThreads", "/tuning", "[{\"processor\": \"A\", \"cores\": 1, \"precision_hint\": \"f32\"}]",
              ES_MANIFEST, "tuning.0.threads"},
        Wrong{"TuningOfNoCores", "/tuning",
              "[{\"processor\": \"A\", \"cores\": 0, \"threads\": 1, \"precision_hint\": \"f32\"}]", ES_MANIFEST, "cores"},
        Wrong{"FallbackToItself", "/fallback", "[{\"target\": \"onnxruntime\"}]", ES_MANIFEST, "target itself"},
        Wrong{"FallbackToTensorrt", "/fallback", "[{\"target\": \"tensorrt\"}]", ES_MANIFEST, "fallback.0.target"},
        Wrong{"FallbackToOtherGraphs", "/fallback", "[{\"target\": \"openvino\", \"graphs\": \"fp16\"}]", ES_MANIFEST,
              "fallback.0.graphs"},
        Wrong{"BoundWithoutTensorrt", "/compatibility", "{}", ES_MANIFEST, "compatibility"},
        Wrong{"QualityIsAList", "/quality", "[]", ES_MANIFEST, "quality"},
        Wrong{"LumaTooHigh", "/quality", "{\"dark_luma\": 257}", ES_MANIFEST, "quality.dark_luma"},
        Wrong{"ShareTooHigh", "/quality", "{\"black_share\": 10002}", ES_MANIFEST, "quality.black_share"},
        Wrong{"NegativeShare", "/quality", "{\"vignette_share\": -1}", ES_MANIFEST, "quality.vignette_share"},
        Wrong{"BrokenLuma", "/quality", "{\"rim_luma\": 4.5}", ES_MANIFEST, "quality.rim_luma"},
        Wrong{"SevenWeights", "/quality", "{\"swapped_weights\": [1,2,3,4,5,6,7]}", ES_MANIFEST, "a list of 7"},
        Wrong{"HeavyWeight", "/quality", "{\"swapped_weights\": [0,0,0,0,0,0,0,1000001]}", ES_MANIFEST, "weights.7"},
        Wrong{"FarThreshold", "/quality", "{\"swapped_threshold\": 9007199254740993}", ES_MANIFEST, "threshold"},
        Wrong{"OtherFlag", "/quality", "{\"fails\": [\"noisy\"]}", ES_MANIFEST, "quality.fails.0"},
        Wrong{"FlagTwice", "/quality", "{\"fails\": [\"dark\", \"dark\"]}", ES_MANIFEST, "named twice"}),
    [](const auto &given) { return given.param.what; });

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
