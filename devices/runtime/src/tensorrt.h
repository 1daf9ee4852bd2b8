// Whether a TensorRT engine belongs on this machine: edgeskin/tensorrt_here.py in C++.
#pragma once

#include <string>

#include "manifest.h"

namespace es {

// Whether two versions agree in every number that both have, and both have two at least: 10.3.0 and 10.3.0.30.
bool same_version(const std::string &one, const std::string &other);

// "" or one line with its cure: an engine that was built on `made` does not run here. To be asked before the engine is
// opened, as TensorRT itself says it late and darkly, and after the backend's unsupported() has said "".
std::string refuse_foreign(const Compatibility &made);

}  // namespace es
