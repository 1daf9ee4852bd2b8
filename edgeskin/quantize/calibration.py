"""The frames that set the ranges: real ones, enough of them, or none at all."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edgeskin.errors import EdgeskinError
from edgeskin.spec.recipe import Recipe

Frames = NDArray[np.uint8]


def calibration_frames(frames: Iterable[Frames], recipe: Recipe, images: int = 2) -> list[Frames]:
    """The first `recipe.calibration_pairs` pairs, checked, as inputs of a graph of `images` images.

    Both images of a pair enter together: the exchange between them is calibrated on lesions, not on a mixture.

    Args:
        frames: uint8 [2, H, W, 3] each, the clinical image first.
        images: 2 for the pair graph; 1 for the dermoscopic graph, which gets the second frame alone.

    Returns:
        uint8 [images, H, W, 3] each.

    Raises:
        EdgeskinError: too few pairs, another dtype or shape, or an image without any content.

    >>> recipe = Recipe(name="r", target="openvino", precision="int8", quantizer="nncf", calibration_pairs=2)
    >>> pair = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    >>> [f.shape for f in calibration_frames([pair, pair, pair], recipe, images=1)]
    [(1, 4, 4, 3), (1, 4, 4, 3)]
    """
    if images not in (1, 2):
        raise ValueError(f"images is 1 or 2, not {images}")
    wanted = recipe.calibration_pairs
    taken: list[Frames] = []
    for number, pair in enumerate(frames):
        if number == wanted:
            break
        _check(pair, number, taken[0].shape[1:] if taken else None)
        taken.append(np.ascontiguousarray(pair[-images:]))
    if len(taken) < wanted:
        raise EdgeskinError(
            "too few calibration pairs",
            got=len(taken),
            possible=f"{wanted} or more, as recipe {recipe.name} asks",
            fix="enlarge the calibration role, or lower calibration_pairs in the recipe",
        )
    return taken


def _check(pair: Frames, number: int, shape: tuple[int, ...] | None) -> None:
    if not isinstance(pair, np.ndarray) or pair.dtype != np.uint8:
        got = str(pair.dtype) if isinstance(pair, np.ndarray) else type(pair).__name__
        raise EdgeskinError(f"calibration pair {number} has a wrong dtype", got=got, possible="uint8, 0..255")
    wanted = f"(2, {shape[0]}, {shape[1]}, 3)" if shape else "(2, height, width, 3)"
    if pair.ndim != 4 or pair.shape[0] != 2 or pair.shape[3] != 3 or (shape is not None and pair.shape[1:] != shape):
        raise EdgeskinError(f"calibration pair {number} has a wrong shape", got=str(pair.shape), possible=wanted)
    for name, frame in zip(("clinical", "dermoscopic"), pair, strict=True):
        if frame.min() == frame.max():
            raise EdgeskinError(
                f"the {name} image of calibration pair {number} is one flat colour",
                got=f"every value {int(frame.min())}",
                fix="leave pairs without a clinical image out of the calibration",
            )
