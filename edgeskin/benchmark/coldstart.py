"""A new process from nothing to its first decision."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgeskin.errors import EdgeskinError
from edgeskin.spec.bench import ColdStart

PARTS = ("import_ms", "load_ms", "first_decision_ms")
LIMIT_S = 300.0
# The clock starts before the first import of the package. Arguments: bundle, threads, height, width of a frame.
CHILD = "import time; begun = time.perf_counter(); from edgeskin.benchmark import coldstart; coldstart.child(begun)"


def measure(bundle: Path, *, threads: int, height: int, width: int, runs: int) -> ColdStart:
    """Start `runs` new processes one after the other; medians of what each reports.

    The engine compiles a graph when it is first asked, so compilation is part of the first decision.

    Only the bundle's own graphs are loaded, so the peak memory is a device's. The page cache is warm: the kernel's
    cache cannot be emptied without root, and a device that has just booted reads its disk on top of this.

    Raises:
        EdgeskinError: the new process failed, or took longer than LIMIT_S.
    """
    command = [sys.executable, "-c", CHILD, str(bundle), str(threads), str(height), str(width)]
    found: list[dict[str, Any]] = []
    for _ in range(runs):
        start = time.perf_counter()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip().splitlines() or ["no message"])[-1]
            raise EdgeskinError("the cold-start process failed", got=last, fix="run `edgeskin verify` first") from error
        except subprocess.TimeoutExpired as error:
            raise EdgeskinError(
                "the cold-start process did not end", got=f"{LIMIT_S:.0f} s", fix="run `edgeskin run` by hand"
            ) from error
        spent = 1e3 * (time.perf_counter() - start)
        found.append({**json.loads(done.stdout.splitlines()[-1]), "process_ms": spent})
    every = tuple({name: round(float(run[name]), 3) for name in (*PARTS, "process_ms")} for run in found)
    peaks = [run["peak_rss_bytes"] for run in found if run["peak_rss_bytes"] is not None]
    return ColdStart(
        runs=runs,
        import_ms=statistics.median(run["import_ms"] for run in every),
        load_ms=statistics.median(run["load_ms"] for run in every),
        first_decision_ms=statistics.median(run["first_decision_ms"] for run in every),
        process_ms=statistics.median(run["process_ms"] for run in every),
        peak_rss_bytes=max(peaks) if peaks else None,
        every_run_ms=every,
    )


def child(begun: float) -> None:
    """What the new process does: import the runtime, load the bundle, decide on one pair of camera frames.

    Prints one line of JSON. `begun` is time.perf_counter() at the start of the process; the rest is in sys.argv.
    """
    import numpy as np

    from edgeskin import out, runtime

    bundle = Path(sys.argv[1])
    threads, height, width = (int(value) for value in sys.argv[2:])
    imported = time.perf_counter()
    classifier = runtime.load(bundle, threads=threads)
    loaded = time.perf_counter()
    clinical, dermoscopic = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    drawn = time.perf_counter()
    classifier.classify(clinical=clinical, dermoscopic=dermoscopic)
    decided = time.perf_counter()
    from edgeskin.benchmark.sensors import peak_rss_bytes

    found = {
        "import_ms": 1e3 * (imported - begun),
        "load_ms": 1e3 * (loaded - imported),
        "first_decision_ms": 1e3 * (decided - drawn),
        "peak_rss_bytes": peak_rss_bytes(),
    }
    out.raw(json.dumps(found))
