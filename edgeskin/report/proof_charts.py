"""Charts of how a bundle was proven: forest plot, search, sensitivity of layers, precision map, speed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from edgeskin.report.figures import front
from edgeskin.report.svg import (
    BOTTOM,
    LEFT,
    RIGHT,
    WIDTH,
    Axis,
    line,
    marker,
    number,
    path,
    svg,
    text,
    ticks,
    x_axis,
    y_axis,
)
from edgeskin.report.text import ms
from edgeskin.spec.audit import AuditLayer, ModeAudit
from edgeskin.spec.gated import GateCheck, Verdict
from edgeskin.spec.search import Candidate, LayerEffect

# Errors and flips: less is better, so that charts turn them round.
LOWER_IS_BETTER = {"ece", "class_flips", "target_flips"}
VERDICT_SERIES: dict[Verdict, int] = {"holds": 0, "fails": 1, "cannot tell": 3}
GATE_SERIES = {"holds": 0, "fails": 1, "not asked": 3}
PRECISIONS = {"int8": "INT8", "bf16": "BF16", "fp16": "FP16", "fp32": "FP32", "unknown": "unknown"}
MOST_BARS = 30


def titled(words: str, drawn: str) -> str:
    """A mark with words that appear where the pointer rests on it."""
    return f"<g><title>{escape(words)}</title>{drawn}</g>"


def cut(words: str, limit: int) -> str:
    """The end of a module path, which tells more than its beginning.

    >>> cut("network.encoder.blocks.4.0", 16), cut("head", 16)
    ('…der.blocks.4.0', 'head')
    """
    return words if len(words) <= limit else f"…{words[len(words) - limit + 2 :]}"


def forest_chart(label: str, groups: Sequence[tuple[str, Sequence[tuple[str, GateCheck]]]]) -> Markup | None:
    """Difference of each check with its interval, turned so that right is better, and its margin; None without any.

    `groups`: title -> name and check of each of its rows.
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
    unit = "difference, INT8 minus FP32, turned so that right is better"
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


@dataclass(frozen=True, slots=True)
class _Log:
    """An axis of powers of ten, drawn upwards."""

    axis: Axis

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float) -> "_Log":
        low, high = math.log10(min(values)), math.log10(max(values))
        spread = max(0.08 * (high - low), 0.08)
        return cls(Axis(low - spread, high + spread, start, end))

    def __call__(self, value: float) -> float:
        return self.axis(math.log10(value))

    def grid(self, left: float, right: float) -> list[str]:
        """Lines at 1, 2 and 5 times a power of ten; only at the powers where they would lie too close."""
        low, high = self.axis.low, self.axis.high
        factors = (1, 2, 5) if high - low < 2.5 else (1,)
        powers = range(math.floor(low), math.ceil(high) + 1)
        found = [f * 10.0**p for p in powers for f in factors if low <= math.log10(f * 10.0**p) <= high]
        if not found:
            found = [10**value for value in ticks(low, high, 3)]
        parts = []
        for value in found:
            parts += [
                line(left, self(value), right, self(value), "grid"),
                text(left - 6, self(value) + 4, number(float(f"{value:.2g}")), "tick", "end"),
            ]
        return parts


def search_chart(label: str, candidates: Sequence[Candidate], chosen: str) -> Markup | None:
    """Median latency against divergence from FP32: low and left is good; the line joins what no other beats.

    Marks bear the numbers of the candidates as far as there is room. None if fewer than two were timed.
    """
    shown = [(place, one, one.p50_ms) for place, one in enumerate(candidates, 1) if one.p50_ms is not None]
    if len(shown) < 2:
        return None
    top, height = 46, 330
    bottom = height - BOTTOM
    times = [p50 for _, _, p50 in shown]
    spread = 0.08 * (max(times) - min(times)) or 0.05 * max(times)
    x = Axis(max(0.0, min(times) - spread), max(times) + spread, LEFT + 6, WIDTH - RIGHT)
    floor = max(1e-9, min((one.effect.divergence for _, one, _ in shown if one.effect.divergence > 0), default=1e-9))
    y = _Log.over([max(floor, one.effect.divergence) for _, one, _ in shown], bottom, top)
    placed = [(x(p50), y(max(floor, one.effect.divergence))) for _, one, p50 in shown]
    best = front([(p50, -one.effect.divergence) for _, one, p50 in shown])
    parts = [
        *y.grid(x.start, x.end),
        *x_axis(x, "median latency of the pair, ms; divergence upwards, nats", bottom),
    ]
    steps: list[tuple[float, float]] = []
    for index in best:
        steps += [(placed[index][0], steps[-1][1])] if steps else []
        steps.append(placed[index])
    if len(steps) > 1:
        parts.append(path(steps, "front"))
    for (_, one, p50), (cx, cy) in zip(shown, placed, strict=True):
        mark = marker(GATE_SERIES[one.gate], cx, cy, 5, hollow=one.gate == "fails")
        if one.name == chosen:
            mark = f'<circle cx="{cx}" cy="{cy}" r="10" class="ring"/>' + mark
        parts.append(titled(f"{one.name}: {ms(p50)} ms, {one.effect.divergence:.3g} nats, gate {one.gate}", mark))
    order = sorted(range(len(shown)), key=lambda i: (shown[i][1].name != chosen, i not in best, i))
    reach = [12.0 if one.name == chosen else 6.0 for _, one, _ in shown]
    marks = [(str(shown[i][0]), placed[i], reach[i]) for i in order]
    parts += _numbers(marks, x.end)
    parts += _search_legend({one.gate for _, one, _ in shown})
    return svg(label, parts, height=height)


def _search_legend(gates: set[str]) -> list[str]:
    rows = [
        (gate, f"gate {gate}" if gate != "not asked" else "gate not asked") for gate in GATE_SERIES if gate in gates
    ]
    parts = []
    for place, (gate, words) in enumerate(rows):
        at = 12 + 122 * place
        parts += [marker(GATE_SERIES[gate], at, 12, 5, hollow=gate == "fails"), text(at + 11, 16, words, "tick")]
    at = 12 + 122 * len(rows)
    parts += [f'<circle cx="{at}" cy="12" r="8" class="ring"/>', text(at + 14, 16, "chosen", "tick")]
    return [*parts, line(at + 70, 12, at + 88, 12, "front"), text(at + 94, 16, "front", "tick")]


def _numbers(marks: Sequence[tuple[str, tuple[float, float], float]], right: float) -> list[str]:
    """Numbers beside marks, where neither a mark nor another number is in the way; the others are left out.

    Args:
        marks: number, place and radius, those first whose number matters most.
    """
    taken = [(x - r, y - r, x + r, y + r) for _, (x, y), r in marks]
    parts = []
    for words, (x, y), radius in marks:
        wide, away = 9.0 * len(words), radius + 4
        beside = ((away, 5), (-away - wide, 5), (-wide / 2, -away - 2), (-wide / 2, away + 11))
        aslant = ((away, -8), (away, 18), (-away - wide, -8), (-away - wide, 18))
        for dx, dy in (*beside, *aslant):
            box = (x + dx, y + dy - 12, x + dx + wide, y + dy + 4)
            clear = all(box[2] <= a or c <= box[0] or box[3] <= b or d <= box[1] for a, b, c, d in taken)
            if clear and box[0] > LEFT + 6 and box[2] < right + 8 and box[1] > 24:
                taken.append(box)
                parts.append(text(round(x + dx, 2), round(y + dy, 2), words, "halo"))
                break
    return parts


def sensitivity_chart(label: str, ranking: Sequence[LayerEffect], reverted: Sequence[str]) -> Markup | None:
    """What each group of layers costs in divergence, the worst first; hatched: it stays in floating point."""
    shown = sorted(ranking, key=lambda one: -one.gain)[:MOST_BARS]
    if not shown:
        return None
    height = 30 + 18 * len(shown) + BOTTOM
    bottom = height - BOTTOM
    gains = [1000 * one.gain for one in shown]
    x = Axis(min(0.0, *gains), max(max(gains), 0.0) or 1e-9, 190, WIDTH - RIGHT - 70)
    stem = _stem([one.group for one in shown])
    unit = "divergence due to INT8 in this group, 10⁻³ nats"
    parts = x_axis(x, unit, bottom, count=4)
    parts += ['<rect x="12" y="3" width="18" height="11" class="p-int8"/>', text(36, 13, "INT8", "tick")]
    parts += [*_hatched(92, 3, 18, 11, "p-fp32", True), text(116, 13, "taken back to floating point", "tick")]
    for index, (one, gain) in enumerate(zip(shown, gains, strict=True)):
        y, kept = 24 + 18 * index, one.group in reverted
        left, right = sorted((x(0), x(gain)))
        wide = round(max(1.0, right - left), 2)
        drawn = "".join(_hatched(left, y, wide, 13, "p-fp32" if kept else "p-int8", kept))
        parts.append(
            titled(f"{one.group}: {one.gain:.3g} nats, {one.layers} layers, {one.macs_share:.1%} of the MACs", drawn)
        )
        parts.append(text(182, y + 11, cut(one.group[stem:], 25), "legend", "end"))
        parts.append(text(WIDTH - 4, y + 11, f"{gain:.2g}" if abs(gain) >= 0.001 else "0", "tick", "end"))
    parts.append(line(x(0), 20, x(0), bottom, "axis"))
    return svg(label, parts, height=height)


def _stem(names: Sequence[str]) -> int:
    """How many letters of their common modules can go, the last of them stays.

    >>> _stem(["network.encoder.blocks.0", "network.encoder.blocks.1"])
    16
    """
    whole = [name.split(".") for name in names]
    common = 0
    while len(whole) > 1 and all(len(name) > common + 1 and name[common] == whole[0][common] for name in whole):
        common += 1
    return sum(len(module) + 1 for module in whole[0][: max(0, common - 1)])


def _hatched(x: float, y: float, wide: float, high: float, style: str, hatch: bool) -> list[str]:
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
        drawn = _hatched(left, base - tall, round(wide - gap, 2), tall, style, hatch)
        drawn += _hatched(left, base + 6, round(wide - gap, 2), 16, style, hatch)
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
        parts += [*_hatched(at, 4, 18, 12, style, hatch), text(at + 24, 14, words, "tick")]
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
        style = "p-int8" if name.startswith("INT8") else "p-bf16" if name in ("BF16", "FP16") else "p-fp32"
        wide = round(max(1.0, x(value) - x.start), 2)
        parts.append(f'<rect x="{x.start}" y="{y}" width="{wide}" height="16" class="{style}"/>')
        parts += [
            text(182, y + 12, name, "legend", "end"),
            text(round(x(value) + 6, 2), y + 12, f"{ms(value)} ms", "tick"),
        ]
    return svg(label, parts, height=height)
