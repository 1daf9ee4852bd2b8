// Thresholds of the quality gate out of the manifest: the keys and ranges of edgeskin/spec/quality.py.
#pragma once

#include "json.h"
#include "quality.h"

namespace es {

// Throws Fault ES_MANIFEST. A key that is left out has its default.
Quality read_quality(const Node &node);

}  // namespace es
