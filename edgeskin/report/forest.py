"""A sweep as a picture of its own: figures and differences as dots with intervals (a forest plot), an SVG file."""

import textwrap
from collections.abc import Sequence

from markupsafe import escape

from edgeskin.report.svg import Axis, line, number, text, ticks
from edgeskin.spec.sweep import Metric
from edgeskin.spec.sweep_result import Figure, SweepResult

_WIDTH, _ROW, _LINE = 980, 26, 15
_LABEL, _PANELS, _GAP, _RIGHT = 366, (382, 968), 26, 852
_PANEL_METRICS = 2
_LETTERS = 58  # of a label in a line
_LEGEND = (
    "Dots: means over the seeds with their 95 % intervals over lesions; thin: with the seeds. Rings: seeds. "
    "Dashed: the first variant, or no difference. Dotted: a claim's bound."
)
_STYLE = """
text{font:12.5px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:#1f2328}
.head{font-weight:600;font-size:13.5px}.group{fill:#656d76;font-size:11.5px}.tick{fill:#656d76;font-size:11px}
.grid{stroke:#d8dee4}.axis{stroke:#8c959f}.zero{stroke:#656d76;stroke-dasharray:4 3}
.bound{stroke:#bf5b04;stroke-dasharray:2 3}
.span{stroke:#0b62c4;stroke-width:2.6}.wide{stroke:#0b62c4}.dot{fill:#0b62c4}.seed{fill:none;stroke:#0b62c4;stroke-opacity:.65}
.holds{fill:#116329}.fails{fill:#a40e26}.page{fill:#fff}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}.group,.tick{fill:#9198a1}.grid{stroke:#30363d}.axis,.zero{stroke:#7d8590}.bound{stroke:#e8963a}
.span,.wide,.seed{stroke:#58a6ff}.dot{fill:#58a6ff}.holds{fill:#57ab5a}.fails{fill:#ff7b72}
.page{fill:#0d1117}}
"""


def forest(result: SweepResult) -> str:
    """The whole plot: variants in two metrics above, differences behind the questions below."""
    parts = [text(8, 16, _LEGEND, "tick")]
    bottom = _variants(result, parts, 44)
    if result.answers:
        bottom = _answers(result, parts, bottom + 34)
    title = escape(f"{result.suite.title or result.suite.name}: {result.data}, {result.lesions} lesions")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom}" width="{_WIDTH}" '
        f'height="{bottom}" role="img" aria-label="{title}"><title>{title}</title><style>{_STYLE}</style>'
        f'<rect width="{_WIDTH}" height="{bottom}" class="page"/>'
        f"{''.join(parts)}</svg>\n"
    )


def _shown(result: SweepResult) -> list[Metric]:
    """Macro-F1 and the first ranking."""
    ranked = [metric for metric in result.titles if metric.startswith("auc_")]
    return ["macro_f1", *ranked][:_PANEL_METRICS]


def _variants(result: SweepResult, parts: list[str], top: int) -> int:
    """A row for each variant's first reading, a panel for each metric. Returns where it ends."""
    found = [(v, v.readings[0]) for v in result.variants if v.readings]
    middles, y, group = [], top + 12, ""
    for variant, _ in found:
        if variant.group != group:
            group = variant.group
            parts.append(text(8, y + _ROW // 2 + 4, group, "group"))
            y += _ROW
        height = _label(parts, variant.title, y)
        middles.append(y + height / 2)
        y += height
    bottom = y
    metrics = _shown(result)
    wide = (_PANELS[1] - _PANELS[0] - _GAP * (len(metrics) - 1)) / len(metrics)
    for place, metric in enumerate(metrics):
        figures = [one.figures[metric] for _, one in found]
        left = _PANELS[0] + place * (wide + _GAP)
        axis = _axis(figures, left, left + wide)
        parts += [text(left, top, result.titles[metric], "head"), *_grid(axis, top + 8, bottom)]
        first = figures[0].estimate.value if figures else None
        if first is not None:
            parts.append(line(axis(first), top + 8, axis(first), bottom, "zero"))
        for one, middle in zip(figures, middles, strict=True):
            parts += _dot(axis, one, middle)
    return bottom + 20


def _label(parts: list[str], words: str, top: float, indent: int = 14) -> int:
    """Words in as many lines as they need, from `top` on; the height of their row."""
    lines = textwrap.wrap(words, _LETTERS - indent // 3)
    height = max(_ROW, _LINE * len(lines) + 9)
    start = top + height / 2 + 4 - _LINE * (len(lines) - 1) / 2
    parts += [text(8 + indent, start + _LINE * index, one) for index, one in enumerate(lines)]
    return height


def _answers(result: SweepResult, parts: list[str], top: int) -> int:
    """A row for each question: the difference in its metric, its bound, its verdict. Returns where it ends."""
    found = [(one, one.differences.get(one.metric)) for one in result.answers]
    axis = _axis([figure for _, figure in found if figure], _PANELS[0] + 40, _RIGHT - 14, zero=True)
    heights, bottom = [], top + 12
    for one, _ in found:
        heights.append(_label(parts, one.question, bottom, 0))
        bottom += heights[-1]
    named = sorted({result.titles[one.metric] for one, _ in found})
    parts.append(text(8, top, f"paired difference in {', '.join(named)}", "head"))
    parts += _grid(axis, top + 8, bottom)
    parts.append(line(axis(0), top + 8, axis(0), bottom, "zero"))
    y = top + 12
    for (one, figure), height in zip(found, heights, strict=True):
        middle = y + height / 2
        if figure:
            if one.at_least:
                parts.append(line(axis(one.at_least), y + 3, axis(one.at_least), y + height - 3, "bound"))
            parts += _dot(axis, figure, middle)
        style = {"holds": "holds", "does not hold": "fails"}.get(one.verdict or "", "group")
        verdict = one.verdict or ("one seed: no verdict" if len(one.seeds) == 1 else "no verdict")
        parts.append(text(_RIGHT, middle + 4, verdict.removesuffix(" at this size"), style))
        y += height
    return bottom + 20


def _axis(figures: Sequence[Figure], start: float, end: float, *, zero: bool = False) -> Axis:
    """An axis that holds all intervals and every seed."""
    values = [0.0] if zero else []
    for one in figures:
        shown = (one.estimate.low, one.estimate.value, one.estimate.high, *one.seeds.values(), *(one.with_seeds or ()))
        values += [value for value in shown if value is not None]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    spare = (high - low) * 0.04 or 0.01
    return Axis(low - spare, high + spare, start, end)


def _grid(axis: Axis, top: float, bottom: float) -> list[str]:
    parts = []
    for value in ticks(axis.low, axis.high, 5):
        x = axis(value)
        parts += [line(x, top, x, bottom, "grid"), text(x, bottom + 14, number(value), "tick", "middle")]
    parts.append(line(axis.start, bottom, axis.end, bottom, "axis"))
    return parts


def _dot(axis: Axis, found: Figure, y: float) -> list[str]:
    """The mean with its two intervals, each seed as a small ring."""
    value, low, high = found.estimate.value, found.estimate.low, found.estimate.high
    if value is None:
        return []
    parts = [f'<circle cx="{axis(one)}" cy="{y}" r="2.6" class="seed"/>' for one in found.seeds.values()]
    if found.with_seeds:
        parts.append(line(axis(found.with_seeds[0]), y, axis(found.with_seeds[1]), y, "wide"))
    if low is not None and high is not None:
        parts.append(line(axis(low), y, axis(high), y, "span"))
    return [*parts, f'<circle cx="{axis(value)}" cy="{y}" r="4.4" class="dot"/>']
