"""The benchmark's way in: every scenario of a suite over one bundle, and the conditions they were measured under."""

import time
from collections.abc import Iterator
from pathlib import Path

from edgeskin import out, runtime
from edgeskin.backends import usable_cores
from edgeskin.benchmark import (
    coldstart,
    energy,
    environment,
    lanes,
    loadgen,
    offline,
    sensors,
    single,
    sparse,
    statistics,
    stream,
)
from edgeskin.benchmark.camera import Camera
from edgeskin.benchmark.clocks import Watch
from edgeskin.benchmark.single import LANES
from edgeskin.bundle import Bundle, open_bundle
from edgeskin.errors import EdgeskinError
from edgeskin.spec.bench import BenchResult, ColdStart, Graphs, Lane, LoadGenCheck, Route
from edgeskin.spec.manifest import Manifest, Mode
from edgeskin.spec.result import VerifyResult
from edgeskin.spec.suite import Scenario, Suite

# The pair is what the network is for; `single` alone also asks with the dermoscopic image by itself.
PAIR: tuple[tuple[Mode, Route], ...] = (("pair", "network"), ("pair", "decision"))
PLAN: dict[Scenario, tuple[tuple[Mode, Route], ...]] = {
    "single": LANES,
    "sparse": PAIR,
    "stream": PAIR,
    "offline": PAIR,
}


def run(
    bundle_path: Path,
    suite: Suite,
    *,
    threads: int = 0,
    verify: VerifyResult | None = None,
    with_loadgen: bool = False,
) -> BenchResult:
    """Measure a bundle: the lanes of every scenario, cold start, memory; and what they were measured on.

    Args:
        threads: for inference; 0 takes the suite's, and where that is 0 too, every core this process may use.
        verify: a verify result of this bundle, to travel with its latencies.
        with_loadgen: also put the pair's queries through MLPerf LoadGen, in turn with our own loop; a result whose
            p50 or p90 it does not confirm is not valid.

    Ctrl-C ends the run early: what was measured is returned, marked partial.

    Raises:
        EdgeskinError: the bundle does not verify, its engine or LoadGen is absent, `verify` is of another bundle, or
            the run was interrupted before anything was measured.
    """
    if with_loadgen:
        loadgen.require()
    bundle = open_bundle(bundle_path)
    check_verify(verify, bundle.sha256)
    threads = threads or suite.threads or usable_cores()
    classifiers: dict[Graphs, runtime.Classifier] = {"core": runtime.load(bundle, threads=threads, fallback=False)}
    if not bundle.lean:
        classifiers["reference"] = runtime.load(bundle, threads=threads, graphs="reference")
    watch, meter = Watch(), energy.find()
    idle_w = meter.idle_w()
    before, ticks_before = sensors.read(), sensors.ticks()
    setting = lanes.Setting(classifiers, _scenes(bundle, suite), suite, threads, watch, meter, idle_w)
    measured, partial = _lanes(bundle, setting)
    ticks_after, after = sensors.ticks(), sensors.read()
    if not meter.source:
        before = before.model_copy(update={"absent": {**before.absent, "energy": meter.reason}})
    others = sensors.others_share(ticks_before, ticks_after)
    reasons = [reason for lane in measured for reason in lane.validity.reasons]
    if partial:
        reasons.append(f"interrupted after {len(measured)} of {sum(len(PLAN[s]) for s in suite.scenarios)} lanes")
    cold, cold_partial = (None, False) if partial else _cold(bundle_path, suite, threads)
    if cold_partial:
        partial = True
        reasons.append(f"interrupted after {cold.runs if cold else 0} of {suite.cold_starts} cold starts")
    checks: tuple[LoadGenCheck, ...] = ()
    if with_loadgen and not partial:
        checks, partial = beside_loadgen(bundle_path, suite, threads)
        reasons += [f"LoadGen, {one.mode} {one.route}: {reason}" for one in checks for reason in one.reasons]
        reasons += [f"interrupted after {len(checks)} of {len(PAIR)} checks with LoadGen"] if partial else []
    reasons += [f"throttled: {what}" for what in sensors.throttled(before, after)]
    watch.look(at_once=True)
    reasons += watch.reasons()
    loaded = [lane.clock_mhz for lane in measured if lane.clock_mhz]
    if loaded:  # a lane may fall a little, and the next again
        fallen = statistics.throttled("the whole run", loaded[0][0], loaded[-1][1])
        reasons += fallen if not any("throttled" in reason for reason in reasons) else []
    if others is not None and others > statistics.OTHERS_SHARE:
        reasons.append(f"other processes used {others:.0%} of the processor time")
    manifest = bundle.manifest
    return BenchResult(
        bundle=manifest.name,
        bundle_sha256=bundle.sha256,
        target=manifest.target,
        precision=manifest.precision,
        phantom=manifest.phantom,
        backbone=manifest.network.backbone,
        parameters=manifest.parameters,
        input_height=manifest.preprocess.height,
        input_width=manifest.preprocess.width,
        core_bytes={mode: graph_bytes(manifest, graph.file) for mode, graph in manifest.graphs.items()},
        reference_bytes={mode: graph_bytes(manifest, graph.file) for mode, graph in manifest.reference.items()},
        suite=suite,
        environment=environment.record(threads=threads, backend=dict(classifiers["core"].session("pair").describe())),
        lanes=tuple(measured),
        cold_start=cold,
        sensors_before=before,
        sensors_after=after,
        others_cpu_share=others,
        verify=verify,
        loadgen=checks,
        partial=partial,
        validity=statistics.verdict(reasons),
    )


def check_verify(verify: VerifyResult | None, bundle_sha256: str) -> None:
    """Refuse the verify result of another artefact: accuracy and latency must be of the same bytes."""
    if verify is not None and verify.bundle_sha256 != bundle_sha256:
        raise EdgeskinError(
            "the verify result is of another bundle",
            got=verify.bundle_sha256[:12],
            possible=bundle_sha256[:12],
            fix="run `edgeskin verify` on this bundle",
        )


def graph_bytes(manifest: Manifest, file: str) -> int:
    """Size of a graph with its weights: every file of that name whatever its ending (.xml + .bin, .onnx + .data)."""
    stem = file.rpartition(".")[0] + "."
    return sum(entry.size_bytes for name, entry in manifest.files.items() if name.startswith(stem))


def _cold(bundle_path: Path, suite: Suite, threads: int) -> tuple[ColdStart | None, bool]:
    """Cold starts, as many as the suite asks for; and whether they were interrupted."""
    if not suite.cold_starts:
        return None, False
    out.note("cold start: new processes, to their first decision")
    size = {"height": suite.frame_height, "width": suite.frame_width}
    try:
        found = coldstart.measure(bundle_path, threads=threads, runs=suite.cold_starts, **size)
    except KeyboardInterrupt:
        return None, True
    return found, found.partial


def beside_loadgen(bundle_path: Path, suite: Suite, threads: int) -> tuple[tuple[LoadGenCheck, ...], bool]:
    """The pair's lanes beside LoadGen; and whether that was interrupted."""
    seconds = min(loadgen.SECONDS, suite.max_seconds / (2 * loadgen.BLOCKS * len(PAIR)))
    found: list[LoadGenCheck] = []
    with out.progress("LoadGen", len(PAIR)) as step:
        for mode, route in PAIR:
            step(0, text=f"LoadGen: {mode} {route}")
            try:
                found.append(
                    loadgen.cross_check(
                        bundle_path, threads=threads, seconds=seconds, mode=mode, route=route, suite=suite
                    )
                )
            except KeyboardInterrupt:
                return tuple(found), True
            step(1)
    return tuple(found), False


def _scenes(bundle: Bundle, suite: Suite) -> dict[Route, Camera]:
    """What the cameras of each route see."""
    spec = bundle.manifest.preprocess
    return {
        "network": Camera(2 * spec.height, 2 * spec.width),  # prepared before the clock starts: no need for more
        "decision": Camera(suite.frame_height, suite.frame_width),
    }


def _lanes(bundle: Bundle, setting: lanes.Setting) -> tuple[list[Lane], bool]:
    """Measure the scenarios one after the other; whether Ctrl-C ended it."""
    suite = setting.suite
    found: list[lanes.Measured] = []
    partial = False
    for scenario in suite.scenarios:
        with out.progress(scenario, len(PLAN[scenario]) * _steps(suite, scenario)) as step:
            for one in _scenario(bundle, setting, scenario, step):
                partial = one is None or one.interrupted
                if one is not None:
                    found.append(one)
                if partial:
                    break
        if partial:
            break
    if not found:
        raise EdgeskinError(
            "interrupted before anything was measured", got=str(bundle.root), fix="run it again, or take suite quick"
        )
    plain: dict[int, runtime.Classifier] = {}  # threads -> classifier: another number may round otherwise
    records = []
    for one in found:
        count = one.threads or setting.threads
        plain[count] = plain.get(count) or runtime.load(bundle, threads=count, fallback=False)
        same = lanes.same_outputs(one, plain[count], setting.scenes[one.route])
        records.append(lanes.summarise(one, same, suite))
    return records, partial


def _steps(suite: Suite, scenario: Scenario) -> int:
    """How many steps of progress a lane takes."""
    counts = {
        "single": suite.min_queries,
        "sparse": suite.sparse.queries,
        "stream": max(1, round(suite.stream.fps * suite.stream.seconds)),
        "offline": len(suite.offline.in_flight),
    }
    return counts[scenario]


def _scenario(
    bundle: Bundle, setting: lanes.Setting, scenario: Scenario, step: lanes.Step
) -> Iterator[lanes.Measured | None]:
    """The lanes of a scenario; in `single` the time a lane leaves over goes to those after it."""
    deadline = time.monotonic() + setting.suite.max_seconds
    for index, (mode, route) in enumerate(PLAN[scenario]):
        step(0, text=f"{scenario}: {mode} {route}")
        if scenario == "single":
            budget = max(0.0, deadline - time.monotonic()) / (len(LANES) - index)
            yield single.measure(setting, mode, route, budget, step)
        elif scenario == "sparse":
            yield sparse.measure(setting, mode, route, step)
        elif scenario == "stream":
            yield stream.measure(setting, mode, route, step)
        else:
            yield offline.measure(
                setting, mode, route, step, lambda count: runtime.load(bundle, threads=count, target_check=False)
            )
