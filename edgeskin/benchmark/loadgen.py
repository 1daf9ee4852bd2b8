"""MLPerf LoadGen beside our own loop: SingleStream over the same frames and the same classifier, in turn.

LoadGen (`pip install mlcommons-loadgen`, x86-64) is no dependency: where it is not installed the check says so.
"""

import re
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from edgeskin import metrics, runtime
from edgeskin.backends import usable_cores
from edgeskin.benchmark.camera import Camera
from edgeskin.benchmark.clocks import Watch
from edgeskin.benchmark.lanes import Setting, warm_up
from edgeskin.bundle import open_bundle
from edgeskin.errors import EdgeskinError
from edgeskin.spec.bench import LoadGenCheck, Route
from edgeskin.spec.manifest import Mode
from edgeskin.spec.suite import Suite

LIMIT = 0.03  # of p50 and p90, ours over LoadGen's
MODULE = "mlperf_loadgen"
SECONDS = 10.0  # of a block, at most
SAMPLES = 8  # different examinations in LoadGen's library
BLOCKS = 4
_LINE = re.compile(r"^(\d+\.\d+) percentile latency \(ns\)\s*:\s*(\d+)\s*$", re.MULTILINE)


def unavailable() -> str | None:
    """Why LoadGen cannot be asked here, or None."""
    return None if find_spec(MODULE) else "the package mlcommons-loadgen is not installed"


def require() -> None:
    """Raises EdgeskinError if LoadGen cannot be asked here."""
    if reason := unavailable():
        raise EdgeskinError("no cross-check with LoadGen", got=reason, fix="pip install mlcommons-loadgen")


def percentiles(summary: str) -> dict[str, float]:
    """Latencies in milliseconds out of LoadGen's summary log.

    >>> percentiles("50.00 percentile latency (ns)   : 2500000\\n90.00 percentile latency (ns)   : 3100000\\n")
    {'50.00': 2.5, '90.00': 3.1}
    """
    return {share: int(nanoseconds) / 1e6 for share, nanoseconds in _LINE.findall(summary)}


def compare(ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> tuple[float, float, list[str]]:
    """Ratios of p50 and p90 over blocks that took turns, and the reasons why they do not agree.

    Args:
        ours: (p50, p90) in milliseconds of each block.
        theirs: the same of LoadGen's block right behind it.

    >>> compare([(1.0, 2.0), (1.0, 2.0)], [(1.0, 2.0), (1.01, 2.2)])
    (0.995, 0.955, ['p90: ours over LoadGen is 0.955, further from 1 than 3%'])
    """
    found, reasons = [], []
    for index, name in enumerate(("p50", "p90")):
        ratios = [a[index] / b[index] for a, b in zip(ours, theirs, strict=True)]
        found.append(round(float(np.median(ratios)), 3))
        if abs(float(np.median(ratios)) - 1) > LIMIT:
            reasons.append(f"{name}: ours over LoadGen is {found[-1]:.3f}, further from 1 than {LIMIT:.0%}")
    return found[0], found[1], reasons


def cross_check(
    bundle_path: Path, *, threads: int = 0, seconds: float = SECONDS, mode: Mode = "pair", route: Route = "network",
    blocks: int = BLOCKS, suite: Suite | None = None,
) -> LoadGenCheck:  # fmt: skip
    """Ask the bundle's own graphs through our loop and through LoadGen's SingleStream, A B A B.

    Args:
        seconds: of each block; there are `blocks` of ours and as many of LoadGen's.
        suite: for the warm-up and the size of the camera's frames; by default the spec's own.

    Raises:
        EdgeskinError: LoadGen is not installed, gave no percentiles, or the bundle does not verify or run.
    """
    require()
    bundle = open_bundle(bundle_path)
    suite = suite or Suite(name="loadgen")
    threads = threads or usable_cores()
    spec = bundle.manifest.preprocess
    scene = Camera(2 * spec.height, 2 * spec.width)
    if route == "decision":
        scene = Camera(suite.frame_height, suite.frame_width)
    core = runtime.load(bundle, threads=threads, fallback=False)
    setting = Setting({"core": core}, {route: scene}, suite, threads, Watch())
    asking = setting.ask(mode, route, hold=SAMPLES)
    for number in range(SAMPLES):
        asking.draw(core, number)

    def ask(number: int) -> float:
        return asking(core, number % SAMPLES)[0]

    warm_up(setting.core(), lambda one, number: asking(one, number % SAMPLES), suite, time.monotonic() + seconds)
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    queries = loadgen_queries = 0
    for _ in range(blocks):
        latencies = _block(ask, seconds)
        ours.append((metrics.percentile(latencies, 0.5), metrics.percentile(latencies, 0.9)))
        queries += len(latencies)
        found, count = single_stream(ask, seconds)
        theirs.append((found["50.00"], found["90.00"]))
        loadgen_queries += count
    p50_ratio, p90_ratio, reasons = compare(ours, theirs)
    middle = [float(value) for value in (*np.median(ours, axis=0), *np.median(theirs, axis=0))]
    return LoadGenCheck(
        mode=mode,
        route=route,
        threads=threads,
        version=metadata.version("mlcommons_loadgen"),
        blocks=blocks,
        queries=queries,
        loadgen_queries=loadgen_queries,
        p50_ms=middle[0],
        p90_ms=middle[1],
        loadgen_p50_ms=middle[2],
        loadgen_p90_ms=middle[3],
        p50_ratio=p50_ratio,
        p90_ratio=p90_ratio,
        limit=LIMIT,
        agree=not reasons,
        reasons=tuple(reasons),
    )


def _block(ask: Callable[[int], float], seconds: float) -> list[float]:
    """Our own loop for some seconds, at least 64 queries: latencies in milliseconds."""
    found: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until or len(found) < 64:
        found.append(ask(len(found)))
    return found


def single_stream(ask: Callable[[int], object], seconds: float) -> tuple[dict[str, float], int]:
    """One performance run of LoadGen's SingleStream; its percentiles in milliseconds and how many queries it put.

    Raises:
        EdgeskinError: LoadGen gave no percentiles.
    """
    import mlperf_loadgen as lg

    asked = 0
    faults: list[Exception] = []

    def issue(samples: list[object]) -> None:
        nonlocal asked
        answers = []
        for sample in samples:
            try:
                if not faults:
                    ask(sample.index)  # type: ignore[attr-defined]
            except Exception as error:  # noqa: BLE001 - it must not fly through LoadGen's C++; raised below
                faults.append(error)
            asked += 1
            answers.append(lg.QuerySampleResponse(sample.id, 0, 0))  # type: ignore[attr-defined]
        lg.QuerySamplesComplete(answers)

    settings = lg.TestSettings()
    settings.scenario = lg.TestScenario.SingleStream
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = round(1000 * seconds)
    settings.min_query_count = 64
    with tempfile.TemporaryDirectory(prefix="edgeskin-loadgen-") as folder:
        logs = lg.LogSettings()
        logs.log_output.outdir = folder
        logs.log_output.copy_summary_to_stdout = False
        logs.enable_trace = False
        library = lg.ConstructQSL(SAMPLES, SAMPLES, lambda _: None, lambda _: None)  # drawn beforehand
        system = lg.ConstructSUT(issue, lambda: None)
        try:
            lg.StartTestWithLogSettings(system, library, settings, logs)
        finally:
            lg.DestroySUT(system)
            lg.DestroyQSL(library)
        summary = Path(folder, "mlperf_log_summary.txt").read_text(encoding="utf-8")
    if faults:
        raise faults[0]
    found = percentiles(summary)
    if not {"50.00", "90.00"} <= found.keys():
        raise EdgeskinError("LoadGen gave no percentiles", got=summary[:200], fix="raise --seconds")
    return found, asked
