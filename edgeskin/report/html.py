"""ReportInput -> one self-contained HTML file, with report.md and report.json beside it. No font, no network.

The page has one script, which sorts tables; everything can be read without it.
"""

import base64
import hashlib
import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from edgeskin import __version__
from edgeskin.errors import EdgeskinError
from edgeskin.files import pretty_json, write_atomic
from edgeskin.report import charts, evidence, figures, inputs, machine, saliency, text, tradeoff, view
from edgeskin.report.inputs import FORMAT, ReportInput
from edgeskin.report.parts import Figure
from edgeskin.report.sections import section
from edgeskin.spec.bench import Route

PHANTOM = "Phantom data: drawn images, not lesions"
RESEARCH = "Research use only, not a medical device."
_TEMPLATES = Path(__file__).parent / "templates"
_LOSSES = ("loss",)
_SCORES = ("control_macro_f1", "control_balanced_accuracy", "control_target_auc")
_ROUTES: tuple[Route, ...] = ("decision", "network")


def render(given: ReportInput, out: Path) -> Path:
    """Write the page to `out`, and beside it its Markdown twin (.md) and what both were made of (.json).

    Returns `out`.

    Raises:
        EdgeskinError: a record is of another bundle or network, or holds a number that is not finite; a file of another
            kind stands where the JSON would; or the disk refuses.
    """
    given = inputs.complete(given)
    inputs.check(given)
    inputs.check_explained(given)
    record = out.with_suffix(".json")
    data = _plain(given)
    _refuse_to_overwrite(record)
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    shown = {
        "given": given,
        "phantom": PHANTOM if given.phantom else "",
        "research": RESEARCH,
        "version": __version__,
        "script": Markup(script),  # our own file, no value of a record in it
        "policy": _policy(script, pictured=given.pictured),
        "ungated": evidence.ungated(given.bundles),
        "summary": view.summary(given, evidence.word, loud=evidence.NOT_GATED),
        "models": tradeoff.table(given),
        "pareto": _pareto(given),
        "sections": [section(bundle, index) for index, bundle in enumerate(given.bundles, 1)],
        "explained": [saliency.chapter(record, number) for number, record in enumerate(given.explained, 1)],
        "curves": _curves(given),
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
        environment.filters["slug"] = text.slug
        write_atomic(path, environment.get_template(name).render(**shown))
    write_atomic(record, data)
    return out


def _plain(given: ReportInput) -> str:
    """The input as JSON; a number that JSON cannot hold is an error."""
    try:
        return pretty_json(given.to_json())
    except ValueError as error:
        raise EdgeskinError(
            "a record holds a number that is not finite", got=given.title, fix="verify and bench the bundle again"
        ) from error


def _refuse_to_overwrite(record: Path) -> None:
    """A result of verify or bench may bear the page's name with .json: it must not be lost."""
    try:
        kept = json.loads(record.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        kept = None
    if not isinstance(kept, dict) or kept.get("format") != FORMAT:
        raise EdgeskinError(
            "another file stands where the report's JSON would be written",
            got=str(record),
            fix="choose another --out, or move that file",
        )


def _policy(script: str, *, pictured: bool) -> str:
    """The page's own content security policy: nothing from anywhere, this one script, and images inside the page."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    images = " img-src data:;" if pictured else ""
    return f"default-src 'none'; style-src 'unsafe-inline';{images} script-src 'sha256-{digest}'; base-uri 'none'"


def _cell(value: str) -> str:
    """Text for a cell of a Markdown table."""
    return value.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _pareto(given: ReportInput) -> list[Figure]:
    """Latency against AUC, for both ways through a bundle."""
    found = []
    for route in _ROUTES:
        what = f"{tradeoff.target_title(given)} AUC"
        label = f"Latency against {what}, {text.ROUTE_TITLES[route]}"
        chart = figures.pareto_chart(label, tradeoff.points(given, route), what)
        if chart is not None:
            found.append(Figure(label, chart))
    return found


def _curves(given: ReportInput) -> list[Figure]:
    """Curves of the training, as far as its log has them."""
    titles = (("Training loss by epoch", _LOSSES), ("Scores on the control role by epoch", _SCORES))
    drawn = [(title, charts.curve_chart(title, given.training, names)) for title, names in titles]
    return [Figure(title, chart) for title, chart in drawn if chart is not None]


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
