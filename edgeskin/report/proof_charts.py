"""Charts of how a bundle was proven: forest plot of the gate, precision map, speed."""

from collections.abc import Sequence

from markupsafe import Markup, escape

from edgeskin.report.svg import (
    BOTTOM,
    LEFT,
    RIGHT,
    WIDTH,
    Axis,
    line,
    marker,
    svg,
    text,
    x_axis,
    y_axis,
)
from edgeskin.report.text import ms
from edgeskin.spec.audit import AuditLayer, ModeAudit
from edgeskin.spec.gated import GateCheck, Verdict

# Errors and flips: less is better, so that charts turn them round.
LOWER_IS_BETTER = {"ece", "class_flips", "target_flips"}
VERDICT_SERIES: dict[Verdict, int] = {"holds": 0, "fails": 1, "cannot tell": 3}
PRECISIONS = {"int8": "INT8", "bf16": "BF16", "fp16": "FP16", "fp32": "FP32", "unknown": "unknown"}


def titled(words: str, drawn: str) -> str:
    """A mark with words that appear where the pointer rests on it."""
    return f"<g><title>{escape(words)}</title>{drawn}</g>"


def forest_chart(
    label: str, groups: Sequence[tuple[str, Sequence[tuple[str, GateCheck]]]], own: str = "INT8"
) -> Markup | None:
    """Difference of each check with its interval, turned so that right is better, and its margin; None without any.

    `groups`: title -> name and check of each of its rows; `own`: what is held against FP32.
    """
    known = [(title, [(n, c) for n, c in rows if c.difference.value is not None]) for title, rows in groups]
    known = [(title, rows) for title, rows in known if rows]
    checks = [check for _, rows in known for _, check in rows]
    if not checks:
        return None
    reach = 1.08 * max(0.01, *(max(abs(end) for end in (*_span(check), check.margin)) for check in checks))
    height = 46 + 22 * (len(checks) + len(known)) + BOTTOM
    bottom = height - BOTTOM
    x = Axis(-reach, reach, 178, WIDTH - RIGHT - 74)
    unit = f"difference, {own} minus FP32; right is better"
    parts = [line(x(0), 38, x(0), bottom, "axis"), *x_axis(x, unit, bottom, count=5)]
    parts += [text(x(0) - 8, 32, "← worse", "tick", "end"), text(x(0) + 8, 32, "better →", "tick")]
    parts += [line(10, 10, 24, 10, "margin"), text(30, 14, "margin", "tick")]
    for place, (verdict, series) in enumerate(VERDICT_SERIES.items()):
        at = 130 + 92 * place
        parts += [marker(series, at, 10, 5, hollow=verdict != "holds"), text(at + 11, 14, verdict, "tick")]
    y = 50
    for title, rows in known:
        parts.append(text(4, y + 4, title, "head"))
        for name, check in rows:
            y += 22
            parts += _forest_row(x, y, name, check)
        y += 22
    return svg(label, parts, height=height)


def _forest_row(x: Axis, y: float, name: str, check: GateCheck) -> list[str]:
    value, low, high = _span(check)
    series, beyond = VERDICT_SERIES[check.verdict], round(x(-check.margin) - x.start, 2)
    drawn = line(x(low), y, x(high), y, f"mark s{series} thick") if high > low else ""
    drawn += marker(series, x(value), y, 5, hollow=check.verdict != "holds")
    told = check.verdict if check.verdict != "holds" else f"{check.difference.value:+.4f}"
    return [
        f'<rect x="{x.start}" y="{y - 9}" width="{beyond}" height="18" class="beyond"/>',
        line(x(-check.margin), y - 10, x(-check.margin), y + 10, "margin"),
        text(170, y + 4, name, "legend", "end"),
        titled(f"{name}: {check.verdict}, margin {check.margin:g}", drawn),
        text(WIDTH - 4, y + 4, told, "tick", "end"),
    ]


def _span(check: GateCheck) -> tuple[float, float, float]:
    """Value and interval, turned so that right is better."""
    found = check.difference
    value = found.value or 0.0
    low, high = value if found.low is None else found.low, value if found.high is None else found.high
    return (-value, -high, -low) if check.metric in LOWER_IS_BETTER else (value, low, high)


def hatched(x: float, y: float, wide: float, high: float, style: str, hatch: bool) -> list[str]:
    """A rectangle, with strokes across where it is hatched: a pattern would need an address."""
    parts = [f'<rect x="{x}" y="{round(y, 2)}" width="{wide}" height="{round(high, 2)}" class="{style}"/>']
    if hatch:
        strokes, at = "", x - high + 2.5
        while at < x + wide:  # from (at, bottom) to (at + high, top), cut at the sides
            start, end = max(at, x), min(at + high, x + wide)
            if end > start:
                a, b = (round(value, 2) for value in (y + high - (start - at), y + high - (end - at)))
                strokes += f"M{round(start, 2)},{a}L{round(end, 2)},{b}"
            at += 5
        if strokes:
            parts.append(f'<path d="{strokes}" class="hatch"/>')
    return parts


def precision(layer: AuditLayer) -> str:
    """The word for what a layer runs in."""
    return PRECISIONS.get(layer.executed, layer.executed.upper())


def _style(layer: AuditLayer) -> str:
    return f"p-{layer.executed}" if layer.executed in PRECISIONS else "p-unknown"


def fell_back(layer: AuditLayer) -> bool:
    """Whether the file asks for INT8 and the engine runs something else."""
    return layer.planned == "int8" and layer.executed != "int8"


def precision_map(label: str, found: ModeAudit) -> Markup | None:
    """A column for each layer in the order of execution: its height its share of the MACs, its look its precision.

    The band below shows each layer at the same size, however small its share. Hatched: it fell back.
    """
    layers = found.layers
    if not layers:
        return None
    top, height = 30, 214
    base = 142
    share = [layer.macs / found.macs if found.macs else 0.0 for layer in layers]
    y = Axis(0, 100 * max(share) * 1.05 or 1.0, base, top)
    x = Axis(0, len(layers), LEFT, WIDTH - RIGHT)
    wide = (x.end - x.start) / len(layers)
    gap = 1.0 if wide > 3 else 0.0
    parts = [*y_axis(y, LEFT, x.end, count=4), *_precision_legend(layers)]
    for index, (layer, part) in enumerate(zip(layers, share, strict=True)):
        style, hatch, left = _style(layer), fell_back(layer), x(index)
        tall = max(0.75, base - y(100 * part))
        drawn = hatched(left, base - tall, round(wide - gap, 2), tall, style, hatch)
        drawn += hatched(left, base + 6, round(wide - gap, 2), 16, style, hatch)
        planned = f", planned {PRECISIONS.get(layer.planned, layer.planned)}" if hatch else ""
        name = (*layer.origin, layer.name)[0]
        parts.append(
            titled(f"{index + 1}. {name}: {precision(layer)}{planned}, {part:.2%} of the MACs", "".join(drawn))
        )
    parts += [line(LEFT, base, x.end, base, "axis"), text(LEFT, base + 38, "first layer", "tick")]
    parts.append(text(x.end, base + 38, f"layer {len(layers)}", "tick", "end"))
    parts.append(
        text(x.end, base + 58, "layers in the order of execution; share of the MACs upwards, %", "tick", "end")
    )
    return svg(label, parts, height=height)


def _precision_legend(layers: Sequence[AuditLayer]) -> list[str]:
    styles = {_style(layer): precision(layer) for layer in layers}
    rows = [(style, styles[style], False) for style in (f"p-{name}" for name in PRECISIONS) if style in styles]
    lost = [layer for layer in layers if fell_back(layer)]
    if lost:
        rows.append((_style(lost[0]), "fell back", True))
    parts = []
    for place, (style, words, hatch) in enumerate(rows):
        at = 8 + 86 * place
        parts += [*hatched(at, 4, 18, 12, style, hatch), text(at + 24, 14, words, "tick")]
    return parts


def speed_chart(label: str, p50_ms: Sequence[tuple[str, float]]) -> Markup | None:
    """Median latencies as bars, INT8 filled."""
    if not p50_ms:
        return None
    height = 14 + 26 * len(p50_ms) + BOTTOM
    bottom = height - BOTTOM
    x = Axis(0, max(value for _, value in p50_ms) or 1.0, 190, WIDTH - RIGHT - 70)
    parts = x_axis(x, "median latency of the pair graph, ms", bottom, count=5)
    for index, (name, value) in enumerate(p50_ms):
        y = 10 + 26 * index
        style = "p-int8" if name.startswith("INT8") else "p-bf16" if name.startswith(("BF16", "FP16")) else "p-fp32"
        wide = round(max(1.0, x(value) - x.start), 2)
        parts.append(f'<rect x="{x.start}" y="{y}" width="{wide}" height="16" class="{style}"/>')
        parts += [
            text(182, y + 12, name, "legend", "end"),
            text(round(x(value) + 6, 2), y + 12, f"{ms(value)} ms", "tick"),
        ]
    return svg(label, parts, height=height)
