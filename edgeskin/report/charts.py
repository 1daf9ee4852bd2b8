"""Charts of latencies: distributions, course over time, throughput, cold start. No script, no font, no network."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from edgeskin.report.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    legend,
    line,
    marker,
    path,
    svg,
    text,
    ticks,
    x_axis,
    y_axis,
)
from edgeskin.report.text import ms
from edgeskin.spec.bench import Histogram, Latency, Series, Throughput

__all__ = ["cold_start_chart", "curve_chart", "latency_chart", "series_chart", "throughput_chart", "ticks"]


def _density(found: Histogram, queries: int) -> list[float]:
    width = (found.edges_ms[-1] - found.edges_ms[0]) / len(found.counts) or 1.0
    return [count / queries / width for count in found.counts]


def _swatch(index: int, x: float, y: float) -> str:
    return f'<rect x="{x - 7}" y="{y - 6}" width="14" height="11" class="area s{index}"/>'


def latency_chart(label: str, series: Mapping[str, Latency]) -> Markup:
    """Distributions of latency over one another, with the median and the p99 of each marked.

    `series`: name -> latency, at most two, the first filled and the second an outline; areas are equal, so that
    heights compare.
    """
    longest = max(found.histogram.edges_ms[-1] for found in series.values())
    x = Axis(0, longest, LEFT, WIDTH - RIGHT)
    bottom = HEIGHT - BOTTOM
    densities = {name: _density(found.histogram, found.queries) for name, found in series.items()}
    y = Axis(0, max(max(values) for values in densities.values()) or 1.0, bottom, TOP + 10)
    parts = []
    for index, (name, found) in enumerate(series.items()):
        style, edges = f"s{index}", found.histogram.edges_ms
        points = [f"{x(edges[0])},{y(0)}"]
        for left, right, value in zip(edges, edges[1:], densities[name], strict=False):
            points += [f"{x(left)},{y(value)}", f"{x(right)},{y(value)}"]
        points.append(f"{x(edges[-1])},{y(0)}")
        parts.append(f'<polygon points="{" ".join(points)}" class="area {style}"/>')
        for value, dash in ((found.p50_ms, ""), (found.p99_ms, "dash")):
            parts.append(line(x(value), TOP - 2, x(value), bottom, f"mark {style} {dash}"))
    rows = [
        f"{name}: median {ms(found.p50_ms)} ms, p99 {ms(found.p99_ms)} ms, max {ms(found.max_ms)} ms"
        for name, found in series.items()
    ]
    unit = "milliseconds; median solid, p99 dashed; the tail is not drawn"
    return svg(label, [*parts, *legend(rows, _swatch), *x_axis(x, unit, bottom)])


def _cloud(points: Sequence[tuple[float, float]], index: int) -> str:
    """Many small marks in one path: dots for the first series, crosses for the second."""
    shape = "h0" if index == 0 else "m-2.2,-2.2l4.4,4.4m0,-4.4l-4.4,4.4"
    return f'<path d="{"".join(f"M{x},{y}{shape}" for x, y in points)}" class="cloud{index} s{index}"/>'


def series_chart(label: str, names: Sequence[str], found: Series) -> Markup:
    """Each query's latency over the time since the lane's first: dots the bundle, crosses the reference.

    Args:
        names: of the bundle and, where the series has one, its reference.
    """
    lines = [values for values in (found.core_ms, found.reference_ms) if values]
    top = max(max(values) for values in lines)
    bottom = HEIGHT - BOTTOM
    x = Axis(0, max(found.at_s) or 1.0, LEFT, WIDTH - RIGHT)
    y = Axis(0, top * 1.05, bottom, TOP)
    parts = [*y_axis(y, LEFT, WIDTH - RIGHT), *x_axis(x, "seconds since the first query; latency in ms", bottom)]
    for index, values in enumerate(lines):
        parts.append(_cloud([(x(at), y(value)) for at, value in zip(found.at_s, values, strict=True)], index))
    rows = [
        f"{name}: {ms(min(values))} to {ms(max(values))} ms, {len(values)} points drawn"
        for name, values in zip(names, lines, strict=False)
    ]
    return svg(label, [*parts, *legend(rows, lambda index, a, b: _cloud([(a - 4, b), (a + 4, b)], index))])


def throughput_chart(label: str, found: Sequence[Throughput]) -> Markup:
    """Examinations a second against how many are in flight."""
    rows = sorted(found, key=lambda row: row.in_flight)
    bottom = HEIGHT - BOTTOM
    x = Axis(0, max(row.in_flight for row in rows) * 1.08, LEFT, WIDTH - RIGHT)
    y = Axis(0, max(row.per_second for row in rows) * 1.15 or 1.0, bottom, TOP)
    points = [(x(row.in_flight), y(row.per_second)) for row in rows]
    parts = [*y_axis(y, LEFT, WIDTH - RIGHT), *x_axis(x, "examinations in flight", bottom), path(points, "curve s0")]
    parts += [marker(0, *point) for point in points]
    best = max(rows, key=lambda row: row.per_second)
    told = f"most: {best.per_second:.4g} examinations a second with {best.in_flight} in flight"
    return svg(label, [*parts, *legend([told], marker)])


def cold_start_chart(label: str, parts_ms: Sequence[tuple[str, float]]) -> Markup | None:
    """What a new process spends its time on until its first decision, one bar after the other; None without parts."""
    if not parts_ms:
        return None
    height = 30 + 26 * len(parts_ms) + BOTTOM
    total = sum(value for _, value in parts_ms)
    x = Axis(0, total or 1.0, 190, WIDTH - RIGHT - 70)
    bottom = height - BOTTOM
    parts = x_axis(x, "milliseconds from the start of the process, medians", bottom, count=4)
    begun = 0.0
    for index, (name, value) in enumerate(parts_ms):
        y = 14 + 26 * index
        left, right = x(begun), x(begun + value)
        wide = round(max(1.0, right - left), 2)
        parts.append(f'<rect x="{left}" y="{y}" width="{wide}" height="16" class="bar s0"/>')
        parts += [text(182, y + 12, name, "legend", "end"), text(right + 6, y + 12, f"{ms(value)} ms", "tick")]
        begun += value
    return svg(label, parts, height=height)


def curve_chart(label: str, rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> Markup | None:
    """Columns of the training log over its epochs. None if fewer than two epochs have any of them."""
    lines = {name: [(row["epoch"] + 1, row[name]) for row in rows if name in row] for name in names}
    lines = {name: points for name, points in lines.items() if len(points) >= 2}
    if not lines:
        return None
    values = [value for points in lines.values() for _, value in points]
    epochs = [epoch for points in lines.values() for epoch, _ in points]
    spread = (max(values) - min(values)) * 0.08 or 0.05
    top = 14 + 17 * len(lines)
    height = HEIGHT - TOP + top
    x = Axis(min(epochs), max(epochs), LEFT, WIDTH - RIGHT)
    y = Axis(min(values) - spread, max(values) + spread, height - BOTTOM, top)
    parts = [*y_axis(y, LEFT, WIDTH - RIGHT), *x_axis(x, "epoch", height - BOTTOM)]
    for index, points in enumerate(lines.values()):
        placed = [(x(epoch), y(value)) for epoch, value in points]
        parts.append(path(placed, f"curve s{index % 4}"))
        parts += [marker(index, *point, size=2.5) for point in placed]
    told = [f"{name.replace('_', ' ')}: {points[-1][1]:.3f} in the end" for name, points in lines.items()]
    return svg(label, [*parts, *legend(told, marker)], height=height)
