"""One lane: warm up until stationary, then ask the INT8 graph and its FP32 reference in turn, A B B A."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeskin.benchmark import statistics
from edgeskin.benchmark.camera import Camera
from edgeskin.runtime import Classifier
from edgeskin.spec.bench import Graphs, Lane, Route, SameOutputs, Warmup
from edgeskin.spec.manifest import Mode
from edgeskin.spec.suite import Suite

KEEP = 16  # outputs kept at random for the comparison with a plain run
TOLERANCE = 1e-4  # of a logit or a probability, where the engine does not repeat bit by bit
WARMUP_NUMBERS = 1_000_000  # queries of the warm-up are numbered from here: none is asked again in the timed run
WARMUP_SHARE = 0.3  # of the lane's time, at most

Answer = tuple[float, NDArray[np.float64], dict[str, float]]  # milliseconds, outputs, parts of the route
Ask = Callable[[Classifier, int], Answer]
Step = Callable[..., None]


@dataclass
class Series:
    """What one graph answered in a lane."""

    latencies_ms: list[float] = field(default_factory=list)
    parts_ms: dict[str, list[float]] = field(default_factory=dict)
    kept: dict[int, NDArray[np.float64]] = field(default_factory=dict)  # query number -> outputs

    def add(self, number: int, answer: Answer, keep: bool) -> None:
        """Note a timed answer."""
        self.latencies_ms.append(answer[0])
        for name, value in answer[2].items():
            self.parts_ms.setdefault(name, []).append(value)
        if keep:
            self.kept[number] = answer[1]


@dataclass
class Measured:
    """A lane as it was measured, complete or not."""

    mode: Mode
    route: Route
    series: dict[Graphs, Series]
    warmup: dict[Graphs, Warmup]
    seconds: float
    interrupted: bool


def ask_network(camera: Camera, mode: Mode) -> Ask:
    """Timed: prepared frames in, logits out. The frames of a query are prepared before its clock starts."""
    ready: dict[int, NDArray[np.uint8]] = {}  # of the present round only: both graphs get the same frames

    def ask(classifier: Classifier, number: int) -> Answer:
        if number not in ready:
            ready.clear()
            clinical, dermoscopic = camera.pair(number)
            photos = (clinical, dermoscopic) if mode == "pair" else (dermoscopic,)
            ready[number] = np.stack([classifier.prepare(photo) for photo in photos])
        frames = ready[number]
        start = time.perf_counter_ns()
        logits = classifier.infer(frames, mode)
        spent = time.perf_counter_ns() - start
        return spent / 1e6, np.array(logits, np.float64).ravel(), {}

    return ask


def ask_decision(camera: Camera, mode: Mode) -> Ask:
    """Timed: camera frames in, decision out. The frames are drawn before the clock starts."""
    ready: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}

    def ask(classifier: Classifier, number: int) -> Answer:
        if number not in ready:
            ready.clear()
            ready[number] = camera.pair(number)
        clinical, dermoscopic = ready[number]
        start = time.perf_counter_ns()
        if mode == "pair":
            result = classifier.classify(clinical=clinical, dermoscopic=dermoscopic)
        else:
            result = classifier.classify(dermoscopic=dermoscopic)
        spent = time.perf_counter_ns() - start
        outputs = [p for task in result.probabilities.values() for p in task.values()]
        return spent / 1e6, np.array(outputs, np.float64), dict(result.timings_ms)

    return ask


def _warm_up(
    classifiers: dict[Graphs, Classifier], ask: Ask, suite: Suite, until: float
) -> tuple[dict[Graphs, Warmup], int]:
    """Ask all graphs in turn until every one is stationary, the suite's maximum, or the time is up."""
    spent: dict[Graphs, list[float]] = {graphs: [] for graphs in classifiers}
    window = max(5, suite.min_warmup // 2)
    rounds = 0
    while rounds < suite.max_warmup:
        for graphs, classifier in classifiers.items():
            spent[graphs].append(ask(classifier, WARMUP_NUMBERS + rounds)[0])
        rounds += 1
        if rounds >= suite.min_warmup and all(statistics.is_stationary(s, window) for s in spent.values()):
            break
        if time.monotonic() > until:
            break
    found: dict[Graphs, Warmup] = {}
    for graphs, series in spent.items():
        found[graphs] = Warmup(
            queries=len(series),
            stationary=statistics.is_stationary(series, window),
            change=statistics.warmup_change(series, window),
        )
    return found, rounds


def measure(
    classifiers: dict[Graphs, Classifier], mode: Mode, route: Route, camera: Camera, suite: Suite, budget_s: float,
    step: Step,
) -> Measured | None:  # fmt: skip
    """Measure a lane for at most `budget_s` seconds. None if it was interrupted before the first timed round.

    Both graphs get the same input in a round, and take turns to be first: what the second gains from a warm cache,
    each gains half of the time.
    """
    ask = ask_network(camera, mode) if route == "network" else ask_decision(camera, mode)
    begun = time.monotonic()
    series: dict[Graphs, Series] = {graphs: Series() for graphs in classifiers}
    chosen = set(np.random.default_rng(0).choice(suite.min_queries, min(KEEP, suite.min_queries), replace=False))
    warmup: dict[Graphs, Warmup] = {}
    number = 0
    interrupted = False
    try:
        warmup, _ = _warm_up(classifiers, ask, suite, begun + WARMUP_SHARE * budget_s)
        timed = time.monotonic()
        while True:
            now = time.monotonic()
            enough = number >= suite.min_queries and now - timed >= suite.min_seconds / 4
            if enough or (number and now - begun >= budget_s):
                break
            order = list(classifiers) if number % 2 == 0 else list(classifiers)[::-1]
            answers = {graphs: ask(classifiers[graphs], number) for graphs in order}
            for graphs, answer in answers.items():  # a round counts whole or not at all
                series[graphs].add(number, answer, graphs == "core" and number in chosen)
            number += 1
            step(1 if number <= suite.min_queries else 0)
    except KeyboardInterrupt:
        interrupted = True
    if not series["core"].latencies_ms:
        return None
    return Measured(mode, route, series, warmup, time.monotonic() - begun, interrupted)


def same_outputs(measured: Measured, plain: Classifier, camera: Camera) -> SameOutputs | None:
    """Ask a freshly loaded classifier, one query at a time, for what was kept during the timed run (as TEST01)."""
    ask = ask_network(camera, measured.mode) if measured.route == "network" else ask_decision(camera, measured.mode)
    kept = measured.series["core"].kept
    if not kept:
        return None
    gaps = [float(np.abs(ask(plain, number)[1] - outputs).max()) for number, outputs in sorted(kept.items())]
    return SameOutputs(
        compared=len(gaps),
        identical=sum(gap == 0 for gap in gaps),
        max_difference=max(gaps),
        tolerance=TOLERANCE,
        same=all(gap <= TOLERANCE for gap in gaps),  # NaN is not the same
    )


def summarise(measured: Measured, same: SameOutputs | None, suite: Suite) -> Lane:
    """The lane's record: percentiles, bounds, ratio, and whether it counts."""
    found = {
        graphs: statistics.latency(series.latencies_ms, measured.warmup[graphs])
        for graphs, series in measured.series.items()
    }
    reasons = []
    for graphs, latency in found.items():
        label = f"{measured.mode} {measured.route} {'bundle' if graphs == 'core' else 'FP32 reference'}"
        reasons += statistics.judge(label, latency, suite.min_queries)
    if measured.interrupted:
        reasons.append(f"{measured.mode} {measured.route}: interrupted")
    if same is not None and not same.same:
        reasons.append(
            f"{measured.mode} {measured.route}: outputs of the timed run differ from a plain run by "
            f"{same.max_difference:.3g}, more than {same.tolerance:g}"
        )
    ratio = None
    if "reference" in measured.series:
        core, reference = (measured.series[graphs].latencies_ms for graphs in ("core", "reference"))
        ratio = statistics.ratio(core, reference, repeats=suite.bootstrap)
    parts = {
        graphs: {name: float(np.median(values)) for name, values in series.parts_ms.items()}
        for graphs, series in measured.series.items()
        if series.parts_ms
    }
    return Lane(
        mode=measured.mode,
        route=measured.route,
        core=found["core"],
        reference=found.get("reference"),
        ratio=ratio,
        parts_ms={str(graphs): values for graphs, values in parts.items()},
        same_outputs=same,
        seconds=round(measured.seconds, 3),
        validity=statistics.verdict(reasons),
    )
