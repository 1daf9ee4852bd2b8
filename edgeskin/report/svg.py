"""What charts are drawn with: axes, marks and text as inline SVG. Colours are CSS variables of the page.

A series is told by its shape and its dashes too, never by colour alone: class `s0` to `s3` gives the colour.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 520, 240
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 44, 42
SERIES = 4  # how many series differ by colour, dashes and shape


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis from `low` to `high` mapped onto pixels `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixel of a value; a value outside the axis lies at its end."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + min(1.0, max(0.0, share)) * (self.end - self.start), 2)


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers (1, 2, 5 times a power of ten) within [low, high], about `count` of them, one at least.

    >>> ticks(0, 23)
    [0.0, 5.0, 10.0, 15.0, 20.0]
    >>> ticks(1, 4.9, count=2)  # 0 and 5 lie outside: the next smaller step
    [2.0, 4.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    wide = next(factor for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= raw * 0.999)
    for factor in (10.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.1):
        step = factor * power
        places = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        if factor <= wide and places:
            return [round(i * step, 12) for i in places]
    return [low]  # so narrow a range that rounding hides every multiple


def svg(label: str, parts: Sequence[str], *, height: int = HEIGHT) -> Markup:
    """The chart itself, with its name for screen readers."""
    name = escape(label)
    body = "".join(parts)
    return Markup(  # every text in `parts` went through text(), which escapes
        f'<svg role="img" aria-label="{name}" viewBox="0 0 {WIDTH} {height}" class="chart"><title>{name}</title>{body}'
        "</svg>"
    )


def text(x: float, y: float, words: str, style: str = "", anchor: str = "start") -> str:
    """Words at a place."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" class="{style}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    """A straight line."""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" class="{style}"/>'


def path(points: Sequence[tuple[float, float]], style: str) -> str:
    """A line through points in pixels."""
    return f'<polyline points="{" ".join(f"{x},{y}" for x, y in points)}" class="{style}"/>'


def number(value: float) -> str:
    """A number of an axis.

    >>> number(0.5), number(20.0)
    ('0.5', '20')
    """
    return f"{value:g}"


def marker(index: int, x: float, y: float, size: float = 4.5, hollow: bool = False) -> str:
    """The shape of a series: circle, square, triangle, diamond."""
    style = f"{'hollow' if hollow else 'dot'} s{index % SERIES}"
    if index % SERIES == 0:
        return f'<circle cx="{x}" cy="{y}" r="{size}" class="{style}"/>'
    s = size * 1.15
    corners = {
        1: ((-s * 0.85, -s * 0.85), (s * 0.85, -s * 0.85), (s * 0.85, s * 0.85), (-s * 0.85, s * 0.85)),
        2: ((0, -s * 1.1), (s * 1.1, s * 0.8), (-s * 1.1, s * 0.8)),
        3: ((0, -s * 1.25), (s * 1.25, 0), (0, s * 1.25), (-s * 1.25, 0)),
    }[index % SERIES]
    points = " ".join(f"{round(x + dx, 2)},{round(y + dy, 2)}" for dx, dy in corners)
    return f'<polygon points="{points}" class="{style}"/>'


def x_axis(axis: Axis, unit: str, bottom: float, *, count: int = 6) -> list[str]:
    """The line below a chart with its numbers and its unit."""
    parts = [line(axis.start, bottom, axis.end, bottom, "axis")]
    for value in ticks(axis.low, axis.high, count):
        x = axis(value)
        parts += [line(x, bottom, x, bottom + 4, "axis"), text(x, bottom + 18, number(value), "tick", "middle")]
    parts.append(text(axis.end, bottom + 36, unit, "tick", "end"))
    return parts


def y_axis(axis: Axis, left: float, right: float, *, count: int = 5) -> list[str]:
    """Lines across a chart with their numbers at the left."""
    parts = []
    for value in ticks(axis.low, axis.high, count):
        parts.append(line(left, axis(value), right, axis(value), "grid"))
        parts.append(text(left - 6, axis(value) + 4, number(value), "tick", "end"))
    return parts


def legend(rows: Sequence[str], mark: Callable[[int, float, float], str]) -> list[str]:
    """A line of text for each series, below one another from the top, behind `mark(index, x, y)`."""
    parts = []
    for index, words in enumerate(rows):
        y = 10 + 17 * index
        parts += [mark(index, LEFT + 8, y), text(LEFT + 24, y + 4, words, "legend")]
    return parts
