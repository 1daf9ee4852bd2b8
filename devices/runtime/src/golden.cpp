// The power-on self-test: golden cases through the real engine. It finds an engine that gives wrong numbers without an
// error, as INT8 on a processor that it mistakes for another does.
#include <cmath>
#include <cstring>

#include "decide.h"
#include "fault.h"
#include "model.h"

namespace es {

bool Model::same_answers(Mode mode, const float *found, const float *expected) {
    const Manifest &manifest = trusted_.manifest;
    decide(manifest, mode, found, answers_[0]);
    decide(manifest, mode, expected, answers_[1]);
    return answers_[0].refer == answers_[1].refer &&
           std::memcmp(answers_[0].predicted, answers_[1].predicted, manifest.tasks.size() * sizeof(std::int32_t)) == 0;
}

void Model::selftest(es_selftest_report &report) {
    const auto start = Clock::now();
    const auto limit = start + std::chrono::milliseconds(options_.selftest_limit_ms);
    std::string fault;
    for (const auto &[entry, golden] : golden_) {
        if (!sessions_[entry->mode]) continue;
        double error = 0;
        bool same = false;
        try {
            std::memcpy(input(entry->mode), golden.frames.data(), golden.frames.size());
            infer(entry->mode, logits_.data(), limit);
            for (std::size_t i = 0; i < golden.logits.size(); ++i) {
                const double difference =
                    std::abs(static_cast<double>(logits_[i]) - static_cast<double>(golden.logits[i]));
                error = difference <= error ? error : difference;  // NaN stays, and fails below
            }
            same = same_answers(entry->mode, logits_.data(), golden.logits.data());
        } catch (const Fault &failed) {
            if (fault.empty()) fault = entry->name + ": " + failed.what();
            report.max_abs_error = HUGE_VAL;
            ++report.cases, ++report.failed;
            if (failed.status() == ES_DEADLINE) break;
            continue;
        }
        ++report.cases;
        report.max_abs_error = error <= report.max_abs_error ? report.max_abs_error : error;
        if (!(error <= entry->tolerance) || !same) {
            ++report.failed;
            if (fault.empty())
                fault = entry->name + ": logits differ by " + std::to_string(error) + ", tolerance " +
                        std::to_string(entry->tolerance) + (same ? "" : ", and another decision");
        }
    }
    const auto spent = Clock::now() - start;
    report.elapsed_us = static_cast<std::int32_t>(std::chrono::duration_cast<std::chrono::microseconds>(spent).count());
    if (fault.empty() && report.cases == 0) fault = "the bundle has no golden case for the graphs that were loaded";
    if (fault.empty() && Clock::now() > limit)
        fault = "took longer than its limit of " + std::to_string(options_.selftest_limit_ms) + " ms";
    if (fault.empty() && state_ != State::failed) {
        state_ = State::ready;
        options_.say(ES_LOG_INFO, "self-test passed: " + std::to_string(report.cases) +
                                      " golden cases, largest error " + std::to_string(report.max_abs_error));
        return;
    }
    state_ = State::failed;
    if (fault.empty()) fault = "an earlier self-test had failed";
    throw Fault(ES_SELFTEST_FAILED, "the self-test failed, so this model answers no more; got: " + fault +
                                        "; fix: use another engine version or export the bundle for this device");
}

}  // namespace es
