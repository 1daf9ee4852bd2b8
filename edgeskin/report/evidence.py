"""Evidence of a bundle -> tables, charts and remarks: gate, search, precision, speed, fine-tuning."""

from collections.abc import Sequence

from edgeskin.compared import point
from edgeskin.report import engine, precision, proof_charts, searched, view
from edgeskin.report.inputs import BundleInput
from edgeskin.report.parts import Figure, Part, State
from edgeskin.report.text import MODE_TITLES, NONE, TARGET_METRICS, TASK_METRICS, Table, estimate, ms, sentences, signed
from edgeskin.spec.evidence import Tuned
from edgeskin.spec.gated import GateCheck, GateResult
from edgeskin.spec.manifest import Gated, Mode
from edgeskin.spec.result import Estimate
from edgeskin.spec.search import Speed

NOT_GATED = "NOT GATED"
GATE_TITLES = {
    **{key: title.removesuffix(" (low is good)") for key, title in TARGET_METRICS.items()},
    **TASK_METRICS,
    "class_flips": "flips of the diagnosis",
    "target_flips": "flips to or from the target",
}
LOUD = frozenset({"fails", "cannot tell"})


def gated(bundle: BundleInput) -> Gated:
    """The manifest's word on the gate. A bundle in FP32 needs none, whenever it was made."""
    if bundle.manifest.precision == "fp32":
        return Gated(
            status="not needed", why=bundle.manifest.gated.why if bundle.manifest.gated.status == "not needed" else ""
        )
    return bundle.manifest.gated


def word(bundle: BundleInput) -> str:
    """The gate in two words, for the summary."""
    passed = f"passed ({view.EMULATED})" if view.emulated_gate(bundle) else "passed"
    needless = f"not needed ({bundle.manifest.precision.upper()})"
    return {"passed": passed, "ungated": NOT_GATED, "not needed": needless}[gated(bundle).status]


def ungated(bundles: Sequence[BundleInput]) -> list[tuple[str, str]]:
    """Name and reason of each INT8 bundle that was not shown to be as good as FP32."""
    found = [(bundle.manifest.name, gated(bundle)) for bundle in bundles]
    return [(name, said.why.rstrip(".") or "no reason is recorded") for name, said in found if said.status == "ungated"]


def states(bundle: BundleInput) -> list[State]:
    """Lines at the top of a section: gate, audit and speed as far as they are known."""
    said, proof = gated(bundle), bundle.evidence
    why = f": {said.why.rstrip('.')}" if said.why else ""
    passed = "Gate passed in the emulation" if view.emulated_gate(bundle) else "Gate passed"
    found = {
        "passed": [State(f"{passed}: shown not to be worse than FP32 within the margins{why}", True)],
        "ungated": [State(f"{NOT_GATED}{why}. It is not shown to be as good as FP32", False)],
        "not needed": [State(f"Gate not needed{why}", True)] if why else [],
    }[said.status]
    if proof is not None and proof.audit is not None and bundle.manifest.precision == "int8":
        audit, modes = proof.audit, view.modes_of(proof.audit.modes)
        shares = ", ".join(f"{found.int8_share:.1%} {MODE_TITLES[mode]}" for mode, found in modes)
        floor = f"; the recipe asks for {audit.floor:.0%}" if audit.floor else ""
        found.append(State(f"INT8 share of the multiply-accumulates as compiled: {shares}{floor}", audit.passed))
    if proof is not None and proof.speed is not None and not proof.speed.int8_is_faster:
        found.append(State(_not_faster(bundle, proof.speed), False))
    return found


def _not_faster(bundle: BundleInput, speed: Speed) -> str:
    what = "INT8 is not faster here" if bundle.manifest.precision == "int8" else "INT8 not shipped"
    return f"{what}: {speed.why or 'it is not faster than higher precision on this machine'}"


def gate(bundle: BundleInput) -> Part | None:
    """What the gate found. None where it was not asked; a lean bundle's manifest says only that it passed."""
    proof = bundle.evidence
    if proof is not None and proof.gate is not None:
        return _gate(bundle, proof.gate)
    if gated(bundle).status == "passed":
        return Part("Gate", notes=("The record of the gate is not there; the bundle's manifest says that it passed.",))
    return None


def parts(bundle: BundleInput) -> list[Part]:
    """What else the evidence holds: how an engine came about, precision, search, speed, fine-tuning."""
    proof = bundle.evidence
    if proof is None:
        return []
    found: list[Part] = []
    found += engine.parts(bundle)
    if proof.audit is not None:
        found.append(precision.part(bundle, proof.audit))
    if proof.search is not None:
        found.append(searched.part(proof.search))
    if proof.speed is not None:
        found.append(_speed(bundle, proof.speed))
    if proof.qat is not None:
        found.append(_tuned(proof.qat))
    return found + engine.before(bundle)


def _gate(bundle: BundleInput, found: GateResult) -> Part:
    overall = [check for check in found.checks if not check.group]
    groups = [check for check in found.checks if check.group]
    own = view.gate_label(bundle)
    title = "Gate, in the emulation" if view.emulated_gate(bundle) else "Gate"
    forest = proof_charts.forest_chart(
        "Gate: differences with margins",
        [(name, [(_short(c), c) for c in overall if c.mode == mode]) for mode, name in MODE_TITLES.items()],
        own,
    )
    tables = [_checks(found, overall, title, own), _margins(found, overall)]
    if found.parity:
        tables.append(view.flip_table(found.parity, found.target, f"Flips on role {found.role}", "gate-flips"))
    against = [c for c in found.checks if c.verdict == "fails" or (not c.group and c.verdict != "holds")]
    return Part(
        title,
        tables=tuple(tables),
        figures=() if forest is None else (Figure("Difference with its 95 % interval against the margin", forest),),
        folded=(_groups(found, groups, own),) if groups else (),
        notes=(*_unshipped(bundle), *(_against(c, found.target) for c in against), *sentences(found.notes)),
    )


def _against(check: GateCheck, target: str) -> str:
    """A remark on a check that stands against the bundle."""
    where = f"{MODE_TITLES[check.mode]}{', ' + check.group if check.group else ''}"
    return f"Against it: {where}: {_metric(check, target)}, {check.verdict}{': ' + check.why if check.why else ''}."


def _unshipped(bundle: BundleInput) -> tuple[str, ...]:
    """What a reader must know where the evidence is of a build that is not the bundle's own."""
    of_int8 = view.gate_label(bundle).startswith("INT8")
    return (precision.UNSHIPPED,) if of_int8 and bundle.manifest.precision != "int8" else ()


def _short(check: GateCheck) -> str:
    named = {"class_flips": "flips", "target_flips": "target flips"}
    return named.get(check.metric, GATE_TITLES.get(check.metric, check.metric.replace("_", " ")))


def _metric(check: GateCheck, target: str) -> str:
    name = GATE_TITLES.get(check.metric, check.metric.replace("_", " "))
    return (
        f"{target} {name}"
        if check.metric in TARGET_METRICS and check.metric != "ece"
        else name.replace("the target", target)
    )


def _by_mode(checks: Sequence[GateCheck]) -> list[tuple[Mode, list[GateCheck]]]:
    found = [(mode, [check for check in checks if check.mode == mode]) for mode in MODE_TITLES]
    return [(mode, rows) for mode, rows in found if rows]


def _checks(gate: GateResult, checks: Sequence[GateCheck], title: str, own: str) -> Table:
    """Checks on all lesions by mode."""
    rows: list[tuple[str, ...]] = []
    marked = set()
    columns = ("Metric", "FP32", own, "difference", "margin", "verdict")
    for mode, here in _by_mode(checks):
        marked.add(len(rows))
        head = f"{MODE_TITLES[mode]}, {here[0].lesions} lesions, {here[0].positives} with {gate.target}"
        rows.append((head, *[""] * (len(columns) - 1)))
        for c in here:
            sides = [point(side) if c.metric == "ece" else side for side in (c.fp32, c.bundle)]
            rows.append((_metric(c, gate.target), *map(estimate, sides), *_judged(c)))
    note = (
        f"Role {gate.role}, {gate.lesions} lesions; 95 % intervals of {gate.bootstrap} paired bootstrap draws of whole "
    )
    note += (
        f"patients. A check holds where the interval of {own} minus FP32 ends above -margin (calibration error: below "
    )
    note += "+margin, which bounds small rises only); flips, where their share is within it."
    return Table(title, columns, tuple(rows), note, frozenset(marked), key="gate", loud=LOUD)


def _judged(check: GateCheck) -> tuple[str, ...]:
    flips = check.metric in ("class_flips", "target_flips")
    return NONE if flips else signed(check.difference), f"{check.margin:g}", check.verdict


def _margins(gate: GateResult, checks: Sequence[GateCheck]) -> Table:
    """Each margin with its reason: in both modes the same."""
    rows = {c.metric: (f"margin of {_metric(c, gate.target)}", f"{c.margin:g}: {c.reason}") for c in checks}
    return Table("Margins", ("", ""), tuple(rows.values()))


def _groups(gate: GateResult, checks: Sequence[GateCheck], own: str) -> Table:
    """Checks of sub-groups by mode: those that are shown to be worse come first."""
    rows: list[tuple[str, ...]] = []
    marked = set()
    columns = (
        "Sub-group",
        "metric",
        "lesions",
        f"with {gate.target}",
        "FP32",
        own,
        "difference",
        "margin",
        "verdict",
    )
    for mode, here in _by_mode(checks):
        marked.add(len(rows))
        rows.append((MODE_TITLES[mode], *[""] * (len(columns) - 1)))
        for c in sorted(here, key=lambda check: check.verdict != "fails"):
            sides = (estimate(Estimate(value=side.value)) for side in (c.fp32, c.bundle))
            rows.append((c.group, _metric(c, gate.target), str(c.lesions), str(c.positives), *sides, *_judged(c)))
    note = "Fails: shown to be worse. Few lesions cannot show that a group is not worse: then it cannot be told."
    return Table(
        "Sub-groups", columns, tuple(rows), note, frozenset(marked), key="gate-groups", loud=frozenset({"fails"})
    )


def _setting(name: str) -> str:
    """A setting of `Speed.p50_ms` in words.

    >>> _setting("int8, f32"), _setting("fp32, bf16"), _setting("fp16, engine")
    ('INT8, rest in FP32', 'BF16', 'FP16 engine')
    """
    graph, _, rest = name.partition(", ")
    if rest == "engine":  # TensorRT: what is not INT8 in it is typed in its graph
        return f"{graph.upper()} engine"
    if graph == "int8":
        return "INT8" if not rest else f"INT8, rest in {_word(rest)}"
    return _word(rest) if rest else _word(graph)


def _word(precision: str) -> str:
    return {"f32": "FP32", "fp32": "FP32", "f16": "FP16"}.get(
        precision, precision.upper() if precision != "default" else "the engine's default"
    )


def _speed(bundle: BundleInput, speed: Speed) -> Part:
    found = sorted(speed.p50_ms.items(), key=lambda item: item[1])
    ratio = speed.ratio
    engines = all(name.endswith(", engine") for name in speed.p50_ms)  # on a GPU, where threads say nothing
    threads = "" if engines else f", {speed.threads} thread{'s' if speed.threads != 1 else ''}"
    machine = speed.machine + threads
    told = NONE
    if ratio.value is not None:
        told = f"{estimate(ratio)} of the latency of the fastest higher precision, {1 / ratio.value:.2f}x as fast"
    rows = (
        *((_setting(name), f"{ms(value)} ms") for name, value in found),
        ("INT8 takes", told),
        ("machine", machine),
    )
    note = "Medians of the pair graph, all measured in turns in one run; the ratio by paired bootstrap."
    if ratio.reason:
        note = f"Medians of the pair graph. Of their ratio: {ratio.reason}."
    title = "INT8 against higher precision"
    chart = proof_charts.speed_chart(title, [(_setting(name), value) for name, value in found])
    return Part(
        title,
        tables=(Table(title, ("", ""), rows, note),),
        figures=() if chart is None else (Figure("Median latency", chart),),
        notes=() if speed.int8_is_faster else (f"{_not_faster(bundle, speed)}.",),
    )


def _tuned(tuned: Tuned) -> Part:
    rows = (
        ("epochs", str(tuned.epochs)),
        ("learning rate", f"{tuned.learning_rate:g}"),
        ("divergence from its teacher before it was quantised", f"{tuned.control_divergence:.3g} nats, role control"),
        ("teacher SHA-256", tuned.teacher_sha256),
        ("checkpoint SHA-256", tuned.checkpoint_sha256),
    )
    return Part("Quantisation-aware training", (Table("Quantisation-aware training", ("", ""), rows),))
