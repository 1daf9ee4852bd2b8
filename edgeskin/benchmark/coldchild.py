"""What a cold start runs in its new process. It imports the runtime and no more: every other import would be timed."""

import builtins
import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Imports:
    """Time spent in import statements, those that other imports brought with them counted once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.names: list[str] = []  # of the outermost, in their order


@contextlib.contextmanager
def imports_timed() -> Iterator[Imports]:
    """Time the import statements that run inside, whoever makes them: a backend imports its engine when it opens.

    >>> with imports_timed() as found:
    ...     import colorsys
    >>> found.names, found.seconds > 0
    (['colorsys'], True)
    """
    real, found, depth = builtins.__import__, Imports(), 0

    def timed(name: str, *arguments: Any, **options: Any) -> Any:
        nonlocal depth
        if depth:
            return real(name, *arguments, **options)
        depth += 1
        begun = time.perf_counter()
        try:
            return real(name, *arguments, **options)
        finally:
            found.seconds += time.perf_counter() - begun
            found.names.append(name)
            depth -= 1

    builtins.__import__ = timed
    try:
        yield found
    finally:
        builtins.__import__ = real


def run(begun: float) -> None:
    """Import the runtime, load the bundle, decide on one pair of camera frames.

    Prints one line of JSON. `begun` is time.perf_counter() at the start of the process; the rest is in sys.argv.
    """
    from edgeskin import runtime

    bundle, cache = Path(sys.argv[1]), sys.argv[5]
    threads, height, width = (int(value) for value in sys.argv[2:5])
    imported = time.perf_counter()
    classifier = runtime.load(bundle, threads=threads, cache=Path(cache) if cache else None)
    loaded = time.perf_counter()
    import numpy as np

    # Coarse patches: pixels of noise would average out to one grey, of which nothing can be decided.
    shape = (2, 16, 16, 3)
    patches = np.random.default_rng(0).integers(30, 220, shape, np.uint8)
    rows, columns = np.arange(height) * shape[1] // height, np.arange(width) * shape[2] // width
    clinical, dermoscopic = patches[:, rows][:, :, columns]
    drawn = time.perf_counter()
    with imports_timed() as engine:
        classifier.session("pair")
    compiled = time.perf_counter()
    result = classifier.classify(clinical=clinical, dermoscopic=dermoscopic)
    decided = time.perf_counter()
    import json

    from edgeskin import out
    from edgeskin.benchmark.sensors import peak_rss_bytes

    found = {
        "import_ms": 1e3 * (imported - begun),
        "load_ms": 1e3 * (loaded - imported),
        "engine_import_ms": 1e3 * engine.seconds,
        "compile_ms": 1e3 * (compiled - drawn - engine.seconds),
        "prepare_ms": result.timings_ms["prepare"],
        "inference_ms": result.timings_ms["infer"],
        "decide_ms": result.timings_ms["quality"] + result.timings_ms["decide"],
        "first_decision_ms": 1e3 * (decided - drawn),
        "total_ms": 1e3 * (loaded - begun + decided - drawn),
        "peak_rss_bytes": peak_rss_bytes(),
    }
    out.raw(json.dumps(found))
