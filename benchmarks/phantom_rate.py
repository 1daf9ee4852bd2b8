"""How fast phantoms are written, JPEG encoding and the disk included; writes results/phantom_rate.json.

python benchmarks/phantom_rate.py [--n 400] [--size 160] [--repeats 5]
"""

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL

from edgeskin import files, out
from edgeskin.data.phantom import write_phantom

RESULT = Path(__file__).parent / "results" / "phantom_rate.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=400)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    out.configure(quiet=True)
    load = os.getloadavg()[0]  # before: what else the machine was doing
    rates, cpu = [], []
    with tempfile.TemporaryDirectory() as folder:
        write_phantom(Path(folder) / "warm", 20, size=options.size)
        for seed in range(options.repeats):
            wall, used = time.perf_counter(), time.process_time()
            write_phantom(Path(folder) / str(seed), options.n, seed, options.size)
            rates.append(options.n / (time.perf_counter() - wall))
            cpu.append(1000 * (time.process_time() - used) / options.n)
    result = {
        "what": "pairs written per second (draw, JPEG, disk), and CPU time per pair",
        "pairs": options.n,
        "size_px": options.size,
        "repeats": options.repeats,
        "pairs_per_s": {"median": round(float(np.median(rates)), 1), "min": round(min(rates), 1)},
        "cpu_ms_per_pair": {"median": round(float(np.median(cpu)), 2), "max": round(max(cpu), 2)},
        "conditions": {
            "cores": len(os.sched_getaffinity(0)),
            "load_average_before": round(load, 2),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
    }
    files.write_atomic(RESULT, files.pretty_json(result))
    print(files.pretty_json(result), end="")


if __name__ == "__main__":
    main()
