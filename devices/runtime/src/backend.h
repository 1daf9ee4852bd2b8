// The engines behind one small interface. Their shared libraries are opened when asked for: a device needs one of them.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "manifest.h"
#include "trust.h"

namespace es {

using Clock = std::chrono::steady_clock;

struct Ask {
    std::string library_path;    // folder with the engine's shared libraries; "": the system's search path
    int threads = 0;             // 0: every core in reach
    std::string precision_hint;  // "f32", "bf16" or "default", for what is not INT8
};

// One loaded graph. Input uint8 [images, height, width, 3], output float32 [rows, logits].
class Session {
  public:
    virtual ~Session() = default;
    // Runs the graph. Throws Fault ES_ENGINE, or ES_DEADLINE where `deadline` is not Clock::time_point::max() and
    // passes first; the session can be used again after either.
    virtual void infer(const std::uint8_t *frames, float *logits, Clock::time_point deadline) = 0;
};

struct Shape {
    int images, height, width, rows, logits;
};

class Backend {
  public:
    virtual ~Backend() = default;
    virtual const char *name() const = 0;
    // Why it cannot be used here, "" if it can. Loads the engine's library, and no model.
    virtual std::string unsupported(const Ask &ask) = 0;
    // Name and version: "openvino 2026.4.1". After unsupported() has said "".
    virtual std::string version() = 0;
    // `file`: the graph's name in the bundle; `files`: verified bytes by name, which must outlive the session.
    // Throws Fault ES_ENGINE, or ES_TAMPERED where the graph's ports are not those of `shape`.
    virtual std::unique_ptr<Session> open(const std::map<std::string, Bytes> &files, const std::string &file,
                                          const Shape &shape, const Ask &ask) = 0;
};

// The backend of that target, nullptr if this library was built without it or there is none. Lives as long as the
// process: engines do not like to be unloaded.
Backend *backend(const std::string &target);

// The graph's file and what lies beside it: "model/pair.xml" needs "model/pair.bin".
std::vector<std::string> graph_files(const std::string &file);

}  // namespace es
