// The logic of the TensorRT backend (ports, deadlines, graph or no graph, memory, errors) against the stand-ins beside
// this file, whose folder is the first argument. It shows nothing about TensorRT itself.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <numeric>
#include <thread>

#include "backend.h"
#include "fault.h"
#include "tensorrt.h"

namespace {

using es::Clock;

std::string folder;
const es::Shape kShape{2, 4, 5, 2, 3};

template <typename Function>
Function *stand_in(const char *name) {
    void *library = dlopen((folder + "/" LIBCUDART).c_str(), RTLD_NOW | RTLD_NOLOAD);
    return reinterpret_cast<Function *>(dlsym(library, name));
}

int alive() { return stand_in<int()>("stand_in_alive")(); }
int launched() { return stand_in<int()>("stand_in_graphs_launched")(); }

// The first test of all: afterwards the library is there for good.
TEST(Absent, says_what_is_missing_step_by_step) {
    es::Backend *engine = es::backend("tensorrt");
    const auto why = [&](const std::string &path) {
        es::Ask ask;
        ask.library_path = path;
        return engine->unsupported(ask);
    };
    EXPECT_EQ(es::refuse_foreign({"x86_64", "8.7", VERSION}),
              "this TensorRT engine does not run here: got TensorRT is not loaded");
    namespace fs = std::filesystem;
    const fs::path half = fs::path(folder) / "half";
    fs::create_directories(half);
    fs::remove(half / LIBCUDART);
    fs::create_symlink(fs::path(folder) / LIBCUDART, half / LIBCUDART);
    const std::string no_library = why(half.string());
    EXPECT_EQ(no_library.rfind("TensorRT's library was not found: got '", 0), 0u) << no_library;
    const auto machine = stand_in<void(int, int)>("stand_in_machine");
    machine(0, 0);
    EXPECT_EQ(why(folder).rfind("no NVIDIA driver on this machine; fix: ", 0), 0u) << why(folder);
    machine(11080, 0);
    EXPECT_EQ(why(folder).rfind("the driver is too old for CUDA", 0), 0u) << why(folder);
    machine(12060, 0);
    EXPECT_EQ(why(folder).rfind("the NVIDIA driver sees no GPU; fix: ", 0), 0u) << why(folder);
    machine(12060, 1);
}

struct TensorRt : testing::Test {
    std::unique_ptr<es::Session> open(const std::string &plan, const es::Shape &shape = kShape) {
        files_["pair.plan"] = es::Bytes(plan.begin(), plan.end());
        return engine_->open(files_, "pair.plan", shape, ask_);
    }
    void SetUp() override {
        ask_.library_path = folder;
        ASSERT_EQ(engine_->unsupported(ask_), "");
    }
    void TearDown() override { EXPECT_EQ(alive(), 0); }  // every test gives back what it took

    static std::vector<float> run(es::Session &session, std::uint8_t first,
                                  Clock::time_point deadline = Clock::time_point::max()) {
        std::vector<std::uint8_t> frames(120);
        std::iota(frames.begin(), frames.end(), first);
        std::vector<float> logits(6, -1);
        session.infer(frames.data(), logits.data(), deadline);
        return logits;
    }
    static std::vector<float> wanted(std::uint8_t first) {
        float one = 0, two = 0;
        for (int at = 0; at < 60; ++at)
            one += static_cast<float>(first + at), two += static_cast<float>(first + 60 + at);
        return {one, one + 1, one + 2, two, two + 1, two + 2};
    }
    template <typename Work>
    static std::string fault_of(es_status status, Work work) {
        try {
            work();
        } catch (const es::Fault &fault) {
            EXPECT_EQ(fault.status(), status) << fault.what();
            EXPECT_EQ(std::strchr(fault.what(), '\n'), nullptr);
            return fault.what();
        }
        ADD_FAILURE() << "nothing was thrown";
        return "";
    }

    es::Backend *engine_ = es::backend("tensorrt");
    es::Ask ask_;
    std::map<std::string, es::Bytes> files_;
};

TEST_F(TensorRt, runs_a_captured_graph) {
    const int before = launched();
    const auto session = open("2 4 5 3 0");
    for (const std::uint8_t first : {0, 7, 90}) EXPECT_EQ(run(*session, first), wanted(first));
    EXPECT_EQ(launched(), before + 3);
    EXPECT_EQ(engine_->version(), "tensorrt " VERSION);
}

TEST_F(TensorRt, queues_layer_by_layer_where_nothing_can_be_captured) {
    const int before = launched();
    const auto session = open("2 4 5 3 0 nograph");
    for (const std::uint8_t first : {3, 4}) EXPECT_EQ(run(*session, first), wanted(first));
    EXPECT_EQ(launched(), before);
}

TEST_F(TensorRt, keeps_a_deadline_and_never_mixes_two_runs) {
    const auto session = open("2 4 5 3 60");
    EXPECT_EQ(run(*session, 1, Clock::now() + std::chrono::minutes(1)), wanted(1));
    fault_of(ES_DEADLINE, [&] { run(*session, 2, Clock::now()); });
    fault_of(ES_DEADLINE, [&] { run(*session, 2, Clock::now() + std::chrono::milliseconds(5)); });
    const std::string busy =
        fault_of(ES_DEADLINE, [&] { run(*session, 3, Clock::now() + std::chrono::milliseconds(5)); });
    EXPECT_NE(busy.find("an earlier deadline"), std::string::npos) << busy;
    EXPECT_EQ(run(*session, 4), wanted(4));  // waits for the late one first
    fault_of(ES_DEADLINE, [&] { run(*session, 5, Clock::now() + std::chrono::milliseconds(5)); });
}  // and is closed while it runs

TEST_F(TensorRt, refuses_what_is_no_engine_of_this_bundle) {
    std::string line = fault_of(ES_ENGINE, [&] { open("garbage"); });
    EXPECT_EQ(line.rfind("TensorRT refuses the engine pair.plan: got 'magicTag does not match  at some.cpp:12'", 0), 0u)
        << line;
    EXPECT_NE(line.find("fix: build the kit again"), std::string::npos) << line;
    for (const es::Shape &wrong :
         {es::Shape{1, 4, 5, 1, 3}, es::Shape{2, 5, 5, 2, 3}, es::Shape{2, 4, 4, 2, 3}, es::Shape{2, 4, 5, 2, 4},
          es::Shape{2, 4, 5, 3, 3}})
        fault_of(ES_TAMPERED, [&] { open("2 4 5 3 0", wrong); });
    line = fault_of(ES_TAMPERED, [&] { open("2 4 5 3 0 badshape"); });
    EXPECT_NE(line.find("input frames uint8 [-1, 4, 5, 3]"), std::string::npos) << line;
    files_.clear();
    fault_of(ES_TAMPERED, [&] { engine_->open(files_, "pair.plan", kShape, ask_); });
}

TEST_F(TensorRt, tells_a_failed_run_in_one_line) {
    const auto session = open("2 4 5 3 0 nofull nograph");  // warm-up, capture, one run, then it fails
    EXPECT_EQ(run(*session, 8), wanted(8));
    const std::string line = fault_of(ES_ENGINE, [&] { run(*session, 9); });
    EXPECT_NE(line.find("the second line is not to be seen"), std::string::npos) << line;
}

TEST_F(TensorRt, serves_two_threads_with_a_session_each) {
    int wrong[2] = {0, 0};
    const auto serve = [&](int number) {
        const std::string plan = number ? "2 4 5 3 0" : "2 4 5 3 0 nograph";
        const std::map<std::string, es::Bytes> files{{"x.plan", es::Bytes(plan.begin(), plan.end())}};
        const auto session = engine_->open(files, "x.plan", kShape, ask_);
        for (int turn = 0; turn < 200; ++turn) {
            const auto deadline = turn % 2 ? Clock::now() + std::chrono::minutes(1) : Clock::time_point::max();
            const auto first = static_cast<std::uint8_t>(turn % 100);
            if (run(*session, first, deadline) != wanted(first)) ++wrong[number];
        }
    };
    std::thread other(serve, 1);
    serve(0);
    other.join();
    EXPECT_EQ(wrong[0] + wrong[1], 0);
}

TEST_F(TensorRt, refuses_an_engine_of_another_machine) {
#ifdef __x86_64__
    const std::string arch = "x86_64", foreign = "aarch64";
#else
    const std::string arch = "aarch64", foreign = "x86_64";
#endif
    EXPECT_EQ(es::refuse_foreign({arch, "8.7", VERSION}), "");
    EXPECT_EQ(es::refuse_foreign({arch, "8.7", VERSION ".30"}), "");
    const std::string fix = "; fix: build the kit again on this machine with `edgeskin build KIT`";
    EXPECT_EQ(es::refuse_foreign({foreign, "8.7", VERSION}),
              "the engine is for another architecture: got " + arch + " here; possible: " + foreign + fix);
    EXPECT_EQ(es::refuse_foreign({arch, "11.0", VERSION}),
              "the engine is for another GPU architecture: got SM 8.7 here; possible: SM 11.0" + fix);
    EXPECT_EQ(es::refuse_foreign({arch, "8.7", "10.9.1"}),
              "the engine is of another TensorRT: got " VERSION " here; possible: 10.9.1" + fix);
}

TEST(Versions, agree_in_every_number_that_both_have) {
    EXPECT_TRUE(es::same_version("10.3.0", "10.3.0.30"));
    EXPECT_TRUE(es::same_version("11.4", "11.4.1"));
    EXPECT_FALSE(es::same_version("10.3.0", "10.16.2"));
    EXPECT_FALSE(es::same_version("10.3.0", "10.3.1"));
    EXPECT_FALSE(es::same_version("10", "10.3"));
    EXPECT_FALSE(es::same_version("", ""));
}

}  // namespace

int main(int argc, char **argv) {
    testing::InitGoogleTest(&argc, argv);
    if (argc != 2) return 2;
    folder = argv[1];
    return RUN_ALL_TESTS();
}
