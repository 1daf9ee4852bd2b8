"""Drawing of one phantom lesion, seen twice: close-up photograph and dermoscopic image.

Both views are computed from the same functions of lesion coordinates (u, v), where the boundary lies near
radius 1. Each structure has its own stream of random numbers, so that adding or removing one leaves all others
as they are. Colours are RGB in 0..1, pictures are float32 planes [3, size, size] until the end.
"""

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

_SKIN_LIGHT, _SKIN_DARK = (0.91, 0.74, 0.66), (0.52, 0.36, 0.28)
_BROWN: Colour = (0.47, 0.29, 0.19)
_DARK: Colour = (0.19, 0.12, 0.10)
_PINK: Colour = (0.80, 0.49, 0.45)
_RED: Colour = (0.70, 0.14, 0.17)
_VEIL: Colour = (0.42, 0.49, 0.66)
_WHITE: Colour = (0.93, 0.87, 0.85)
_GREY_BLUE: Colour = (0.38, 0.42, 0.50)
_WAX: Colour = (0.58, 0.45, 0.30)


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
    u: Array = field(init=False)
    v: Array = field(init=False)
    radius: Array = field(init=False)  # distance from the centre relative to the boundary: 1 on it
    image: Array = field(init=False)

    def place(self, outline: NDArray[np.float64]) -> None:
        """Compute the lesion coordinates of every pixel; `outline` holds the boundary's radius by angle."""
        half, unit = self.size / 2, np.float32(self.size / 2 / self.scale)
        x, y = _grid(self.size)
        x = (x - np.float32(self.centre[0] / half - 1)) * unit
        y = (y - np.float32(self.centre[1] / half - 1)) * unit
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        self.u, self.v = x * cos + y * sin, y * cos - x * sin
        turn = (np.arctan2(self.v, self.u) / (2 * np.pi) % 1.0 * len(outline)).astype(np.int32) % len(outline)
        self.radius = np.asarray(np.hypot(self.u, self.v) / outline.astype(np.float32)[turn], np.float32)

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


def draw(latent: Latent, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The two views of a lesion: clinical and dermoscopic, each uint8 RGB [size, size, 3]."""
    outline = _outline(latent)
    return _clinical(latent, size, outline), _dermoscopic(latent, size, outline)


def _dermoscopic(latent: Latent, size: int, outline: NDArray[np.float64]) -> NDArray[np.uint8]:
    rng = latent.stream("dermoscope")
    view = View(size, size * rng.uniform(0.31, 0.39), rng.uniform(0, 2 * np.pi), _jitter(rng, size, 0.04))
    view.place(outline)
    skin = _skin_colour(latent, rng)
    view.image = _plain(skin, size)
    view.image += np.float32(0.02) * _waves(rng, view.u, view.v, 3.0)
    _body(view, latent, skin, softness=0.05 if latent.group == "SK" else 0.13)
    _regression(view, latent, 0.62)
    _network(view, latent)
    _streaks(view, latent)
    _dots(view, latent)
    _veil(view, latent, 0.72)
    _vessels(view, latent)
    _hints(view, latent)
    _hairs(view, rng, 0.35)
    if rng.random() < 0.3:  # the tube of the dermoscope
        view.blend((0.04, 0.04, 0.05), _step(np.hypot(*_grid(size)), 1.22, 0.03))
    return _finish(view.image, rng, noise=0.012)


def _clinical(latent: Latent, size: int, outline: NDArray[np.float64]) -> NDArray[np.uint8]:
    rng = latent.stream("camera")
    view = View(size, size * latent.diameter / 2, rng.uniform(0, 2 * np.pi), _jitter(rng, size, 0.07))
    view.place(outline)
    skin = _skin_colour(latent, rng)
    view.image = _plain(skin, size)
    _surroundings(view, latent, rng)
    _body(view, latent, skin, softness=0.06 if latent.group == "SK" else 0.16)
    _regression(view, latent, 0.25)  # the surface hides most of what lies below it
    _veil(view, latent, 0.3)
    _relief(view, latent, rng)
    _hairs(view, rng, 0.5)
    return _finish(view.image, rng, noise=0.02)


# -- what both views show --------------------------------------------------------------------------------------


def _outline(latent: Latent, steps: int = 720) -> NDArray[np.float64]:
    """Radius of the boundary by angle: an ellipse with harmonics that grow with atypia; mean near 1."""
    rng = latent.stream("outline")
    turn = np.arange(steps) * 2 * np.pi / steps
    orders = np.arange(2, 11)
    size = np.where(orders == 2, 0.08 + 0.08 * latent.atypia, (0.02 + 0.30 * latent.atypia**1.5) / orders)
    waves = np.cos(np.outer(orders, turn) + rng.uniform(0, 2 * np.pi, len(orders))[:, None])
    return np.clip(1 + (size * rng.normal(1, 0.3, len(orders))) @ waves, 0.5, 1.6)


def _body(view: View, latent: Latent, skin: Colour, softness: float) -> None:
    """Base colour, its uneven parts, and pigmentation: even, darker in the middle, or in eccentric patches."""
    rng = latent.stream("body")
    value = latent.criteria["pigmentation"]
    pigment = np.asarray(_BROWN) * rng.uniform(0.85, 1.2)
    if latent.group == "SK":
        pigment = 0.35 * pigment + 0.65 * np.asarray(_WAX)
    if value == "absent":
        pink = np.asarray(_RED) * 1.1 if latent.group == "MISC" and rng.random() < 0.4 else np.asarray(_PINK)
        pigment = 0.35 * np.asarray(skin) + 0.65 * pink
    mask = 1 - _step(view.radius, 1.0, softness)
    view.blend(pigment.tolist(), mask * 0.9)
    uneven = _waves(rng, view.u, view.v, 2.2)
    depth = np.float32(0.10 + 0.35 * latent.atypia)
    view.blend(_DARK, mask * np.clip(uneven, 0, 1) * depth)
    view.blend(_RED if latent.atypia > 0.55 else _PINK, mask * np.clip(-uneven - 0.3, 0, 1) * depth * 0.8)
    patch = latent.stream("pigmentation")
    if value == "diffuse regular":
        view.blend(_DARK, mask * 0.18)
    elif value == "localized regular":
        view.blend(_DARK, (1 - _step(view.radius, 0.45, 0.15)) * 0.55)
    elif value.endswith("irregular"):
        count = 2 if value.startswith("localized") else 4
        for _ in range(count):
            view.blend(_DARK, mask * _blob(view, patch, reach=0.7, size=1.4 / (count + 2)) * 0.82)


def _veil(view: View, latent: Latent, strength: float) -> None:
    """Blue-whitish veil: one confluent, structureless, translucent area off the centre."""
    if latent.criteria["blue_whitish_veil"] == "present":
        rng = latent.stream("blue_whitish_veil")
        area = _blob(view, rng, reach=0.4, size=0.62) * (1 - _step(view.radius, 0.97, 0.1))
        view.blend(_VEIL, area * strength)
        view.blend(_WHITE, area * np.clip(_waves(rng, view.u, view.v, 2.0), 0, 1) * strength * 0.25)


def _regression(view: View, latent: Latent, strength: float) -> None:
    """Regression: scar-like white areas, blue-grey peppering, or both."""
    value = latent.criteria["regression_structures"]
    rng = latent.stream("regression_structures")
    inside = 1 - _step(view.radius, 1.0, 0.08)
    if value in ("white areas", "combinations"):
        view.blend(_WHITE, _blob(view, rng, reach=0.6, size=0.42) * inside * strength)
    if value in ("blue areas", "combinations"):
        area = _blob(view, rng, reach=0.55, size=0.48) * inside
        view.blend(_GREY_BLUE, area * strength * 0.45)
        grains = rng.uniform(-1.1, 1.1, (240, 2))
        view.blend(_GREY_BLUE, view.discs(grains, np.full(240, 0.022)) * area * strength)


# -- what only the dermoscope shows ----------------------------------------------------------------------------


def _network(view: View, latent: Latent) -> None:
    """Pigment network: an even honeycomb that fades at the edge, or a broken one with broad dark lines."""
    value = latent.criteria["pigment_network"]
    if value == "absent":
        return
    rng = latent.stream("pigment_network")
    atypical = value == "atypical"
    pitch = 2 * np.pi / rng.uniform(0.17, 0.21)
    bend = np.float32(0.13 if atypical else 0.02)
    u = view.u + bend * _waves(rng, view.u, view.v, 4.0)
    v = view.v + bend * _waves(rng, view.u, view.v, 4.0)
    turn = rng.uniform(0, np.pi)
    # Three plane waves at 120 degrees: minima along the edges of a honeycomb.
    comb = np.zeros_like(u)
    for direction in turn + np.arange(3) * 2 * np.pi / 3:
        comb += np.cos(np.float32(pitch * np.cos(direction)) * u + np.float32(pitch * np.sin(direction)) * v)
    if atypical:
        level = -0.45 + 0.5 * _waves(rng, view.u, view.v, 2.5)
        where = np.clip(0.55 + 1.3 * _waves(rng, view.u, view.v, 1.6), 0, 1) * (1 - _step(view.radius, 1.02, 0.03))
        view.blend(_DARK, (1 - _step(comb, level, 0.2)) * where * np.float32(0.9))
    else:
        fade = 1 - _step(view.radius, 0.85, 0.22)
        view.blend((0.30, 0.18, 0.12), (1 - _step(comb, -0.62, 0.2)) * fade * np.float32(0.7))


def _streaks(view: View, latent: Latent) -> None:
    """Streaks: finger-like lines at the border, all round or in one sector with unequal lengths."""
    value = latent.criteria["streaks"]
    if value == "absent":
        return
    rng = latent.stream("streaks")
    outline = _outline(latent)
    if value == "regular":
        angles = np.arange(26) * 2 * np.pi / 26 + rng.normal(0, 0.03, 26)
        lengths, widths = np.full(26, 0.24), np.full(26, 0.04)
    else:
        angles = rng.uniform(0, 2 * np.pi) + rng.uniform(-0.9, 0.9, 15)
        lengths, widths = rng.uniform(0.15, 0.5, 15), rng.uniform(0.03, 0.09, 15)
    lines = []
    for angle, length in zip(angles, lengths, strict=True):
        edge = outline[int(angle / (2 * np.pi) * len(outline)) % len(outline)]
        reach = np.array([edge - 0.12, edge + length * 0.5, edge + length])
        turn = angle + np.array([0, 0.02, rng.normal(0, 0.06)])
        lines.append(np.stack([reach * np.cos(turn), reach * np.sin(turn)], axis=1))
    view.blend((0.24, 0.15, 0.12), view.strokes(lines, widths.tolist()) * np.float32(0.85))
    tips = np.array([line[-1] for line in lines])
    view.blend((0.24, 0.15, 0.12), view.discs(tips, widths * 0.6) * np.float32(0.85))


def _dots(view: View, latent: Latent) -> None:
    """Dots and globules: equal and evenly laid, or of many sizes and shades in clusters."""
    value = latent.criteria["dots_and_globules"]
    if value == "absent":
        return
    rng = latent.stream("dots_and_globules")
    if value == "regular":
        grid = np.stack(np.meshgrid(np.arange(-0.75, 0.8, 0.25), np.arange(-0.75, 0.8, 0.25)), -1).reshape(-1, 2)
        centres = grid[np.hypot(*grid.T) < 0.85] + rng.normal(0, 0.025, (int((np.hypot(*grid.T) < 0.85).sum()), 2))
        view.blend((0.27, 0.16, 0.11), view.discs(centres, np.full(len(centres), 0.052)) * np.float32(0.85))
        return
    for shade in (_DARK, (0.08, 0.06, 0.06)):
        centres = _inside(rng, 0.6) + rng.normal(0, 0.28, (16, 2))
        marks = view.discs(centres, rng.uniform(0.018, 0.085, 16))
        view.blend(shade, marks * (1 - _step(view.radius, 1.05, 0.08)) * np.float32(0.9))


def _vessels(view: View, latent: Latent) -> None:
    """Vascular structures by their Derm7pt names."""
    value = latent.criteria["vascular_structures"]
    if value == "absent":
        return
    rng = latent.stream("vascular_structures")
    if value == "dotted":
        centres = _inside(rng, 0.5) + rng.normal(0, 0.35, (34, 2))
        marks = view.discs(centres, rng.uniform(0.022, 0.036, 34))
    else:
        marks = view.strokes(*_vessel_lines(value, rng))
    view.blend(_RED, marks * (1 - _step(view.radius, 1.02, 0.08)) * np.float32(0.87))


def _vessel_lines(value: str, rng: np.random.Generator) -> tuple[list[Points], list[float]]:
    lines: list[Points] = []
    widths: list[float] = []
    if value == "arborizing":  # thick stems that branch twice
        stems = [(_inside(rng, 0.9), rng.uniform(0, 2 * np.pi), 0.065, 0) for _ in range(3)]
        while stems:
            start, heading, width, depth = stems.pop()
            line = _walk(rng, start, heading, 6, 0.12, 0.22)
            lines.append(line)
            widths.append(width)
            if depth < 2:
                stems += [(line[k], heading + rng.choice([-0.8, 0.8]), width * 0.6, depth + 1) for k in (3, 5)]
        return lines, widths
    if value == "wreath":
        for angle in np.arange(14) * 2 * np.pi / 14:
            arc = angle + np.linspace(-0.15, 0.15, 5)
            radius = 0.85 + 0.06 * np.cos(np.linspace(-2, 2, 5))
            lines.append(np.stack([radius * np.cos(arc), radius * np.sin(arc)], 1))
            widths.append(0.04)
        return lines, widths
    bend = {"comma": 0.55, "hairpin": 1.05, "within regression": 0.2, "linear irregular": 0.9}[value]
    middle = _inside(rng, 0.5)
    for _ in range(9 if value == "linear irregular" else 12):
        start = middle + rng.normal(0, 0.2, 2) if value == "within regression" else _inside(rng, 0.75)
        heading = rng.uniform(0, 2 * np.pi)
        if value == "linear irregular":
            lines.append(_walk(rng, start, heading, 7, 0.09, bend))
            widths.append(rng.uniform(0.02, 0.06))
        else:
            turns = heading + np.arange(4) * bend
            steps = 0.075 * np.stack([np.cos(turns), np.sin(turns)], 1)
            lines.append(start + np.cumsum(steps, axis=0))
            widths.append(0.045 if value == "comma" else 0.028)
    return lines, widths


def _hints(view: View, latent: Latent) -> None:
    """Signs of a diagnosis outside the seven criteria, each with some chance of being absent."""
    rng = latent.stream("hints")
    if rng.random() > 0.7:
        return
    if latent.group == "SK":  # milia-like cysts
        centres = np.array([_inside(rng, 0.8) for _ in range(9)])
        view.blend((0.95, 0.90, 0.78), view.discs(centres, rng.uniform(0.03, 0.06, 9)) * np.float32(0.85))
    elif latent.group == "BCC":  # blue-grey ovoid nests
        centres = np.array([_inside(rng, 0.75) for _ in range(4)])
        view.blend((0.33, 0.35, 0.45), view.discs(centres, rng.uniform(0.07, 0.14, 4)) * np.float32(0.75))
    elif latent.group == "MISC":  # the white patch of a dermatofibroma
        view.blend(_WHITE, (1 - _step(view.radius, 0.38, 0.12)) * np.float32(0.7))


# -- what only the close-up shows ------------------------------------------------------------------------------


def _surroundings(view: View, latent: Latent, rng: np.random.Generator) -> None:
    """Texture of the body site, sun damage, uneven light."""
    size = view.size
    x, y = _grid(size)
    turn = rng.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    along, across = x * cos + y * sin, y * cos - x * sin
    warp = np.float32(0.04) * _waves(rng, x, y, 3.0)
    if latent.location == "acral":  # ridges
        crease = np.cos((across + warp) * np.float32(2 * np.pi * 13))
    elif latent.location == "head neck":  # pores
        crease = -1.2 * _grain(rng, size, 40)
    else:  # crossed creases
        crease = np.maximum(
            np.cos((along + warp) * np.float32(40)), np.cos((across - warp) * np.float32(33))
        ) - np.float32(0.5)
    view.image -= np.float32(0.013) * crease
    view.image += np.float32(0.03) * _grain(rng, size, 7)
    if latent.sun > 0.2:
        count = int(30 * latent.sun)
        spots = rng.uniform(-1, 1, (count, 2)) * size / view.scale / 1.6
        view.blend(
            (0.62, 0.40, 0.28), view.discs(spots, rng.uniform(0.03, 0.11, count) * 0.2 * size / view.scale) * 0.5
        )
        view.blend(_PINK, np.clip(_grain(rng, size, 5), 0, 1) * np.float32(0.5 * latent.sun))


def _relief(view: View, latent: Latent, rng: np.random.Generator) -> None:
    """Light from one side on a flat, palpable or nodular lesion, and the shadow that it casts."""
    height = {"flat": 0.0, "palpable": 0.35, "nodular": 1.0}[latent.elevation]
    light = rng.uniform(0, 2 * np.pi)
    x, y = _grid(view.size)
    slope = x * np.float32(np.cos(light)) + y * np.float32(np.sin(light))
    view.image *= 1 + np.float32(0.08) * slope
    if not height:
        return
    inside = np.clip(1 - view.radius**4, 0, None)
    dome = inside
    if latent.group == "SK":  # a warty surface
        dome = inside * (1 + 0.12 * _grain(rng, view.size, 30))
    down, right = np.gradient(dome)
    facing = (right * np.float32(np.cos(light)) + down * np.float32(np.sin(light))) * np.float32(view.scale)
    gleam = np.clip(-facing - 1.2, 0, 1.5) * (inside > 0)
    view.image += np.float32(height) * (np.float32(0.10) * gleam - np.clip(0.07 * facing, -0.12, 0.12))
    shadow = np.exp(-(((view.radius - 1.1) / 0.12) ** 2)) * np.clip(4 * slope, 0, 1)
    view.image *= 1 - np.float32(0.25 * height) * shadow.astype(np.float32)


# -- small tools -----------------------------------------------------------------------------------------------


def _skin_colour(latent: Latent, rng: np.random.Generator) -> Colour:
    mixed = np.asarray(_SKIN_LIGHT) * (1 - latent.tone) + np.asarray(_SKIN_DARK) * latent.tone
    r, g, b = np.clip(mixed * rng.normal(1, 0.03, 3), 0, 1).tolist()
    return r, g, b


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[Array, Array]:
    """x (to the right) and y (down) of the pixels' corners in -1..1; shared, never written to."""
    y, x = (np.mgrid[0:size, 0:size] * (2 / size) - 1).astype(np.float32)
    x.flags.writeable = y.flags.writeable = False
    return x, y


def _plain(colour: Colour, size: int) -> Array:
    return np.repeat(np.asarray(colour, np.float32), size * size).reshape(3, size, size)


def _jitter(rng: np.random.Generator, size: int, share: float) -> tuple[float, float]:
    x, y = (size / 2 + rng.uniform(-share, share, 2) * size).tolist()
    return x, y


def _step(value: Array, edge: float | Array, softness: float) -> Array:
    """Smooth step from 0 to 1 around `edge`."""
    return np.asarray(1 / (1 + np.exp(np.clip((edge - value) * np.float32(4 / softness), -30, 30))), np.float32)


def _waves(rng: np.random.Generator, u: Array, v: Array, frequency: float) -> Array:
    """A smooth random field in about -1..1, a function of lesion coordinates: five plane waves."""
    total = np.zeros_like(u)
    for turn, phase, pitch in rng.uniform((0, 0, 0.6), (2 * np.pi, 2 * np.pi, 1.4), (5, 3)):
        k = frequency * pitch
        total += np.sin(np.float32(k * np.cos(turn)) * u + np.float32(k * np.sin(turn)) * v + np.float32(phase))
    return total / np.float32(2.5)


def _blob(view: View, rng: np.random.Generator, reach: float, size: float) -> Array:
    """Opacity of one area with a wavy edge, its centre within `reach` of the lesion's."""
    x, y = _inside(rng, reach)
    distance = np.hypot(view.u - np.float32(x), view.v - np.float32(y)) / np.float32(size * rng.uniform(0.8, 1.2))
    return 1 - _step(distance + np.float32(0.38) * _waves(rng, view.u, view.v, 4.5), 0.85, 0.28)


def _inside(rng: np.random.Generator, reach: float) -> NDArray[np.float64]:
    angle, radius = rng.uniform(0, 2 * np.pi), reach * np.sqrt(rng.uniform())
    return np.array([radius * np.cos(angle), radius * np.sin(angle)])


def _walk(
    rng: np.random.Generator, start: NDArray[np.float64], heading: float, steps: int, length: float, bend: float
) -> Points:
    turns = heading + np.cumsum(rng.normal(0, bend, steps))
    return np.concatenate([start[None], start + np.cumsum(length * np.stack([np.cos(turns), np.sin(turns)], 1), 0)])


def _grain(rng: np.random.Generator, size: int, cells: int) -> Array:
    """Band-limited noise in pixel coordinates: a small random grid, enlarged."""
    small = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
    return np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))


def _opacity(canvas: Image.Image) -> Array:
    return np.asarray(canvas.reduce(2), np.float32) / np.float32(255)


def _hairs(view: View, rng: np.random.Generator, chance: float) -> None:
    if rng.random() > chance:
        return
    unit = view.size / view.scale
    lines = [
        _walk(rng, rng.uniform(-0.5, 0.5, 2) * unit, rng.uniform(0, 2 * np.pi), 6, 0.09 * unit, 0.12)
        for _ in range(rng.integers(2, 7))
    ]
    view.blend((0.16, 0.12, 0.10), view.strokes(lines, [0.006 * unit] * len(lines)) * np.float32(0.7))


def _finish(image: Array, rng: np.random.Generator, noise: float) -> NDArray[np.uint8]:
    """Sensor noise, white balance; uint8 [size, size, 3]."""
    image += np.float32(noise) * rng.standard_normal(image.shape, np.float32)
    image *= rng.normal(255, 255 * 0.025, (3, 1, 1)).astype(np.float32)
    np.clip(image, 0, 255, out=image)
    return np.ascontiguousarray(image.astype(np.uint8).transpose(1, 2, 0))
