"""Photograph -> frame: the one host-side preparation that training, calibration, verification and runtime share."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

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
        if photo.dtype != np.uint8:
            raise EdgeskinError(
                "wrong image dtype", got=str(photo.dtype), possible="uint8, 0..255", fix="convert the array to uint8"
            )
        if photo.ndim != 3 or photo.shape[2] != 3 or 0 in photo.shape:
            raise EdgeskinError(
                "wrong image shape", got=str(photo.shape), possible="(height, width, 3), RGB", fix="pass one RGB image"
            )
        return Image.fromarray(photo)
    path = Path(photo)
    with _decoding(path), Image.open(path) as image:
        _check_depth(image, path)
        return _upright(image.convert("RGB"))


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


def crop_box(width: int, height: int, spec: Preprocess) -> tuple[float, float, float, float]:
    """The part of a photograph that becomes the frame: left, top, right, bottom in pixels.

    >>> spec = Preprocess(height=192, width=192, mean=(0.5,) * 3, std=(0.5,) * 3)
    >>> crop_box(300, 225, spec)
    (37.5, 0.0, 262.5, 225.0)
    """
    left = top = float(spec.border_px)
    right, bottom = width - left, height - top
    if right - left < 1 or bottom - top < 1:
        raise EdgeskinError(
            "the image is smaller than its border",
            got=f"{width}x{height} with border {spec.border_px}",
            fix="lower border_px",
        )
    if spec.fit == "crop":
        inner_width, inner_height = right - left, bottom - top
        aspect = spec.width / spec.height
        if inner_width > inner_height * aspect:
            cut = (inner_width - inner_height * aspect) / 2
            left, right = left + cut, right - cut
        else:
            cut = (inner_height - inner_width / aspect) / 2
            top, bottom = top + cut, bottom - cut
    return left, top, right, bottom


def prepare(photo: Photo, spec: Preprocess) -> Frame:
    """A photograph as the network's input frame: uint8 RGB [spec.height, spec.width, 3].

    Block mean by the integer part of the reduction, then Pillow's antialiased triangle filter.

    >>> import numpy as np
    >>> spec = Preprocess(height=32, width=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    >>> prepare(np.full((100, 200, 3), 7, np.uint8), spec).mean().item()
    7.0
    """
    image = read_photo(photo)
    box = crop_box(image.width, image.height, spec)
    resized = image.resize((spec.width, spec.height), Image.Resampling.BILINEAR, box=box, reducing_gap=1.0)
    return np.asarray(resized, dtype=np.uint8)
