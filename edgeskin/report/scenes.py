"""Bench record -> tables of text: latencies of each scenario, streams, throughput, cold start."""

from edgeskin.report.machine import lane_title
from edgeskin.report.text import MODE_TITLES, NONE, ROUTE_TITLES, SCENARIO_TITLES, Table, ms, ratio, size_text
from edgeskin.spec.bench import BenchResult, ColdParts, Lane, Latency
from edgeskin.spec.suite import Scenario

COLD_PARTS = {
    "import_ms": "import",
    "open_ms": "open and verify",
    "engine_import_ms": "import the engine",
    "compile_ms": "compile",
    "prepare_ms": "prepare the frames",
    "inference_ms": "first inference",
    "decide_ms": "decide",
}
OLD_COLD_PARTS = {"import_ms": "import", "load_ms": "open and verify", "first_decision_ms": "compile and decide"}


def _lanes(bench: BenchResult, scenario: Scenario) -> list[Lane]:
    return [lane for lane in bench.lanes if lane.scenario == scenario]


def latencies(bench: BenchResult, own: str) -> Table:
    """Percentiles of every lane by scenario, the bundle (called `own`) above its reference."""
    rows: list[tuple[str, ...]] = []
    marked = set()
    columns = ("Milliseconds", "graphs", "p50", "p90", "p95", "p99", "max", "p99 bound", "queries", "speed")
    for scenario, title in SCENARIO_TITLES.items():
        lanes = _lanes(bench, scenario)
        if lanes:
            marked.add(len(rows))
            rows.append((title[0].upper() + title[1:], *[""] * (len(columns) - 1)))
        for lane in lanes:
            name = f"{MODE_TITLES[lane.mode]}, {ROUTE_TITLES[lane.route]}"
            rows.append((name, own, *_percentiles(lane.core), ratio(lane.ratio)))
            if lane.reference is not None:
                rows.append((name, "FP32", *_percentiles(lane.reference), NONE))
    note = (
        "p99 bound: with 99 % confidence the p99 lies at or below it (early stopping as in MLPerf LoadGen); it needs "
        f"{bench.lanes[0].core.bounds[-1].needs} queries. Speed: ratio of medians, with its 95 % bootstrap interval. "
        "In a stream a latency runs from the frame's exposure."
    )
    return Table("Latency", columns, tuple(rows), note, frozenset(marked), key="latency")


def _percentiles(found: Latency) -> tuple[str, ...]:
    values = (found.p50_ms, found.p90_ms, found.p95_ms, found.p99_ms, found.max_ms, found.bounds[-1].value_ms)
    return (*(ms(value) for value in values), str(found.queries))


def sparse(bench: BenchResult) -> Table | None:
    """What an idle gap costs; None if the scenario was not measured."""
    rows = [
        (
            f"{MODE_TITLES[lane.mode]}, {ROUTE_TITLES[lane.route]}",
            NONE if lane.gap_s is None else f"{lane.gap_s:g}",
            ms(lane.core.p50_ms),
            ms(lane.core.max_ms),
            NONE
            if lane.first_query is None
            else f"{lane.first_query.value:.2f}x [{lane.first_query.low:.2f}, {lane.first_query.high:.2f}]",
        )
        for lane in _lanes(bench, "sparse")
    ]
    if not rows:
        return None
    columns = ("After an idle gap", "gap, s", "p50, ms", "max, ms", "over the query right behind it")
    return Table("Sparse examinations", columns, tuple(rows), key="sparse")


def stream(bench: BenchResult) -> Table | None:
    """Frames dropped and the age of answers; None if the scenario was not measured."""
    rows = [
        (
            f"{MODE_TITLES[lane.mode]}, {ROUTE_TITLES[lane.route]}",
            f"{found.fps:g}",
            str(found.offered),
            str(found.answered),
            str(found.dropped),
            f"{found.dropped / found.offered:.1%}" if found.offered else NONE,
            *(ms(value) for value in (found.age_p50_ms, found.age_p99_ms, found.age_max_ms)),
        )
        for lane in _lanes(bench, "stream")
        if (found := lane.stream) is not None
    ]
    if not rows:
        return None
    ages = ("age p50, ms", "age p99, ms", "age max, ms")
    columns = ("Camera", "frames a second", "offered", "answered", "dropped", "share dropped", *ages)
    note = (
        "Age: from the exposure of a frame to its answer. A frame is dropped when a newer one replaces it unanswered."
    )
    return Table("Camera stream", columns, tuple(rows), note, key="stream")


def offline(bench: BenchResult) -> Table | None:
    """Examinations a second; None if the scenario was not measured."""
    rows = [
        (
            f"{MODE_TITLES[lane.mode]}, {ROUTE_TITLES[lane.route]}",
            str(found.in_flight),
            NONE if found.threads is None else str(found.threads),
            f"{found.per_second:.4g}",
            ms(found.p50_ms),
            NONE if found.queries is None else str(found.queries),
        )
        for lane in _lanes(bench, "offline")
        for found in lane.offline
    ]
    if not rows:
        return None
    columns = ("Throughput", "in flight", "threads each", "examinations a second", "p50, ms", "queries")
    return Table("Throughput", columns, tuple(rows), key="offline")


def absent(bench: BenchResult) -> tuple[str, ...]:
    """Scenarios that are not in the record, each with its reason; and lanes whose course was not kept."""
    found = []
    for scenario, title in SCENARIO_TITLES.items():
        if not _lanes(bench, scenario):
            asked = scenario in bench.suite.scenarios
            why = "the run ended before it" if asked else f"the suite {bench.suite.name!r} does not ask for it"
            found.append(f"{title[0].upper()}{title[1:]}: not measured, {why}.")
    without = [lane for lane in bench.lanes if lane.series is None and lane.scenario == "single"]
    if without:
        which = "" if len(without) == len(bench.lanes) else " of " + "; ".join(lane_title(lane) for lane in without)
        found.append(f"Latency over time{which}: the record keeps percentiles and a histogram only.")
    return tuple(found)


def cold_parts(bench: BenchResult) -> list[tuple[str, float]]:
    """The parts of a cold start one after the other, the interpreter's own start first; [] if it was not measured."""
    cold = bench.cold_start
    if cold is None:
        return []
    if cold.parts is None:
        parts = [(title, float(getattr(cold, name))) for name, title in OLD_COLD_PARTS.items()]
    else:
        parts = [(title, float(getattr(cold.parts, name))) for name, title in COLD_PARTS.items()]
    rest = cold.process_ms - sum(value for _, value in parts)
    return [("interpreter, the rest", max(0.0, rest)), *parts]


def cold_start(bench: BenchResult) -> Table | None:
    """Every part of a cold start, with and without compiled models in a cache; None if it was not measured."""
    cold = bench.cold_start
    if cold is None:
        return None
    if cold.parts is None:
        rows = [(title, f"{ms(value)} ms") for title, value in cold_parts(bench)]
        rows += [("whole process", f"{ms(cold.process_ms)} ms"), ("new processes", str(cold.runs))]
        return Table("Cold start", ("", ""), tuple(rows))
    titles = {**COLD_PARTS, "total_ms": "all of these"}
    rows3 = [(title, _part(cold.parts, name), _part(cold.cached, name)) for name, title in titles.items()]
    rows3.append(("whole process, interpreter included", ms(cold.process_ms), ms(cold.cached_process_ms)))
    note = f"Medians of {cold.runs} new processes; the page cache is warm."
    if cold.cached is None:
        note += f" No cache of compiled models: {cold.cache_absent or 'the record gives no reason'}."
    elif cold.cache_bytes is not None:
        note += f" The cache takes {size_text(cold.cache_bytes)}."
    columns = ("Milliseconds", "first time", "with a cache of compiled models")
    return Table("Cold start", columns, tuple(rows3), note)


def loadgen(bench: BenchResult) -> Table | None:
    """p50 and p90 of ours beside MLPerf LoadGen's; None if it was not asked."""
    if not bench.loadgen:
        return None
    rows = [
        (
            f"{MODE_TITLES[one.mode]}, {ROUTE_TITLES[one.route]}",
            f"{ms(one.p50_ms)} / {ms(one.loadgen_p50_ms)}",
            f"{one.p50_ratio:.3f}",
            f"{ms(one.p90_ms)} / {ms(one.loadgen_p90_ms)}",
            f"{one.p90_ratio:.3f}",
            str(one.queries + one.loadgen_queries),
            "yes" if one.agree else "no",
        )
        for one in bench.loadgen
    ]
    first = bench.loadgen[0]
    note = (
        f"MLPerf LoadGen {first.version}, SingleStream, in {first.blocks} blocks in turn with as many of ours; the "
        f"ratio is the median over the blocks, ours over LoadGen's, and agrees within {first.limit:.0%}."
    )
    columns = ("", "p50 ms, ours / LoadGen", "ratio", "p90 ms, ours / LoadGen", "ratio", "queries", "agree")
    return Table("Beside MLPerf LoadGen", columns, tuple(rows), note)


def _part(parts: ColdParts | None, name: str) -> str:
    return NONE if parts is None else ms(float(getattr(parts, name)))
