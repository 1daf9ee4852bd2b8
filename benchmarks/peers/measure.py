"""The rounds: every peer in turn, the order changed each round; then cold starts, in turn as well."""

import statistics as plain
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from peers.process import ANSWER_S, PeerError, Program, Worker
from peers.spec import Agreement, Cold, Figures, PeerSpec, Weights
from peers.task import CHECKED

from edgeskin import metrics
from edgeskin.benchmark import sensors, statistics
from edgeskin.spec.bench import Route, Warmup

ROUTES: tuple[Route, ...] = ("network", "decision")
PARTS = ("import_ms", "load_ms", "first_decision_ms")
Step = Callable[..., None]


@dataclass
class Lane:
    """What one peer answered on one route: round -> milliseconds of its counted queries."""

    warmup: Warmup
    rounds: dict[int, list[float]] = field(default_factory=dict)


@dataclass
class Runner:
    """A peer during a run. Once `reason` is set it is asked no more; what it answered before stays."""

    name: str
    title: str
    spec: PeerSpec
    program: Program | None = None
    reason: str | None = None
    model_bytes: int | None = None
    worker: Worker | None = None
    versions: dict[str, str] = field(default_factory=dict)
    lanes: dict[Route, Lane] = field(default_factory=dict)
    probabilities: dict[int, float] = field(default_factory=dict)  # drawn lesion -> P(target)
    cold_runs: dict[int, dict[str, float | None]] = field(default_factory=dict)
    idle_cpu_share: float | None = None

    @property
    def weights(self) -> Weights:
        """Whether its weights are the checkpoint's."""
        return self.spec.weights


@dataclass(frozen=True)
class Plan:
    """How much is asked."""

    rounds: int
    queries: int
    settle: int
    cold_starts: int
    max_warmup: int = 200  # queries on each route


def turn_order(number: int, count: int) -> list[int]:
    """Who is asked when in a round: rotated each round and reversed every other, so that neighbours change too.

    >>> [turn_order(n, 3) for n in range(4)]
    [[0, 1, 2], [0, 2, 1], [2, 0, 1], [2, 1, 0]]
    """
    rotated = [(place + number) % count for place in range(count)]
    return rotated[::-1] if number % 2 else rotated


def _in_turn(runners: Sequence[Runner], number: int) -> list[Runner]:
    return [runners[place] for place in turn_order(number, len(runners)) if runners[place].reason is None]


def start(runner: Runner, plan: Plan) -> None:
    """Start its worker and warm up each route until stationary. A failure becomes its reason."""
    if runner.program is None or runner.reason is not None:
        return
    try:
        runner.worker = Worker(runner.program)
        runner.versions = runner.worker.versions
        for route in ROUTES:
            if route in runner.spec.routes:
                runner.lanes[route] = Lane(_warm_up(runner, route, plan.max_warmup))
        if "decision" in runner.lanes:
            found = runner.worker.ask("decision", list(range(CHECKED)), source="check")
            runner.probabilities = dict(enumerate(found["probabilities"]))
    except PeerError as fault:
        _give_up(runner, f"failed: {fault}")


def _give_up(runner: Runner, reason: str) -> None:
    """Ask it no more, and end it at once: what it may still be computing would disturb the others."""
    runner.reason = reason
    if runner.worker is not None:
        runner.idle_cpu_share = runner.worker.idle_cpu_share
        runner.worker.close(patience_s=0)
        runner.worker = None


def _warm_up(runner: Runner, route: Route, most: int) -> Warmup:
    assert runner.worker is not None
    spent: list[float] = []
    while len(spent) < most and not statistics.is_stationary(spent):
        first = len(spent)
        spent += runner.worker.ask(route, list(range(first, first + statistics.WINDOW)))["ms"]
    change = statistics.warmup_change(spent)
    return Warmup(queries=len(spent), stationary=statistics.is_stationary(spent), change=change)


def rounds(runners: Sequence[Runner], plan: Plan, step: Step) -> bool:
    """Ask all peers in turn, `plan.rounds` times on each route. Returns whether Ctrl-C ended it."""
    try:
        for number in range(plan.rounds):
            for route in ROUTES:
                for runner in _in_turn(runners, number):
                    if route in runner.lanes:
                        _turn(runner, route, number, plan)
            step(1)
    except KeyboardInterrupt:
        return True
    return False


def _turn(runner: Runner, route: Route, number: int, plan: Plan) -> None:
    assert runner.worker is not None
    whole = plan.settle + plan.queries
    numbers = list(range(number * whole, (number + 1) * whole))
    try:
        found = runner.worker.ask(route, numbers, ANSWER_S)
    except PeerError as fault:
        _give_up(runner, f"failed in round {number + 1}: {fault}")
        return
    spent = [float(value) for value in found["ms"]]
    runner.lanes[route].rounds[number] = spent if found["whole"] else spent[plan.settle :]


def stop(runners: Sequence[Runner]) -> None:
    """End all workers."""
    for runner in runners:
        if runner.worker is not None:
            runner.idle_cpu_share = runner.worker.idle_cpu_share
            runner.worker.close()
            runner.worker = None


def cold_starts(runners: Sequence[Runner], plan: Plan, step: Step) -> bool:
    """New processes in turn, when no worker is left. Returns whether Ctrl-C ended it."""
    try:
        for number in range(plan.cold_starts):
            for runner in _in_turn(runners, number):
                if runner.program is not None and runner.spec.cold_start:
                    try:
                        runner.cold_runs[number] = runner.program.once("cold", ANSWER_S)
                    except PeerError as fault:
                        runner.reason = f"failed at cold start: {fault}"
            step(1)
    except KeyboardInterrupt:
        return True
    return False


def own_ticks(runners: Sequence[Runner]) -> sensors.Ticks | None:
    """The processor time so far, the workers' counted as this run's own."""
    read = sensors.ticks()
    if read is None:
        return None
    return replace(read, own=read.own + sum(r.worker.cpu_seconds() for r in runners if r.worker is not None))


def figures(runner: Runner, base: Runner, route: Route, repeats: int) -> Figures | None:
    """All figures of a route, its ratio to `base` over the rounds in which both answered."""
    lane = runner.lanes.get(route)
    if lane is None or not lane.rounds:
        return None
    values = [value for spent in lane.rounds.values() for value in spent]
    medians = {number: plain.median(spent) for number, spent in lane.rounds.items()}
    ratio = None
    other = base.lanes.get(route)
    if runner is not base and other is not None:
        both = sorted(medians.keys() & other.rounds.keys())
        if both:
            ratio = statistics.ratio(
                [medians[n] for n in both], [plain.median(other.rounds[n]) for n in both], repeats=repeats
            )
    return Figures(
        queries=len(values),
        p50_ms=metrics.percentile(values, 0.50),
        p90_ms=metrics.percentile(values, 0.90),
        p99_ms=metrics.percentile(values, 0.99),
        max_ms=max(values),
        p99_bound_ms=statistics.bound(values, 0.99).value_ms,
        warmup=lane.warmup,
        rounds_ms=tuple(round(medians[number], 4) for number in sorted(medians)),
        ratio=ratio,
    )


def cold(runner: Runner, base: Runner, repeats: int) -> Cold | None:
    """Medians of its cold starts, the ratio to those of `base`."""
    if not runner.cold_runs:
        return None
    every = {number: {name: float(run[name] or 0) for name in PARTS} for number, run in runner.cold_runs.items()}
    totals = {number: sum(parts.values()) for number, parts in every.items()}
    ratio = None
    if runner is not base:
        others = {n: sum(float(run[name] or 0) for name in PARTS) for n, run in base.cold_runs.items()}
        both = sorted(totals.keys() & others.keys())
        if both:
            ratio = statistics.ratio([totals[n] for n in both], [others[n] for n in both], repeats=repeats)
    peaks = [int(peak) for run in runner.cold_runs.values() if (peak := run["peak_rss_bytes"]) is not None]
    return Cold(
        runs=len(every),
        **{name: plain.median(parts[name] for parts in every.values()) for name in PARTS},
        total_ms=plain.median(totals.values()),
        every_total_ms=tuple(round(totals[number], 3) for number in sorted(totals)),
        peak_rss_bytes=max(peaks) if peaks else None,
        ratio=ratio,
    )


def agreement(runner: Runner, base: Runner, threshold: float) -> Agreement | None:
    """Its decisions beside those of `base` on the same lesions; None where its weights are not the checkpoint's."""
    both = runner.probabilities.keys() & base.probabilities.keys()
    if runner is base or runner.weights != "checkpoint" or not both:
        return None
    pairs = [(runner.probabilities[n], base.probabilities[n]) for n in both]
    return Agreement(
        lesions=len(pairs),
        lowest=min(other for _, other in pairs),
        highest=max(other for _, other in pairs),
        same_decision=sum((own >= threshold) == (other >= threshold) for own, other in pairs),
        max_probability_difference=max(abs(own - other) for own, other in pairs),
    )
