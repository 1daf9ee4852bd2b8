// STAND-INS FOR libcudart AND libnvinfer, FOR TESTS OF OUR OWN LOGIC ALONE: they have the declarations beside this
// file, no GPU and no network, and show nothing about TensorRT. Built twice: with STAND_IN_CUDA as libcudart, else as
// libnvinfer, which queues its "network" on the other's streams.
//
// A "plan" is text: images height width logits delay_ms, then words: badshape, nofull (enqueue fails), nograph (a
// capture is spoilt), quiet (no reason is told). A logit is its number plus the sum of its image's bytes.
#include <cuda_runtime_api.h>

typedef void (*cudaHostFn_t)(void *);
extern "C" cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void *userData);

#ifdef STAND_IN_CUDA
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

using Work = std::function<void()>;

struct CUgraph_st {
    std::vector<Work> works;
};
struct CUgraphExec_st {
    std::vector<Work> works;
};
struct CUevent_st {
    int recorded = 0, reached = 0;
};

struct CUstream_st {
    std::deque<Work> queue;
    bool busy = false, over = false, capturing = false, spoilt = false;
    std::vector<Work> captured;
    std::thread worker;
};

namespace {

std::mutex mutex;
std::condition_variable changed;
std::set<void *> alive;  // everything that must be given back
int driver = 12060, gpus = 1, graphs_launched = 0;

template <typename T>
T *keep(T *made) {
    const std::lock_guard<std::mutex> lock(mutex);
    alive.insert(made);
    return made;
}

void forget(void *made) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (alive.erase(made) == 0) std::abort();  // given back twice, or never ours
}

template <typename T>
cudaError_t drop(T *made) {
    forget(made);
    delete made;
    return cudaSuccess;
}

cudaError_t push(cudaStream_t stream, Work work) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (stream->capturing)
        stream->captured.push_back(std::move(work));
    else
        stream->queue.push_back(std::move(work));
    changed.notify_all();
    return cudaSuccess;
}

void serve(cudaStream_t stream) {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
        changed.wait(lock, [&] { return stream->over || !stream->queue.empty(); });
        if (stream->queue.empty()) return;
        const Work work = stream->queue.front();
        stream->queue.pop_front();
        stream->busy = true;
        lock.unlock();
        work();
        lock.lock();
        stream->busy = false;
        changed.notify_all();
    }
}

}  // namespace

extern "C" {
void stand_in_machine(int driver_version, int gpu_count) { driver = driver_version, gpus = gpu_count; }
int stand_in_alive() {
    const std::lock_guard<std::mutex> lock(mutex);
    return static_cast<int>(alive.size());
}
int stand_in_graphs_launched() { return graphs_launched; }
void stand_in_spoil(cudaStream_t stream) { stream->spoilt = stream->capturing; }

cudaError_t cudaDriverGetVersion(int *version) { return *version = driver, cudaSuccess; }
cudaError_t cudaGetDeviceCount(int *count) {
    return *count = gpus, gpus ? cudaSuccess : driver < 12000 ? cudaErrorInsufficientDriver : cudaErrorNoDevice;
}
cudaError_t cudaGetDevice(int *device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int) {
    return *value = attr == cudaDevAttrComputeCapabilityMajor ? 8 : 7, cudaSuccess;
}
const char *cudaGetErrorName(cudaError_t error) {
    return error == cudaErrorUnknown ? "cudaErrorUnknown" : "cudaErrorOther";
}
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
cudaError_t cudaMalloc(void **pointer, size_t size) {
    *pointer = keep(std::malloc(size));
    return cudaSuccess;
}
cudaError_t cudaFree(void *pointer) {
    forget(pointer);
    std::free(pointer);
    return cudaSuccess;
}
cudaError_t cudaHostAlloc(void **pointer, size_t size, unsigned int) { return cudaMalloc(pointer, size); }
cudaError_t cudaFreeHost(void *pointer) { return cudaFree(pointer); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int) {
    *stream = keep(new CUstream_st);
    (*stream)->worker = std::thread(serve, *stream);
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    {
        const std::lock_guard<std::mutex> lock(mutex);
        stream->over = true;
    }
    changed.notify_all();
    stream->worker.join();
    return drop(stream);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return stream->queue.empty() && !stream->busy; });
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t count, enum cudaMemcpyKind, cudaStream_t stream) {
    return push(stream, [=] { std::memcpy(to, from, count); });
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void *data) {
    return push(stream, [=] { fn(data); });
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int) {
    return *event = keep(new CUevent_st), cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) { return drop(event); }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    int number;
    {
        const std::lock_guard<std::mutex> lock(mutex);
        number = ++event->recorded;
    }
    return push(stream, [=] {
        const std::lock_guard<std::mutex> lock(mutex);
        event->reached = number;
    });
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
    const std::lock_guard<std::mutex> lock(mutex);
    return event->reached == event->recorded ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode) {
    return stream->capturing = true, stream->spoilt = false, cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    *graph = stream->spoilt ? nullptr : keep(new CUgraph_st{std::move(stream->captured)});
    stream->captured.clear();
    stream->capturing = false;
    return stream->spoilt ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *made, cudaGraph_t graph, unsigned long long) {
    return *made = keep(new CUgraphExec_st{graph->works}), cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    {
        const std::lock_guard<std::mutex> lock(mutex);
        ++graphs_launched;
    }
    for (const Work &work : graph->works) push(stream, work);
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return drop(graph); }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return drop(graph); }
}

#else
#include <NvInfer.h>

#include <chrono>
#include <cstring>
#include <sstream>
#include <string>
#include <thread>

extern "C" void stand_in_spoil(cudaStream_t stream);

namespace {

struct Network {
    int images = 0, height = 0, width = 0, logits = 0, delay_ms = 0;
    std::string words;
    const unsigned char *frames = nullptr;
    float *out = nullptr;
    bool has(const char *word) const { return words.find(word) != std::string::npos; }
    void run() const {
        std::this_thread::sleep_for(std::chrono::milliseconds(delay_ms));
        const int size = height * width * 3;
        for (int image = 0; image < images; ++image) {
            int sum = 0;
            for (int at = 0; at < size; ++at) sum += frames[image * size + at];
            for (int at = 0; at < logits; ++at) out[image * logits + at] = static_cast<float>(sum + at);
        }
    }
};

class Context : public nvinfer1::IExecutionContext {
  public:
    Context(const Network &network, nvinfer1::ILogger &log) : network_(network), log_(log) {}
    bool setTensorAddress(char const *name, void *data) noexcept override {
        if (std::strcmp(name, "frames") == 0) return network_.frames = static_cast<unsigned char *>(data), true;
        return network_.out = static_cast<float *>(data), std::strcmp(name, "logits") == 0;
    }
    bool enqueueV3(cudaStream_t stream) noexcept override {
        if (network_.has("nograph")) stand_in_spoil(stream);
        if (network_.has("nofull") && ++runs_ > 3) {
            log_.log(nvinfer1::ILogger::Severity::kERROR, "the second line is\nnot to be seen");
            return false;
        }
        return cudaLaunchHostFunc(
                   stream, [](void *self) { static_cast<Context *>(self)->network_.run(); }, this) == cudaSuccess;
    }

  private:
    Network network_;
    nvinfer1::ILogger &log_;
    int runs_ = 0;
};

class Engine : public nvinfer1::ICudaEngine {
  public:
    Engine(const Network &network, nvinfer1::ILogger &log) : network_(network), log_(log) {}
    std::int32_t getNbIOTensors() const noexcept override { return 2; }
    char const *getIOTensorName(std::int32_t index) const noexcept override { return index ? "frames" : "logits"; }
    nvinfer1::TensorIOMode getTensorIOMode(char const *name) const noexcept override {
        return *name == 'f' ? nvinfer1::TensorIOMode::kINPUT : nvinfer1::TensorIOMode::kOUTPUT;
    }
    nvinfer1::DataType getTensorDataType(char const *name) const noexcept override {
        return *name == 'f' ? nvinfer1::DataType::kUINT8 : nvinfer1::DataType::kFLOAT;
    }
    nvinfer1::Dims getTensorShape(char const *name) const noexcept override {
        if (*name == 'f')
            return {4, {network_.has("badshape") ? -1 : network_.images, network_.height, network_.width, 3}};
        return {2, {network_.images, network_.logits}};
    }
    nvinfer1::TensorFormat getTensorFormat(char const *) const noexcept override {
        return nvinfer1::TensorFormat::kLINEAR;
    }
    nvinfer1::TensorLocation getTensorLocation(char const *) const noexcept override {
        return nvinfer1::TensorLocation::kDEVICE;
    }
    nvinfer1::IExecutionContext *createExecutionContext(
        nvinfer1::ExecutionContextAllocationStrategy) noexcept override {
        return new Context(network_, log_);
    }

  private:
    Network network_;
    nvinfer1::ILogger &log_;
};

class Runtime : public nvinfer1::IRuntime {
  public:
    explicit Runtime(nvinfer1::ILogger &log) : log_(log) {}
    nvinfer1::ICudaEngine *deserializeCudaEngine(void const *blob, std::size_t size) noexcept override {
        std::istringstream plan(std::string(static_cast<const char *>(blob), size));
        Network network;
        if (plan >> network.images >> network.height >> network.width >> network.logits >> network.delay_ms) {
            std::getline(plan, network.words);
            return new Engine(network, log_);
        }
        log_.log(nvinfer1::ILogger::Severity::kWARNING, "only a warning");
        log_.log(nvinfer1::ILogger::Severity::kERROR, "magicTag does not match\n\tat some.cpp:12");
        log_.log(nvinfer1::ILogger::Severity::kERROR, "what follows from it");
        return nullptr;
    }

  private:
    nvinfer1::ILogger &log_;
};

}  // namespace

extern "C" void *createInferRuntime_INTERNAL(void *logger, std::int32_t version) noexcept {
    return version == NV_TENSORRT_VERSION ? new Runtime(*static_cast<nvinfer1::ILogger *>(logger)) : nullptr;
}
extern "C" std::int32_t getInferLibVersion() noexcept { return NV_TENSORRT_VERSION; }
#endif
