"""What bench, devices and doctor found, as tables for people."""

from collections.abc import Sequence
from typing import Any

from edgeskin import out
from edgeskin.show_figures import estimate
from edgeskin.spec.bench import BenchResult
from edgeskin.spec.comparison import Comparison
from edgeskin.spec.device import Beside, Device
from edgeskin.spec.hosts import FleetResult

_ROUTES = {"network": "network only", "decision": "frame -> decision"}


def bench(found: BenchResult) -> None:
    """Latencies of every lane, INT8 beside FP32; streams, throughput and the cold start."""
    rows = []
    for lane in found.lanes:
        name = f"{lane.scenario}: {lane.mode}, {_ROUTES[lane.route]}"
        for label, series in ((found.precision.upper(), lane.core), ("FP32", lane.reference)):
            if series:
                figures = (series.p50_ms, series.p90_ms, series.p95_ms, series.p99_ms, series.max_ms)
                rows.append((name, label, series.queries, *(f"{value:.2f}" for value in figures)))
    out.table(f"{found.bundle}: latency in ms", ["lane", "precision", "n", "p50", "p90", "p95", "p99", "max"], rows)
    for lane in found.lanes:
        if lane.ratio:
            low_high = f"({lane.ratio.low:.3f} to {lane.ratio.high:.3f})"
            name = f"{lane.scenario} {lane.mode} {lane.route}"
            out.line(f"{name}: {found.precision.upper()} / FP32 = {lane.ratio.value:.3f} {low_high}")
        if lane.stream:
            seen = lane.stream
            out.line(
                f"stream {lane.mode} {lane.route}, {seen.fps:g} frames/s: {seen.answered} of {seen.offered} answered, "
                f"{seen.dropped} dropped; age p50 {seen.age_p50_ms:.1f}, p99 {seen.age_p99_ms:.1f} ms"
            )
        if lane.first_query and lane.gap_s is not None:
            value = lane.first_query.value
            out.line(f"sparse {lane.mode} {lane.route}: after {lane.gap_s:g} s idle {value:.2f}x the next ones")
        for step in lane.offline:
            name = f"offline {lane.mode} {lane.route}, {step.in_flight} in flight"
            out.line(f"{name}: {step.per_second:.1f} examinations/s, p50 {step.p50_ms:.1f} ms")
        if lane.energy:
            spent = _figure(lane.energy.per_examination_mj, ".1f")
            out.line(f"{lane.scenario} {lane.mode} {lane.route}: {spent} mJ an examination ({lane.energy.source})")
    if found.cold_start:
        cold = found.cold_start
        cached = (
            "" if cold.cached_process_ms is None else f"; {cold.cached_process_ms:.0f} ms with compiled models kept"
        )
        out.line(
            f"cold start: import {cold.import_ms:.0f}, load {cold.load_ms:.0f}, first {cold.first_decision_ms:.0f} ms; "
            f"the whole process {cold.process_ms:.0f} ms{cached}"
        )
    for check in found.loadgen:
        out.line(
            f"LoadGen {check.version}, {check.mode} {check.route}: p50 {check.p50_ratio:.3f} and p90 "
            f"{check.p90_ratio:.3f} of its own, {'within' if check.agree else 'not within'} {check.limit:.0%}"
        )
    if found.verify and (pair := found.verify.accuracy.get("pair")):
        task = next(iter(pair.tasks))
        out.line(f"macro-F1 of these bytes: {estimate(pair.tasks[task]['macro_f1'].bundle)}")
    out.line("valid" if found.validity.valid else "not valid: " + "; ".join(found.validity.reasons))


def compared(found: Comparison) -> None:
    """Ratios of B over A, lane by lane, and under which different conditions they arose."""
    out.line(f"A: {found.a.bundle} {found.a.precision} on {found.a.machine}, {found.a.threads} threads")
    out.line(f"B: {found.b.bundle} {found.b.precision} on {found.b.machine}, {found.b.threads} threads")
    rows = []
    for lane in found.lanes:
        known = lane.low is not None and lane.high is not None
        interval = f"[{lane.low:.3f}, {lane.high:.3f}]" if known else "-"
        name = f"{lane.scenario}: {lane.mode}, {_ROUTES[lane.route]}"
        rows.append((name, f"{lane.a_p50_ms:.2f}", f"{lane.b_p50_ms:.2f}", f"{lane.ratio:.3f}", interval, lane.verdict))
    columns = ["lane", "A p50 ms", "B p50 ms", "B / A", "95 % interval", "B is"]
    out.table("B over A; below 1, B is faster", columns, rows, words=True)
    for part in found.cold_start:
        out.line(f"cold start, {part.part}: {part.a_ms:.0f} and {part.b_ms:.0f}, ratio {part.ratio:.2f}")
    for figure in found.accuracy:
        out.line(f"{figure.mode} {figure.name}: A {estimate(figure.a)}, B {estimate(figure.b)}")
    for unlike in found.differences:
        out.line(f"differs: {unlike.name} is {unlike.a} in A, {unlike.b} in B")
    for text in (*found.objections, *found.remarks):
        out.line(f"note: {text}")


def fleet(found: FleetResult) -> None:
    """A row a board: figures, or why there are none."""
    from edgeskin.benchmark.fleet import table

    columns, rows = table(found)
    out.table(f"{found.bundle} on {len(found.rows)} boards", columns, rows, words=True)
    if found.partial:
        out.line("interrupted: run it again, what is done stays done")


def devices(found: Sequence[Device]) -> None:
    """Boards and their published figures."""
    rows = [
        (
            one.name,
            one.arch,
            _figure(one.memory_gb),
            _figure(one.bandwidth_gb_s),
            _figure(one.int8_tops),
            _figure(one.int8_dense_tops),
            one.sm or "-",
            str(one.dla_cores),
            ", ".join(one.power_modes_w) or "-",
            ", ".join(one.targets),
        )
        for one in found
    ]
    columns = ["device", "arch", "GB", "GB/s", "INT8 TOPS", "dense", "SM", "DLA", "W", "targets"]
    out.table("published figures, not measurements", columns, rows, words=True)


def estimates(found: Sequence[Beside]) -> None:
    """Roofline estimates, each with what bounds it, beside a measured value where there is one."""
    rows = []
    for one in found:
        guess = one.estimate
        doubt = " [?]" if guess.unverified and guess.total_ms is not None else ""
        parts = (guess.compute_ms, guess.memory_ms, guess.launch_ms, guess.total_ms)
        compute, memory, launch, total = (_figure(value, ".2f") for value in parts)
        measured, reached = _figure(one.measured_p50_ms, ".2f"), _figure(one.reached, ".0%")
        unit = f"{guess.unit}: {', '.join(guess.targets)}"
        rows.append((guess.device, unit, compute, memory, launch, total + doubt, guess.bound or "-", measured, reached))
    columns = ["device", "unit", "compute", "memory", "launch", "estimate", "bound", "measured", "reached"]
    title = "estimate of the network alone in ms, from published figures; not a measurement"
    out.table(title, columns, rows, words=True)
    for one in found:
        if one.estimate.reason:
            out.line(f"{one.estimate.device} ({one.estimate.unit}): {one.estimate.reason}")
    out.line("[?]: rests on a figure that no public document confirmed to us")


def _figure(value: float | None, form: str = "g") -> str:
    return "-" if value is None else f"{value:{form}}"


def doctor(checks: Sequence[Any]) -> None:
    """What is there, what is absent, what is broken."""
    out.table("", ["check", "status", "found"], [(c.name, c.status, c.found) for c in checks], words=True)
    for check in checks:
        if check.status != "ok":
            out.line(f"{check.name}: {check.status}; enables: {check.enables or '-'}; fix: {check.fix or '-'}")
