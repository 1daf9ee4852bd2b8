// Which engines this library was built with.
#include "backend.h"

namespace es {

#ifdef EDGESKIN_WITH_OPENVINO
Backend *openvino_backend();
#endif
#ifdef EDGESKIN_WITH_ONNXRUNTIME
Backend *onnxruntime_backend();
#endif
#ifdef EDGESKIN_WITH_TENSORRT
Backend *tensorrt_backend();
#endif

Backend *backend(const std::string &target) {
#ifdef EDGESKIN_WITH_OPENVINO
    if (target == "openvino") return openvino_backend();
#endif
#ifdef EDGESKIN_WITH_ONNXRUNTIME
    if (target == "onnxruntime") return onnxruntime_backend();
#endif
#ifdef EDGESKIN_WITH_TENSORRT
    if (target == "tensorrt") return tensorrt_backend();
#endif
    (void)target;
    return nullptr;
}

std::vector<std::string> graph_files(const std::string &file) {
    const std::string ending = ".xml";
    if (file.size() <= ending.size() || file.compare(file.size() - ending.size(), ending.size(), ending) != 0)
        return {file};
    return {file, file.substr(0, file.size() - ending.size()) + ".bin"};
}

}  // namespace es
