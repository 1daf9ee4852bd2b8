// What this process runs on, read from the system.
#include "machine.h"

#include <sched.h>

#include <algorithm>
#include <fstream>

namespace es {

int usable_cores() {
    cpu_set_t set;
    CPU_ZERO(&set);
    return sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

std::string processor() {
    std::ifstream file("/proc/cpuinfo");
    std::string line, model, board, hardware;
    const auto take = [&line](const char *key, std::string &into) {
        const std::size_t colon = line.find(':');
        if (colon == std::string::npos || !into.empty()) return;
        const std::string name = line.substr(0, line.find_last_not_of(" \t", colon ? colon - 1 : 0) + 1);
        const std::size_t start = line.find_first_not_of(" \t", colon + 1);
        if (name == key && start != std::string::npos)
            into = line.substr(start, line.find_last_not_of(" \t") + 1 - start);
    };
    while (std::getline(file, line)) take("model name", model), take("Model", board), take("Hardware", hardware);
    return !model.empty() ? model : !board.empty() ? board : hardware;
}

}  // namespace es
