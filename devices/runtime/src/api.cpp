// The C boundary: checks what comes in, catches what would go out.
#include <edgeskin.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <new>

#include "backend.h"
#include "fault.h"
#include "model.h"

struct es_model {
    es::Model model;
    std::atomic<bool> busy{false};
    es_model(const std::string &path, const es::Options &options) : model(path, options) {}
};

namespace {

thread_local char last_error[1024];  // of fixed size: saying why must not fail for want of memory

es_status fail(es_status status, const char *line) {
    std::snprintf(last_error, sizeof last_error, "%s", line);
    for (char *at = last_error; *at; ++at)
        if (*at == '\n' || *at == '\r') *at = ' ';  // engines say several lines
    return status;
}

// Runs `call` so that nothing it throws passes.
template <typename Call>
es_status guarded(Call call) noexcept {
    try {
        call();
        return ES_OK;
    } catch (const es::Fault &fault) {
        return fail(fault.status(), fault.what());
    } catch (const std::bad_alloc &) {
        return fail(ES_MEMORY, "out of memory; fix: free memory, or load one graph alone (es_options.modes)");
    } catch (const std::exception &error) {
        return fail(ES_INTERNAL, error.what());
    } catch (...) {
        return fail(ES_INTERNAL, "an unknown exception");
    }
}

// Holds a model for one call.
class Turn {
  public:
    explicit Turn(es_model &model) : busy_(model.busy), mine_(!busy_.exchange(true, std::memory_order_acquire)) {}
    ~Turn() {
        if (mine_) busy_.store(false, std::memory_order_release);
    }
    Turn(const Turn &) = delete;
    Turn &operator=(const Turn &) = delete;
    bool mine() const { return mine_; }

  private:
    std::atomic<bool> &busy_;
    bool mine_;
};

es_status busy() { return fail(ES_BUSY, "another call on this model is running; fix: one model a thread"); }

template <typename Record>
bool foreign(const Record *record) {
    return record->size != sizeof(Record);
}

es_status wrong_size(const char *name, std::size_t got, std::size_t possible) {
    char line[200];
    std::snprintf(line, sizeof line, "a struct of another version; got: %s of %zu bytes; possible: %zu; fix: %s", name,
                  got, possible, "ES_INIT it, and compile against this library's edgeskin.h");
    return fail(ES_VERSION, line);
}

void require(bool right, const char *line) {
    if (!right) throw es::Fault(ES_ARGUMENT, line);
}

#ifdef EDGESKIN_PUBLIC_KEY
es::PublicKey compiled_key() {
    es::PublicKey key{};
    const char digits[] = EDGESKIN_PUBLIC_KEY;
    for (std::size_t i = 0; i < key.size(); ++i) {
        unsigned value = 0;
        std::sscanf(digits + 2 * i, "%2x", &value);
        key[i] = static_cast<std::uint8_t>(value);
    }
    return key;
}
#endif

es::Options read(const es_options *given) {
    es::Options options;
#ifdef EDGESKIN_PUBLIC_KEY
    options.key = compiled_key();
    options.keyed = options.require_signature = true;
#endif
    if (!given) return options;
    require(given->modes >= 0 && given->modes <= 2, "modes out of range; possible: 0, 1, 2");
    require(given->threads >= 0 && given->threads <= 1024, "threads out of range; possible: 0 to 1024");
    require(given->deadline_ms >= 0 && given->selftest_limit_ms >= 0, "a negative time limit; possible: 0 or more ms");
    require(given->max_width >= 0 && given->max_width <= 16384, "max_width out of range; possible: 0 to 16384 pixels");
    if (given->backend_path) options.ask.library_path = given->backend_path;
    if (given->backend) options.backend = given->backend;
    options.ask.threads = given->threads;
    options.modes = given->modes;
    options.deadline_ms = given->deadline_ms;
    if (given->selftest_limit_ms) options.selftest_limit_ms = given->selftest_limit_ms;
    if (given->max_width) options.max_width = given->max_width;
    if (given->public_key) {
        std::memcpy(options.key.data(), given->public_key, options.key.size());
        options.keyed = options.require_signature = true;
    }
    if (given->require_signature) options.require_signature = true;
    options.fallback = !given->no_fallback;
    options.log = given->log;
    options.log_context = given->log_context;
    return options;
}

}  // namespace

uint32_t es_abi_version(void) { return ES_ABI_VERSION; }

size_t es_result_size(void) { return sizeof(es_result); }

const char *es_version(void) { return EDGESKIN_VERSION; }

es_status es_open(const char *path, const es_options *options, es_model **model) {
    if (!model) return fail(ES_ARGUMENT, "es_open: model is NULL");
    *model = nullptr;
    if (!path) return fail(ES_ARGUMENT, "es_open: path is NULL");
    if (options && foreign(options)) return wrong_size("es_options", options->size, sizeof *options);
    return guarded([&] { *model = new es_model(path, read(options)); });
}

es_status es_selftest(es_model *model, es_selftest_report *found) {
    if (!model) return fail(ES_ARGUMENT, "es_selftest: model is NULL");
    if (found && foreign(found)) return wrong_size("es_selftest_report", found->size, sizeof *found);
    Turn turn(*model);
    if (!turn.mine()) return busy();
    es_selftest_report report;
    ES_INIT(report);
    const es_status status = guarded([&] { model->model.selftest(report); });
    if (found) *found = report;
    return status;
}

es_status es_classify(es_model *model, const es_image *clinical, const es_image *dermoscopic, es_result *result) {
    if (!result) return fail(ES_ARGUMENT, "es_classify: result is NULL");
    // A result without a fused head's part is that of callers from before it; what they know lies in front.
    constexpr std::size_t kEarlier = offsetof(es_result, fused);
    const std::size_t size = result->size;
    if (size != sizeof *result && size != kEarlier) return wrong_size("es_result", size, sizeof *result);
    std::memset(result, 0, size);
    result->size = size;
    if (!model) return fail(ES_ARGUMENT, "es_classify: model is NULL");
    if (!dermoscopic)
        return fail(ES_ARGUMENT,
                    "a dermoscopic image is needed; possible: clinical and dermoscopic, or dermoscopic alone");
    for (const es_image *image : {clinical, dermoscopic})
        if (image && foreign(image)) return wrong_size("es_image", image->size, sizeof *image);
    Turn turn(*model);
    if (!turn.mine()) return busy();
    es_result found;
    ES_INIT(found);
    const es_status status = guarded([&] { model->model.classify(clinical, *dermoscopic, found); });
    if (status == ES_OK) {
        std::memcpy(result, &found, size);
        result->size = size;
    }
    return status;
}

es_status es_info(const es_model *model, es_model_info *info) {
    if (!model || !info) return fail(ES_ARGUMENT, "es_info: a pointer is NULL");
    if (foreign(info)) return wrong_size("es_model_info", info->size, sizeof *info);
    ES_INIT(*info);
    model->model.describe(*info);
    return ES_OK;
}

void es_close(es_model *model) { delete model; }

const char *es_strerror(es_status status) {
    switch (status) {
        case ES_OK:
            return "no error";
        case ES_ARGUMENT:
            return "an argument is NULL or out of its range";
        case ES_VERSION:
            return "the caller was compiled against another version of this library";
        case ES_NOT_FOUND:
            return "there is no bundle";
        case ES_IO:
            return "the system refused to read the bundle";
        case ES_MANIFEST:
            return "the bundle's manifest cannot be used";
        case ES_FORMAT:
            return "the bundle is of a format that this library does not open";
        case ES_TAMPERED:
            return "the bundle is damaged or was tampered with";
        case ES_UNSAFE:
            return "the bundle holds a link, a device or a path that leads out of it";
        case ES_SIGNATURE:
            return "the bundle's signature is missing or wrong";
        case ES_INCOMPATIBLE:
            return "the bundle was made for another system or engine version";
        case ES_BACKEND:
            return "no engine that the bundle may use works here";
        case ES_UNTESTED:
            return "the model has not passed its self-test yet";
        case ES_SELFTEST_FAILED:
            return "the model failed its self-test and answers no more";
        case ES_BUSY:
            return "another call on this model is running";
        case ES_IMAGE:
            return "the image cannot be read";
        case ES_DEADLINE:
            return "the call ran past its deadline";
        case ES_ENGINE:
            return "the engine failed";
        case ES_MEMORY:
            return "out of memory";
        case ES_INTERNAL:
            return "a fault of this library";
    }
    return "no status of this library";
}

const char *es_last_error(void) { return last_error; }

const char *es_quality_name(uint32_t bit) {
    switch (bit) {
        case ES_Q_EMPTY:
            return "empty";
        case ES_Q_DARK:
            return "dark";
        case ES_Q_BRIGHT:
            return "bright";
        case ES_Q_SATURATED:
            return "saturated";
        case ES_Q_BLURRED:
            return "blurred";
        case ES_Q_VIGNETTE:
            return "vignette";
        case ES_Q_IDENTICAL:
            return "identical";
        case ES_Q_SWAPPED:
            return "swapped";
        default:
            return nullptr;
    }
}

const char *es_supports(const char *name, const char *backend_path) {
    std::string why;
    const es_status status = guarded([&] {
        require(name, "es_supports: backend is NULL");
        es::Backend *engine = es::backend(name);
        if (!engine) {
            why = std::string(name) + ": this library was built without it";
            return;
        }
        es::Ask ask;
        if (backend_path) ask.library_path = backend_path;
        why = engine->unsupported(ask);
    });
    if (status != ES_OK) return last_error;
    if (why.empty()) return nullptr;
    fail(ES_BACKEND, why.c_str());
    return last_error;
}
