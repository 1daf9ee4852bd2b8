"""Charts of a search: latency against divergence, and what INT8 costs in each group of layers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgeskin.report.figures import front
from edgeskin.report.proof_charts import hatched, titled
from edgeskin.report.svg import BOTTOM, LEFT, RIGHT, WIDTH, Axis, line, marker, number, path, svg, text, ticks, x_axis
from edgeskin.report.text import ms
from edgeskin.spec.search import Candidate, LayerEffect

GATE_SERIES = {"holds": 0, "fails": 1, "not asked": 3}
MOST_BARS = 30


def cut(words: str, limit: int) -> str:
    """The end of a module path, which tells more than its beginning.

    >>> cut("network.encoder.blocks.4.0", 16), cut("head", 16)
    ('…der.blocks.4.0', 'head')
    """
    return words if len(words) <= limit else f"…{words[len(words) - limit + 2 :]}"


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


def planned(candidates: Sequence[Candidate]) -> bool:
    """Whether costs are estimates: none was timed, and at least one was estimated."""
    timed = any(one.p50_ms is not None for one in candidates)
    return not timed and any(one.planned_cost is not None for one in candidates)


def search_chart(label: str, candidates: Sequence[Candidate], chosen: str) -> Markup | None:
    """Median latency against divergence from FP32: low and left is good; the line joins what no other beats.

    Where nothing was timed, the cost that the graphs plan stands for the latency. Marks bear the numbers of the
    candidates as far as there is room. None if fewer than two were timed.
    """
    guessed = planned(candidates)
    costs = [one.planned_cost if guessed else one.p50_ms for one in candidates]
    found = zip(candidates, costs, strict=True)
    shown = [(place, one, cost) for place, (one, cost) in enumerate(found, 1) if cost is not None]
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
    unit = "planned cost of the pair, an estimate" if guessed else "median latency of the pair, ms"
    parts = [
        *y.grid(x.start, x.end),
        *x_axis(x, f"{unit}; divergence upwards, nats", bottom),
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
        cost = f"planned cost {p50:.3f}" if guessed else f"{ms(p50)} ms"
        parts.append(titled(f"{one.name}: {cost}, {one.effect.divergence:.3g} nats, gate {one.gate}", mark))
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
    parts += [*hatched(92, 3, 18, 11, "p-fp32", True), text(116, 13, "taken back to floating point", "tick")]
    for index, (one, gain) in enumerate(zip(shown, gains, strict=True)):
        y, kept = 24 + 18 * index, one.group in reverted
        left, right = sorted((x(0), x(gain)))
        wide = round(max(1.0, right - left), 2)
        drawn = "".join(hatched(left, y, wide, 13, "p-fp32" if kept else "p-int8", kept))
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
