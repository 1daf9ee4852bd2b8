"""A new process from nothing to its first decision: every part timed apart, with and without a cache of models."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeskin.errors import EdgeskinError
from edgeskin.spec.bench import ColdParts, ColdStart

LIMIT_S = 300.0
# The clock starts before the first import of the package. Arguments: bundle, threads, height, width, cache or "".
CHILD = "import time; begun = time.perf_counter(); from edgeskin.benchmark import coldchild; coldchild.run(begun)"
EVERY_RUN = ("import_ms", "load_ms", "first_decision_ms", "process_ms")

Run = dict[str, Any]


def measure(bundle: Path, *, threads: int, height: int, width: int, runs: int) -> ColdStart:
    """Start `runs` new processes without a cache of compiled models and as many with one, in turn; medians.

    The engine compiles a graph when it is first asked, so compilation is part of the first decision. The cache is a
    folder of this measurement alone, which one process more has filled before.

    Only the bundle's own graphs are loaded, so the peak memory is a device's. The page cache is warm: the kernel's
    cache cannot be emptied without root, and a device that has just booted reads its disk on top of this.

    Ctrl-C keeps the runs that are done, if any.

    Raises:
        EdgeskinError: the new process failed, or took longer than LIMIT_S.
    """
    arguments = [str(bundle), str(threads), str(height), str(width)]
    plain: list[Run] = []
    cached: list[Run] = []
    partial = False
    size = 0
    with tempfile.TemporaryDirectory(prefix="edgeskin-cold-") as folder:
        try:
            _start([*arguments, folder])
            size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
            for _ in range(runs):
                plain.append(_start([*arguments, ""]))
                if size:
                    cached.append(_start([*arguments, folder]))
        except KeyboardInterrupt:
            if not plain:
                raise
            partial = True
    peaks = [run["peak_rss_bytes"] for run in plain if run["peak_rss_bytes"] is not None]
    return ColdStart(
        runs=len(plain),
        import_ms=_median(plain, "import_ms"),
        load_ms=_median(plain, "load_ms"),
        first_decision_ms=_median(plain, "first_decision_ms"),
        process_ms=_median(plain, "process_ms"),
        peak_rss_bytes=max(peaks) if peaks else None,
        every_run_ms=tuple({name: round(float(run[name]), 3) for name in EVERY_RUN} for run in plain),
        parts=_parts(plain),
        cached=_parts(cached) if cached else None,
        cached_process_ms=_median(cached, "process_ms") if cached else None,
        cache_bytes=size or None,
        cache_absent="" if cached else "interrupted before" if size else "the engine keeps no compiled models",
        partial=partial,
    )


def _start(arguments: Sequence[str]) -> Run:
    """One new process; what it reports, with its wall time."""
    command = [sys.executable, "-c", CHILD, *arguments]
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
    return {**json.loads(done.stdout.splitlines()[-1]), "process_ms": 1e3 * (time.perf_counter() - start)}


def _median(found: Sequence[Run], name: str) -> float:
    return float(statistics.median(run[name] for run in found))


def _parts(found: Sequence[Run]) -> ColdParts:
    names = {"open_ms": "load_ms"}
    medians = {name: _median(found, names.get(name, name)) for name in ColdParts.model_fields}
    return ColdParts(**{name: round(value, 3) for name, value in medians.items()})
