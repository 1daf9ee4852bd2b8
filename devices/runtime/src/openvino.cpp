// OpenVINO on the CPU, through its C API: IR (.xml and .bin) or ONNX, read from memory.
#include <dlfcn.h>
#include <glob.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <thread>

#include <openvino/c/openvino.h>

#include "backend.h"
#include "fault.h"

namespace es {
namespace {

// Every function of the C API that is used here: F(name).
#define ES_OPENVINO_FUNCTIONS(F)                                                                                     \
    F(ov_get_openvino_version)                                                                                       \
    F(ov_version_free) F(ov_get_last_err_msg) F(ov_get_error_info) F(ov_free) F(ov_core_create)                      \
        F(ov_core_read_model_from_memory_buffer) F(ov_core_compile_model) F(ov_model_free) F(ov_compiled_model_free) \
            F(ov_compiled_model_inputs_size) F(ov_compiled_model_outputs_size) F(ov_compiled_model_input)            \
                F(ov_compiled_model_output) F(ov_compiled_model_create_infer_request) F(ov_port_get_any_name)        \
                    F(ov_port_get_element_type) F(ov_const_port_get_shape) F(ov_shape_free)                          \
                        F(ov_output_const_port_free) F(ov_shape_create) F(ov_tensor_create_from_host_ptr)            \
                            F(ov_tensor_free) F(ov_infer_request_set_input_tensor)                                   \
                                F(ov_infer_request_set_output_tensor) F(ov_infer_request_infer)                      \
                                    F(ov_infer_request_start_async) F(ov_infer_request_wait_for)                     \
                                        F(ov_infer_request_wait) F(ov_infer_request_cancel) F(ov_infer_request_free)

struct Api {
#define ES_POINTER(name) decltype(&::name) name = nullptr;
    ES_OPENVINO_FUNCTIONS(ES_POINTER)
#undef ES_POINTER
    ov_core_t *core = nullptr;
    std::string version;
};

// First line of what the engine said about its last failure on this thread.
std::string reason(const Api &api, ov_status_e status) {
    const char *told = api.ov_get_last_err_msg();  // ours to free
    std::string text = told && *told ? told : api.ov_get_error_info(status);
    api.ov_free(told);
    std::string line;
    std::size_t at = 0;
    while (at < text.size()) {  // the first line is often the place in the engine's source
        const std::size_t end = std::min(text.find('\n', at), text.size());
        const std::string next = text.substr(at, end - at);
        if (next.find_first_not_of(" \t") != std::string::npos) line = next;
        if (line.rfind("Exception from", 0) != 0 && !line.empty()) break;
        at = end + 1;
    }
    return line.substr(0, 200);
}

void check(const Api &api, ov_status_e status, const std::string &what) {
    if (status != OK)
        throw Fault(ES_ENGINE,
                    what + "; got: " + reason(api, status) + "; fix: export the bundle again for this OpenVINO");
}

// Frees what the C API handed out.
template <typename T, typename Free>
struct Owner {
    T *pointer = nullptr;
    Free release;
    explicit Owner(Free function) : release(function) {}
    Owner(const Owner &) = delete;
    Owner &operator=(const Owner &) = delete;
    ~Owner() {
        if (pointer) release(pointer);
    }
};

class OpenVinoSession : public Session {
  public:
    OpenVinoSession(const Api &api, const std::map<std::string, Bytes> &files, const std::string &file,
                    const Shape &shape, const Ask &ask)
        : api_(api),
          weights_(api.ov_tensor_free),
          model_(api.ov_model_free),
          compiled_(api.ov_compiled_model_free),
          request_(api.ov_infer_request_free),
          input_(api.ov_tensor_free),
          output_(api.ov_tensor_free) {
        read(files, file);
        compile(file, ask);
        const std::int64_t in[] = {shape.images, shape.height, shape.width, 3}, out[] = {shape.rows, shape.logits};
        expect_port(file, true, "frames", U8, in, 4);
        expect_port(file, false, "logits", F32, out, 2);
        check(api, api.ov_compiled_model_create_infer_request(compiled_.pointer, &request_.pointer),
              "no inference request");
        frames_.resize(static_cast<std::size_t>(in[0] * in[1] * in[2] * in[3]));
        logits_.resize(static_cast<std::size_t>(out[0] * out[1]));
        bind(U8, in, 4, frames_.data(), input_.pointer);
        bind(F32, out, 2, logits_.data(), output_.pointer);
        check(api, api.ov_infer_request_set_input_tensor(request_.pointer, input_.pointer), "the input was refused");
        check(api, api.ov_infer_request_set_output_tensor(request_.pointer, output_.pointer), "the output was refused");
    }

    void infer(const std::uint8_t *frames, float *logits, Clock::time_point deadline) override {
        std::memcpy(frames_.data(), frames, frames_.size());
        if (deadline == Clock::time_point::max()) {
            check(api_, api_.ov_infer_request_infer(request_.pointer), "inference failed");
        } else {
            infer_until(deadline);
        }
        std::memcpy(logits, logits_.data(), logits_.size() * sizeof(float));
    }

  private:
    void read(const std::map<std::string, Bytes> &files, const std::string &file) {
        const std::vector<std::string> names = graph_files(file);
        for (const std::string &name : names)
            if (files.count(name) == 0)
                throw Fault(ES_TAMPERED,
                            "the graph is incomplete; got: no file " + name + "; fix: copy or export the bundle again");
        const Bytes &text = files.at(names[0]);
        if (names.size() > 1) {
            const Bytes &bytes = files.at(names[1]);
            const std::int64_t size[] = {static_cast<std::int64_t>(bytes.size())};
            // The engine only reads the weights, although its C API asks for a pointer that it may write through.
            bind(U8, size, 1, const_cast<std::uint8_t *>(bytes.data()), weights_.pointer);
        }
        check(api_,
              api_.ov_core_read_model_from_memory_buffer(api_.core, reinterpret_cast<const char *>(text.data()),
                                                         text.size(), weights_.pointer, &model_.pointer),
              "OpenVINO cannot read " + file);
    }

    void compile(const std::string &file, const Ask &ask) {
        const std::string threads = std::to_string(ask.threads);
        const char *hint = ask.precision_hint.c_str();
        const char *device = "CPU";
        ov_status_e status;  // two calls: properties are pairs of arguments of a variadic function
        if (ask.precision_hint == "default") {
            status =
                api_.ov_core_compile_model(api_.core, model_.pointer, device, 6, &compiled_.pointer, "PERFORMANCE_HINT",
                                           "LATENCY", "NUM_STREAMS", "1", "INFERENCE_NUM_THREADS", threads.c_str());
        } else {
            status = api_.ov_core_compile_model(
                api_.core, model_.pointer, device, 8, &compiled_.pointer, "PERFORMANCE_HINT", "LATENCY", "NUM_STREAMS",
                "1", "INFERENCE_NUM_THREADS", threads.c_str(), "INFERENCE_PRECISION_HINT", hint);
        }
        check(api_, status, "OpenVINO cannot compile " + file);
    }

    void bind(ov_element_type_e type, const std::int64_t *sizes, std::int64_t rank, void *memory,
              ov_tensor_t *&tensor) {
        ov_shape_t shape{};
        check(api_, api_.ov_shape_create(rank, sizes, &shape), "no shape");
        const ov_status_e status = api_.ov_tensor_create_from_host_ptr(type, shape, memory, &tensor);
        api_.ov_shape_free(&shape);
        check(api_, status, "no tensor");
    }

    void expect_port(const std::string &file, bool input, const std::string &name, ov_element_type_e type,
                     const std::int64_t *sizes, std::int64_t rank) {
        std::size_t count = 0;
        check(api_,
              input ? api_.ov_compiled_model_inputs_size(compiled_.pointer, &count)
                    : api_.ov_compiled_model_outputs_size(compiled_.pointer, &count),
              "no ports");
        bool right = count == 1;
        if (right) {
            Owner<ov_output_const_port_t, decltype(api_.ov_output_const_port_free)> port(
                api_.ov_output_const_port_free);
            check(api_,
                  input ? api_.ov_compiled_model_input(compiled_.pointer, &port.pointer)
                        : api_.ov_compiled_model_output(compiled_.pointer, &port.pointer),
                  "no port");
            char *found = nullptr;
            ov_element_type_e kind = DYNAMIC;
            ov_shape_t shape{};
            check(api_, api_.ov_port_get_any_name(port.pointer, &found), "a port without a name");
            right = name == found;
            api_.ov_free(found);
            check(api_, api_.ov_port_get_element_type(port.pointer, &kind), "a port without a type");
            check(api_, api_.ov_const_port_get_shape(port.pointer, &shape), "a port of no fixed shape");
            right = right && kind == type && shape.rank == rank && std::equal(sizes, sizes + rank, shape.dims);
            api_.ov_shape_free(&shape);
        }
        if (!right)
            throw Fault(ES_TAMPERED, "the graph " + file + " does not fit its manifest; got: another " +
                                         (input ? "input than frames" : "output than logits") +
                                         " of the manifest's size; fix: export the bundle again");
    }

    void infer_until(Clock::time_point deadline) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
        if (left <= 0) throw Fault(ES_DEADLINE, "no time was left for inference");
        check(api_, api_.ov_infer_request_start_async(request_.pointer), "inference could not start");
        const ov_status_e status = api_.ov_infer_request_wait_for(request_.pointer, left);
        if (status == OK) return;
        if (status != RESULT_NOT_READY) check(api_, status, "inference failed");
        api_.ov_infer_request_cancel(request_.pointer);
        api_.ov_infer_request_wait(request_.pointer);  // says that it was cancelled; then it can run again
        throw Fault(ES_DEADLINE, "inference ran past its deadline");
    }

    const Api &api_;
    Owner<ov_tensor_t, decltype(Api::ov_tensor_free)> weights_;
    Owner<ov_model_t, decltype(Api::ov_model_free)> model_;
    Owner<ov_compiled_model_t, decltype(Api::ov_compiled_model_free)> compiled_;
    Owner<ov_infer_request_t, decltype(Api::ov_infer_request_free)> request_;
    Owner<ov_tensor_t, decltype(Api::ov_tensor_free)> input_, output_;
    std::vector<std::uint8_t> frames_;
    std::vector<float> logits_;
};

class OpenVino : public Backend {
  public:
    const char *name() const override { return "openvino"; }

    std::string unsupported(const Ask &ask) override {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (api_.core) return "";
        std::string said;
        for (const std::string &path : libraries(ask.library_path)) {
            if (void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
                said = load(library);
                if (said.empty()) return "";
            } else if (const char *why = dlerror()) {
                said = why;
            }
        }
        return "OpenVINO's library was not found (" + (said.empty() ? "no libopenvino_c.so there" : said) + ")";
    }

    std::string version() override { return "openvino " + api_.version; }

    std::unique_ptr<Session> open(const std::map<std::string, Bytes> &files, const std::string &file,
                                  const Shape &shape, const Ask &ask) override {
        return std::make_unique<OpenVinoSession>(api_, files, file, shape, ask);
    }

  private:
    static std::vector<std::string> libraries(const std::string &folder) {
        if (folder.empty()) return {"libopenvino_c.so", "libopenvino_c.so." EDGESKIN_OPENVINO_SOVERSION};
        std::vector<std::string> found;
        glob_t matches{};
        if (glob((folder + "/libopenvino_c.so*").c_str(), 0, nullptr, &matches) == 0)
            found.assign(matches.gl_pathv, matches.gl_pathv + matches.gl_pathc);
        globfree(&matches);
        return found;
    }

    std::string load(void *library) {
        Api api;
        std::string missing;
#define ES_RESOLVE(name)                                                   \
    api.name = reinterpret_cast<decltype(&::name)>(dlsym(library, #name)); \
    if (!api.name) missing = #name;
        ES_OPENVINO_FUNCTIONS(ES_RESOLVE)
#undef ES_RESOLVE
        if (!missing.empty()) return "it lacks " + missing + ": older than 2023.1";
        ov_version_t version{};
        if (api.ov_get_openvino_version(&version) == OK) {
            const std::string build = version.buildNumber ? version.buildNumber : "";
            api.version = build.substr(0, build.find('-'));  // "2026.4.1-21000-..."
            api.ov_version_free(&version);
        }
        // One core for the process, never freed: its CPU plugin gives threads a stack for signal handlers and takes it
        // away when the core goes, also from under a younger core.
        if (api.ov_core_create(&api.core) != OK) return "it has no core: " + reason(api, GENERAL_ERROR);
        api_ = api;
        return "";
    }

    std::mutex mutex_;
    Api api_;
};

}  // namespace

Backend *openvino_backend() {
    static OpenVino *instance = new OpenVino;  // never deleted: see load()
    return instance;
}

}  // namespace es
