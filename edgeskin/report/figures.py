"""Charts of accuracy: differences, latency against AUC, reliability, ROC. No script, no font, no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgeskin.report.svg import BOTTOM, LEFT, RIGHT, WIDTH, Axis, legend, line, marker, path, svg, text, x_axis, y_axis
from edgeskin.report.text import ms
from edgeskin.spec.result import Curve, Estimate, ReliabilityBin


@dataclass(frozen=True, slots=True)
class Point:
    """A model that was measured and scored: `series` numbers its bundle, an FP32 reference is hollow."""

    name: str
    series: int
    latency_ms: float
    p90_ms: float
    auc: Estimate
    reference: bool


def _short(name: str, limit: int = 34) -> str:
    """A name that fits the legend; its end, which tells the precision, stays.

    >>> _short("a-very-long-name-of-a-bundle-made-in-november INT8")
    'a-very-long-name-of-a-…vember INT8'
    """
    return name if len(name) <= limit else f"{name[: limit - 12]}…{name[-11:]}"


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points that no other beats: none is both as fast and as good, and in one of them better.

    Args:
        points: (cost, value): a low cost and a high value are good.

    >>> front([(5, 0.90), (10, 0.91), (12, 0.90), (5, 0.89)])
    [0, 1]
    """
    kept = []
    for index, (cost, value) in enumerate(points):
        beaten = any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points)
        if not beaten:
            kept.append(index)
    return sorted(kept, key=lambda index: points[index])


def difference_chart(label: str, rows: Sequence[tuple[str, Estimate]], own: str = "bundle") -> Markup | None:
    """Differences with their intervals about zero: left of it `own` is worse. None without any."""
    known = [(n, e.value, e.low, e.high) for n, e in rows if e.value is not None]
    shown = [(n, v, v if lo is None else lo, v if hi is None else hi) for n, v, lo, hi in known]
    if not shown:
        return None
    reach = max(0.01, 1.1 * max(max(abs(low), abs(high)) for _, _, low, high in shown))
    height = 30 + 26 * len(shown) + BOTTOM
    x = Axis(-reach, reach, 172, WIDTH - RIGHT - 62)
    bottom = height - BOTTOM
    parts = [line(x(0), 20, x(0), bottom, "axis"), *x_axis(x, f"difference, {own} minus FP32", bottom)]
    parts += [text(x(0) - 8, 14, "← worse", "tick", "end"), text(x(0) + 8, 14, "better →", "tick")]
    for index, (name, value, low, high) in enumerate(shown):
        y = 30 + 26 * index + 12
        parts += [text(162, y + 4, name, "legend", "end"), line(x(low), y, x(high), y, "mark s0 thick")]
        parts += [marker(0, x(value), y, 5), text(WIDTH - RIGHT, y + 4, f"{value:+.4f}", "tick", "end")]
    return svg(label, parts, height=height)


def pareto_chart(label: str, points: Sequence[Point], what: str) -> Markup | None:
    """Median latency against AUC with its interval; the line joins what no other model beats. None without points."""
    if not points:
        return None
    values = [p.auc.value or 0.0 for p in points]
    lows = [v if p.auc.low is None else p.auc.low for p, v in zip(points, values, strict=True)]
    highs = [v if p.auc.high is None else p.auc.high for p, v in zip(points, values, strict=True)]
    top = 18 + 17 * len(points)
    height = top + 210 + BOTTOM
    x = Axis(0, 1.06 * max(p.p90_ms for p in points), LEFT, WIDTH - RIGHT)
    spread = 0.08 * (max(highs) - min(lows)) or 0.01
    y = Axis(max(0.0, min(lows) - spread), min(1.0, max(highs) + spread), height - BOTTOM, top)
    parts = [
        *y_axis(y, LEFT, WIDTH - RIGHT, count=6),
        *x_axis(x, f"median to p90 latency, ms; {what} upwards", height - BOTTOM),
    ]
    best = front([(p.latency_ms, value) for p, value in zip(points, values, strict=True)])
    steps: list[tuple[float, float]] = []
    for index in best:
        here = (x(points[index].latency_ms), y(values[index]))
        steps += [(here[0], steps[-1][1])] if steps else []
        steps.append(here)
    if len(steps) > 1:
        parts.append(path(steps, "front"))
    drawn = sorted(zip(points, values, lows, highs, strict=True), key=lambda row: not row[0].reference)
    for point, value, low, high in drawn:  # bundles on top of references
        cx, cy, style = x(point.latency_ms), y(value), f"mark s{point.series % 4}"
        parts += [line(cx, y(low), cx, y(high), style), line(cx, cy, x(point.p90_ms), cy, style)]
        parts.append(marker(point.series, cx, cy, 5.5, hollow=point.reference))
    rows = [
        f"{_short(p.name)}: {ms(p.latency_ms)} ms, {value:.3f}{', on the front' if index in best else ''}"
        for index, (p, value) in enumerate(zip(points, values, strict=True))
    ]

    def mark(index: int, a: float, b: float) -> str:
        return marker(points[index].series, a, b, hollow=points[index].reference)

    return svg(label, [*parts, *legend(rows, mark)], height=height)


def _unit_square(rows: int) -> tuple[Axis, Axis, int]:
    """Axes from 0 to 1 below `rows` lines of legend, and the height of the chart."""
    top = 18 + 17 * rows
    return Axis(0, 1, LEFT, WIDTH - RIGHT), Axis(0, 1, top + 300, top), top + 300 + BOTTOM


def reliability_chart(label: str, found: Mapping[str, Sequence[ReliabilityBin]], ece: Mapping[str, str]) -> Markup:
    """Share that is right against the mean confidence of each bin; on the diagonal a probability means what it says.

    Args:
        found: name -> bins, the bundle first; a hollow mark is the reference. Areas of marks grow with their lesions.
        ece: name -> calibration error as text.
    """
    x, y, height = _unit_square(len(found))
    words = "mean confidence of a bin; share that is right upwards"
    parts = [*y_axis(y, LEFT, x.end, count=6), *x_axis(x, words, y.start), line(x(0), y(0), x(1), y(1), "ideal")]
    for index, bins in reversed(list(enumerate(found.values()))):  # the bundle on top
        total = sum(one.lesions for one in bins) or 1
        placed = [
            (x(one.confidence), y(one.accuracy), one.lesions)
            for one in bins
            if one.confidence is not None and one.accuracy is not None
        ]
        parts.append(path([(cx, cy) for cx, cy, _ in placed], f"curve s{index}"))
        parts += [
            marker(index, cx, cy, round(2.5 + 13 * (count / total) ** 0.5, 2), hollow=index > 0)
            for cx, cy, count in placed
        ]
    rows = [f"{name}: calibration error {ece[name]}" for name in found]
    return svg(
        label,
        [*parts, *legend(rows, lambda i, a, b: marker(i, a, b, hollow=i > 0))],
        height=height,
    )


def roc_chart(
    label: str, found: Mapping[str, Curve], auc: Mapping[str, str], operating: Mapping[str, tuple[float, float]]
) -> Markup:
    """ROC curves, the bundle's first, with the stored operating point of each.

    Args:
        auc: name -> AUC as text.
        operating: name -> (sensitivity, specificity) at the threshold in the bundle.
    """
    x, y, height = _unit_square(len(found))
    words = "1 - specificity; sensitivity upwards; a mark is the stored threshold"
    parts = [*y_axis(y, LEFT, x.end, count=6), *x_axis(x, words, y.start), line(x(0), y(0), x(1), y(1), "ideal")]
    for index, (name, curve) in reversed(list(enumerate(found.items()))):  # the bundle on top
        points = [(x(a), y(b)) for a, b in zip(curve.false_positive, curve.true_positive, strict=True)]
        parts.append(path(points, f"curve s{index}"))
        if name in operating:
            sensitivity, specificity = operating[name]
            parts.append(marker(index, x(1 - specificity), y(sensitivity), 6, hollow=index > 0))
    rows = [f"{name}: AUC {auc[name]}" for name in found]
    return svg(
        label,
        [*parts, *legend(rows, lambda i, a, b: marker(i, a, b, hollow=i > 0))],
        height=height,
    )
