// Logits -> probabilities -> decision: edgeskin/decide.py in C++.
#pragma once

#include <edgeskin.h>

#include "manifest.h"

namespace es {

// Fills probabilities, those of each branch, predicted, score, target_probability, threshold, refer of `result` from
// logits [manifest.rows(mode), manifest.logits]: clinical, dermoscopic, fused. Allocates nothing.
void decide(const Manifest &manifest, Mode mode, const float *logits, es_result &result);

}  // namespace es
