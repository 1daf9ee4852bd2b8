"""How long `edgeskin --help` takes from the shell's point of view; writes results/help_time.json.

    python benchmarks/help_time.py [--repeats 20]

Wall time depends on what else the machine does; CPU time, user and system, hardly does. Both are given, beside
those of a Python that starts and ends.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from edgeskin import files
from edgeskin.benchmark import environment

RESULT = Path(__file__).parent / "results" / "help_time.json"
LIMIT_MS = 500


def measure(command: list[str], repeats: int) -> dict[str, object]:
    """Median and maximum of wall and CPU time in milliseconds, after one call that fills the caches."""
    subprocess.run(command, check=True, capture_output=True)
    wall, cpu = [], []
    for _ in range(repeats):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        wall.append(1000 * (time.perf_counter() - start))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    return {
        name: {"median": round(statistics.median(values), 1), "max": round(max(values), 1)}
        for name, values in (("wall_ms", wall), ("cpu_ms", cpu))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    script = Path(sys.executable).parent / "edgeskin"
    result = {
        "what": "time of `edgeskin --help`, process start included; warm file cache",
        "limit_wall_ms": LIMIT_MS,
        "repeats": options.repeats,
        "help": measure([str(script), "--help"], options.repeats),
        "bare_python": measure([sys.executable, "-c", "pass"], options.repeats),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "environment": environment.record(threads=1).to_json(),
    }
    files.write_atomic(RESULT, files.pretty_json(result))
    print(files.pretty_json(result), end="")


if __name__ == "__main__":
    main()
