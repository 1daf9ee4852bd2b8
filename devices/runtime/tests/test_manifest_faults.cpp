// A manifest with one fault at a time: its status, and what its line names.
#include "copies.h"
#include "manifest.h"

namespace es::copies {
namespace {

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
    json manifest = json::parse(read(tiny() / "manifest.json"));
    const json::json_pointer where(wrong.where);
    if (*wrong.value) {
        manifest[where] = json::parse(wrong.value);
    } else {
        manifest.at(where.parent_pointer()).erase(where.back());
    }
    std::string line;
    EXPECT_EQ(status_of([&] { parse_manifest(manifest.dump()); }, &line), wrong.status) << line;
    EXPECT_NE(line.find(wrong.mentions), std::string::npos) << line;
}

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
        Wrong{"FusedWithoutHead", "/fusion/PN/fused_weight", "0.2", ES_MANIFEST, "which the network has not"},
        Wrong{"FusedTemperatureWithoutHead", "/fusion/PN/temperature_fused", "2", ES_MANIFEST, "which the network"},
        Wrong{"FusedWeightAboveOne", "/fusion/PN/fused_weight", "1.5", ES_MANIFEST, "from 0.0 to 1.0"},
        Wrong{"FusedHeadIsNumber", "/network/fused_head", "1", ES_MANIFEST, "network.fused_head"},
        Wrong{"NetworkForOneImage", "/network/modalities", "\"clinical\"", ES_MANIFEST, "network.modalities"},
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

}  // namespace
}  // namespace es::copies
