"""Result of a benchmark (`edgeskin-bench/2`): latencies with their conditions, and whether they count."""

from typing import Literal

from pydantic import Field

from edgeskin.spec.base import Spec
from edgeskin.spec.machine import Energy, Environment, Sensors
from edgeskin.spec.manifest import Mode
from edgeskin.spec.result import VerifyResult
from edgeskin.spec.suite import Scenario, Suite

Graphs = Literal["core", "reference"]
Route = Literal["network", "decision"]


class Validity(Spec):
    """Whether figures count, and every reason why not."""

    valid: bool
    reasons: tuple[str, ...] = ()


class Bound(Spec):
    """Early-stopping bound: with 99 % confidence the percentile lies at or below `value_ms`."""

    percentile: float
    value_ms: float | None  # null: fewer than `needs` queries
    needs: int


class Warmup(Spec):
    """What ran before the clock counted."""

    queries: int
    stationary: bool
    change: float | None  # between the medians of the last two windows, relative


class Drift(Spec):
    """Cox-Stuart sign test of the second half of the queries against the first."""

    p_value: float | None
    change: float | None  # median of the second half over that of the first, less 1
    drifting: bool


class Histogram(Spec):
    """Counts of latencies between `edges_ms`; those above the last edge are in `above`."""

    edges_ms: tuple[float, ...]
    counts: tuple[int, ...]
    above: int


class Latency(Spec):
    """Latencies of one series of queries, each from its call to its answer."""

    queries: int = Field(ge=1)
    min_ms: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    bounds: tuple[Bound, ...]
    outliers: int  # above the third quartile by more than three interquartile ranges
    drift: Drift
    warmup: Warmup
    histogram: Histogram


class Ratio(Spec):
    """Median latency of the bundle's graph over that of its FP32 reference; below 1 is faster."""

    value: float
    low: float
    high: float
    level: float = 0.95


class SameOutputs(Spec):
    """Whether outputs kept at random during the timed run equal those of a plain run of the same artefact."""

    compared: int
    identical: int
    max_difference: float
    tolerance: float
    same: bool


class Series(Spec):
    """Latencies over time, thinned to some hundred points: start of each query since the lane's first, and its time."""

    at_s: tuple[float, ...] = Field(max_length=400)
    core_ms: tuple[float, ...] = Field(max_length=400)
    reference_ms: tuple[float, ...] = Field(default=(), max_length=400)


class Stream(Spec):
    """A camera that does not wait: what became of its frames. Ages run from a frame's exposure to its answer."""

    fps: float
    offered: int
    answered: int
    dropped: int
    age_p50_ms: float
    age_p99_ms: float
    age_max_ms: float


class Throughput(Spec):
    """Examinations a second with `in_flight` of them at once, each on `threads` threads of its own."""

    in_flight: int
    per_second: float
    p50_ms: float
    threads: int | None = None
    queries: int | None = None
    seconds: float | None = None


class Lane(Spec):
    """One way through the bundle, its INT8 graph and its FP32 reference asked in turn with the same input.

    `route` "network": prepared frames in, logits out. "decision": camera frames in, decision out.

    A latency runs from a query's schedule to its answer: from the call in `single`, `sparse` and `offline`, from the
    frame's exposure in `stream`. Only `single` asks the reference. `core` is, in `offline`, of the number in flight
    with the highest throughput.
    """

    scenario: Scenario = "single"
    mode: Mode
    route: Route
    core: Latency
    reference: Latency | None  # null: the bundle carries no reference
    ratio: Ratio | None
    parts_ms: dict[str, dict[str, float]]  # graphs -> part of the route -> median
    series: Series | None = None
    gap_s: float | None = None  # sparse: idle time before each query
    first_query: Ratio | None = None  # sparse: latency after the gap over that of the queries right behind it
    stream: Stream | None = None
    offline: tuple[Throughput, ...] = ()
    energy: Energy | None = None
    clock_mhz: tuple[float, float] | None = None  # of the working cores after the warm-up and at the end; null: unknown
    same_outputs: SameOutputs | None
    seconds: float
    validity: Validity


class ColdParts(Spec):
    """Every part of a cold start in milliseconds, one after the other; medians over the runs."""

    import_ms: float  # of the package and what it needs, without the engine
    open_ms: float  # read the bundle and verify every hash
    engine_import_ms: float  # of the engine's own package
    compile_ms: float  # read the graph and compile it, or take it from the cache
    prepare_ms: float
    inference_ms: float  # the first
    decide_ms: float
    total_ms: float  # of the above, with what lies between them


class ColdStart(Spec):
    """A new process from nothing to its first decision; medians over `runs`. The page cache is warm."""

    runs: int
    import_ms: float
    load_ms: float
    first_decision_ms: float  # engine's import, compilation, preparation, first inference, decision
    process_ms: float  # wall time of the whole process, the interpreter's own start included
    peak_rss_bytes: int | None
    every_run_ms: tuple[dict[str, float], ...]
    parts: ColdParts | None = None  # without a cache of compiled models
    cached: ColdParts | None = None  # with one that an earlier process has filled
    cached_process_ms: float | None = None
    cache_bytes: int | None = None
    cache_absent: str = ""  # why `cached` is null
    partial: bool = False  # interrupted; the runs before that are here


class LoadGenCheck(Spec):
    """MLPerf LoadGen's SingleStream and our `single` on the same frames, in blocks that take turns."""

    mode: Mode
    route: Route
    threads: int
    version: str
    blocks: int
    queries: int  # of ours
    loadgen_queries: int
    p50_ms: float  # medians over the blocks
    p90_ms: float
    loadgen_p50_ms: float
    loadgen_p90_ms: float
    p50_ratio: float  # ours over LoadGen's: median over the blocks
    p90_ratio: float
    limit: float
    agree: bool
    reasons: tuple[str, ...]  # why they do not


class BenchResult(Spec):
    """One run of a suite over one bundle."""

    format: Literal["edgeskin-bench/2"] = "edgeskin-bench/2"
    bundle: str
    bundle_sha256: str
    target: str
    precision: Literal["fp32", "int8"]
    phantom: bool
    backbone: str
    parameters: int
    input_height: int
    input_width: int
    core_bytes: dict[Mode, int]  # size of each graph's files
    reference_bytes: dict[Mode, int]
    suite: Suite
    environment: Environment
    lanes: tuple[Lane, ...]
    cold_start: ColdStart | None
    sensors_before: Sensors
    sensors_after: Sensors
    others_cpu_share: float | None  # of the usable cores' time, spent by other processes during the run
    verify: VerifyResult | None  # of the same bundle
    loadgen: tuple[LoadGenCheck, ...] = ()  # where it was asked for: of the pair, network only and frames to decision
    partial: bool  # the run was interrupted; what is here was measured
    validity: Validity

    def lane(self, mode: Mode, route: Route, scenario: Scenario = "single") -> Lane | None:
        """The lane of that mode, route and scenario, if it was measured."""
        wanted = (mode, route, scenario)
        return next((lane for lane in self.lanes if (lane.mode, lane.route, lane.scenario) == wanted), None)
