// TensorRT 10 and 11 on the GPU: an engine (.plan) that was built on this device, deserialised from verified bytes
// only. edgeskin/backends/tensorrt.py in C++. Compiled for the major version of the headers that it finds.
#include "tensorrt.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <mutex>

#include <NvInfer.h>

#include "backend.h"
#include "fault.h"
#include "gpu.h"
#include "text.h"

static_assert(NV_TENSORRT_MAJOR == 10 || NV_TENSORRT_MAJOR == 11, "TensorRT 10 or 11 is needed");

namespace es {
namespace {

constexpr const char *kAgain = "build the kit again on this machine with `edgeskin build KIT`";

#if defined(__x86_64__)
constexpr const char *kArch = "x86_64";
#elif defined(__aarch64__)
constexpr const char *kArch = "aarch64";
#else
constexpr const char *kArch = "another processor";
#endif

// Keeps the first error that TensorRT tells on a thread: its calls give null or false and no reason. Prints nothing.
class Log : public nvinfer1::ILogger {
  public:
    void log(Severity severity, nvinfer1::AsciiChar const *text) noexcept override {
        if (severity > Severity::kERROR || first_[0] != '\0' || !text) return;
        std::snprintf(first_, sizeof first_, "%s", text);
        for (char *at = first_; *at; ++at)
            if (*at == '\n' || *at == '\r' || *at == '\t') *at = ' ';
    }
    static void forget() noexcept { first_[0] = '\0'; }
    static std::string said() { return shown(first_[0] ? first_ : "nothing", 200); }

  private:
    static thread_local char first_[240];
};

thread_local char Log::first_[240];

// The library and what lies below it.
struct Library {
    Cuda cuda;
    Log log;  // outlives every object that was made with it
    std::string version;
    void *(*create_runtime)(void *, std::int32_t) noexcept = nullptr;  // what the header's inline function links to

    // "" or why it cannot be used. The driver comes first: some versions crash where there is none.
    std::string load(const std::string &folder) {
        if (std::string why = cuda.load(folder); !why.empty()) return why;
        const std::string major = std::to_string(NV_TENSORRT_MAJOR), soname = "libnvinfer.so." + major;
        const std::string fix =
            "install TensorRT " + major + " (on a Jetson: JetPack), or pass its folder as backend_path";
        void *library = dlopen((folder.empty() ? soname : folder + "/" + soname).c_str(), RTLD_NOW | RTLD_LOCAL);
        if (!library) {
            const char *why = dlerror();
            return told("TensorRT's library was not found", shown(why ? why : soname, 200), "", fix);
        }
        const auto number = reinterpret_cast<std::int32_t (*)() noexcept>(dlsym(library, "getInferLibVersion"));
        create_runtime = reinterpret_cast<decltype(create_runtime)>(dlsym(library, "createInferRuntime_INTERNAL"));
        if (!number || !create_runtime) return told("TensorRT's library is incomplete", shown(soname), "", fix);
        const std::int32_t encoded = number();  // 10.13.3 is 101303
        version = std::to_string(encoded / 10000) + "." + std::to_string(encoded / 100 % 100) + "." +
                  std::to_string(encoded % 100);
        if (encoded / 10000 != NV_TENSORRT_MAJOR) return told("TensorRT of another major version", version, major, fix);
        return "";
    }
};

class TensorRtSession : public Session {
  public:
    TensorRtSession(Library &library, const Bytes &plan, const std::string &file, const Shape &shape)
        : cuda_(library.cuda),
          lane_(library.cuda, volume({shape.images, shape.height, shape.width, 3}),
                volume({shape.rows, shape.logits}) * sizeof(float)),
          bytes_in_(volume({shape.images, shape.height, shape.width, 3})),
          bytes_out_(volume({shape.rows, shape.logits}) * sizeof(float)) {
        Log::forget();
        runtime_.reset(static_cast<nvinfer1::IRuntime *>(library.create_runtime(&library.log, NV_TENSORRT_VERSION)));
        if (!runtime_)
            throw Fault(ES_ENGINE, told("TensorRT makes no runtime", Log::said(), "", "install TensorRT again"));
        engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
        if (!engine_)
            throw Fault(ES_ENGINE, told("TensorRT refuses the engine " + file, Log::said(),
                                        "engines built on this machine with this version", kAgain));
        expect_ports(file, shape);
        context_.reset(engine_->createExecutionContext());
        if (!context_)
            throw Fault(ES_ENGINE, told("TensorRT cannot make room for the engine " + file, Log::said(), "",
                                        "close what else uses the GPU"));
        if (!context_->setTensorAddress("frames", lane_.device_in()) ||
            !context_->setTensorAddress("logits", lane_.device_out()))
            throw Fault(ES_ENGINE, told("TensorRT refuses a buffer of " + file, Log::said(), "", kAgain));
        std::memset(lane_.host_in(), 0, bytes_in_);
        try {
            lane_.start([this] { enqueue(); });  // allocates what a first run allocates, which a capture forbids
            lane_.ended(Clock::time_point::max());
            // One launch instead of one a layer: on a board the launches of a small network take longer than its sums.
            // Without it, for whatever reason, every run queues the layers one by one.
            lane_.capture([this] { enqueue(); });
        } catch (...) {
            lane_.settle();
            throw;
        }
    }

    ~TensorRtSession() override { lane_.settle(); }

    void infer(const std::uint8_t *frames, float *logits, Clock::time_point deadline) override {
        const OnGpu here(cuda_);
        if (on_its_way_ && !lane_.ended(deadline))
            throw Fault(ES_DEADLINE, "the GPU still runs what ran past an earlier deadline");
        on_its_way_ = false;
        if (deadline != Clock::time_point::max() && Clock::now() >= deadline)
            throw Fault(ES_DEADLINE, "no time was left for inference");
        std::memcpy(lane_.host_in(), frames, bytes_in_);
        try {
            lane_.start([this] { enqueue(); });
            on_its_way_ = true;
        } catch (const Fault &) {
            lane_.settle();
            throw;
        }
        if (!lane_.ended(deadline)) throw Fault(ES_DEADLINE, "inference ran past its deadline");
        on_its_way_ = false;
        std::memcpy(logits, lane_.host_out(), bytes_out_);
    }

  private:
    static std::size_t volume(std::initializer_list<int> sizes) {
        std::size_t product = 1;
        for (const int size : sizes) product *= static_cast<std::size_t>(size);
        return product;
    }

    void enqueue() {
        lane_.copy_in();
        Log::forget();
        if (!context_->enqueueV3(lane_.stream()))
            throw Fault(ES_ENGINE, told("TensorRT failed to run", Log::said(), "", kAgain));
        lane_.copy_out();
    }

    void expect_ports(const std::string &file, const Shape &shape) const {
        const std::string input = "input frames uint8 " + sizes({shape.images, shape.height, shape.width, 3});
        const std::string output = "output logits float32 " + sizes({shape.rows, shape.logits});
        std::vector<std::string> found;
        for (std::int32_t at = 0; at < engine_->getNbIOTensors(); ++at)
            found.push_back(port(engine_->getIOTensorName(at)));
        if (found.size() == 2 && std::count(found.begin(), found.end(), input) == 1 &&
            std::count(found.begin(), found.end(), output) == 1)
            return;
        std::string got;
        for (const std::string &one : found) got += (got.empty() ? "" : "; ") + one;
        throw Fault(ES_TAMPERED, told("the engine " + file + " does not fit its manifest", shown(got, 200),
                                      input + "; " + output, "export the bundle again"));
    }

    std::string port(const char *name) const {
        const auto mode = engine_->getTensorIOMode(name);
        const auto type = engine_->getTensorDataType(name);
        const nvinfer1::Dims shape = engine_->getTensorShape(name);  // -1 where a size is open
        std::string text = mode == nvinfer1::TensorIOMode::kINPUT ? "input " : "output ";
        text += name;
        text += type == nvinfer1::DataType::kUINT8   ? " uint8 "
                : type == nvinfer1::DataType::kFLOAT ? " float32 "
                                                     : " of type " + std::to_string(static_cast<int>(type)) + " ";
        text += sizes(std::vector<std::int64_t>(shape.d, shape.d + std::max(shape.nbDims, 0)));
        if (engine_->getTensorFormat(name) != nvinfer1::TensorFormat::kLINEAR) text += " of another layout";
        if (engine_->getTensorLocation(name) != nvinfer1::TensorLocation::kDEVICE) text += " on the host";
        return text;
    }

    static std::string sizes(const std::vector<std::int64_t> &shape) {
        std::string text = "[";
        for (std::size_t at = 0; at < shape.size(); ++at) text += (at ? ", " : "") + std::to_string(shape[at]);
        return text + "]";
    }

    const Cuda &cuda_;
    Lane lane_;  // the first: it must outlive what runs through it
    const std::size_t bytes_in_, bytes_out_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    bool on_its_way_ = false;
};

class TensorRt : public Backend {
  public:
    const char *name() const override { return "tensorrt"; }

    std::string unsupported(const Ask &ask) override {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (library_) return "";
        auto made = std::make_unique<Library>();
        if (std::string why = made->load(ask.library_path); !why.empty()) return why;
        library_ = std::move(made);
        return "";
    }

    std::string version() override { return "tensorrt" + (library_ ? " " + library_->version : ""); }

    std::unique_ptr<Session> open(const std::map<std::string, Bytes> &files, const std::string &file,
                                  const Shape &shape, const Ask &ask) override {
        if (const std::string why = unsupported(ask); !why.empty()) throw Fault(ES_ENGINE, why);
        const auto plan = files.find(file);
        if (plan == files.end())
            throw Fault(ES_TAMPERED, told("the engine is missing", shown(file), "", "copy or build the bundle again"));
        const OnGpu here(library_->cuda);
        return std::make_unique<TensorRtSession>(*library_, plan->second, file, shape);
    }

    std::string refuse(const Compatibility &made) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!library_) return told("this TensorRT engine does not run here", "TensorRT is not loaded", "", "");
        if (made.arch != kArch)
            return told("the engine is for another architecture", std::string(kArch) + " here", made.arch, kAgain);
        const std::string sm = library_->cuda.sm();
        if (made.sm != sm)
            return told("the engine is for another GPU architecture", "SM " + sm + " here", "SM " + made.sm, kAgain);
        if (!same_version(made.tensorrt, library_->version))
            return told("the engine is of another TensorRT", library_->version + " here", made.tensorrt, kAgain);
        return "";
    }

  private:
    std::mutex mutex_;
    std::unique_ptr<Library> library_;  // loaded once for the process
};

TensorRt &instance() {
    static TensorRt *made = new TensorRt;  // never deleted: an engine does not like to be unloaded
    return *made;
}

}  // namespace

Backend *tensorrt_backend() { return &instance(); }

std::string refuse_foreign(const Compatibility &made) {
    try {
        return instance().refuse(made);
    } catch (const Fault &fault) {
        return fault.what();
    }
}

bool same_version(const std::string &one, const std::string &other) {
    const auto numbers = [](const std::string &text) {
        std::vector<int> found;
        int value = 0, length = 0;
        for (const char *at = text.c_str(); std::sscanf(at, "%9d%n", &value, &length) == 1; ++at) {
            found.push_back(value);
            at += length;
            if (*at != '.') break;
        }
        return found;
    };
    const std::vector<int> first = numbers(one), second = numbers(other);
    const std::size_t shared = std::min(first.size(), second.size());
    return shared >= 2 &&
           std::equal(first.begin(), first.begin() + static_cast<std::ptrdiff_t>(shared), second.begin());
}

}  // namespace es
