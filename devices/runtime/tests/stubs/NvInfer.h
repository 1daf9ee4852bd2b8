// DECLARATIONS FOR A COMPILE CHECK ALONE, NEVER AN ABI: what src/tensorrt.cpp uses of TensorRT, written from its
// documented API, for machines without its headers. Nothing that is built with this file can run with TensorRT.
//
// NV_TENSORRT_MAJOR, _MINOR and _PATCH come from the command line: 10 and 11 have all that is declared here, and what
// 11 dropped is not declared at all.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(NV_TENSORRT_MAJOR) || !defined(NV_TENSORRT_MINOR) || !defined(NV_TENSORRT_PATCH)
#error "define the version that is checked"
#endif
#define NV_TENSORRT_VERSION ((NV_TENSORRT_MAJOR * 100L + NV_TENSORRT_MINOR) * 100L + NV_TENSORRT_PATCH)

struct CUstream_st;
typedef struct CUstream_st *cudaStream_t;

namespace nvinfer1 {

using AsciiChar = char;

enum class DataType : std::int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kBOOL = 4, kUINT8 = 5 };
enum class TensorIOMode : std::int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };
enum class TensorFormat : std::int32_t { kLINEAR = 0, kCHW2 = 1, kHWC8 = 2, kCHW4 = 3 };
enum class TensorLocation : std::int32_t { kDEVICE = 0, kHOST = 1 };
enum class ExecutionContextAllocationStrategy : std::int32_t { kSTATIC = 0, kON_PROFILE_CHANGE = 1, kUSER_MANAGED = 2 };

class Dims64 {
  public:
    static constexpr std::int32_t MAX_DIMS{8};
    std::int32_t nbDims;
    std::int64_t d[MAX_DIMS];
};
using Dims = Dims64;

class INoCopy {
  protected:
    INoCopy() = default;
    virtual ~INoCopy() = default;
    INoCopy(INoCopy const &) = delete;
    INoCopy &operator=(INoCopy const &) = delete;
};

class ILogger {
  public:
    enum class Severity : std::int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
    virtual void log(Severity severity, AsciiChar const *msg) noexcept = 0;
    ILogger() = default;
    virtual ~ILogger() = default;
};

class IExecutionContext : public INoCopy {
  public:
    virtual ~IExecutionContext() noexcept = default;
    virtual bool setTensorAddress(char const *tensorName, void *data) noexcept = 0;
    virtual bool enqueueV3(cudaStream_t stream) noexcept = 0;
};

class ICudaEngine : public INoCopy {
  public:
    virtual ~ICudaEngine() noexcept = default;
    virtual std::int32_t getNbIOTensors() const noexcept = 0;
    virtual char const *getIOTensorName(std::int32_t index) const noexcept = 0;
    virtual TensorIOMode getTensorIOMode(char const *tensorName) const noexcept = 0;
    virtual DataType getTensorDataType(char const *tensorName) const noexcept = 0;
    virtual Dims getTensorShape(char const *tensorName) const noexcept = 0;
    virtual TensorFormat getTensorFormat(char const *tensorName) const noexcept = 0;
    virtual TensorLocation getTensorLocation(char const *tensorName) const noexcept = 0;
    virtual IExecutionContext *createExecutionContext(
        ExecutionContextAllocationStrategy strategy = ExecutionContextAllocationStrategy::kSTATIC) noexcept = 0;
};

class IRuntime : public INoCopy {
  public:
    virtual ~IRuntime() noexcept = default;
    virtual ICudaEngine *deserializeCudaEngine(void const *blob, std::size_t size) noexcept = 0;
};

}  // namespace nvinfer1

extern "C" void *createInferRuntime_INTERNAL(void *logger, std::int32_t version) noexcept;
extern "C" std::int32_t getInferLibVersion() noexcept;
