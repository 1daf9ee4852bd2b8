"""Scenario `single`: one query at a time, the next when the last is answered."""

import time
from pathlib import Path

from edgeskin import out, runtime
from edgeskin.benchmark import coldstart, environment, lanes, sensors, statistics
from edgeskin.benchmark.camera import Camera
from edgeskin.bundle import Bundle, open_bundle
from edgeskin.errors import EdgeskinError
from edgeskin.spec.bench import BenchResult, ColdStart, Graphs, Lane, Route
from edgeskin.spec.manifest import Manifest, Mode
from edgeskin.spec.result import VerifyResult
from edgeskin.spec.suite import Suite

LANES: tuple[tuple[Mode, Route], ...] = (
    ("pair", "network"),
    ("pair", "decision"),
    ("dermoscopic", "network"),
    ("dermoscopic", "decision"),
)


def run(
    bundle_path: Path, suite: Suite, *, threads: int = 0, verify: VerifyResult | None = None
) -> BenchResult:  # fmt: skip
    """Measure a bundle: latencies of four lanes, cold start, memory; and what they were measured on.

    Args:
        threads: for inference; 0 takes the suite's, and where that is 0 too, every core this process may use.
        verify: a verify result of this bundle, to travel with its latencies.

    Ctrl-C ends the run early: what was measured is returned, marked partial.

    Raises:
        EdgeskinError: the bundle does not verify, its engine is absent, `verify` is of another bundle, or the run
            was interrupted before anything was measured.
    """
    bundle = open_bundle(bundle_path)
    check_verify(verify, bundle.sha256)
    threads = threads or suite.threads or environment.usable_cores()
    classifiers: dict[Graphs, runtime.Classifier] = {"core": runtime.load(bundle, threads=threads)}
    if not bundle.lean:
        classifiers["reference"] = runtime.load(bundle, threads=threads, graphs="reference")
    before, ticks_before = sensors.read(), sensors.ticks()
    measured, partial = _lanes(bundle, classifiers, suite, threads)
    ticks_after, after = sensors.ticks(), sensors.read()
    others = sensors.others_share(ticks_before, ticks_after)
    cold: ColdStart | None = None
    if suite.cold_starts and not partial:
        try:
            out.note("cold start: new processes, to their first decision")
            cold = coldstart.measure(
                bundle_path,
                threads=threads,
                height=suite.frame_height,
                width=suite.frame_width,
                runs=suite.cold_starts,
            )
        except KeyboardInterrupt:
            partial = True
    reasons = [reason for lane in measured for reason in lane.validity.reasons]
    if partial:
        reasons.append(f"interrupted after {len(measured)} of {len(LANES)} lanes")
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


def _lanes(
    bundle: Bundle, classifiers: dict[Graphs, runtime.Classifier], suite: Suite, threads: int
) -> tuple[list[Lane], bool]:
    """Measure the lanes one after the other; the time a lane leaves over goes to those after it."""
    spec = bundle.manifest.preprocess
    scenes: dict[Route, Camera] = {
        "network": Camera(2 * spec.height, 2 * spec.width),  # prepared before the clock starts: no need for more
        "decision": Camera(suite.frame_height, suite.frame_width),
    }
    found: list[lanes.Measured] = []
    partial = False
    deadline = time.monotonic() + suite.max_seconds
    with out.progress("latency", len(LANES) * suite.min_queries) as step:
        for index, (mode, route) in enumerate(LANES):
            budget = max(0.0, deadline - time.monotonic()) / (len(LANES) - index)
            step(0, text=f"latency: {mode} {route}")
            one = lanes.measure(classifiers, mode, route, scenes[route], suite, budget, step)
            partial = one is None or one.interrupted
            if one is not None:
                found.append(one)
            if partial:
                break
    if not found:
        raise EdgeskinError(
            "interrupted before anything was measured", got=str(bundle.root), fix="run it again, or take suite quick"
        )
    plain = runtime.load(bundle, threads=threads)
    return [lanes.summarise(one, lanes.same_outputs(one, plain, scenes[one.route]), suite) for one in found], partial
