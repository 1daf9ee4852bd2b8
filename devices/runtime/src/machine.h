// What this process runs on.
#pragma once

#include <string>

namespace es {

// How many cores this process may use, 1 at least; fewer than the machine has when it is pinned.
int usable_cores();

// The processor's own name, or that of the board, "" where the system tells neither: edgeskin/provenance.py
// `processor`.
std::string processor();

}  // namespace es
