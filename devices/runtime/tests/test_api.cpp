// The C interface: the life of a model, its refusals, and what it never does.
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <set>
#include <thread>

#include "model.h"
#include "opened.h"

namespace es::test {
namespace {

es_result fresh() {
    es_result result;
    ES_INIT(result);
    return result;
}

bool zero_but_size(const es_result &result) {
    es_result other = fresh();
    return std::memcmp(&result, &other, sizeof other) == 0;
}

// --- without any bundle

TEST(Api, SaysWhatItIs) {
    EXPECT_EQ(es_abi_version(), ES_ABI_VERSION);
    EXPECT_EQ(es_result_size(), sizeof(es_result));
    EXPECT_STREQ(es_version(), "0.1.0");
}

TEST(Api, EveryStatusHasAText) {
    std::set<std::string> texts;
    for (int status = ES_OK; status <= ES_INTERNAL; ++status) texts.insert(es_strerror(static_cast<es_status>(status)));
    EXPECT_EQ(texts.size(), static_cast<std::size_t>(ES_INTERNAL) + 1);
    EXPECT_EQ(texts.count(es_strerror(static_cast<es_status>(-1))), 0u);
}

TEST(Api, EveryQualityBitHasAName) {
    std::set<std::string> names;
    for (std::uint32_t bit = ES_Q_EMPTY; bit <= ES_Q_SWAPPED; bit <<= 1) names.insert(es_quality_name(bit));
    EXPECT_EQ(names.size(), 8u);
    EXPECT_EQ(es_quality_name(0), nullptr);
    EXPECT_EQ(es_quality_name(ES_Q_EMPTY | ES_Q_DARK), nullptr);
    EXPECT_EQ(es_quality_name(1u << 31), nullptr);
}

TEST(Api, NullPointersAreRefused) {
    es_model *model = reinterpret_cast<es_model *>(1);
    EXPECT_EQ(es_open(nullptr, nullptr, &model), ES_ARGUMENT);
    EXPECT_EQ(model, nullptr);
    EXPECT_EQ(es_open("x", nullptr, nullptr), ES_ARGUMENT);
    EXPECT_EQ(es_selftest(nullptr, nullptr), ES_ARGUMENT);
    EXPECT_EQ(es_info(nullptr, nullptr), ES_ARGUMENT);
    EXPECT_EQ(es_classify(nullptr, nullptr, nullptr, nullptr), ES_ARGUMENT);
    es_result result = fresh();
    result.score = 7;
    EXPECT_EQ(es_classify(nullptr, nullptr, nullptr, &result), ES_ARGUMENT);
    EXPECT_TRUE(zero_but_size(result));
    es_close(nullptr);
}

TEST(Api, StructsOfAnotherVersionAreRefused) {
    es_model *model = nullptr;
    es_options options;
    ES_INIT(options);
    options.size -= 1;
    EXPECT_EQ(es_open("x", &options, &model), ES_VERSION);
    EXPECT_NE(std::string(es_last_error()).find("es_options"), std::string::npos);
    es_result result = fresh();
    result.size = 8;
    result.score = 7;
    EXPECT_EQ(es_classify(nullptr, nullptr, nullptr, &result), ES_VERSION);
    EXPECT_EQ(result.score, 7);
}

TEST(Api, OptionsOutOfRangeAreRefused) {
    const auto refused = [](auto change) {
        es_model *model = nullptr;
        es_options options;
        ES_INIT(options);
        change(options);
        return es_open("/nonexistent", &options, &model) == ES_ARGUMENT && !model;
    };
    EXPECT_TRUE(refused([](es_options &o) { o.modes = 3; }));
    EXPECT_TRUE(refused([](es_options &o) { o.threads = -1; }));
    EXPECT_TRUE(refused([](es_options &o) { o.deadline_ms = -1; }));
    EXPECT_TRUE(refused([](es_options &o) { o.max_width = 20000; }));
    EXPECT_FALSE(refused([](es_options &o) { o.max_width = 4096; }));
}

TEST(Api, NoBundleThere) {
    es_model *model = nullptr;
    EXPECT_EQ(es_open("/nonexistent/bundle", nullptr, &model), ES_NOT_FOUND);
    const std::string line = es_last_error();
    EXPECT_NE(line.find("/nonexistent/bundle"), std::string::npos);
    EXPECT_EQ(line.find('\n'), std::string::npos);
}

TEST(Api, AnUnknownEngineHasAReason) {
    EXPECT_NE(std::string(es_supports("abacus", nullptr)).find("built without it"), std::string::npos);
    EXPECT_NE(es_supports(nullptr, nullptr), nullptr);
}

TEST(Api, TheLastErrorBelongsToTheThread) {
    es_model *model = nullptr;
    es_open("/nonexistent/first", nullptr, &model);
    std::thread([] { EXPECT_STREQ(es_last_error(), ""); }).join();
    EXPECT_NE(std::string(es_last_error()).find("first"), std::string::npos);
}

// --- with one

TEST_F(Opened, ItsLifeHasAnOrder) {
    ASSERT_EQ(open(), ES_OK) << es_last_error();
    const Picture picture;
    const es_image image = picture.image();
    es_result result = fresh();
    EXPECT_EQ(es_classify(model, nullptr, &image, &result), ES_UNTESTED);
    EXPECT_TRUE(zero_but_size(result));
    es_selftest_report report;
    ES_INIT(report);
    ASSERT_EQ(es_selftest(model, &report), ES_OK) << es_last_error();
    EXPECT_GT(report.cases, 0);
    EXPECT_EQ(report.failed, 0);
    EXPECT_LT(report.max_abs_error, fp32 ? 1.0 : 0.05);
    ASSERT_EQ(es_classify(model, nullptr, &image, &result), ES_OK) << es_last_error();
    ASSERT_TRUE(result.assessable) << "quality " << result.quality[1];
    EXPECT_EQ(result.images, 1);
    EXPECT_GT(result.total_us, 0);
    es_result again = fresh();
    ASSERT_EQ(es_classify(model, nullptr, &image, &again), ES_OK);
    EXPECT_EQ(std::memcmp(result.logits, again.logits, sizeof result.logits), 0);
}

TEST_F(Opened, ACallerFromBeforeTheFusedHeadIsServed) {
    ready();
    const Picture clinical(200, 100, 5), dermoscopic(64, 300, 6);
    const es_image first = clinical.image(), second = dermoscopic.image();
    es_result whole = fresh(), known = fresh();
    ASSERT_EQ(es_classify(model, &first, &second, &whole), ES_OK) << es_last_error();
    EXPECT_EQ(whole.has_fused, 0);
    known.size = offsetof(es_result, fused);
    std::memset(known.fused, 0x5a, sizeof known - known.size);  // not the library's to write
    ASSERT_EQ(es_classify(model, &first, &second, &known), ES_OK) << es_last_error();
    EXPECT_EQ(known.size, offsetof(es_result, fused));
    EXPECT_EQ(std::memcmp(known.probabilities, whole.probabilities, sizeof whole.probabilities), 0);
    EXPECT_EQ(std::memcmp(known.logits, whole.logits, sizeof whole.logits), 0);
    EXPECT_EQ(known.refer, whole.refer);
    const auto *rest = reinterpret_cast<const char *>(known.fused);
    for (std::size_t at = 0; at < sizeof known - known.size; ++at) ASSERT_EQ(rest[at], 0x5a);
    EXPECT_EQ(es_classify(model, &first, nullptr, &known), ES_ARGUMENT);
    EXPECT_EQ(known.refer, 0);
}

TEST_F(Opened, ProbabilitiesOfATaskSumToOne) {
    ready();
    es_model_info info;
    ES_INIT(info);
    ASSERT_EQ(es_info(model, &info), ES_OK);
    const Picture clinical(200, 100, 5), dermoscopic(64, 300, 6);
    const es_image first = clinical.image(), second = dermoscopic.image();
    es_result result = fresh();
    ASSERT_EQ(es_classify(model, &first, &second, &result), ES_OK) << es_last_error();
    ASSERT_TRUE(result.assessable) << result.quality[0] << " " << result.quality[1];
    EXPECT_EQ(result.images, 2);
    for (int t = 0; t < info.task_count; ++t) {
        double sum = 0, clinical_sum = 0;
        int best = info.first[t];
        for (int k = info.first[t]; k < info.first[t + 1]; ++k) {
            sum += result.probabilities[k];
            clinical_sum += result.clinical[k];
            if (result.probabilities[k] > result.probabilities[best]) best = k;
        }
        EXPECT_NEAR(sum, 1, 1e-12);
        EXPECT_NEAR(clinical_sum, 1, 1e-12);
        EXPECT_EQ(result.predicted[t], best - info.first[t]);
    }
    EXPECT_EQ(result.refer, result.target_probability >= result.threshold);
}

TEST_F(Opened, SaysWhatItOpened) {
    ASSERT_EQ(open(), ES_OK) << es_last_error();
    es_model_info info;
    ES_INIT(info);
    ASSERT_EQ(es_info(model, &info), ES_OK);
    const auto manifest = nlohmann::json::parse(slurp(bundle() / "manifest.json"));
    const std::string text = slurp(bundle() / "manifest.json");
    EXPECT_EQ(info.name, manifest["name"].get<std::string>());
    EXPECT_EQ(info.sha256, sha256_hex(text.data(), text.size()));
    EXPECT_EQ(std::string(info.backend).rfind("openvino 20", 0), 0u) << info.backend;
    EXPECT_STREQ(info.fallback, "");
    EXPECT_STREQ(info.signed_by, "");
    EXPECT_EQ(info.width, manifest["preprocess"]["width"].get<int>());
    EXPECT_EQ(info.task_count, static_cast<int>(manifest["task_schema"]["tasks"].size()));
    EXPECT_EQ(info.first[info.task_count], info.logit_count);
    EXPECT_EQ(info.phantom, 1);
    EXPECT_GT(info.threads, 0);
    info.size = 1;
    EXPECT_EQ(es_info(model, &info), ES_VERSION);
}

TEST_F(Opened, NothingIsReadFromTheFolderAgain) {
    ASSERT_EQ(open(), ES_OK) << es_last_error();
    fs::remove_all(bundle());
    EXPECT_EQ(es_selftest(model, nullptr), ES_OK) << es_last_error();
}

TEST_F(Opened, AnUnassessableImageHasNoClass) {
    ready();
    Picture picture;
    std::fill(picture.pixels.begin(), picture.pixels.end(), std::uint8_t{0});
    const es_image image = picture.image();
    es_result result = fresh();
    ASSERT_EQ(es_classify(model, nullptr, &image, &result), ES_OK) << es_last_error();
    EXPECT_FALSE(result.assessable);
    EXPECT_TRUE(result.quality[1] & ES_Q_EMPTY);
    es_result expected = fresh();
    std::memcpy(expected.quality, result.quality, sizeof result.quality);
    expected.images = 1;
    expected.prepare_us = result.prepare_us, expected.quality_us = result.quality_us,
    expected.infer_us = result.infer_us;
    expected.decide_us = result.decide_us, expected.total_us = result.total_us;
    EXPECT_EQ(std::memcmp(&result, &expected, sizeof result), 0);
}

TEST_F(Opened, TheSameImageTwiceIsNoPair) {
    ready();
    const Picture picture;
    const es_image image = picture.image();
    es_result result = fresh();
    ASSERT_EQ(es_classify(model, &image, &image, &result), ES_OK) << es_last_error();
    EXPECT_FALSE(result.assessable);
    EXPECT_TRUE(result.quality[0] & result.quality[1] & ES_Q_IDENTICAL);
}

TEST_F(Opened, ImagesThatCannotBeReadAreRefused) {
    ready();
    const Picture picture;
    const auto status = [&](auto change) {
        es_image image = picture.image();
        change(image);
        es_result result = fresh();
        const es_status found = es_classify(model, nullptr, &image, &result);
        EXPECT_TRUE(zero_but_size(result));
        return found;
    };
    EXPECT_EQ(status([](es_image &i) { i.size = 3; }), ES_VERSION);
    EXPECT_EQ(status([](es_image &i) { i.format = ES_GREY; }), ES_IMAGE);
    EXPECT_NE(std::string(es_last_error()).find("colour"), std::string::npos) << es_last_error();
    EXPECT_EQ(status([](es_image &i) { i.format = 99; }), ES_IMAGE);
    EXPECT_EQ(status([](es_image &i) { i.pixels = nullptr; }), ES_IMAGE);
    EXPECT_EQ(status([](es_image &i) { i.width = 0; }), ES_IMAGE);
    EXPECT_EQ(status([](es_image &i) { i.height = -4; }), ES_IMAGE);
    EXPECT_EQ(status([](es_image &i) { i.stride = 3 * i.width - 1; }), ES_IMAGE);
    EXPECT_EQ(status([](es_image &i) { i.width = 16000; }), ES_IMAGE);
    es_result result = fresh();
    EXPECT_EQ(es_classify(model, nullptr, nullptr, &result), ES_ARGUMENT);
}

TEST_F(Opened, OneGraphAloneServesOneMode) {
    options.modes = 1;
    ready();
    const Picture picture, other(80, 80, 3);
    const es_image image = picture.image(), second = other.image();
    es_result result = fresh();
    EXPECT_EQ(es_classify(model, nullptr, &image, &result), ES_OK) << es_last_error();
    EXPECT_EQ(es_classify(model, &image, &second, &result), ES_ARGUMENT);
    EXPECT_NE(std::string(es_last_error()).find("modes"), std::string::npos);
}

TEST_F(Opened, AFailedSelfTestIsFinal) {
    reseal([](nlohmann::json &manifest) {
        for (auto &entry : manifest["golden"]) entry["tolerance"] = 1e-12;  // and the graph's bias changes, below
        manifest["fusion"].begin().value()["temperature_alone"] = 1.0;
    });
    // Golden logits of another network: the last bytes of a stored array are its last logit.
    for (const auto &file : fs::directory_iterator(bundle() / "golden")) {
        std::string bytes = slurp(file.path());
        const std::size_t header = bytes.rfind("\x93NUMPY");
        ASSERT_NE(header, std::string::npos);
        const std::size_t data = header + 10 + static_cast<std::uint8_t>(bytes[header + 8]) +
                                 256u * static_cast<std::uint8_t>(bytes[header + 9]);
        const float other = 25.0f;
        std::memcpy(bytes.data() + data, &other, sizeof other);
        spill(file.path(), bytes);
    }
    reseal();
    ASSERT_EQ(open(), ES_OK) << es_last_error();
    es_selftest_report report;
    ES_INIT(report);
    EXPECT_EQ(es_selftest(model, &report), ES_SELFTEST_FAILED);
    EXPECT_EQ(report.failed, report.cases);
    EXPECT_GT(report.max_abs_error, 1);
    const Picture picture;
    const es_image image = picture.image();
    es_result result = fresh();
    EXPECT_EQ(es_classify(model, nullptr, &image, &result), ES_SELFTEST_FAILED);
    EXPECT_TRUE(zero_but_size(result));
    EXPECT_EQ(es_selftest(model, nullptr), ES_SELFTEST_FAILED);
}

TEST_F(Opened, ACallPastItsDeadlineHasNoResult) {
    options.deadline_ms = 1;
    options.max_width = 16384;
    ready();
    const Picture large(12000, 3000), small(64, 64);
    const es_image slow = large.image(), quick = small.image();
    es_result result = fresh();
    EXPECT_EQ(es_classify(model, nullptr, &slow, &result), ES_DEADLINE);
    EXPECT_TRUE(zero_but_size(result));
    es_close(model);
    options.deadline_ms = 60'000;
    ready();
    EXPECT_EQ(es_classify(model, nullptr, &quick, &result), ES_OK) << es_last_error();
}

TEST_F(Opened, ASecondCallAtOnceIsRefused) {
    ready();
    const Picture large(4000, 3000), small(64, 64);
    const es_image slow = large.image(), quick = small.image();
    std::atomic<bool> stop{false};
    std::thread first([&] {
        es_result result = fresh();
        while (!stop && !HasFatalFailure()) {
            const es_status status = es_classify(model, nullptr, &slow, &result);
            EXPECT_TRUE(status == ES_OK || status == ES_BUSY);
        }
    });
    es_result result = fresh();
    int refused = 0;
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (refused < 20 && std::chrono::steady_clock::now() < limit) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));  // the other thread is to have its turn
        const es_status status = es_classify(model, nullptr, &quick, &result);
        EXPECT_TRUE(status == ES_OK || status == ES_BUSY) << es_last_error();
        if (status == ES_BUSY) {
            ++refused;
            EXPECT_TRUE(zero_but_size(result));
            es_model_info info;
            ES_INIT(info);
            EXPECT_EQ(es_info(model, &info), ES_OK);
        }
    }
    stop = true;
    first.join();
    EXPECT_EQ(refused, 20);
}

TEST_F(Opened, EightThreadsWithTheirOwnModelsAgree) {
    options.threads = 1;
    const Picture picture(300, 200, 9);
    const es_image image = picture.image();
    std::vector<es_result> results(8, fresh());
    std::vector<std::thread> threads;
    for (es_result &result : results)
        threads.emplace_back([&] {
            es_model *own = nullptr;
            ASSERT_EQ(es_open(bundle().c_str(), &options, &own), ES_OK) << es_last_error();
            ASSERT_EQ(es_selftest(own, nullptr), ES_OK) << es_last_error();
            for (int i = 0; i < 20; ++i)
                ASSERT_EQ(es_classify(own, nullptr, &image, &result), ES_OK) << es_last_error();
            es_close(own);
        });
    for (std::thread &thread : threads) thread.join();
    for (const es_result &result : results)
        EXPECT_EQ(std::memcmp(result.logits, results[0].logits, sizeof result.logits), 0);
}

TEST_F(Opened, AFallBackIsTakenAndTold) {
    reseal([](nlohmann::json &manifest) {
        manifest["target"] = manifest["recipe"]["target"] = "tensorrt";
        manifest["compatibility"] = {
            {"device", "jetson-orin-nano"}, {"arch", "aarch64"}, {"sm", "8.7"}, {"tensorrt", "10.3"}};
        manifest["fallback"] = nlohmann::json::array({{{"target", "openvino"}, {"graphs", "core"}}});
    });
    std::string log;
    options.log = [](void *context, es_log_level level, const char *line) {
        *static_cast<std::string *>(context) += std::to_string(level) + " " + line + "\n";
    };
    options.log_context = &log;
    ready();
    es_model_info info;
    ES_INIT(info);
    ASSERT_EQ(es_info(model, &info), ES_OK);
    EXPECT_EQ(std::string(info.backend).rfind("openvino", 0), 0u);
    EXPECT_NE(std::string(info.fallback).find("tensorrt: "), std::string::npos) << info.fallback;
    EXPECT_NE(log.find("1 fell back to openvino"), std::string::npos) << log;
    es_close(model);
    options.no_fallback = 1;
    EXPECT_EQ(open(), ES_BACKEND);
    EXPECT_NE(std::string(es_last_error()).find("tensorrt: "), std::string::npos) << es_last_error();
}

TEST_F(Opened, AnotherEngineThanTheBundlesIsRefused) {
    options.backend = "onnxruntime";
    EXPECT_EQ(open(), ES_BACKEND);
    EXPECT_NE(std::string(es_last_error()).find("possible: openvino"), std::string::npos) << es_last_error();
}

TEST_F(Opened, AMissingEngineHasAReason) {
    options.backend_path = "/nonexistent";
    if (!es_supports("openvino", options.backend_path)) GTEST_SKIP() << "an earlier test has loaded it: run by ctest";
    EXPECT_EQ(open(), ES_BACKEND);
    EXPECT_NE(std::string(es_last_error()).find("OpenVINO's library was not found"), std::string::npos)
        << es_last_error();
}

TEST_F(Opened, AGraphThatIsNoneIsRefusedWithTheEnginesReason) {
    const auto manifest = nlohmann::json::parse(slurp(bundle() / "manifest.json"));
    spill(bundle() / manifest["graphs"]["pair"]["file"].get<std::string>(), "no graph at all");
    reseal();
    EXPECT_EQ(open(), ES_BACKEND);
    const std::string line = es_last_error();
    EXPECT_NE(line.find("OpenVINO cannot read"), std::string::npos) << line;
    EXPECT_EQ(line.find('\n'), std::string::npos);
}

TEST_F(Opened, GraphsThatAreExchangedDoNotFitTheirManifest) {
    const auto manifest = nlohmann::json::parse(slurp(bundle() / "manifest.json"));
    const auto file = [&](const char *mode) { return bundle() / manifest["graphs"][mode]["file"].get<std::string>(); };
    const std::string pair = slurp(file("pair"));
    spill(file("pair"), slurp(file("dermoscopic")));
    spill(file("dermoscopic"), pair);
    reseal();
    EXPECT_EQ(open(), ES_BACKEND);
    EXPECT_NE(std::string(es_last_error()).find("does not fit its manifest"), std::string::npos) << es_last_error();
}

TEST_F(Opened, AnEngineOlderThanTheBundlesIsRefused) {
    reseal([](nlohmann::json &manifest) { manifest["provenance"]["versions"]["openvino"] = "2999.1.0"; });
    EXPECT_EQ(open(), ES_INCOMPATIBLE);
    EXPECT_NE(std::string(es_last_error()).find("2999.1.0 or newer"), std::string::npos) << es_last_error();
}

TEST_F(Opened, TamperingIsFoundBeforeAnEngineSeesTheFile) {
    const auto manifest = nlohmann::json::parse(slurp(bundle() / "manifest.json"));
    const fs::path file = bundle() / manifest["graphs"]["pair"]["file"].get<std::string>();
    std::string bytes = slurp(file);
    bytes[bytes.size() / 2] ^= 1;
    spill(file, bytes);
    EXPECT_EQ(open(), ES_TAMPERED);
    EXPECT_EQ(model, nullptr);
}

TEST_F(Opened, AnUnsignedBundleIsRefusedWhereAKeyIsGiven) {
    const std::uint8_t key[32] = {1, 2, 3};
    options.public_key = key;
    EXPECT_EQ(open(), ES_SIGNATURE);
    options.public_key = nullptr;
    options.require_signature = 1;
    EXPECT_EQ(open(), ES_SIGNATURE);
}

}  // namespace
}  // namespace es::test
