"""What a phantom is drawn with: the lesion behind a pair, a camera on it, and functions of lesion coordinates."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Array = NDArray[np.float32]
Colour = tuple[float, float, float]
Points = NDArray[np.float64]  # [n, 2] in lesion coordinates

DARK: Colour = (0.19, 0.12, 0.10)
RED: Colour = (0.70, 0.14, 0.17)
WHITE: Colour = (0.93, 0.87, 0.85)


@dataclass(frozen=True, slots=True)
class Latent:
    """What a lesion is; both views show it. `criteria` and `group` hold the names of the Derm7pt columns and groups."""

    key: tuple[int, ...]  # seeds every stream of this lesion
    group: str  # BCC, NEV, MEL, MISC, SK
    criteria: dict[str, str]  # raw values, by column of meta.csv
    elevation: str  # flat, palpable, nodular: seen in the close-up only
    location: str
    atypia: float  # 0..1: irregular outline, many colours
    diameter: float  # relative to the close-up's frame: the dermoscope is zoomed, the camera is not
    tone: float  # 0 light .. 1 dark skin
    sun: float  # 0..1 freckled, reddened surrounding skin: seen in the close-up only

    def stream(self, name: str) -> np.random.Generator:
        """The random numbers of one structure of this lesion."""
        return np.random.default_rng([*self.key, *name.encode()])


@dataclass(slots=True)
class View:
    """One camera on a lesion: the picture so far, and lesion coordinates of its pixels."""

    size: int
    scale: float  # pixels per lesion unit
    angle: float
    centre: tuple[float, float]
    outline: NDArray[np.float64]  # the boundary's radius by angle, in equal steps
    u: Array = field(init=False)
    v: Array = field(init=False)
    radius: Array = field(init=False)  # distance from the centre relative to the boundary: 1 on it
    image: Array = field(init=False)

    def __post_init__(self) -> None:
        half, unit = self.size / 2, np.float32(self.size / 2 / self.scale)
        x, y = grid(self.size)
        x = (x - np.float32(self.centre[0] / half - 1)) * unit
        y = (y - np.float32(self.centre[1] / half - 1)) * unit
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        self.u, self.v = x * cos + y * sin, y * cos - x * sin
        turn = (np.arctan2(self.v, self.u) / (2 * np.pi) % 1.0 * len(self.outline)).astype(np.int32) % len(self.outline)
        self.radius = np.asarray(np.hypot(self.u, self.v) / self.outline.astype(np.float32)[turn], np.float32)

    def pixels(self, points: Points) -> Points:
        """Pixel coordinates (x, y) of points in lesion coordinates."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        turned = points @ np.array([[cos, sin], [-sin, cos]])
        return np.asarray(turned * self.scale + np.asarray(self.centre))

    def blend(self, colour: Sequence[float], alpha: NDArray[np.floating[Any]]) -> None:
        """Lay a colour over the picture with the given opacity [size, size]."""
        alpha = alpha.astype(np.float32, copy=False)
        for plane, value in zip(self.image, colour, strict=True):
            plane += (np.float32(value) - plane) * alpha

    def strokes(self, lines: Sequence[Points], widths: Sequence[float]) -> Array:
        """Opacity of curves, widths in lesion units; drawn at twice the size and averaged."""
        canvas = Image.new("L", (2 * self.size, 2 * self.size))
        pen = ImageDraw.Draw(canvas)
        for line, width in zip(lines, widths, strict=True):
            path = [tuple(p) for p in (self.pixels(line) * 2).tolist()]
            pen.line(path, fill=255, width=max(1, round(2 * width * self.scale)), joint="curve")
        return _opacity(canvas)

    def discs(self, centres: Points, radii: Sequence[float] | NDArray[np.float64]) -> Array:
        """Opacity of discs, radii in lesion units."""
        canvas = Image.new("L", (2 * self.size, 2 * self.size))
        pen = ImageDraw.Draw(canvas)
        for (x, y), radius in zip((self.pixels(centres) * 2).tolist(), radii, strict=True):
            r = max(0.8, 2 * float(radius) * self.scale)
            pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
        return _opacity(canvas)


@lru_cache(maxsize=4)
def grid(size: int) -> tuple[Array, Array]:
    """x (to the right) and y (down) of the pixels' corners in -1..1; shared, never written to."""
    y, x = (np.mgrid[0:size, 0:size] * (2 / size) - 1).astype(np.float32)
    x.flags.writeable = y.flags.writeable = False
    return x, y


def plain(colour: Colour, size: int) -> Array:
    return np.repeat(np.asarray(colour, np.float32), size * size).reshape(3, size, size)


def jitter(rng: np.random.Generator, size: int, share: float) -> tuple[float, float]:
    x, y = (size / 2 + rng.uniform(-share, share, 2) * size).tolist()
    return x, y


def step(value: Array, edge: float | Array, softness: float) -> Array:
    """Smooth step from 0 to 1 around `edge`."""
    return np.asarray(1 / (1 + np.exp(np.clip((edge - value) * np.float32(4 / softness), -30, 30))), np.float32)


def waves(rng: np.random.Generator, u: Array, v: Array, frequency: float) -> Array:
    """A smooth random field in about -1..1, a function of lesion coordinates: the mean of five plane waves.

    `u` and `v` must be affine in the pixel's position, as a View's are: then sin(a + b) = sin a cos b + cos a sin b
    with `a` from the columns and `b` from the rows makes the whole field one product of two thin matrices.
    """
    turn, phase, pitch = rng.uniform((0, 0, 0.6), (2 * np.pi, 2 * np.pi, 1.4), (5, 3)).T[:, :, None]
    p, q = frequency * pitch * np.cos(turn), frequency * pitch * np.sin(turn)
    columns = p * u[0] + q * v[0] + phase
    rows = p * (u[:, 0] - u[0, 0]) + q * (v[:, 0] - v[0, 0])
    left = np.concatenate([np.cos(rows), np.sin(rows)]).astype(np.float32)
    right = np.concatenate([np.sin(columns), np.cos(columns)]).astype(np.float32)
    return np.asarray(left.T @ right / np.float32(2.5))


def blob(view: View, rng: np.random.Generator, reach: float, size: float) -> Array:
    """Opacity of one area with a wavy edge, its centre within `reach` of the lesion's."""
    x, y = inside(rng, reach)
    distance = np.hypot(view.u - np.float32(x), view.v - np.float32(y)) / np.float32(size * rng.uniform(0.8, 1.2))
    return 1 - step(distance + np.float32(0.38) * waves(rng, view.u, view.v, 4.5), 0.85, 0.28)


def inside(rng: np.random.Generator, reach: float) -> NDArray[np.float64]:
    angle, radius = rng.uniform(0, 2 * np.pi), reach * np.sqrt(rng.uniform())
    return np.array([radius * np.cos(angle), radius * np.sin(angle)])


def walk(
    rng: np.random.Generator, start: NDArray[np.float64], heading: float, steps: int, length: float, bend: float
) -> Points:
    turns = heading + np.cumsum(rng.normal(0, bend, steps))
    return np.concatenate([start[None], start + np.cumsum(length * np.stack([np.cos(turns), np.sin(turns)], 1), 0)])


def grain(rng: np.random.Generator, size: int, cells: int) -> Array:
    """Band-limited noise in pixel coordinates: a small random grid, enlarged."""
    small = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
    return np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))


def _opacity(canvas: Image.Image) -> Array:
    return np.asarray(canvas.reduce(2), np.float32) / np.float32(255)


@lru_cache(maxsize=4)
def noise_pool(size: int) -> Array:
    """Normal noise to cut pieces of 3 * size * size from, at any of 65536 offsets: drawing it anew is slow."""
    return np.random.default_rng(size).standard_normal(3 * size * size + 65536, np.float32)
