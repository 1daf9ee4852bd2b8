// Tasks, classes and how two images become one probability: the rules of edgeskin/spec/schema.py and train.py.
#pragma once

#include "json.h"
#include "manifest.h"

namespace es {

// Fill tasks, logits, the target and whether there is a score. Throws Fault ES_MANIFEST.
void read_schema(const Node &node, Manifest &made);

// Fill weights and temperatures of the tasks. Throws Fault ES_MANIFEST where one is missing or has none.
void read_fusion(const Node &node, Manifest &made);

}  // namespace es
