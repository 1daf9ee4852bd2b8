"""Drawing of one phantom lesion, seen twice: close-up photograph and dermoscopic image.

Both views are computed from the same functions of lesion coordinates (u, v), where the boundary lies near
radius 1. Each structure has its own stream of random numbers, so that adding or removing one leaves all others
as they are. Colours are RGB in 0..1, pictures are float32 planes [3, size, size] until the end.
"""

import numpy as np
from numpy.typing import NDArray

from edgeskin.data.phantom_canvas import (
    DARK,
    RED,
    WHITE,
    Array,
    Colour,
    Latent,
    View,
    blob,
    grain,
    grid,
    jitter,
    noise_pool,
    plain,
    step,
    walk,
    waves,
)
from edgeskin.data.phantom_structures import dots, hints, network, streaks, vessels

_SKIN_LIGHT, _SKIN_DARK = (0.91, 0.74, 0.66), (0.52, 0.36, 0.28)
_BROWN: Colour = (0.47, 0.29, 0.19)
_PINK: Colour = (0.80, 0.49, 0.45)
_VEIL: Colour = (0.42, 0.49, 0.66)
_GREY_BLUE: Colour = (0.38, 0.42, 0.50)
_WAX: Colour = (0.58, 0.45, 0.30)


def draw(latent: Latent, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The two views of a lesion: clinical and dermoscopic, each uint8 RGB [size, size, 3]."""
    outline = _outline(latent)
    return _clinical(latent, size, outline), _dermoscopic(latent, size, outline)


def _dermoscopic(latent: Latent, size: int, outline: NDArray[np.float64]) -> NDArray[np.uint8]:
    rng = latent.stream("dermoscope")
    view = View(size, size * rng.uniform(0.31, 0.39), rng.uniform(0, 2 * np.pi), jitter(rng, size, 0.04), outline)
    skin = _skin_colour(latent, rng)
    view.image = plain(skin, size)
    view.image += np.float32(0.02) * waves(rng, view.u, view.v, 3.0)
    _body(view, latent, skin, softness=0.05 if latent.group == "SK" else 0.13)
    _regression(view, latent, 0.62)
    network(view, latent)
    streaks(view, latent)
    dots(view, latent)
    _veil(view, latent, 0.72)
    vessels(view, latent)
    hints(view, latent)
    _hairs(view, rng, 0.35)
    if rng.random() < 0.3:  # the tube of the dermoscope
        view.blend((0.04, 0.04, 0.05), step(np.hypot(*grid(size)), 1.22, 0.03))
    return _finish(view.image, rng, noise=0.012)


def _clinical(latent: Latent, size: int, outline: NDArray[np.float64]) -> NDArray[np.uint8]:
    rng = latent.stream("camera")
    view = View(size, size * latent.diameter / 2, rng.uniform(0, 2 * np.pi), jitter(rng, size, 0.07), outline)
    skin = _skin_colour(latent, rng)
    view.image = plain(skin, size)
    _surroundings(view, latent, rng)
    _body(view, latent, skin, softness=0.06 if latent.group == "SK" else 0.16)
    _regression(view, latent, 0.25)  # the surface hides most of what lies below it
    _veil(view, latent, 0.3)
    _relief(view, latent, rng)
    _hairs(view, rng, 0.5)
    return _finish(view.image, rng, noise=0.02)


# -- what both views show


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
        pink = np.asarray(RED) * 1.1 if latent.group == "MISC" and rng.random() < 0.4 else np.asarray(_PINK)
        pigment = 0.35 * np.asarray(skin) + 0.65 * pink
    mask = 1 - step(view.radius, 1.0, softness)
    view.blend(pigment.tolist(), mask * 0.9)
    uneven = waves(rng, view.u, view.v, 2.2)
    depth = np.float32(0.10 + 0.35 * latent.atypia)
    view.blend(DARK, mask * np.clip(uneven, 0, 1) * depth)
    view.blend(RED if latent.atypia > 0.55 else _PINK, mask * np.clip(-uneven - 0.3, 0, 1) * depth * 0.8)
    patch = latent.stream("pigmentation")
    if value == "diffuse regular":
        view.blend(DARK, mask * 0.18)
    elif value == "localized regular":
        view.blend(DARK, (1 - step(view.radius, 0.45, 0.15)) * 0.55)
    elif value.endswith("irregular"):
        count = 2 if value.startswith("localized") else 4
        for _ in range(count):
            view.blend(DARK, mask * blob(view, patch, reach=0.7, size=1.4 / (count + 2)) * 0.82)


def _veil(view: View, latent: Latent, strength: float) -> None:
    """Blue-whitish veil: one confluent, structureless, translucent area off the centre."""
    if latent.criteria["blue_whitish_veil"] == "present":
        rng = latent.stream("blue_whitish_veil")
        area = blob(view, rng, reach=0.4, size=0.62) * (1 - step(view.radius, 0.97, 0.1))
        view.blend(_VEIL, area * strength)
        view.blend(WHITE, area * np.clip(waves(rng, view.u, view.v, 2.0), 0, 1) * strength * 0.25)


def _regression(view: View, latent: Latent, strength: float) -> None:
    """Regression: scar-like white areas, blue-grey peppering, or both."""
    value = latent.criteria["regression_structures"]
    rng = latent.stream("regression_structures")
    within = 1 - step(view.radius, 1.0, 0.08)
    if value in ("white areas", "combinations"):
        view.blend(WHITE, blob(view, rng, reach=0.6, size=0.42) * within * strength)
    if value in ("blue areas", "combinations"):
        area = blob(view, rng, reach=0.55, size=0.48) * within
        view.blend(_GREY_BLUE, area * strength * 0.45)
        grains = rng.uniform(-1.1, 1.1, (240, 2))
        view.blend(_GREY_BLUE, view.discs(grains, np.full(240, 0.022)) * area * strength)


# -- what only the close-up shows ------------------------------------------------------------------------------


def _surroundings(view: View, latent: Latent, rng: np.random.Generator) -> None:
    """Texture of the body site, sun damage, uneven light."""
    size = view.size
    x, y = grid(size)
    turn = rng.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    along, across = x * cos + y * sin, y * cos - x * sin
    warp = np.float32(0.04) * waves(rng, x, y, 3.0)
    if latent.location == "acral":  # ridges
        crease = np.cos((across + warp) * np.float32(2 * np.pi * 13))
    elif latent.location == "head neck":  # pores
        crease = -1.2 * grain(rng, size, 40)
    else:  # crossed creases
        crease = np.maximum(
            np.cos((along + warp) * np.float32(40)), np.cos((across - warp) * np.float32(33))
        ) - np.float32(0.5)
    view.image -= np.float32(0.013) * crease
    view.image += np.float32(0.03) * grain(rng, size, 7)
    if latent.sun > 0.2:
        count = int(30 * latent.sun)
        spots = rng.uniform(-1, 1, (count, 2)) * size / view.scale / 1.6
        view.blend(
            (0.62, 0.40, 0.28), view.discs(spots, rng.uniform(0.03, 0.11, count) * 0.2 * size / view.scale) * 0.5
        )
        view.blend(_PINK, np.clip(grain(rng, size, 5), 0, 1) * np.float32(0.5 * latent.sun))


def _relief(view: View, latent: Latent, rng: np.random.Generator) -> None:
    """Light from one side on a flat, palpable or nodular lesion, and the shadow that it casts."""
    height = {"flat": 0.0, "palpable": 0.35, "nodular": 1.0}[latent.elevation]
    light = rng.uniform(0, 2 * np.pi)
    x, y = grid(view.size)
    slope = x * np.float32(np.cos(light)) + y * np.float32(np.sin(light))
    view.image *= 1 + np.float32(0.08) * slope
    if not height:
        return
    dome = np.clip(1 - view.radius**4, 0, None)
    if latent.group == "SK":  # a warty surface
        dome = dome * (1 + np.float32(0.12) * grain(rng, view.size, 30))
    down, right = np.gradient(dome)
    facing = (right * np.float32(np.cos(light)) + down * np.float32(np.sin(light))) * np.float32(view.scale)
    gleam = np.clip(-facing - 1.2, 0, 1.5) * (view.radius < 1)
    view.image += np.float32(height) * (np.float32(0.10) * gleam - np.clip(0.07 * facing, -0.12, 0.12))
    shadow = np.exp(-(((view.radius - 1.1) / 0.12) ** 2)) * np.clip(4 * slope, 0, 1)
    view.image *= 1 - np.float32(0.25 * height) * shadow.astype(np.float32)


# -- what is in every photograph


def _skin_colour(latent: Latent, rng: np.random.Generator) -> Colour:
    mixed = np.asarray(_SKIN_LIGHT) * (1 - latent.tone) + np.asarray(_SKIN_DARK) * latent.tone
    r, g, b = np.clip(mixed * rng.normal(1, 0.03, 3), 0, 1).tolist()
    return r, g, b


def _hairs(view: View, rng: np.random.Generator, chance: float) -> None:
    if rng.random() > chance:
        return
    unit = view.size / view.scale
    lines = [
        walk(rng, rng.uniform(-0.5, 0.5, 2) * unit, rng.uniform(0, 2 * np.pi), 6, 0.09 * unit, 0.12)
        for _ in range(rng.integers(2, 7))
    ]
    view.blend((0.16, 0.12, 0.10), view.strokes(lines, [0.006 * unit] * len(lines)) * np.float32(0.7))


def _finish(image: Array, rng: np.random.Generator, noise: float) -> NDArray[np.uint8]:
    """Sensor noise, white balance; uint8 [size, size, 3]."""
    start = int(rng.integers(65536))
    image += np.float32(noise) * noise_pool(image.shape[1])[start : start + image.size].reshape(image.shape)
    image *= rng.normal(255, 255 * 0.025, (3, 1, 1)).astype(np.float32)
    np.clip(image, 0, 255, out=image)
    return np.ascontiguousarray(image.astype(np.uint8).transpose(1, 2, 0))
