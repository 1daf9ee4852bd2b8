"""Structures of a phantom that only the dermoscope shows: network, streaks, dots and globules, vessels, and hints."""

import numpy as np

from edgeskin.data.phantom_canvas import DARK, RED, WHITE, Latent, Points, View, inside, step, walk, waves


def network(view: View, latent: Latent) -> None:
    """Pigment network: an even honeycomb that fades at the edge, or a broken one with broad dark lines."""
    value = latent.criteria["pigment_network"]
    if value == "absent":
        return
    rng = latent.stream("pigment_network")
    atypical = value == "atypical"
    pitch = 2 * np.pi / rng.uniform(0.17, 0.21)
    bend = np.float32(0.13 if atypical else 0.02)
    u = view.u + bend * waves(rng, view.u, view.v, 4.0)
    v = view.v + bend * waves(rng, view.u, view.v, 4.0)
    turn = rng.uniform(0, np.pi)
    # Three plane waves at 120 degrees: minima along the edges of a honeycomb.
    comb = np.zeros_like(u)
    for direction in turn + np.arange(3) * 2 * np.pi / 3:
        comb += np.cos(np.float32(pitch * np.cos(direction)) * u + np.float32(pitch * np.sin(direction)) * v)
    if atypical:
        level = -0.45 + 0.5 * waves(rng, view.u, view.v, 2.5)
        where = np.clip(0.55 + 1.3 * waves(rng, view.u, view.v, 1.6), 0, 1) * (1 - step(view.radius, 1.02, 0.03))
        view.blend(DARK, (1 - step(comb, level, 0.2)) * where * np.float32(0.9))
    else:
        fade = 1 - step(view.radius, 0.85, 0.22)
        view.blend((0.30, 0.18, 0.12), (1 - step(comb, -0.62, 0.2)) * fade * np.float32(0.7))


def streaks(view: View, latent: Latent) -> None:
    """Streaks: finger-like lines at the border, all round or in one sector with unequal lengths."""
    value = latent.criteria["streaks"]
    if value == "absent":
        return
    rng = latent.stream("streaks")
    outline = view.outline
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


def dots(view: View, latent: Latent) -> None:
    """Dots and globules: equal and evenly laid, or of many sizes and shades in clusters."""
    value = latent.criteria["dots_and_globules"]
    if value == "absent":
        return
    rng = latent.stream("dots_and_globules")
    if value == "regular":
        lattice = np.stack(np.meshgrid(np.arange(-0.75, 0.8, 0.25), np.arange(-0.75, 0.8, 0.25)), -1).reshape(-1, 2)
        centres = lattice[np.hypot(*lattice.T) < 0.85]
        centres += rng.normal(0, 0.025, centres.shape)
        view.blend((0.27, 0.16, 0.11), view.discs(centres, np.full(len(centres), 0.052)) * np.float32(0.85))
        return
    for shade in (DARK, (0.08, 0.06, 0.06)):
        centres = inside(rng, 0.6) + rng.normal(0, 0.28, (16, 2))
        marks = view.discs(centres, rng.uniform(0.018, 0.085, 16))
        view.blend(shade, marks * (1 - step(view.radius, 1.05, 0.08)) * np.float32(0.9))


def vessels(view: View, latent: Latent) -> None:
    """Vascular structures by their Derm7pt names."""
    value = latent.criteria["vascular_structures"]
    if value == "absent":
        return
    rng = latent.stream("vascular_structures")
    if value == "dotted":
        centres = inside(rng, 0.5) + rng.normal(0, 0.35, (34, 2))
        marks = view.discs(centres, rng.uniform(0.022, 0.036, 34))
    else:
        marks = view.strokes(*_vessel_lines(value, rng))
    view.blend(RED, marks * (1 - step(view.radius, 1.02, 0.08)) * np.float32(0.87))


def _vessel_lines(value: str, rng: np.random.Generator) -> tuple[list[Points], list[float]]:
    lines: list[Points] = []
    widths: list[float] = []
    if value == "arborizing":  # thick stems that branch twice
        stems = [(inside(rng, 0.9), rng.uniform(0, 2 * np.pi), 0.065, 0) for _ in range(3)]
        while stems:
            start, heading, width, depth = stems.pop()
            line = walk(rng, start, heading, 6, 0.12, 0.22)
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
    middle = inside(rng, 0.5)
    for _ in range(9 if value == "linear irregular" else 12):
        start = middle + rng.normal(0, 0.2, 2) if value == "within regression" else inside(rng, 0.75)
        heading = rng.uniform(0, 2 * np.pi)
        if value == "linear irregular":
            lines.append(walk(rng, start, heading, 7, 0.09, bend))
            widths.append(rng.uniform(0.02, 0.06))
        else:
            turns = heading + np.arange(4) * bend
            steps = 0.075 * np.stack([np.cos(turns), np.sin(turns)], 1)
            lines.append(start + np.cumsum(steps, axis=0))
            widths.append(0.045 if value == "comma" else 0.028)
    return lines, widths


def hints(view: View, latent: Latent) -> None:
    """Signs of a diagnosis outside the seven criteria, each with some chance of being absent."""
    rng = latent.stream("hints")
    if rng.random() > 0.7:
        return
    if latent.group == "SK":  # milia-like cysts
        centres = np.array([inside(rng, 0.8) for _ in range(9)])
        view.blend((0.95, 0.90, 0.78), view.discs(centres, rng.uniform(0.03, 0.06, 9)) * np.float32(0.85))
    elif latent.group == "BCC":  # blue-grey ovoid nests
        centres = np.array([inside(rng, 0.75) for _ in range(4)])
        view.blend((0.33, 0.35, 0.45), view.discs(centres, rng.uniform(0.07, 0.14, 4)) * np.float32(0.75))
    elif latent.group == "MISC":  # the white patch of a dermatofibroma
        view.blend(WHITE, (1 - step(view.radius, 0.38, 0.12)) * np.float32(0.7))
