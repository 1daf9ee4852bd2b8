"""Photograph -> frame: the one host-side preparation that training, calibration, verification and runtime share."""

import functools
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from edgeskin.errors import EdgeskinError
from edgeskin.spec.preprocess import Preprocess

Photo: TypeAlias = "str | Path | Image.Image | NDArray[np.uint8]"
Frame: TypeAlias = NDArray[np.uint8]


def read_photo(photo: Photo) -> Image.Image:
    """A decoded RGB image from a path, a PIL image or a uint8 array [H, W, 3] (RGB), upright as its EXIF data says.

    Raises:
        EdgeskinError: no such file, not an image, truncated, or an array of another shape or dtype.
    """
    if isinstance(photo, Image.Image):
        with _decoding("an image in memory"):
            photo.load()  # it may have been opened and not read yet
            _check_depth(photo, "an image in memory")
            return _upright(photo if photo.mode == "RGB" else photo.convert("RGB"))
    if isinstance(photo, np.ndarray):
        check_array(photo)
        return Image.fromarray(photo)
    path = Path(photo)
    with _decoding(path), Image.open(path) as image:
        _check_depth(image, path)
        return _upright(image.convert("RGB"))


def check_array(photo: NDArray[np.uint8]) -> None:
    """Refuse an array that is no uint8 RGB image [H, W, 3]."""
    if photo.dtype != np.uint8:
        raise EdgeskinError(
            "wrong image dtype", got=str(photo.dtype), possible="uint8, 0..255", fix="convert the array to uint8"
        )
    if photo.ndim != 3 or photo.shape[2] != 3 or 0 in photo.shape:
        raise EdgeskinError(
            "wrong image shape", got=str(photo.shape), possible="(height, width, 3), RGB", fix="pass one RGB image"
        )


@contextmanager
def _decoding(source: object) -> Iterator[None]:
    """Turn what a decoder may raise on a damaged file into one error."""
    try:
        yield
    except FileNotFoundError:
        raise EdgeskinError("no such image", got=str(source), fix="check the path") from None
    except (OSError, SyntaxError, ValueError, OverflowError, Image.DecompressionBombError) as error:
        raise EdgeskinError(
            "unreadable image", got=f"{source} ({error})", fix="replace or re-encode the file"
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    """The image as it was seen: cameras and phones may store it lying and say so in EXIF."""
    try:
        lying = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if lying else image
    except (SyntaxError, ValueError, TypeError, KeyError, OverflowError, struct.error):
        return image  # damaged metadata of a sound picture


def _check_depth(image: Image.Image, source: object) -> None:
    """Refuse deeper greys: Pillow would clip them to white without a word."""
    if image.mode == "F" or image.mode.startswith("I"):
        raise EdgeskinError(
            "wrong image depth",
            got=f"{source} in mode {image.mode}",
            possible="8 bits a channel",
            fix="convert the image to 8 bits",
        )


@dataclass(frozen=True, slots=True)
class Cut:
    """The part of a photograph that becomes the frame, in whole pixels, and how often each axis is halved."""

    left: int
    top: int
    right: int
    bottom: int
    halvings_x: int
    halvings_y: int

    @property
    def together(self) -> int:
        """How often both axes are halved at once."""
        return min(self.halvings_x, self.halvings_y)


def cut(width: int, height: int, spec: Preprocess) -> Cut:
    """Where a photograph of that size is cut, and how often it is halved on its way to the frame.

    The cut is as many whole pixels as the halvings divide: up to 2 ** halvings - 1 pixels of a side are left out.

    Raises:
        EdgeskinError: nothing is left between the borders.

    >>> cut(1920, 1080, Preprocess(height=224, width=224, mean=(0.5,) * 3, std=(0.5,) * 3))
    Cut(left=420, top=0, right=1500, bottom=1080, halvings_x=2, halvings_y=2)
    """
    inner_width, inner_height = width - 2 * spec.border_px, height - 2 * spec.border_px
    if inner_width < 1 or inner_height < 1:
        raise EdgeskinError(
            "the image is smaller than its border",
            got=f"{width}x{height} with border {spec.border_px}",
            fix="lower border_px",
        )
    across, down = inner_width, inner_height
    if spec.fit == "crop":
        across = min(across, max(1, round(inner_height * spec.width / spec.height)))
        down = min(down, max(1, round(inner_width * spec.height / spec.width)))
    left, right, halvings_x = _span((width - across) // 2, across, spec.width)
    top, bottom, halvings_y = _span((height - down) // 2, down, spec.height)
    return Cut(left, top, right, bottom, halvings_x, halvings_y)


def _span(start: int, length: int, size: int) -> tuple[int, int, int]:
    """Start, end and halvings of one axis: halved while at least twice too long."""
    halvings = max(0, (length // size).bit_length() - 1)
    over = length % (1 << halvings)
    return start + over // 2, start + over // 2 + length - over, halvings


def prepare(photo: Photo, spec: Preprocess) -> Frame:
    """A photograph as the network's input frame: uint8 RGB [spec.height, spec.width, 3].

    Cut, halve each axis while it is at least twice too long (mean of 2 x 2 pixels, rounded half up), then sample
    bilinearly between the pixels' centres with weights in 1/256. All in whole numbers: every path through this module,
    and the runtime in C, give the same frame bit for bit. An INT8 network can answer otherwise to one grey level.

    >>> import numpy as np
    >>> spec = Preprocess(height=32, width=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    >>> prepare(np.full((100, 200, 3), 7, np.uint8), spec).mean().item()
    7.0
    """
    opencv = _opencv()
    whole = photo if isinstance(photo, np.ndarray) else read_photo(photo)
    if isinstance(whole, np.ndarray):
        check_array(whole)
        box = cut(whole.shape[1], whole.shape[0], spec)
        pixels = whole[box.top : box.bottom, box.left : box.right]
        if opencv is None:
            pixels = _halve_image(Image.fromarray(pixels), box)
        else:
            for _ in range(box.together):
                height, width = pixels.shape[:2]
                pixels = opencv.resize(pixels, (width // 2, height // 2), interpolation=opencv.INTER_AREA)
    else:
        box = cut(whole.width, whole.height, spec)
        pixels = _halve_image(whole.crop((box.left, box.top, box.right, box.bottom)), box)
    pixels = _halve_rest(pixels, box)
    if opencv is None:
        return _bilinear(pixels, spec.height, spec.width)
    return np.asarray(
        opencv.resize(pixels, (spec.width, spec.height), interpolation=opencv.INTER_LINEAR_EXACT), np.uint8
    )


def _halve_image(image: Image.Image, box: Cut) -> Frame:
    for _ in range(box.together):
        image = image.reduce(2)
    return np.asarray(image)


def _halve_rest(pixels: Frame, box: Cut) -> Frame:
    """Halve the axis that is stretched more by itself; there is none when the shape is kept."""
    for _ in range(box.together, box.halvings_y):
        pixels = ((pixels[0::2].astype(np.uint16) + pixels[1::2] + 1) >> 1).astype(np.uint8)
    for _ in range(box.together, box.halvings_x):
        pixels = ((pixels[:, 0::2].astype(np.uint16) + pixels[:, 1::2] + 1) >> 1).astype(np.uint8)
    return pixels


def _bilinear(pixels: Frame, height: int, width: int) -> Frame:
    """Bilinear sampling in whole numbers: weights of 8 bits an axis, one rounding at the end. OpenCV's exact one."""
    if (height, width) == pixels.shape[:2]:
        return np.ascontiguousarray(pixels)
    rows, columns = _taps(pixels.shape[0], height), _taps(pixels.shape[1], width)
    down = rows.weight[:, None, None]
    tall = pixels[rows.first] * (_ONE - down) + pixels[rows.second] * down
    across = columns.weight[None, :, None]
    mixed = tall.take(columns.first, axis=1) * (_ONE - across) + tall.take(columns.second, axis=1) * across
    return np.asarray((mixed + (1 << 2 * _BITS - 1)) >> 2 * _BITS, np.uint8)


_BITS = 8
_ONE = np.int32(1 << _BITS)


@dataclass(frozen=True, slots=True)
class _Taps:
    """For each output pixel of an axis: its two neighbours, and the weight of the second in 1 / 256."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    weight: NDArray[np.int32]


@functools.lru_cache(maxsize=64)
def _taps(available: int, size: int) -> _Taps:
    """Pixel centres lie at half numbers; beyond the first and the last centre the edge goes on."""
    scale = 1 / (size / available)  # not available / size, whose last bit may differ and turn a tie
    centre = np.clip(scale * (np.arange(size) + 0.5) - 0.5, 0, available - 1)
    first = np.minimum(np.floor(centre).astype(np.int64), max(0, available - 2))
    weight = np.rint((centre - first) * (1 << _BITS)).astype(np.int32)
    return _Taps(first, np.minimum(first + 1, available - 1), weight)


@functools.cache
def _import_opencv() -> Any | None:
    if find_spec("cv2") is None:
        return None
    import cv2

    return cv2


_IMPORTING = threading.Lock()  # the package replaces itself while it is imported, which a second thread must not see


def _opencv() -> Any | None:
    """OpenCV where it is installed: the same frames from camera arrays in a seventh of the time."""
    with _IMPORTING:
        return _import_opencv()
