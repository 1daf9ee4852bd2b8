"""ReportInput -> one self-contained HTML file, and report.md beside it. No script, no font, no network."""

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from edgeskin import __version__
from edgeskin.files import write_atomic
from edgeskin.report import charts, inputs, machine, text, view
from edgeskin.report.inputs import BundleInput, ReportInput

PHANTOM = "Phantom data: drawn images, not lesions"
RESEARCH = "Research use only, not a medical device."
_TEMPLATES = Path(__file__).parent / "templates"
_LOSSES = ("loss",)
_SCORES = ("control_macro_f1", "control_balanced_accuracy", "control_target_auc")


@dataclass(frozen=True, slots=True)
class Confusion:
    """A confusion matrix ready to show: `shade` 0..1 is the share of the row."""

    task: str
    names: tuple[str, ...]
    rows: tuple[tuple[tuple[int, float], ...], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """Everything of one bundle."""

    name: str
    heading: str
    tables: tuple[text.Table, ...]
    confusions: tuple[Confusion, ...]
    difference: Markup | None
    latency: tuple[tuple[str, Markup], ...]
    latency_tables: tuple[text.Table, ...]
    provenance: text.Table
    golden_passed: int
    golden: int
    verified: bool
    measured: bool
    valid: bool
    partial: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...]


def render(given: ReportInput, out: Path) -> Path:
    """Write the page to `out` and its Markdown twin beside it (report.html, report.md). Returns `out`.

    Raises:
        EdgeskinError: a record is of another bundle, or the disk refuses.
    """
    inputs.check(given)
    shown = {
        "given": given,
        "phantom": PHANTOM if given.phantom else "",
        "research": RESEARCH,
        "version": __version__,
        "summary": view.summary(given),
        "sections": [_section(bundle) for bundle in given.bundles],
        "loss": charts.curve_chart("Training loss by epoch", given.training, _LOSSES),
        "scores": charts.curve_chart("Scores on the control role by epoch", given.training, _SCORES),
        "roles": view.roles(given.bundles),
        "environments": _environments(given),
        "training": _training_table(given),
    }
    for name, path in (("report.html.j2", out), ("report.md.j2", out.with_suffix(".md"))):
        environment = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=name.endswith(".html.j2"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters["cell"] = _cell
        write_atomic(path, environment.get_template(name).render(**shown))
    return out


def _cell(value: str) -> str:
    """Text for a cell of a Markdown table."""
    return value.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _section(bundle: BundleInput) -> Section:
    verify, bench = bundle.verify, bundle.bench
    found = [view.accuracy(bundle), view.flips(bundle)]
    drawn = []
    if bench is not None:
        for lane in bench.lanes:
            if lane.mode == "pair":
                series = {view.label(bundle): lane.core}
                if lane.reference is not None:
                    series["FP32"] = lane.reference
                title = f"Latency, {text.MODE_TITLES[lane.mode]}, {text.ROUTE_TITLES[lane.route]}"
                drawn.append((title, charts.latency_chart(title, series)))
    return Section(
        name=bundle.manifest.name,
        heading=f"{bundle.manifest.target}, {bundle.manifest.precision.upper()}",
        tables=tuple(table for table in found if table is not None),
        confusions=_confusions(bundle),
        difference=charts.difference_chart("Accuracy, bundle minus FP32", view.differences(bundle)),
        latency=tuple(drawn),
        latency_tables=(machine.latencies(bench, view.label(bundle)), machine.device(bench)) if bench else (),
        provenance=view.provenance(bundle),
        golden_passed=sum(case.passed for case in verify.golden) if verify else 0,
        golden=len(verify.golden) if verify else 0,
        verified=verify is not None,
        measured=bench is not None,
        valid=bench is not None and bench.validity.valid,
        partial=bench is not None and bench.partial,
        reasons=bench.validity.reasons if bench else (),
        notes=verify.notes if verify else (),
    )


def _confusions(bundle: BundleInput) -> tuple[Confusion, ...]:
    """The target task's matrix of the bundle, mode pair (else dermoscopic alone)."""
    if bundle.verify is None or not bundle.verify.accuracy:
        return ()
    scored = bundle.verify.accuracy.get("pair") or next(iter(bundle.verify.accuracy.values()))
    task = bundle.manifest.task_schema.task(bundle.manifest.task_schema.target.task)
    if task.name not in scored.confusion:
        return ()
    rows = tuple(
        tuple((count, count / max(1, sum(row))) for count in row) for row in scored.confusion[task.name].bundle
    )
    return (Confusion(task.title or task.name, task.class_names, rows),)


def _environments(given: ReportInput) -> list[text.Table]:
    """The environment of the first measured bundle; of the others, what differs from it."""
    found: list[text.Table] = []
    for bundle in given.bundles:
        if bundle.bench is not None:
            table = machine.environment(bundle.bench)
            rows = tuple(row for row in table.rows if not found or row not in found[0].rows)
            what = "where it differs: " if found else ""
            if rows:
                found.append(text.Table(f"Environment, {what}{bundle.manifest.name}", table.columns, rows))
    return found


def _training_table(given: ReportInput) -> text.Table | None:
    names = [name for name in (*_LOSSES, *_SCORES) if any(name in row for row in given.training)]
    if not names:
        return None
    rows = tuple(
        (f"{row['epoch'] + 1:.0f}", *(f"{row[name]:.4f}" if name in row else text.NONE for name in names))
        for row in given.training
    )
    return text.Table("Training", ("epoch", *(name.replace("_", " ") for name in names)), rows)
