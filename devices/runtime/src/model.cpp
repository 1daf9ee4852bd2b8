// Opening a bundle and classifying with it.
#include "model.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "decide.h"
#include "fault.h"
#include "machine.h"
#include "tensorrt.h"

namespace es {

thread_local bool in_engine = false;

namespace {

std::int32_t microseconds(Clock::duration spent) {
    const auto count = std::chrono::duration_cast<std::chrono::microseconds>(spent).count();
    return static_cast<std::int32_t>(count < INT32_MAX ? count : INT32_MAX);
}

// What must stay in memory for the engines and the self-test.
std::vector<std::string> kept(const Manifest &manifest) {
    std::vector<std::string> names;
    bool reference = false;
    for (const Fallback &other : manifest.fallback) reference = reference || other.reference;
    for (const auto *graphs : {&manifest.graphs, &manifest.reference}) {
        if (graphs == &manifest.reference && !reference) continue;
        for (const Graph &graph : *graphs)
            for (const std::string &name : graph_files(graph.file)) names.push_back(name);
    }
    for (const GoldenCase &entry : manifest.golden) names.push_back(entry.file);
    return names;
}

// "2026.4.1" -> 2026, 4; what cannot be read counts as 0.
std::pair<int, int> major_minor(const std::string &version) {
    int major = 0, minor = 0;
    std::sscanf(version.c_str(), "%d.%d", &major, &minor);
    return {major, minor};
}

}  // namespace

Model::Model(const std::string &path, const Options &options) : options_(options) {
    const auto start = Clock::now();
    trusted_ = open_trusted(path, options.keyed ? &options.key : nullptr, options.require_signature, kept);
    const Manifest &manifest = trusted_.manifest;
    for (const GoldenCase &entry : manifest.golden) {
        const Bytes &bytes = trusted_.files.at(entry.file);
        Golden golden = read_golden(bytes.data(), bytes.size());
        if (golden.images != entry.mode + 1 || golden.height != manifest.geometry.height ||
            golden.width != manifest.geometry.width || golden.logit_count != static_cast<int>(manifest.logits) ||
            golden.rows != static_cast<int>(manifest.rows(entry.mode)))
            throw Fault(ES_TAMPERED, "a golden case does not fit the manifest; got: " + entry.file +
                                         "; fix: export the bundle again");
        golden_.emplace_back(&entry, std::move(golden));
    }
    for (const GoldenCase &entry : manifest.golden) trusted_.files.erase(entry.file);
    const auto verified = Clock::now();
    verify_us_ = microseconds(verified - start);
    options_.say(ES_LOG_INFO, "verified " + manifest.name + ", manifest " + trusted_.sha256.substr(0, 12) +
                                  (trusted_.signed_by.empty() ? ", no signature asked for" : ", signature right"));
    std::string said;
    es_status status = ES_BACKEND;
    for (const Choice &choice : choices()) {
        std::string why;
        try {
            why = load(choice);
        } catch (const Fault &fault) {
            why = fault.what();
            if (fault.status() == ES_INCOMPATIBLE) status = ES_INCOMPATIBLE;
        }
        if (why.empty()) {
            fell_back_ = said;
            break;
        }
        sessions_ = {};
        why = why.substr(0, why.find("; fix: "));  // the cure of the whole is told below
        said += (said.empty() ? "" : "; ") + choice.target + (choice.reference ? " (FP32 reference): " : ": ") + why;
        options_.say(ES_LOG_WARNING, choice.target + " is not used: " + why);
    }
    if (engine_.empty())
        throw Fault(status,
                    "no engine that bundle " + manifest.name + " may use works here; got: " + said +
                        "; fix: install the engine, pass its folder as backend_path, or export for this device");
    if (!fell_back_.empty()) options_.say(ES_LOG_WARNING, "fell back to " + engine_ + ", " + precision_);
    preparer_ = std::make_unique<Preparer>(manifest.geometry, options.max_width);
    frames_.resize(2u * 3u * static_cast<std::size_t>(manifest.geometry.width) *
                   static_cast<std::size_t>(manifest.geometry.height));
    load_us_ = microseconds(Clock::now() - verified);
    options_.say(ES_LOG_INFO, "loaded by " + engine_);
}

std::vector<Model::Choice> Model::choices() const {
    const Manifest &manifest = trusted_.manifest;
    std::vector<Choice> order{{manifest.target, false}};
    if (options_.fallback)
        for (const Fallback &other : manifest.fallback) order.push_back({other.target, other.reference});
    if (options_.backend.empty()) return order;
    std::vector<Choice> asked;
    for (const Choice &choice : order)
        if (choice.target == options_.backend) asked.push_back(choice);
    if (asked.empty())
        throw Fault(ES_BACKEND, "the bundle is not for this engine; got: " + options_.backend + "; possible: " +
                                    order.front().target + "; fix: export it with --target " + options_.backend);
    return asked;
}

bool Model::wanted(Mode mode) const { return options_.modes == 0 || (options_.modes == 2) == (mode == kPair); }

std::string Model::load(const Choice &choice) {
    const Manifest &manifest = trusted_.manifest;
    Backend *engine = backend(choice.target);
    if (!engine) return "this library was built without it";
    if (choice.reference && trusted_.lean) return "the bundle was packed without its FP32 reference";
    if (std::string why = engine->unsupported(options_.ask); !why.empty()) return why;
    if (std::string why = too_old(choice.target, engine->version()); !why.empty()) throw Fault(ES_INCOMPATIBLE, why);
#ifdef EDGESKIN_WITH_TENSORRT
    if (choice.target == "tensorrt" && manifest.bound)
        if (std::string why = refuse_foreign(manifest.compatibility); !why.empty()) throw Fault(ES_INCOMPATIBLE, why);
#endif
    Ask ask = options_.ask;
    ask.precision_hint = manifest.inference_precision == "auto" ? "f32" : manifest.inference_precision;
    const int cores = usable_cores();
    const bool own = choice.target == manifest.target && !choice.reference;  // else nothing was measured for it
    for (const Tuning &tuned : manifest.tuning) {
        if (!own || tuned.cores != cores || tuned.processor != processor()) continue;
        if (ask.threads == 0) ask.threads = tuned.threads;
        if (manifest.inference_precision == "auto") ask.precision_hint = tuned.precision_hint;
    }
    if (ask.threads == 0) ask.threads = cores;
    if (choice.reference) ask.precision_hint = "f32";
    const auto &graphs = choice.reference ? manifest.reference : manifest.graphs;
    for (const Mode mode : {kDermoscopic, kPair}) {
        if (!wanted(mode)) continue;
        const Shape shape{mode + 1, manifest.geometry.height, manifest.geometry.width,
                          static_cast<int>(manifest.rows(mode)), static_cast<int>(manifest.logits)};
        sessions_[mode] = engine->open(trusted_.files, graphs[mode].file, shape, ask);
    }
    engine_ = engine->version();
    precision_ = graphs[kPair].precision;
    options_.ask.threads = ask.threads;
    return "";
}

// An engine older than the one that the bundle was exported with has not been seen to run it.
std::string Model::too_old(const std::string &target, const std::string &version) const {
    const auto made = trusted_.manifest.built_with.find(target);
    if (target != trusted_.manifest.target || made == trusted_.manifest.built_with.end()) return "";
    const std::string here = version.substr(version.find(' ') + 1);
    if (!(major_minor(here) < major_minor(made->second))) return "";
    return "the bundle was made with a newer " + target + "; got: " + here + "; possible: " + made->second +
           " or newer; fix: update it here, or export the bundle with " + here;
}

void Model::infer(Mode mode, float *logits, Clock::time_point deadline) {
    struct Inside {
        Inside() { in_engine = true; }
        ~Inside() { in_engine = false; }
    } inside;
    sessions_[mode]->infer(input(mode), logits, deadline);
}

void Model::classify(const es_image *clinical, const es_image &dermoscopic, es_result &result) {
    const auto start = Clock::now();
    const auto deadline =
        options_.deadline_ms ? start + std::chrono::milliseconds(options_.deadline_ms) : Clock::time_point::max();
    const Mode mode = clinical ? kPair : kDermoscopic;
    if (state_ == State::failed)
        throw Fault(ES_SELFTEST_FAILED,
                    "the self-test of this model had failed; fix: close it and open another bundle");
    if (state_ != State::ready) throw Fault(ES_UNTESTED, "this model has not been tested; fix: call es_selftest first");
    if (!sessions_[mode])
        throw Fault(ES_ARGUMENT,
                    clinical ? "the graph of pairs was not loaded; fix: es_options.modes = 0"
                             : "the graph of dermoscopic images alone was not loaded; fix: es_options.modes = 0");
    if (clinical) check_image(*clinical, options_.max_width);
    check_image(dermoscopic, options_.max_width);
    const Manifest &manifest = trusted_.manifest;
    std::uint8_t *first = input(kPair), *second = input(kDermoscopic);
    if (clinical) preparer_->run(*clinical, first);
    preparer_->run(dermoscopic, second);
    const auto prepared = Clock::now();
    const bool assessable = judge(clinical ? first : nullptr, second, manifest.geometry.width, manifest.geometry.height,
                                  manifest.quality, result.quality);
    const auto judged = Clock::now();
    auto inferred = judged;
    if (assessable) {
        infer(mode, logits_.data(), deadline);
        inferred = Clock::now();
        const std::size_t count = manifest.logits * manifest.rows(mode), seen = manifest.logits * (mode + 1u);
        for (std::size_t i = 0; i < count; ++i)
            if (!std::isfinite(logits_[i]))
                throw Fault(ES_ENGINE, "the engine gave logits that are not finite; fix: run es_selftest again");
        std::copy_n(logits_.data(), seen, result.logits);
        std::copy_n(logits_.data() + seen, count - seen, result.fused_logits);
        decide(manifest, mode, logits_.data(), result);
    }
    result.assessable = assessable;
    result.images = mode + 1;
    const auto end = Clock::now();
    if (end > deadline)
        throw Fault(ES_DEADLINE, "the call ran past its deadline; fix: raise deadline_ms or send smaller images");
    result.prepare_us = microseconds(prepared - start);
    result.quality_us = microseconds(judged - prepared);
    result.infer_us = microseconds(inferred - judged);
    result.decide_us = microseconds(end - inferred);
    result.total_us = microseconds(end - start);
}

void Model::describe(es_model_info &info) const {
    const Manifest &manifest = trusted_.manifest;
    info.name = manifest.name.c_str();
    info.sha256 = trusted_.sha256.c_str();
    info.backend = engine_.c_str();
    info.fallback = fell_back_.c_str();
    info.signed_by = trusted_.signed_by.c_str();
    info.precision = precision_.c_str();
    info.target = manifest.target_title.c_str();
    info.width = manifest.geometry.width;
    info.height = manifest.geometry.height;
    info.threads = options_.ask.threads;
    info.phantom = manifest.phantom;
    info.task_count = static_cast<std::int32_t>(manifest.tasks.size());
    info.logit_count = static_cast<std::int32_t>(manifest.logits);
    std::int32_t at = 0;
    for (std::size_t t = 0; t < manifest.tasks.size(); ++t) {
        info.tasks[t] = manifest.tasks[t].name.c_str();
        info.first[t] = at;
        for (const std::string &name : manifest.tasks[t].classes) info.classes[at++] = name.c_str();
    }
    info.first[manifest.tasks.size()] = at;
    info.verify_us = verify_us_;
    info.load_us = load_us_;
}

}  // namespace es
