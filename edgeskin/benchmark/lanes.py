"""What the lanes of every scenario share: asking, warming up, keeping what was measured, and the lane's record."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeskin.benchmark import sensors, statistics
from edgeskin.benchmark.camera import Camera
from edgeskin.benchmark.clocks import Watch
from edgeskin.benchmark.energy import Meter
from edgeskin.errors import EdgeskinError
from edgeskin.runtime import Classifier
from edgeskin.spec import bench
from edgeskin.spec.bench import Graphs, Lane, Ratio, Route, SameOutputs, Stream, Throughput, Warmup
from edgeskin.spec.machine import Energy
from edgeskin.spec.manifest import Mode
from edgeskin.spec.suite import Scenario, Suite

KEEP = 16  # outputs kept at random for the comparison with a plain run
TOLERANCE = 1e-4  # of a logit or a probability, where the engine does not repeat bit by bit
ENERGY_RING = 4  # different examinations while energy is measured
WARMUP_NUMBERS = 1_000_000  # queries of the warm-up are numbered from here: none is asked again in the timed run

Outputs = NDArray[np.float32] | NDArray[np.float64]
Answer = tuple[float, Outputs, dict[str, float]]  # milliseconds, outputs, parts of the route
Step = Callable[..., None]


class Ask(Protocol):
    """One way of putting a query. `draw` makes its frames ready before the clock, calling it times it."""

    def draw(self, classifier: Classifier, number: int) -> None:
        """Make the frames of a query ready, if they are not."""

    def __call__(self, classifier: Classifier, number: int) -> Answer:
        """Draw, then time the query."""


@dataclass(frozen=True)
class Setting:
    """What all lanes of a run are measured with. `watch` looks at the clocks between queries."""

    classifiers: dict[Graphs, Classifier]
    scenes: dict[Route, Camera]
    suite: Suite
    threads: int
    watch: Watch
    meter: Meter = field(default_factory=Meter)
    idle_w: float | None = None  # power at rest, measured before the work

    def ask(self, mode: Mode, route: Route, hold: int = 1) -> Ask:
        """A way of putting queries of that mode and route; it holds the frames of `hold` of them."""
        return (ask_network if route == "network" else ask_decision)(self.scenes[route], mode, hold)

    def core(self) -> dict[Graphs, Classifier]:
        """The bundle's own graphs alone."""
        return {"core": self.classifiers["core"]}

    def clock_mhz(self) -> float | None:
        """The clock of the cores that work, now."""
        return statistics.working_clock(sensors.cpu_mhz()[0], self.threads)

    def energy(self, mode: Mode, route: Route) -> Energy | None:
        """Energy of the bundle's own graphs, asked back to back with frames that lie ready; None without a sensor."""
        if not self.meter.source:
            return None
        core, ask, count = self.classifiers["core"], self.ask(mode, route, hold=ENERGY_RING), 0
        for number in range(ENERGY_RING):
            ask.draw(core, number)
        until = time.monotonic() + min(10.0, max(2.0, self.suite.max_seconds / 20))
        with self.meter.measure() as work:
            while time.monotonic() < until:
                ask(core, count % ENERGY_RING)
                count += 1
        return self.meter.record(work, examinations=count, idle_w=self.idle_w)[0]


@dataclass
class Series:
    """What one graph answered in a lane."""

    latencies_ms: list[float] = field(default_factory=list)
    parts_ms: dict[str, list[float]] = field(default_factory=dict)
    kept: dict[int, Outputs] = field(default_factory=dict)  # query number -> outputs
    at_s: list[float] = field(default_factory=list)  # start of each query, time.perf_counter()

    def add(self, number: int, answer: Answer, keep: bool, at_s: float = 0.0) -> None:
        """Note a timed answer."""
        self.latencies_ms.append(answer[0])
        self.at_s.append(at_s)
        for name, value in answer[2].items():
            self.parts_ms.setdefault(name, []).append(value)
        if keep:
            self.kept[number] = np.array(answer[1], np.float64)


@dataclass
class Measured:
    """A lane as it was measured, complete or not."""

    mode: Mode
    route: Route
    series: dict[Graphs, Series]
    warmup: dict[Graphs, Warmup]
    seconds: float
    interrupted: bool
    scenario: Scenario = "single"
    min_queries: int = 1
    short_s: float = 0.0  # how much of the suite's time is missing
    clock_mhz: tuple[float, float] | None = None  # after the warm-up and at the end, where both are under load
    threads: int = 0  # of each classifier; 0: the run's
    gap_s: float | None = None
    first_query: Ratio | None = None
    stream: Stream | None = None
    offline: tuple[Throughput, ...] = ()
    energy: Energy | None = None

    @property
    def label(self) -> str:
        """How reasons name the lane."""
        scenario = "" if self.scenario == "single" else f"{self.scenario} "
        return f"{scenario}{self.mode} {self.route}"


class _Ready:
    """Frames that are ready, of the last `hold` queries drawn; both graphs of a round get the same ones."""

    def __init__(self, camera: Camera, mode: Mode, hold: int = 1) -> None:
        self._camera, self._mode, self._hold = camera, mode, hold
        self._ready: dict[int, list[NDArray[np.uint8]]] = {}

    def _photos(self, number: int) -> list[NDArray[np.uint8]]:
        clinical, dermoscopic = self._camera.pair(number)
        return [clinical, dermoscopic] if self._mode == "pair" else [dermoscopic]

    def draw(self, classifier: Classifier, number: int) -> None:
        """Make the frames of a query ready, if they are not."""
        if number not in self._ready:
            if len(self._ready) >= self._hold:
                self._ready.pop(next(iter(self._ready)))  # the oldest
            self._ready[number] = self._of(classifier, number)

    def _of(self, classifier: Classifier, number: int) -> list[NDArray[np.uint8]]:
        return self._photos(number)


class ask_network(_Ready):  # noqa: N801 - called as the function that asks
    """Timed: prepared frames in, logits out. The frames of a query are prepared before its clock starts."""

    def _of(self, classifier: Classifier, number: int) -> list[NDArray[np.uint8]]:
        return [np.stack([classifier.prepare(photo) for photo in self._photos(number)])]

    def __call__(self, classifier: Classifier, number: int) -> Answer:
        self.draw(classifier, number)
        frames, mode = self._ready[number][0], self._mode
        start = time.perf_counter_ns()
        logits = classifier.infer(frames, mode)
        spent = time.perf_counter_ns() - start
        return spent / 1e6, logits, {}


class ask_decision(_Ready):  # noqa: N801
    """Timed: camera frames in, decision out. The frames are drawn before the clock starts."""

    def __call__(self, classifier: Classifier, number: int) -> Answer:
        self.draw(classifier, number)
        photos = self._ready[number]
        clinical, dermoscopic = (photos[0], photos[1]) if self._mode == "pair" else (None, photos[0])
        start = time.perf_counter_ns()
        result = classifier.classify(clinical=clinical, dermoscopic=dermoscopic)
        spent = time.perf_counter_ns() - start
        if result.decision is None:  # then the network was not asked, and the time is none of a decision
            raise EdgeskinError(
                "the benchmark's camera frames do not pass this bundle's quality gate",
                got="; ".join(f"{kind}: {', '.join(flags)}" for kind, flags in result.quality.items()),
                fix="export the bundle again",
            )
        outputs = [p for task in result.probabilities.values() for p in task.values()]
        return spent / 1e6, np.array(outputs, np.float64), dict(result.timings_ms)


def chosen_at_random(count: int) -> set[int]:
    """Which of `count` queries keep their outputs."""
    return {int(n) for n in np.random.default_rng(0).choice(count, min(KEEP, count), replace=False)}


def warm_up(
    classifiers: dict[Graphs, Classifier], ask: Callable[[Classifier, int], Answer], suite: Suite, until: float
) -> dict[Graphs, Warmup]:
    """Ask all graphs in turn until every one is stationary, the suite's maximum, or time.monotonic() is `until`."""
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
    return found


def same_outputs(measured: Measured, plain: Classifier, camera: Camera) -> SameOutputs | None:
    """Ask a freshly loaded classifier, one query at a time, for what was kept during the timed run (as TEST01)."""
    ask: Ask = (ask_network if measured.route == "network" else ask_decision)(camera, measured.mode)
    kept = measured.series["core"].kept
    if not kept:
        return None
    gaps = [
        float(np.abs(ask(plain, number)[1].ravel() - outputs.ravel()).max()) for number, outputs in sorted(kept.items())
    ]
    return SameOutputs(
        compared=len(gaps),
        identical=sum(gap == 0 for gap in gaps),
        max_difference=max(gaps),
        tolerance=TOLERANCE,
        same=all(gap <= TOLERANCE for gap in gaps),  # NaN is not the same
    )


def thinned(series: dict[Graphs, Series]) -> bench.Series | None:
    """The series as the record keeps it, in the order of the starts and from the first kept; None without starts."""
    core, reference = series["core"], series.get("reference")
    if len(core.at_s) != len(core.latencies_ms):
        return None
    kept = sorted(statistics.thin(core.latencies_ms), key=core.at_s.__getitem__)  # several streams end in any order
    begin = core.at_s[kept[0]] if kept else 0.0
    return bench.Series(
        at_s=tuple(round(core.at_s[i] - begin, 4) for i in kept),
        core_ms=tuple(round(core.latencies_ms[i], 4) for i in kept),
        reference_ms=tuple(round(reference.latencies_ms[i], 4) for i in kept) if reference else (),
    )


def summarise(measured: Measured, same: SameOutputs | None, suite: Suite) -> Lane:
    """The lane's record: percentiles, bounds, ratio, series, and whether it counts."""
    label = measured.label
    found = {
        graphs: statistics.latency(series.latencies_ms, measured.warmup[graphs])
        for graphs, series in measured.series.items()
    }
    reasons = []
    for graphs, latency in found.items():
        graph_label = f"{label} {'bundle' if graphs == 'core' else 'FP32 reference'}"
        reasons += statistics.judge(graph_label, latency, measured.min_queries)
    if measured.interrupted:
        reasons.append(f"{label}: interrupted")
    elif measured.short_s > 0:
        reasons.append(f"{label}: {measured.short_s:.1f} s short of the suite's time")
    if measured.clock_mhz:
        reasons += statistics.throttled(label, *measured.clock_mhz)
    if same is not None and not same.same:
        reasons.append(
            f"{label}: outputs of the timed run differ from a plain run by "
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
        scenario=measured.scenario,
        mode=measured.mode,
        route=measured.route,
        core=found["core"],
        reference=found.get("reference"),
        ratio=ratio,
        parts_ms={str(graphs): values for graphs, values in parts.items()},
        series=thinned(measured.series),
        gap_s=measured.gap_s,
        first_query=measured.first_query,
        stream=measured.stream,
        offline=measured.offline,
        energy=measured.energy,
        clock_mhz=measured.clock_mhz,
        same_outputs=same,
        seconds=round(measured.seconds, 3),
        validity=statistics.verdict(reasons),
    )
