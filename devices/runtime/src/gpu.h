// What TensorRT needs of CUDA: the GPU, buffers at fixed addresses, one queue and a captured graph of its work.
// edgeskin/backends/_cuda.py in C++. The CUDA runtime is opened when asked for, like every engine: linked statically it
// would outweigh this whole library, linked dynamically the library would not start where there is none.
#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include <cuda_runtime_api.h>

#include "backend.h"
#include "fault.h"
#include "text.h"

namespace es {

// Every function of the CUDA runtime that is used here. All are the same in CUDA 12 and 13.
#define ES_CUDA_FUNCTIONS(F)                                                                                        \
    F(cudaDriverGetVersion)                                                                                         \
    F(cudaGetDeviceCount) F(cudaGetDevice) F(cudaSetDevice) F(cudaDeviceGetAttribute) F(cudaGetErrorName)           \
        F(cudaGetLastError) F(cudaMalloc) F(cudaFree) F(cudaHostAlloc) F(cudaFreeHost) F(cudaStreamCreateWithFlags) \
            F(cudaStreamDestroy) F(cudaStreamSynchronize) F(cudaMemcpyAsync) F(cudaEventCreateWithFlags)            \
                F(cudaEventDestroy) F(cudaEventRecord) F(cudaEventQuery) F(cudaStreamBeginCapture)                  \
                    F(cudaStreamEndCapture) F(cudaGraphInstantiateWithFlags) F(cudaGraphLaunch) F(cudaGraphDestroy) \
                        F(cudaGraphExecDestroy)

constexpr int kGpu = 0;  // the first one, as in Python; CUDA_VISIBLE_DEVICES chooses another

struct Cuda {
#define ES_POINTER(name) decltype(&::name) name = nullptr;
    ES_CUDA_FUNCTIONS(ES_POINTER)
#undef ES_POINTER

    // "" or why the runtime, the driver or a GPU is not there.
    std::string load(const std::string &folder) {
        const std::string major = std::to_string(CUDART_VERSION / 1000), soname = "libcudart.so." + major;
        void *library = folder.empty() ? nullptr : dlopen((folder + "/" + soname).c_str(), RTLD_NOW | RTLD_LOCAL);
        if (!library) library = dlopen(soname.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (!library)
            return told("the CUDA runtime was not found", shown("no " + soname), "",
                        "install CUDA " + major + " (on a Jetson it comes with JetPack), or pass its folder");
        std::string missing;
#define ES_RESOLVE(name)                                               \
    name = reinterpret_cast<decltype(&::name)>(dlsym(library, #name)); \
    if (!name) missing = #name;
        ES_CUDA_FUNCTIONS(ES_RESOLVE)
#undef ES_RESOLVE
        if (!missing.empty()) return told("the CUDA runtime lacks a function", missing, "", "install CUDA " + major);
        const std::string driver =
            "install NVIDIA's driver (on a Jetson it comes with JetPack); start a container with "
            "--runtime nvidia";
        int version = 0, count = 0;  // 0, and no error, where there is no driver
        if (cudaDriverGetVersion(&version) != cudaSuccess || version == 0)
            return told("no NVIDIA driver on this machine", "", "", driver);
        const cudaError_t status = cudaGetDeviceCount(&count);
        cudaGetLastError();
        if (status == cudaErrorInsufficientDriver)
            return told("the driver is too old for CUDA " + major,
                        "a driver for CUDA " + std::to_string(version / 1000), "", "update the driver");
        if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0))
            return told("the NVIDIA driver sees no GPU", "", "", driver);
        if (status != cudaSuccess)
            return told("the NVIDIA driver does not answer", cudaGetErrorName(status), "", "restart the machine");
        return "";
    }

    void check(cudaError_t status, const char *what) const {
        if (status == cudaSuccess) return;
        const std::string fix = status == cudaErrorMemoryAllocation ? "close other programs that use the GPU" : "";
        throw Fault(ES_ENGINE, told(std::string("CUDA's ") + what + " failed", cudaGetErrorName(status), "", fix));
    }

    // Compute capability of the GPU, "8.7".
    std::string sm() const {
        int major = 0, minor = 0;
        check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, kGpu), "cudaDeviceGetAttribute");
        check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, kGpu), "cudaDeviceGetAttribute");
        return std::to_string(major) + "." + std::to_string(minor);
    }
};

// While it lives, this thread's calls go to our GPU; then to the one that the host had chosen.
class OnGpu {
  public:
    explicit OnGpu(const Cuda &cuda) : cuda_(cuda) {
        cuda_.check(cuda_.cudaGetDevice(&before_), "cudaGetDevice");
        if (before_ != kGpu) cuda_.check(cuda_.cudaSetDevice(kGpu), "cudaSetDevice");
    }
    OnGpu(const OnGpu &) = delete;
    OnGpu &operator=(const OnGpu &) = delete;
    ~OnGpu() {
        if (before_ != kGpu) cuda_.cudaSetDevice(before_);
    }

  private:
    const Cuda &cuda_;
    int before_ = kGpu;
};

// Buffers, pinned on the host and fixed on the GPU, and the queue that they travel through. Made and used on our GPU.
class Lane {
  public:
    Lane(const Cuda &cuda, std::size_t bytes_in, std::size_t bytes_out)
        : cuda_(cuda), bytes_in_(bytes_in), bytes_out_(bytes_out) {
        try {
            cuda_.check(cuda_.cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
            cuda_.check(cuda_.cudaEventCreateWithFlags(&done_, cudaEventDisableTiming), "cudaEventCreateWithFlags");
            cuda_.check(cuda_.cudaHostAlloc(&host_in_, bytes_in, cudaHostAllocDefault), "cudaHostAlloc");
            cuda_.check(cuda_.cudaHostAlloc(&host_out_, bytes_out, cudaHostAllocDefault), "cudaHostAlloc");
            cuda_.check(cuda_.cudaMalloc(&device_in_, bytes_in), "cudaMalloc");
            cuda_.check(cuda_.cudaMalloc(&device_out_, bytes_out), "cudaMalloc");
        } catch (...) {
            release();
            throw;
        }
    }
    Lane(const Lane &) = delete;
    Lane &operator=(const Lane &) = delete;
    ~Lane() { release(); }

    cudaStream_t stream() const { return stream_; }
    void *host_in() const { return host_in_; }
    const void *host_out() const { return host_out_; }
    void *device_in() const { return device_in_; }
    void *device_out() const { return device_out_; }

    void copy_in() const {
        cuda_.check(cuda_.cudaMemcpyAsync(device_in_, host_in_, bytes_in_, cudaMemcpyHostToDevice, stream_),
                    "cudaMemcpyAsync");
    }
    void copy_out() const {
        cuda_.check(cuda_.cudaMemcpyAsync(host_out_, device_out_, bytes_out_, cudaMemcpyDeviceToHost, stream_),
                    "cudaMemcpyAsync");
    }

    // Capture what `work` queues; "" or why it must be queued anew every time. Run `work` once before: what a first run
    // sets up cannot be captured.
    template <typename Work>
    std::string capture(Work work) {
        // Thread-local: what other threads do with CUDA meanwhile neither fails nor spoils the capture.
        if (cuda_.cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
            cuda_.cudaGetLastError();
            return "the stream cannot be captured";
        }
        std::string why;
        try {
            work();
        } catch (const Fault &fault) {
            why = fault.what();
        }
        cudaGraph_t template_graph = nullptr;
        // A stream stays in capture until this call, which fails for a spoilt one and ends it all the same.
        cudaError_t status = cuda_.cudaStreamEndCapture(stream_, &template_graph);
        if (why.empty() && status == cudaSuccess) {
            status = cuda_.cudaGraphInstantiateWithFlags(&graph_, template_graph, 0);
            if (status != cudaSuccess) graph_ = nullptr;
        }
        if (template_graph) cuda_.cudaGraphDestroy(template_graph);
        cuda_.cudaGetLastError();  // else the next innocent call reports what failed here
        if (why.empty() && status != cudaSuccess) why = cuda_.cudaGetErrorName(status);
        return why;
    }

    // Queue the captured graph where there is one, else `work`, and what tells its end.
    template <typename Work>
    void start(Work work) {
        if (graph_)
            cuda_.check(cuda_.cudaGraphLaunch(graph_, stream_), "cudaGraphLaunch");
        else
            work();
        cuda_.check(cuda_.cudaEventRecord(done_, stream_), "cudaEventRecord");
    }

    // Whether all that was started has ended before the deadline. Nothing stops work that is on the GPU.
    bool ended(Clock::time_point deadline) const {
        if (deadline == Clock::time_point::max()) {
            cuda_.check(cuda_.cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
            return true;
        }
        for (;;) {
            const cudaError_t status = cuda_.cudaEventQuery(done_);
            if (status == cudaSuccess) return true;
            if (status != cudaErrorNotReady) cuda_.check(status, "cudaEventQuery");
            cuda_.cudaGetLastError();  // "not ready" is not to be somebody's error
            const Clock::time_point now = Clock::now();
            if (now >= deadline) return false;
            std::this_thread::sleep_for(std::min<Clock::duration>(deadline - now, std::chrono::microseconds(50)));
        }
    }

    // Wait for what is on its way, whatever becomes of it.
    void settle() const noexcept {
        if (stream_) cuda_.cudaStreamSynchronize(stream_);
        cuda_.cudaGetLastError();
    }

  private:
    void release() noexcept {
        settle();
        if (graph_) cuda_.cudaGraphExecDestroy(graph_);
        if (device_out_) cuda_.cudaFree(device_out_);
        if (device_in_) cuda_.cudaFree(device_in_);
        if (host_out_) cuda_.cudaFreeHost(host_out_);
        if (host_in_) cuda_.cudaFreeHost(host_in_);
        if (done_) cuda_.cudaEventDestroy(done_);
        if (stream_) cuda_.cudaStreamDestroy(stream_);
    }

    const Cuda &cuda_;
    const std::size_t bytes_in_, bytes_out_;
    cudaStream_t stream_ = nullptr;
    cudaEvent_t done_ = nullptr;
    void *host_in_ = nullptr, *host_out_ = nullptr, *device_in_ = nullptr, *device_out_ = nullptr;
    cudaGraphExec_t graph_ = nullptr;
};

}  // namespace es
