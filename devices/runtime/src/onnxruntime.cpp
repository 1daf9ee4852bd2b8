// ONNX Runtime on the CPU through its C API: one .onnx file, read from memory. The same options as
// edgeskin/backends/onnxruntime.py, so that both give the same logits.
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <system_error>
#include <thread>

#include <onnxruntime_c_api.h>

#include "backend.h"
#include "fault.h"
#include "text.h"
#include "watchdog.h"

namespace es {
namespace {

// The oldest library that is taken; edgeskin in Python asks for it too. Its structs are the beginning of younger ones.
constexpr std::uint32_t kFloor = 22;
static_assert(ORT_API_VERSION >= 21, "onnxruntime_c_api.h is older than 1.21");

constexpr const char *kFix = "pass as backend_path the folder that holds libonnxruntime.so of 1.22 or newer";

// One library that was opened. It stays for as long as the process.
struct Library {
    const OrtApi *api = nullptr;
    OrtEnv *env = nullptr;
    std::string version;
};

// What the engine said, as a part of one line.
std::string said(const OrtApi &api, const OrtStatus *status) {
    const std::string text = api.GetErrorMessage(status);
    const std::size_t from = std::min(text.find_first_not_of(" \t\r\n"), text.size());
    return shown(text.substr(from, text.find('\n', from) - from), 160);
}

// Throws ES_ENGINE where `status` is an error, and frees it.
void check(const OrtApi &api, OrtStatus *status, const std::string &what) {
    if (!status) return;
    const std::string got = said(api, status);
    api.ReleaseStatus(status);
    throw Fault(ES_ENGINE, told(what, got, "", "export the bundle again for this ONNX Runtime"));
}

// An object of the C API, given back at the end.
template <typename T>
using Owned = std::unique_ptr<T, void (*)(T *)>;

template <typename T>
void take(Owned<T> &owner, T *made) {
    owner.reset(made);
}

// Name, type and sizes of an input or output.
struct Port {
    std::string name;
    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    std::vector<std::int64_t> sizes;  // -1 where one is open

    bool operator==(const Port &other) const {
        return name == other.name && type == other.type && sizes == other.sizes;
    }

    std::string text() const {
        std::string line = name;
        line += type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8   ? " uint8 ["
                : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? " float32 ["
                                                              : " of type " + std::to_string(type) + " [";
        for (std::size_t at = 0; at < sizes.size(); ++at) line += (at ? ", " : "") + std::to_string(sizes[at]);
        return line + "]";
    }
};

class OnnxRuntimeSession : public Session {
  public:
    OnnxRuntimeSession(const Library &library, const Bytes &model, const std::string &file, const Shape &shape,
                       const Ask &ask)
        : api_(*library.api),
          session_(nullptr, api_.ReleaseSession),
          run_(nullptr, api_.ReleaseRunOptions),
          input_(nullptr, api_.ReleaseValue),
          output_(nullptr, api_.ReleaseValue),
          binding_(nullptr, api_.ReleaseIoBinding) {
        load(library.env, model, file, ask);
        const Port in{"frames", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, {shape.images, shape.height, shape.width, 3}};
        const Port out{"logits", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, {shape.rows, shape.logits}};
        expect(file, ports(true), in);
        expect(file, ports(false), out);
        frames_.resize(static_cast<std::size_t>(shape.images) * static_cast<std::size_t>(shape.height) *
                       static_cast<std::size_t>(shape.width) * 3u);
        logits_.resize(static_cast<std::size_t>(shape.rows) * static_cast<std::size_t>(shape.logits));
        OrtIoBinding *binding = nullptr;
        check(api_, api_.CreateIoBinding(session_.get(), &binding), "no binding of buffers");
        take(binding_, binding);
        tensor(in, frames_.data(), frames_.size(), input_);
        tensor(out, logits_.data(), logits_.size() * sizeof(float), output_);
        check(api_, api_.BindInput(binding, "frames", input_.get()), "the input was refused");
        check(api_, api_.BindOutput(binding, "logits", output_.get()), "the output was refused");
        OrtRunOptions *run = nullptr;
        check(api_, api_.CreateRunOptions(&run), "no options of a run");
        take(run_, run);
        check(api_, api_.RunOptionsSetRunLogSeverityLevel(run, ORT_LOGGING_LEVEL_FATAL), "no silence of a run");
        watchdog_ = std::make_unique<Watchdog>([this] { forget(api_.RunOptionsSetTerminate(run_.get())); },
                                               [this] { forget(api_.RunOptionsUnsetTerminate(run_.get())); });
    }

    void infer(const std::uint8_t *frames, float *logits, Clock::time_point deadline) override {
        const bool timed = deadline != Clock::time_point::max();
        if (timed) {
            if (Clock::now() >= deadline) throw Fault(ES_DEADLINE, "no time was left for inference");
            watchdog_->arm(deadline);
        }
        std::memcpy(frames_.data(), frames, frames_.size());
        OrtStatus *status = api_.RunWithBinding(session_.get(), run_.get(), binding_.get());
        if (timed && watchdog_->disarm()) {  // it looks between two nodes of the graph
            forget(status);
            throw Fault(ES_DEADLINE, "inference ran past its deadline");
        }
        check(api_, status, "inference failed");
        std::memcpy(logits, logits_.data(), logits_.size() * sizeof(float));
    }

  private:
    void forget(OrtStatus *status) const {
        if (status) api_.ReleaseStatus(status);
    }

    void load(const OrtEnv *env, const Bytes &model, const std::string &file, const Ask &ask) {
        OrtSessionOptions *made = nullptr;
        check(api_, api_.CreateSessionOptions(&made), "no options of a session");
        const Owned<OrtSessionOptions> options(made, api_.ReleaseSessionOptions);
        const unsigned cores = std::max(1u, std::thread::hardware_concurrency());  // those in reach, on Linux
        const int threads = ask.threads > 0 ? ask.threads : static_cast<int>(cores);
        const char *refused = "ONNX Runtime refuses an option";
        check(api_, api_.SetIntraOpNumThreads(made, threads), refused);
        check(api_, api_.SetInterOpNumThreads(made, 1), refused);
        check(api_, api_.SetSessionExecutionMode(made, ORT_SEQUENTIAL), refused);
        check(api_, api_.SetSessionLogSeverityLevel(made, ORT_LOGGING_LEVEL_FATAL), refused);
        // Threads spin within a run only: between two examinations they would eat a small board's other cores.
        check(api_, api_.AddSessionConfigEntry(made, "session.force_spinning_stop", "1"), refused);
        // It rounds weights that the file keeps in floating point where the neighbours are INT8.
        const char *unwanted = "optimization.disable_specified_optimizers";
        check(api_, api_.AddSessionConfigEntry(made, unwanted, "WeightBiasQuantization"), refused);
        OrtSession *session = nullptr;
        check(api_, api_.CreateSessionFromArray(env, model.data(), model.size(), made, &session),
              "ONNX Runtime cannot load " + file);
        take(session_, session);
    }

    std::vector<Port> ports(bool inputs) const {
        const char *what = "ONNX Runtime does not tell the graph's ports";
        OrtAllocator *allocator = nullptr;
        check(api_, api_.GetAllocatorWithDefaultOptions(&allocator), what);
        const OrtSession *session = session_.get();
        std::size_t count = 0;
        check(api_, inputs ? api_.SessionGetInputCount(session, &count) : api_.SessionGetOutputCount(session, &count),
              what);
        std::vector<Port> found(count);
        for (std::size_t at = 0; at < count; ++at) {
            char *name = nullptr;
            check(api_,
                  inputs ? api_.SessionGetInputName(session, at, allocator, &name)
                         : api_.SessionGetOutputName(session, at, allocator, &name),
                  what);
            found[at].name = name;
            check(api_, api_.AllocatorFree(allocator, name), what);
            OrtTypeInfo *made = nullptr;
            check(api_,
                  inputs ? api_.SessionGetInputTypeInfo(session, at, &made)
                         : api_.SessionGetOutputTypeInfo(session, at, &made),
                  what);
            const Owned<OrtTypeInfo> info(made, api_.ReleaseTypeInfo);
            const OrtTensorTypeAndShapeInfo *tensor = nullptr;  // a part of `info`; null for what is no tensor
            check(api_, api_.CastTypeInfoToTensorInfo(made, &tensor), what);
            if (!tensor) continue;
            std::size_t rank = 0;
            check(api_, api_.GetTensorElementType(tensor, &found[at].type), what);
            check(api_, api_.GetDimensionsCount(tensor, &rank), what);
            found[at].sizes.resize(rank);
            check(api_, api_.GetDimensions(tensor, found[at].sizes.data(), rank), what);
        }
        return found;
    }

    static void expect(const std::string &file, const std::vector<Port> &found, const Port &wanted) {
        if (found.size() == 1 && found.front() == wanted) return;
        std::string got;
        for (const Port &port : found) got += (got.empty() ? "" : "; ") + port.text();
        throw Fault(ES_TAMPERED, told("the graph " + file + " does not fit its manifest", shown(got, 200),
                                      wanted.text(), "export the bundle again"));
    }

    void tensor(const Port &port, void *memory, std::size_t bytes, Owned<OrtValue> &value) {
        OrtMemoryInfo *made = nullptr;
        check(api_, api_.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &made), "no kind of memory");
        const Owned<OrtMemoryInfo> info(made, api_.ReleaseMemoryInfo);
        OrtValue *tensor = nullptr;
        check(api_,
              api_.CreateTensorWithDataAsOrtValue(made, memory, bytes, port.sizes.data(), port.sizes.size(), port.type,
                                                  &tensor),
              "no tensor");
        take(value, tensor);
    }

    const OrtApi &api_;
    std::vector<std::uint8_t> frames_;
    std::vector<float> logits_;
    Owned<OrtSession> session_;
    Owned<OrtRunOptions> run_;
    Owned<OrtValue> input_, output_;
    Owned<OrtIoBinding> binding_;
    std::unique_ptr<Watchdog> watchdog_;  // the last: it must be gone before what it watches
};

// The engine's own lines go nowhere: what matters comes back as a status.
void ORT_API_CALL drop(void *, OrtLoggingLevel, const char *, const char *, const char *, const char *) {}

class OnnxRuntime : public Backend {
  public:
    const char *name() const override { return "onnxruntime"; }

    std::string unsupported(const Ask &ask) override {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (opened_.count(ask.library_path)) {
            latest_ = &opened_[ask.library_path];
            return "";
        }
        std::string why = "no libonnxruntime.so there";
        for (const std::string &path : candidates(ask.library_path)) {
            Library library;
            why = load(path, library);
            if (!why.empty()) continue;
            latest_ = &(opened_[ask.library_path] = library);
            return "";
        }
        return told("ONNX Runtime cannot be used", shown(why, 200), "", kFix);
    }

    std::string version() override {
        const std::lock_guard<std::mutex> lock(mutex_);
        return "onnxruntime" + (latest_ ? " " + latest_->version : "");
    }

    std::unique_ptr<Session> open(const std::map<std::string, Bytes> &files, const std::string &file,
                                  const Shape &shape, const Ask &ask) override {
        if (const std::string why = unsupported(ask); !why.empty()) throw Fault(ES_ENGINE, why);
        if (ask.precision_hint != "f32" && ask.precision_hint != "default" && !ask.precision_hint.empty())
            throw Fault(ES_ENGINE, told("ONNX Runtime has no such precision on the CPU", shown(ask.precision_hint),
                                        "f32, default", "export the bundle with another recipe"));
        const auto model = files.find(file);
        if (model == files.end())
            throw Fault(ES_TAMPERED, told("the graph is missing", shown(file), "", "copy or export the bundle again"));
        Library library;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            library = opened_.at(ask.library_path);
        }
        return std::make_unique<OnnxRuntimeSession>(library, model->second, file, shape, ask);
    }

  private:
    // The library under its usual names, then under that of a version, the newest first.
    static std::vector<std::string> candidates(const std::string &folder) {
        if (folder.empty()) return {"libonnxruntime.so.1", "libonnxruntime.so"};
        const std::string stem = "libonnxruntime.so";
        std::vector<std::pair<std::array<long, 3>, std::string>> versions;
        std::vector<std::string> found;
        std::error_code error;  // a folder that cannot be read has no library
        for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
            const std::string name = at->path().filename().string();
            if (name == stem || name == stem + ".1") {
                found.push_back(at->path().string());
            } else if (name.compare(0, stem.size() + 1, stem + ".") == 0) {
                std::array<long, 3> number{};
                const char *text = name.c_str() + stem.size();
                for (long &part : number) {
                    char *rest = nullptr;
                    if (*text == '.') part = std::strtol(text + 1, &rest, 10), text = rest;
                }
                versions.emplace_back(number, at->path().string());
            }
        }
        std::sort(found.begin(), found.end());
        std::sort(versions.rbegin(), versions.rend());
        for (const auto &entry : versions) found.push_back(entry.second);
        return found;
    }

    // "" or why this library is not used.
    static std::string load(const std::string &path, Library &library) {
        void *handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (!handle) {
            const char *why = dlerror();
            return why ? why : path + " cannot be opened";
        }
        const auto base = reinterpret_cast<const OrtApiBase *(*)()>(dlsym(handle, "OrtGetApiBase"));
        if (!base) return path + " has no OrtGetApiBase";
        library.version = base()->GetVersionString();
        // Asked for an interface that it does not have, it says so on the terminal: 1.N has those up to N.
        unsigned major = 0, minor = 0;
        std::sscanf(library.version.c_str(), "%u.%u", &major, &minor);
        if (major != 1 || minor < kFloor) return "version " + library.version + " of " + path;
        const std::uint32_t newest = std::min<std::uint32_t>(minor, ORT_API_VERSION);
        library.api = base()->GetApi(newest);
        if (!library.api) return path + " lacks interface " + std::to_string(newest);
        if (OrtStatus *status = library.api->CreateEnvWithCustomLogger(drop, nullptr, ORT_LOGGING_LEVEL_FATAL,
                                                                       "edgeskin", &library.env)) {
            const std::string why = said(*library.api, status);
            library.api->ReleaseStatus(status);
            return why;
        }
        return "";
    }

    std::mutex mutex_;
    std::map<std::string, Library> opened_;  // by the folder that was asked for
    const Library *latest_ = nullptr;
};

}  // namespace

Backend *onnxruntime_backend() {
    static OnnxRuntime *instance = new OnnxRuntime;  // never deleted: an engine does not like to be unloaded
    return instance;
}

}  // namespace es
