"""Whether frames can be judged: flags out of whole numbers, the same here and in devices/runtime/src/quality.cpp.

Every measure is a sum or a count over the rows 0, 2, 4 ... of a frame, of luma = (77 R + 150 G + 29 B + 128) >> 8,
so that it hardly changes where a pixel differs by one grey level, or where the frame has another size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeskin.spec.manifest import Mode
from edgeskin.spec.quality import FLAGS, Flag, Quality

Frame: TypeAlias = NDArray[np.uint8]

UNIT = 10_000  # of shares and ratios
_PARTS = 8  # along each side
_STRIP = 256  # rows whose sum of bytes fits into 16 bits
_LUMA = np.array([77, 150, 29], np.uint16)
_HALF, _BITS = np.uint16(128), np.uint16(8)
_INNER = np.zeros((_PARTS, _PARTS), np.bool_)
_INNER[2:6, 2:6] = True
_RIM = np.ones((_PARTS, _PARTS), np.bool_)
_RIM[1:7, 1:7] = False


@dataclass(frozen=True, slots=True)
class Measures:
    """What is measured on one frame. Shares and `sharpness` in 1/10,000, `x16` in sixteenths of a grey level."""

    black: int  # share of pixels darker than black_luma
    dark: int  # share of pixels darker than dark_luma
    bright: int  # share of pixels of bright_luma or more
    saturated: int  # share of values of all three colours of saturated_level or more
    sharpness: int  # the lesser of rows and columns: sum of differences 2 px apart over that of 4 px apart
    corner: int  # share of pixels of the four corners, each a quarter of a side, darker than rim_luma
    spread_x16: int  # mean distance of 8 x 8 parts from their mean
    look: tuple[int, ...]  # edgeskin.spec.quality.LOOKS


@dataclass(frozen=True, slots=True)
class Findings:
    """Flags of each image, in the order of FLAGS, and whether the lesion can be judged."""

    flags: dict[str, tuple[Flag, ...]]  # "clinical", "dermoscopic"
    assessable: bool


def assess(frames: Frame, mode: Mode, spec: Quality) -> Findings:
    """Flags of the frames uint8 [images, H, W, 3] of one lesion, the clinical one first.

    >>> grey = np.full((2, 64, 64, 3), 128, np.uint8)
    >>> assess(grey, "pair", Quality())
    Findings(flags={'clinical': ('empty',), 'dermoscopic': ('empty',)}, assessable=False)
    """
    kinds = ("clinical", "dermoscopic") if mode == "pair" else ("dermoscopic",)
    found, between = measure(frames, spec)
    each = [flags(one, spec, dermoscopic=kind == "dermoscopic") for one, kind in zip(found, kinds, strict=True)]
    if mode == "pair" and not any("empty" in one for one in each):
        both = pair_flags(between, swap_score(found[0], found[1], spec), spec)
        each = [one | both for one in each]
    named = {kind: tuple(flag for flag in FLAGS if flag in one) for kind, one in zip(kinds, each, strict=True)}
    return Findings(named, not any(set(spec.fails) & one for one in each))


def measure(frames: Frame, spec: Quality) -> tuple[list[Measures], int]:
    """Measure frames uint8 [images, H, W, 3], sides of 32 pixels or more.

    Returns:
        The measures of each image, and how far the first lies from the last: the mean absolute difference of luma in
        sixteenths of a grey level.
    """
    rows = np.ascontiguousarray(frames[:, ::2])
    y = luma(rows)
    images, count = len(y), y[0].size
    sums, sizes = _parts(y)
    parts = 16 * sums // sizes
    mean = parts.sum((1, 2)) // parts[0].size
    spread = np.abs(parts - mean[:, None, None]).sum((1, 2)) // parts[0].size
    centre = parts[:, _INNER].sum(1) // int(_INNER.sum()) - parts[:, _RIM].sum(1) // int(_RIM.sum())
    colours = _colours(rows)
    along = _excess(y[:, :, 2:], y[:, :, :-2]), _excess(y[:, :, 4:], y[:, :, :-4])
    down = _excess(y[:, 1:], y[:, :-1]), _excess(y[:, 2:], y[:, :-2])
    found = []
    for n in range(images):
        red, green, blue = (int(colour) for colour in colours[n])
        sharp = min(_sharpness(along[0][n], along[1][n], count), _sharpness(down[0][n], down[1][n], count))
        look = (int(mean[n]), red - green, green - blue, int(spread[n]), int(centre[n]), sharp)
        texture = (16 * (one[n] + other[n]) // count for one, other in zip(along, down, strict=True))
        found.append(
            Measures(
                black=_share(_below(y[n], spec.black_luma), count),
                dark=_share(_below(y[n], spec.dark_luma), count),
                bright=_share(count - _below(y[n], spec.bright_luma), count),
                saturated=_share(3 * count - _below(rows[n], spec.saturated_level), 3 * count),
                sharpness=sharp,
                corner=_corner(y[n], spec.rim_luma),
                spread_x16=int(spread[n]),
                look=(*look, *texture),
            )
        )
    apart = np.maximum(y[0], y[-1]) - np.minimum(y[0], y[-1])
    return found, 16 * int(apart.sum(dtype=np.uint32)) // count


def luma(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma uint8 [images, H, W] of frames uint8 [images, H, W, 3] without gaps.

    >>> luma(np.array([[[[255, 255, 255], [0, 0, 0], [255, 0, 0]]]], np.uint8)).tolist()
    [[[255, 0, 77]]]
    """
    images, height, width, _ = rows.shape
    weights = np.tile(_LUMA, width)
    weighted = (rows.reshape(images * height, 3 * width) * weights).reshape(-1)
    y = weighted[0::3] + weighted[1::3]  # at most 256 * 255: 16 bits hold it
    y += weighted[2::3]
    y += _HALF
    y >>= _BITS
    return np.asarray(y, np.uint8).reshape(images, height, width)


def flags(found: Measures, spec: Quality, *, dermoscopic: bool) -> set[Flag]:
    """What is wrong with one image. An empty one has no other fault; what hides blur or rim is told instead of it."""
    if found.black >= spec.black_share or found.spread_x16 < spec.spread_x16:
        return {"empty"}
    sharp = spec.blurred_dermoscopic if dermoscopic else spec.blurred_clinical
    dark, bright = found.dark >= spec.dark_share, found.bright >= spec.bright_share
    faults: Mapping[Flag, bool] = {
        "dark": dark,
        "bright": bright,
        "saturated": found.saturated >= spec.saturated_share,
        "blurred": not (dark or bright) and found.sharpness < sharp,
        "vignette": dermoscopic and not dark and found.corner >= spec.vignette_share,
    }
    return {flag for flag, is_so in faults.items() if is_so}


def pair_flags(difference: int, score: int, spec: Quality) -> set[Flag]:
    """What is wrong with a pair, of which neither image is empty."""
    faults: Mapping[Flag, bool] = {
        "identical": difference < spec.identical_x16,
        "swapped": any(spec.swapped_weights) and score < spec.swapped_threshold,
    }
    return {flag for flag, is_so in faults.items() if is_so}


def swap_score(clinical: Measures, dermoscopic: Measures, spec: Quality) -> int:
    """High where the pair looks rightly given; exchanged images have the same score with the other sign."""
    looks = zip(spec.swapped_weights, clinical.look, dermoscopic.look, strict=True)
    return sum(weight * (one - other) for weight, one, other in looks)


def _parts(y: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sums of 8 x 8 parts of each image [images, 8, 8], and how many pixels a part has [8, 8]."""
    images, height, width = y.shape
    rows = [k * height // _PARTS for k in range(_PARTS + 1)]
    columns = [k * width // _PARTS for k in range(_PARTS + 1)]
    strips = np.empty((images, _PARTS, width), np.uint16)  # a strip has 256 rows at most: 16 bits hold their sum
    for k in range(_PARTS):
        np.add.reduce(y[:, rows[k] : rows[k + 1]], axis=1, dtype=np.uint16, out=strips[:, k])
    sums = np.add.reduceat(strips.astype(np.int64), columns[:-1], axis=2)
    return sums, np.outer(np.diff(rows), np.diff(columns))


def _colours(rows: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Means of red, green and blue in sixteenths of a grey level [images, 3], of every fourth row given."""
    some = rows[:, ::4]
    total = np.zeros((len(rows), 3), np.int64)
    for start in range(0, some.shape[1], _STRIP):
        columns = np.add.reduce(some[:, start : start + _STRIP], axis=1, dtype=np.uint16)
        total += columns.sum(axis=1, dtype=np.int64)
    return np.asarray(16 * total // (some.shape[1] * some.shape[2]), np.int64)


def _excess(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> list[int]:
    """Sum of max(0, |one - other| - 1) of each image: a difference of one grey level counts for nothing."""
    apart = np.maximum(one, other)
    apart -= np.minimum(one, other)
    sums = apart.reshape(len(apart), -1).sum(axis=1, dtype=np.uint32)
    return [int(total) - int(np.count_nonzero(image)) for total, image in zip(sums, apart, strict=True)]


def _sharpness(near: int, far: int, count: int) -> int:
    """`near` over `far` in 1/10,000; UNIT, which is sharp, where there is too little of either to tell."""
    return min(UNIT, UNIT * near // far) if 16 * far >= count else UNIT


def _below(values: NDArray[np.uint8], limit: int) -> int:
    return int(np.count_nonzero(values < np.uint8(limit))) if limit < 256 else values.size


def _share(part: int, whole: int) -> int:
    return UNIT * part // whole


def _corner(y: NDArray[np.uint8], limit: int) -> int:
    rows, columns = y.shape[0] // 4, y.shape[1] // 4
    corners = (band[:, side] for band in (y[:rows], y[-rows:]) for side in (slice(columns), slice(-columns, None)))
    return _share(sum(_below(corner, limit) for corner in corners), 4 * rows * columns)
