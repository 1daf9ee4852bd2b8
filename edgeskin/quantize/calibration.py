"""The frames that set the ranges: real ones, enough of them, or none at all."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import overload

import numpy as np
from numpy.typing import NDArray

from edgeskin.errors import EdgeskinError
from edgeskin.spec.recipe import Recipe

Frames = NDArray[np.uint8]
_SHOWN = 5  # ids named in an error


class CalibrationFrames(Sequence[Frames]):
    """Inputs of a graph made of calibration pairs, one at a time: nothing but the pair asked for is in memory.

    Attributes:
        images: how many images the graph takes.
        sha256: of the inputs, in order.
    """

    def __init__(self, pairs: Sequence[Frames], wanted: int, images: int, blank: frozenset[int]) -> None:
        self._pairs, self.images = pairs, images
        self._order = [(i, black) for i in range(wanted) for black in ((False, True) if i in blank else (False,))]
        digest = hashlib.sha256(f"{images} {self._order}".encode())
        shape: tuple[int, ...] | None = None
        for number in range(wanted):
            pair = pairs[number]
            check_pair(pair, f"calibration pair {number}", shape)
            shape = pair.shape[1:]
            digest.update(np.ascontiguousarray(pair[-images:]).data)
        self.sha256 = digest.hexdigest()
        self.shape = (images, *(shape or ()))

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, place: int) -> Frames: ...
    @overload
    def __getitem__(self, place: slice) -> list[Frames]: ...
    def __getitem__(self, place: int | slice) -> Frames | list[Frames]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        number, black = self._order[place]
        frames = np.ascontiguousarray(self._pairs[number][-self.images :])
        if black:
            frames = frames.copy()
            frames[0] = 0
        return frames

    def is_extra(self, place: int) -> bool:
        """Whether that input is a pair that has come before, now with a black clinical frame."""
        return self._order[place][1]

    def name(self, place: int) -> str:
        """What to call an input in an error."""
        number, black = self._order[place]
        return f"calibration pair {number}" + (" with a black clinical frame" if black else "")


def calibration_frames(frames: Iterable[Frames], recipe: Recipe, images: int = 2) -> CalibrationFrames:
    """The first `recipe.calibration_pairs` pairs, checked, as inputs of a graph of `images` images.

    Both images of a pair enter together: the exchange between them is calibrated on lesions, not on a mixture. A share
    of them, `recipe.blank_clinical`, enters the pair graph once more with a black clinical frame.

    Args:
        frames: uint8 [2, H, W, 3] each, the clinical image first. A sequence, such as a `FrameStore`, is read pair by
            pair whenever it is asked; what can be read but once is kept in memory.
        images: 2 for the pair graph; 1 for the dermoscopic graph, which gets the second frame alone.

    Returns:
        uint8 [images, H, W, 3] each.

    Raises:
        EdgeskinError: too few pairs, another dtype or shape, or an image without any content.

    >>> recipe = Recipe(name="r", target="openvino", precision="int8", quantizer="nncf", calibration_pairs=2)
    >>> pair = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    >>> [f.shape for f in calibration_frames([pair, pair, pair], recipe, images=1)]
    [(1, 4, 4, 3), (1, 4, 4, 3)]
    >>> [int(f[0].max()) for f in calibration_frames([pair, pair], recipe)]  # the second once more, black
    [47, 47, 0]
    """
    if images not in (1, 2):
        raise ValueError(f"images is 1 or 2, not {images}")
    wanted = recipe.calibration_pairs
    pairs = frames if isinstance(frames, Sequence) else list(islice(frames, wanted))
    blank = blanked(wanted, recipe.blank_clinical) if images == 2 else frozenset[int]()
    taken = CalibrationFrames(pairs, min(len(pairs), wanted), images, blank)
    if len(pairs) < wanted:
        raise EdgeskinError(
            "too few calibration pairs",
            got=len(pairs),
            possible=f"{wanted} or more, as recipe {recipe.name} asks",
            fix="enlarge the calibration role, or lower calibration_pairs in the recipe",
        )
    return taken


def blanked(pairs: int, share: float) -> frozenset[int]:
    """Which pairs enter once more with a black clinical frame: every n-th, and one at least if the share is not 0.

    >>> sorted(blanked(60, 0.05)), sorted(blanked(4, 0.05)), sorted(blanked(4, 0))
    ([19, 39, 59], [3], [])
    """
    if not share:
        return frozenset()
    parts = round(share * 1_000_000)  # whole numbers: the choice must not hang on the rounding of a float
    chosen = {i for i in range(pairs) if (i + 1) * parts // 1_000_000 > i * parts // 1_000_000}
    return frozenset(chosen or {pairs - 1})


def refuse_overlap(calibration: Iterable[str], others: Mapping[str, Iterable[str]]) -> None:
    """Refuse to calibrate on what is measured: no lesion of the calibration may be in another role.

    Args:
        calibration: hashes (or ids) of the lesions that calibrate.
        others: role -> hashes of the lesions that this role holds, made the same way.

    Raises:
        EdgeskinError: how many are in another role, and the first of them.

    >>> refuse_overlap(["a", "b"], {"test": ["b", "c"]})
    Traceback (most recent call last):
    ...
    edgeskin.errors.EdgeskinError: the calibration shares lesions with role 'test': got '1 of 2: b'; ...
    """
    mine = set(calibration)
    for role, lesions in others.items():
        if shared := sorted(mine & set(lesions)):
            named = ", ".join(shared[:_SHOWN]) + (" ..." if len(shared) > _SHOWN else "")
            raise EdgeskinError(
                f"the calibration shares lesions with role {role!r}",
                got=f"{len(shared)} of {len(mine)}: {named}",
                possible="lesions of role 'calibration' alone",
                fix="what sets the ranges must not measure them: take these lesions out of the calibration",
                details=shared,
            )


def check_pair(pair: Frames, name: str, shape: tuple[int, ...] | None = None, *, content: bool = True) -> None:
    """Refuse a pair that is not uint8 [2, H, W, 3], of another size than `shape` [H, W, 3], or without content.

    Raises:
        EdgeskinError: which pair, and what is wrong with it.
    """
    if not isinstance(pair, np.ndarray) or pair.dtype != np.uint8:
        got = str(pair.dtype) if isinstance(pair, np.ndarray) else type(pair).__name__
        raise EdgeskinError(
            f"{name} has a wrong dtype", got=got, possible="uint8, 0..255", fix="pass frames from preprocess.prepare"
        )
    wanted = f"(2, {shape[0]}, {shape[1]}, 3)" if shape else "(2, height, width, 3)"
    if pair.ndim != 4 or pair.shape[0] != 2 or pair.shape[3] != 3 or (shape is not None and pair.shape[1:] != shape):
        raise EdgeskinError(f"{name} has a wrong shape", got=str(pair.shape), possible=wanted)
    for view, frame in zip(("clinical", "dermoscopic"), pair, strict=True):
        if content and frame.min() == frame.max():
            raise EdgeskinError(
                f"the {view} image of {name} is one flat colour",
                got=f"every value {int(frame.min())}",
                fix="leave this pair out of the calibration",
            )
