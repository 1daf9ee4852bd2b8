"""Maps over frames: enlarged, their most salient pixels, and frames without these."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Frame = NDArray[np.uint8]

SHARE = 0.2  # of the pixels of an image: what the deletion test takes away


def enlarged(plane: Floats, height: int, width: int) -> Floats:
    """A map [h, w] bilinearly between the centres of its places, [height, width].

    >>> enlarged(np.array([[0.0, 1.0], [0.0, 1.0]]), 2, 4)[0].tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    image = Image.fromarray(plane.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float64)


def most_salient(plane: Floats, share: float = SHARE) -> Mask:
    """The highest `share` of the pixels of an enlarged map, exactly so many, whatever their sign; ties in order.

    >>> most_salient(np.array([[0.1, 0.9], [0.5, 0.2]]), 0.5).tolist()
    [[False, True], [True, False]]
    """
    chosen = np.zeros(plane.size, np.bool_)
    chosen[np.argsort(-plane, axis=None, kind="stable")[: round(share * plane.size)]] = True
    return chosen.reshape(plane.shape)


def holding(plane: Floats, part: float = 0.5) -> Mask:
    """The fewest pixels that hold `part` of all that is positive in an enlarged map.

    >>> holding(np.array([[6.0, 1.0], [2.0, -9.0]])).tolist(), holding(np.array([[6.0, 3.0], [3.0, 1.0]])).tolist()
    ([[True, False], [False, False]], [[True, True], [False, False]])
    """
    order = np.argsort(-plane, axis=None, kind="stable")
    sums = np.cumsum(np.maximum(plane.ravel()[order], 0))
    chosen = np.zeros(plane.size, np.bool_)
    if sums[-1] > 0:
        chosen[order[: int(np.searchsorted(sums, part * sums[-1])) + 1]] = True
    return chosen.reshape(plane.shape)


def middle(height: int, width: int, share: float = SHARE) -> Mask:
    """A disc of `share` of the pixels in the middle of the image, where most lesions lie.

    >>> middle(4, 4, 0.25).astype(int).tolist()
    [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    rows, columns = np.mgrid[:height, :width]
    return most_salient(-np.hypot(rows - (height - 1) / 2, columns - (width - 1) / 2), share)


def blanked(frame: Frame, mask: Mask) -> Frame:
    """The frame uint8 [H, W, 3] with its own mean colour where the mask [H, W] is."""
    given = frame.copy()
    given[mask] = frame.mean((0, 1)).round().astype(np.uint8)
    return given
