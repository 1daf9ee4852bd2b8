// The ONNX Runtime backend against the real library. EDGESKIN_ORT_PATH names the folder with libonnxruntime.so; without
// it what needs the library is skipped. tests/runtime/test_onnxruntime.py sets it, and two more:
//   EDGESKIN_ORT_LOGITS  folder of .npz like golden cases, logits by Python on this machine with two threads; an .onnx
//                        of the same name beside it is the graph, else it is the bundle's
//   EDGESKIN_ORT_SLOW    a graph [1, 32, 32, 3] -> [1, 4] that takes about a second
#include <gtest/gtest.h>

#ifdef EDGESKIN_WITH_ONNXRUNTIME
#include <dlfcn.h>
#include <link.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <thread>

#include "backend.h"
#include "fault.h"
#include "npz.h"

namespace {

namespace fs = std::filesystem;
using es::Clock;
using Files = std::map<std::string, es::Bytes>;

constexpr double kTolerance = 0.25;  // of the golden cases, as their manifest says
const fs::path kBundle = EDGESKIN_TEST_BUNDLE;

es::Bytes read(const fs::path &path) {
    std::ifstream file(path, std::ios::binary);
    EXPECT_TRUE(file) << path;
    return es::Bytes(std::istreambuf_iterator<char>(file), {});
}

es::Golden golden(const fs::path &path) {
    const es::Bytes bytes = read(path);
    return es::read_golden(bytes.data(), bytes.size());
}

es::Shape shape_of(const es::Golden &entry) {
    return {entry.images, entry.height, entry.width, entry.rows, entry.logit_count};
}

// The line of the fault that `work` throws, which must be of that status.
template <typename Work>
std::string fault_of(es_status status, Work work) {
    try {
        work();
    } catch (const es::Fault &fault) {
        EXPECT_EQ(fault.status(), status) << fault.what();
        return fault.what();
    }
    ADD_FAILURE() << "nothing was thrown";
    return "";
}

void expect_one_line(const std::string &text) {
    EXPECT_FALSE(text.empty());
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    EXPECT_LT(text.size(), 600u) << text;
}

bool same(const std::vector<float> &one, const std::vector<float> &other) {
    return one.size() == other.size() && std::memcmp(one.data(), other.data(), one.size() * sizeof(float)) == 0;
}

class OnnxRuntimeLibrary : public testing::Test {
  protected:
    void SetUp() override {
        const char *path = std::getenv("EDGESKIN_ORT_PATH");
        if (!path) GTEST_SKIP() << "EDGESKIN_ORT_PATH names no folder with libonnxruntime.so";
        ask_.library_path = path;
        ask_.threads = 2;
        ask_.precision_hint = "f32";
        ASSERT_EQ(engine_->unsupported(ask_), "");
        for (const char *mode : {"pair", "dermoscopic"})
            files_[std::string("model/") + mode + ".onnx"] = read(kBundle / "model" / (std::string(mode) + ".onnx"));
        case_ = golden(kBundle / "golden" / "pair-0.npz");
    }

    std::unique_ptr<es::Session> open(const es::Golden &entry) {
        return engine_->open(files_, entry.images == 2 ? "model/pair.onnx" : "model/dermoscopic.onnx", shape_of(entry),
                             ask_);
    }

    static std::vector<float> run(es::Session &session, const es::Golden &entry,
                                  Clock::time_point deadline = Clock::time_point::max()) {
        std::vector<float> logits(entry.logits.size(), -1.0f);
        session.infer(entry.frames.data(), logits.data(), deadline);
        return logits;
    }

    es::Backend *engine_ = es::backend("onnxruntime");
    es::Ask ask_;
    Files files_;
    es::Golden case_;
};

TEST_F(OnnxRuntimeLibrary, tells_its_version) {
    const std::string version = engine_->version();
    EXPECT_EQ(version.rfind("onnxruntime 1.", 0), 0u) << version;
    EXPECT_STREQ(engine_->name(), "onnxruntime");
}

TEST_F(OnnxRuntimeLibrary, gives_the_logits_of_the_golden_cases) {
    for (const char *name : {"pair-0", "pair-1", "dermoscopic-0", "dermoscopic-1"}) {
        const es::Golden entry = golden(kBundle / "golden" / (std::string(name) + ".npz"));
        const auto session = open(entry);
        const std::vector<float> found = run(*session, entry);
        for (std::size_t at = 0; at < found.size(); ++at)
            EXPECT_NEAR(found[at], entry.logits[at], kTolerance) << name << " logit " << at;
        EXPECT_TRUE(same(found, run(*session, entry))) << name << " run twice";
    }
}

TEST_F(OnnxRuntimeLibrary, gives_the_logits_of_python_bit_for_bit) {
    const char *folder = std::getenv("EDGESKIN_ORT_LOGITS");
    if (!folder) GTEST_SKIP() << "EDGESKIN_ORT_LOGITS names no folder";
    int cases = 0;
    std::unique_ptr<es::Session> sessions[2];  // kept: a session is to forget what it ran before
    for (const fs::directory_entry &file : fs::directory_iterator(folder)) {
        if (file.path().extension() != ".npz") continue;
        const es::Golden entry = golden(file.path());
        const fs::path own = fs::path(file.path()).replace_extension(".onnx");
        std::unique_ptr<es::Session> made;
        if (fs::exists(own)) {
            files_["own.onnx"] = read(own);
            made = engine_->open(files_, "own.onnx", shape_of(entry), ask_);
        }
        auto &session = made ? made : sessions[entry.images - 1];
        if (!session) session = open(entry);
        EXPECT_TRUE(same(run(*session, entry), entry.logits)) << file.path().filename();
        ++cases;
    }
    EXPECT_GE(cases, 4);
}

TEST_F(OnnxRuntimeLibrary, refuses_a_graph_of_another_shape) {
    const es::Shape right = shape_of(case_);
    for (const es::Shape &wrong : {es::Shape{1, right.height, right.width, 2, right.logits},
                                   es::Shape{2, right.height + 1, right.width, 2, right.logits},
                                   es::Shape{2, right.height, right.width - 1, 2, right.logits},
                                   es::Shape{2, right.height, right.width, 3, right.logits},
                                   es::Shape{2, right.height, right.width, 2, right.logits + 1}}) {
        const std::string line = fault_of(ES_TAMPERED, [&] { engine_->open(files_, "model/pair.onnx", wrong, ask_); });
        expect_one_line(line);
        EXPECT_NE(line.find("model/pair.onnx does not fit its manifest"), std::string::npos) << line;
        EXPECT_NE(line.find("possible: "), std::string::npos) << line;
    }
    fault_of(ES_TAMPERED, [&] { engine_->open(files_, "model/other.onnx", right, ask_); });
    ask_.precision_hint = "bf16";
    expect_one_line(fault_of(ES_ENGINE, [&] { open(case_); }));
}

TEST_F(OnnxRuntimeLibrary, refuses_what_is_no_model_in_one_line_and_in_silence) {
    const es::Bytes whole = files_.at("model/pair.onnx");
    std::mt19937 random(1);
    es::Bytes noise(5000);
    for (auto &byte : noise) byte = static_cast<std::uint8_t>(random());
    es::Bytes text(100, 'x');
    testing::internal::CaptureStderr();
    testing::internal::CaptureStdout();
    std::vector<std::string> lines;
    for (const es::Bytes &bytes : {es::Bytes{}, noise, text, es::Bytes(whole.begin(), whole.begin() + 4000)}) {
        files_["model/pair.onnx"] = bytes;
        lines.push_back(fault_of(ES_ENGINE, [&] { open(case_); }));
    }
    files_["model/pair.onnx"] = whole;
    run(*open(case_), case_);
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
    EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
    for (const std::string &line : lines) {
        expect_one_line(line);
        EXPECT_EQ(line.rfind("ONNX Runtime cannot load model/pair.onnx: got '", 0), 0u) << line;
        EXPECT_NE(line.find("fix: "), std::string::npos) << line;
    }
}

TEST_F(OnnxRuntimeLibrary, keeps_a_deadline_and_goes_on) {
    const auto session = open(case_);
    const std::vector<float> wanted = run(*session, case_);
    fault_of(ES_DEADLINE, [&] { run(*session, case_, Clock::now()); });
    EXPECT_TRUE(same(run(*session, case_), wanted));
    EXPECT_TRUE(same(run(*session, case_, Clock::now() + std::chrono::minutes(10)), wanted));
    std::mt19937 random(2);
    int late = 0;
    for (int turn = 0; turn < 400; ++turn) {  // around the time that a run takes: either all of it or a deadline
        const auto deadline = Clock::now() + std::chrono::microseconds(random() % 1500);
        try {
            EXPECT_TRUE(same(run(*session, case_, deadline), wanted));
        } catch (const es::Fault &fault) {
            ASSERT_EQ(fault.status(), ES_DEADLINE) << fault.what();
            ++late;
        }
    }
    EXPECT_GT(late, 0);
    EXPECT_TRUE(same(run(*session, case_), wanted));
}

TEST_F(OnnxRuntimeLibrary, ends_a_long_run_at_its_deadline) {
    const char *path = std::getenv("EDGESKIN_ORT_SLOW");
    if (!path) GTEST_SKIP() << "EDGESKIN_ORT_SLOW names no graph";
    files_["slow.onnx"] = read(path);
    const auto session = engine_->open(files_, "slow.onnx", {1, 32, 32, 1, 4}, ask_);
    const std::vector<std::uint8_t> frames(32 * 32 * 3, 7);
    std::vector<float> whole(4), again(4);
    auto start = Clock::now();
    session->infer(frames.data(), whole.data(), Clock::time_point::max());
    const auto full = Clock::now() - start;
    start = Clock::now();
    fault_of(ES_DEADLINE, [&] { session->infer(frames.data(), again.data(), start + full / 10); });
    EXPECT_LT(Clock::now() - start, full);  // it ended on the way
    session->infer(frames.data(), again.data(), Clock::now() + 100 * full);
    EXPECT_TRUE(same(again, whole));
}

TEST_F(OnnxRuntimeLibrary, serves_two_threads_with_a_session_each) {
    const es::Golden single = golden(kBundle / "golden" / "dermoscopic-0.npz");
    const std::vector<float> pair_wanted = run(*open(case_), case_), single_wanted = run(*open(single), single);
    std::atomic<int> wrong{0};
    const auto serve = [&](const es::Golden &entry, const std::vector<float> &wanted, bool timed) {
        es::Ask ask = ask_;
        const auto session = engine_->open(files_, entry.images == 2 ? "model/pair.onnx" : "model/dermoscopic.onnx",
                                           shape_of(entry), ask);
        for (int turn = 0; turn < 200; ++turn) {
            const auto deadline = timed ? Clock::now() + std::chrono::minutes(10) : Clock::time_point::max();
            if (!same(run(*session, entry, deadline), wanted)) ++wrong;
        }
    };
    std::thread other(serve, std::cref(single), std::cref(single_wanted), true);
    serve(case_, pair_wanted, false);
    other.join();
    EXPECT_EQ(wrong, 0);
}

TEST(OnnxRuntime, says_why_there_is_no_library) {
    es::Backend *engine = es::backend("onnxruntime");
    ASSERT_NE(engine, nullptr);
    const fs::path folder = fs::path(testing::TempDir()) / "edgeskin-ort-none";
    fs::remove_all(folder);
    fs::create_directories(folder);
    const auto reason = [&] {
        es::Ask ask;
        ask.library_path = folder.string();
        const std::string line = engine->unsupported(ask);
        expect_one_line(line);
        EXPECT_NE(line.find("fix: pass as backend_path"), std::string::npos) << line;
        fault_of(ES_ENGINE, [&] { engine->open({}, "model.onnx", {1, 8, 8, 1, 2}, ask); });
        return line;
    };
    EXPECT_NE(reason().find("no libonnxruntime.so there"), std::string::npos);

    std::ofstream(folder / "libonnxruntime.so.1.99.0") << "no library\n";
    EXPECT_NE(reason().find("1.99.0"), std::string::npos);  // found under the name of its version, and refused

    void *math = dlopen("libm.so.6", RTLD_NOW);
    char origin[4096];
    ASSERT_TRUE(math && dlinfo(math, RTLD_DI_ORIGIN, origin) == 0);
    fs::create_symlink(fs::path(origin) / "libm.so.6", folder / "libonnxruntime.so.1.100.0");
    fs::remove(folder / "libonnxruntime.so.1.99.0");
    EXPECT_NE(reason().find("has no OrtGetApiBase"), std::string::npos);
    fs::remove_all(folder);
    EXPECT_NE(reason().find("no libonnxruntime.so there"), std::string::npos);
}

}  // namespace
#endif
