"""One bundle's records -> the parts of its section: tables, charts, confusion matrices, remarks."""

from dataclasses import dataclass, replace

from edgeskin import compared
from edgeskin.report import charts, engine, evidence, figures, machine, scenes, tasks, text, thumbnails, view
from edgeskin.report.inputs import BundleInput
from edgeskin.report.parts import Confusion, Figure, Part, State
from edgeskin.spec.result import Accuracy


@dataclass(frozen=True, slots=True)
class Section:
    """Everything of one bundle."""

    anchor: str
    name: str
    heading: str
    parts: tuple[Part, ...]
    lead: tuple[State, ...]  # what it is; `states`: how good it is
    states: tuple[State, ...]
    golden_passed: int
    golden: int
    where: str
    verified: bool
    measured: bool
    measurable: bool
    valid: bool
    partial: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...]


def section(bundle: BundleInput, number: int) -> Section:
    """The section of the bundle with that number, counted from 1."""
    verify, bench, kit = bundle.verify, bundle.bench, bundle.manifest.stage == "kit"
    found = [
        engine.head(bundle),
        evidence.gate(bundle),
        thumbnails.part(bundle),
        _accuracy(bundle),
        *evidence.parts(bundle),
    ]
    if bench is not None:
        found += [_latency(bundle), _scenarios(bundle), _cold_start(bundle), *_machine(bundle)]
    found.append(Part("Provenance", (view.provenance(bundle),)))
    return Section(
        anchor=f"bundle-{number}",
        name=bundle.manifest.name,
        heading=f"{bundle.manifest.target}, {bundle.manifest.precision.upper()}{', build kit' if kit else ''}",
        parts=tuple(_numbered(part, number) for part in found if part is not None),
        lead=tuple(engine.states(bundle)),
        states=tuple(evidence.states(bundle)),
        golden_passed=sum(case.passed for case in verify.golden) if verify else 0,
        golden=len(verify.golden) if verify else 0,
        where="in the emulation on this machine's CPU" if kit else "on this machine",
        verified=verify is not None,
        measured=bench is not None,
        measurable=not kit,
        valid=bench is not None and bench.validity.valid,
        partial=bench is not None and bench.partial,
        reasons=bench.validity.reasons if bench else (),
        notes=verify.notes if verify else (),
    )


def _numbered(part: Part, number: int) -> Part:
    """Keys of tables are unique on the page: those of the second bundle end in -2."""
    if number == 1:
        return part

    def own(tables: tuple[text.Table, ...]) -> tuple[text.Table, ...]:
        return tuple(replace(t, key=t.key and f"{t.key}-{number}") for t in tables)

    return replace(part, tables=own(part.tables), folded=own(part.folded))


def _names(bundle: BundleInput) -> tuple[str, str]:
    return view.label(bundle), "FP32"


def _accuracy(bundle: BundleInput) -> Part | None:
    tables = [table for table in (view.accuracy(bundle), view.flips(bundle)) if table is not None]
    if not tables or bundle.verify is None:
        return None
    drawn, notes = [], []
    scored = bundle.verify.accuracy.get("pair") or next(iter(bundle.verify.accuracy.values()))
    for what, figure in (("Reliability", _reliability(bundle, scored)), ("ROC curve", _roc(bundle, scored))):
        if isinstance(figure, Figure):
            drawn.append(figure)
        else:
            notes.append(f"{what}: {figure}.")
    kit = bundle.manifest.stage == "kit"
    difference = figures.difference_chart(
        "Accuracy, bundle minus FP32", view.differences(bundle), own=view.label(bundle) if kit else "bundle"
    )
    if difference is not None:
        drawn.append(Figure("Difference with its interval, clinical + dermoscopic", difference))
    title = f"Accuracy, {view.EMULATED}" if kit else "Accuracy"
    notes += [engine.EMULATION] if kit else []
    tables += tasks.tables(bundle)
    confusions = _confusions(bundle, scored)
    return Part(title, tuple(tables), tuple(drawn), confusions, folded=tasks.folded(bundle), notes=tuple(notes))


def _reliability(bundle: BundleInput, scored: Accuracy) -> Figure | str:
    if scored.reliability is None:
        return "the record has no bins; verify the bundle again"
    bins = {_names(bundle)[0]: scored.reliability.bundle}
    error = compared.shown("ece", scored.target["ece"])
    errors = {_names(bundle)[0]: text.estimate(error.bundle)}
    if scored.reliability.fp32 is not None:
        bins["FP32"] = scored.reliability.fp32
        errors["FP32"] = text.estimate(error.fp32)
    title = f"Reliability of {bundle.manifest.task_schema.target.task}: a larger mark is more lesions"
    return Figure(title, figures.reliability_chart("Reliability diagram", bins, errors))


def _roc(bundle: BundleInput, scored: Accuracy) -> Figure | str:
    if scored.roc is None:
        if scored.target["auc"].bundle.value is None:
            return scored.target["auc"].bundle.reason
        return "the record has no points; verify the bundle again"
    own, title = _names(bundle)[0], bundle.manifest.task_schema.target.title
    curves = {own: scored.roc.bundle}
    areas = {own: text.estimate(scored.target["auc"].bundle)}
    if scored.roc.fp32 is not None:
        curves["FP32"] = scored.roc.fp32
        areas["FP32"] = text.estimate(scored.target["auc"].fp32)
    operating = {}
    for name, side in ((own, "bundle"), ("FP32", "fp32")):
        pair = [getattr(scored.target[key], side).value for key in ("sensitivity", "specificity")]
        if None not in pair:
            operating[name] = (pair[0], pair[1])
    return Figure(f"ROC curve of {title}", figures.roc_chart(f"ROC curve of {title}", curves, areas, operating))


def _confusions(bundle: BundleInput, scored: Accuracy) -> tuple[Confusion, ...]:
    """The target task's matrix of the bundle, mode pair (else dermoscopic alone)."""
    task = bundle.manifest.task_schema.task(bundle.manifest.task_schema.target.task)
    if task.name not in scored.confusion:
        return ()
    rows = tuple(
        tuple((count, count / max(1, sum(row))) for count in row) for row in scored.confusion[task.name].bundle
    )
    return (Confusion(task.title or task.name, task.class_names, rows),)


def _latency(bundle: BundleInput) -> Part | None:
    bench = bundle.bench
    assert bench is not None  # the caller has looked
    own = view.label(bundle)
    drawn = []
    for lane in bench.lanes:
        if lane.mode != "pair":
            continue
        title = machine.lane_title(lane)
        if lane.scenario != "offline":  # offline: latencies of queries that wait for one another say little
            series = {own: lane.core} if lane.reference is None else {own: lane.core, "FP32": lane.reference}
            label = f"Latency distribution, {title}"
            drawn.append(Figure(label, charts.latency_chart(label, series)))
        if lane.series is not None and lane.series.at_s:
            label = f"Latency over time, {title}"
            drawn.append(Figure(label, charts.series_chart(label, _names(bundle), lane.series)))
    tables = (scenes.latencies(bench, own), scenes.loadgen(bench), machine.device(bench))
    return Part("Latency", tuple(table for table in tables if table), tuple(drawn))


def _scenarios(bundle: BundleInput) -> Part | None:
    bench = bundle.bench
    assert bench is not None
    tables = [table for table in (scenes.sparse(bench), scenes.stream(bench), scenes.offline(bench)) if table]
    drawn = [
        Figure(f"Throughput, {text.MODE_TITLES[lane.mode]}, {text.ROUTE_TITLES[lane.route]}", chart)
        for lane in bench.lanes
        if len(lane.offline) > 1 and lane.mode == "pair"
        for chart in [charts.throughput_chart(f"Throughput, {text.ROUTE_TITLES[lane.route]}", lane.offline)]
    ]
    notes = scenes.absent(bench)
    return Part("Scenarios", tuple(tables), tuple(drawn), notes=notes) if tables or notes else None


def _cold_start(bundle: BundleInput) -> Part:
    bench = bundle.bench
    assert bench is not None
    table = scenes.cold_start(bench)
    if table is None:
        asked = bench.suite.cold_starts > 0
        return Part(
            "Cold start",
            notes=("Not measured: " + ("the run ended before it." if asked else "the suite does not ask for it."),),
        )
    chart = charts.cold_start_chart("Cold start", scenes.cold_parts(bench))
    drawn = () if chart is None else (Figure("A new process to its first decision", chart),)
    return Part("Cold start", (table,), drawn)


def _machine(bundle: BundleInput) -> list[Part]:
    bench = bundle.bench
    assert bench is not None
    energy, without_energy = machine.energy(bench)
    thermals, without_thermals = machine.thermals(bench)
    return [
        Part("Memory", (machine.memory(bench),)),
        Part("Energy", (energy,) if energy else (), notes=without_energy),
        Part("Temperatures and clocks", (thermals,) if thermals else (), notes=without_thermals),
    ]
