// An opened bundle: verified, loaded, tested, ready to classify. What stands behind the handle of the C interface.
#pragma once

#include <edgeskin.h>

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "backend.h"
#include "npz.h"
#include "prepare.h"
#include "quality.h"
#include "trust.h"

namespace es {

// Tells whether this thread is inside an engine, whose own allocations are not ours to count.
extern thread_local bool in_engine;

struct Options {
    Ask ask;
    std::string backend;
    int modes = 0;  // as es_options.modes
    int deadline_ms = 0, selftest_limit_ms = 60'000, max_width = 8192;
    bool require_signature = false, fallback = true, keyed = false;
    PublicKey key{};
    es_log log = nullptr;
    void *log_context = nullptr;

    void say(es_log_level level, const std::string &line) const {
        if (log) log(log_context, level, line.c_str());
    }
};

enum class State { untested, ready, failed };

class Model {
  public:
    // Throws Fault; see es_open.
    Model(const std::string &path, const Options &options);

    // The functions below are called by one thread at a time: the handle sees to it.
    void selftest(es_selftest_report &report);
    void classify(const es_image *clinical, const es_image &dermoscopic, es_result &result);

    void describe(es_model_info &info) const;

  private:
    struct Choice {
        std::string target;
        bool reference;
    };

    std::vector<Choice> choices() const;
    std::string load(const Choice &choice);  // "" or why not
    std::string too_old(const std::string &target, const std::string &version) const;
    // Where the graph of a mode reads: the dermoscopic frame, alone or as the second of a pair, is always the last.
    std::uint8_t *input(Mode mode) { return frames_.data() + (mode == kPair ? 0 : frames_.size() / 2); }
    void infer(Mode mode, float *logits, Clock::time_point deadline);
    bool wanted(Mode mode) const;
    bool same_answers(Mode mode, const float *found, const float *expected);

    Options options_;
    Trusted trusted_;
    std::vector<std::pair<const GoldenCase *, Golden>> golden_;
    std::array<std::unique_ptr<Session>, 2> sessions_;  // by Mode; after trusted_, whose bytes they use
    std::unique_ptr<Preparer> preparer_;
    std::vector<std::uint8_t> frames_;  // two frames, the clinical one first
    std::array<float, 3 * ES_MAX_LOGITS> logits_{};
    std::array<es_result, 2> answers_{};
    std::atomic<State> state_{State::untested};
    std::string engine_, precision_, fell_back_;
    int verify_us_ = 0, load_us_ = 0;
};

}  // namespace es
