"""Saliency over the frame that the network saw, and a sheet with both images, a legend and what it does not prove."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edgeskin.explain.masks import enlarged, holding
from edgeskin.spec.explanation import CAUTION, FP32, UNASKED, Explanation, Kind
from edgeskin.spec.manifest import Mode

Floats = NDArray[np.float64]
Frame = NDArray[np.uint8]
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

# From blue over green to yellow, ever brighter: it stands out from skin, and reads alike without colour vision.
_SHADES = np.array([(46, 30, 110), (38, 84, 150), (24, 140, 148), (72, 186, 110), (250, 230, 50)], np.float64)
_STRONGEST = 0.72  # share of colour over the skin at the highest saliency
_OUTLINE = (255, 255, 255)
_PANEL, _GAP, _HEAD = 320, 16, 22  # pixels
_PAPER, _INK, _SOFT = (255, 255, 255), (27, 31, 36), (87, 96, 106)
MODES: Mapping[Mode, str] = {"pair": "both images", "dermoscopic": "the dermoscopic image alone"}


def shades(values: Floats) -> Floats:
    """Colours [..., 3] in 0..255 of values in 0..1.

    >>> shades(np.array([0.0, 1.0])).tolist()
    [[46.0, 30.0, 110.0], [250.0, 230.0, 50.0]]
    """
    steps = np.linspace(0, 1, len(_SHADES))
    return np.stack([np.interp(values, steps, _SHADES[:, channel]) for channel in range(3)], axis=-1)


def overlay(frame: Frame, plane: Floats, side: int) -> Image.Image:
    """The frame uint8 [H, W, 3] under the positive part of a map [h, w], `side` pixels high, same shape.

    Colours reach up to what one pixel in a hundred exceeds, in each image by itself: two images are compared by their
    shares, not by their colours. The white line goes round the smallest area that holds half of the image's saliency.
    A map that is positive nowhere leaves the frame as it is.
    """
    height, width = side, round(side * frame.shape[1] / frame.shape[0])
    ground = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC), np.float64)
    saliency = enlarged(plane, height, width)
    if saliency.max() <= 0:
        return Image.fromarray(ground.round().astype(np.uint8))
    level = np.clip(saliency / (np.quantile(saliency, 0.99) if (saliency > 0).mean() > 0.01 else saliency.max()), 0, 1)
    cover = (_STRONGEST * level**0.7)[..., None]
    shown = ground * (1 - cover) + shades(level) * cover
    thickness = max(1, round(side / 160))
    shown[_edge(holding(saliency), thickness)] = _OUTLINE
    return Image.fromarray(shown.round().astype(np.uint8))


def jpeg(image: Image.Image, side: int) -> str:
    """An image, `side` pixels high, as base64 of a JPEG without metadata."""
    width = round(side * image.width / image.height)
    kept = io.BytesIO()
    small = image.resize((width, side), Image.Resampling.LANCZOS) if image.height != side else image
    Image.fromarray(np.asarray(small)).save(kept, "JPEG", quality=82, optimize=True)
    return base64.b64encode(kept.getvalue()).decode()


def sheet(
    found: Explanation, frames: Mapping[Kind, Frame], maps: Mapping[Kind, Floats], titles: Mapping[str, str]
) -> Image.Image:
    """One lesion as a picture: each image beside itself under its saliency, what is explained, legend and caution.

    Args:
        frames: kind of image -> uint8 [H, W, 3].
        maps: kind of image -> [h, w].
        titles: class name -> its title.
    """
    width = 2 * _PANEL + 3 * _GAP
    head = caption(found, titles)
    big, plain, small = (ImageFont.load_default(size) for size in (21, 15, 13))
    inner = width - 2 * _GAP
    lines: list[tuple[str, Font, tuple[int, int, int]]] = []
    lines += [(line, big, _INK) for line in _wrapped(head[0], big, inner)]
    lines += [(line, plain, _SOFT) for text in head[1:] for line in _wrapped(text, plain, inner)]
    foot = _wrapped(f"{CAUTION} {FP32} Research use only, not a medical device.", small, inner)
    rows = {kind: round(_PANEL * frame.shape[0] / frame.shape[1]) for kind, frame in frames.items()}
    top = _GAP + sum(_line_height(font) for _, font, _ in lines)
    height = top + sum(_HEAD + side + _GAP for side in rows.values()) + 62 + len(foot) * _line_height(small) + _GAP
    page = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(page)
    y = _GAP
    for text, font, colour in lines:
        pen.text((_GAP, y), text, fill=colour, font=font)
        y += _line_height(font)
    for kind, frame in frames.items():
        pen.text((_GAP, y + 2), kind, fill=_INK, font=plain)
        pen.text((2 * _GAP + _PANEL, y + 2), _told(found, kind), fill=_INK, font=plain)
        y += _HEAD
        seen = Image.fromarray(frame).resize((_PANEL, rows[kind]), Image.Resampling.BICUBIC)
        page.paste(seen, (_GAP, y))
        page.paste(overlay(frame, maps[kind], rows[kind]), (2 * _GAP + _PANEL, y))
        y += rows[kind] + _GAP
    _legend(page, pen, y, small)
    y += 62
    for line in foot:
        pen.text((_GAP, y), line, fill=_SOFT, font=small)
        y += _line_height(small)
    return page


def caption(found: Explanation, titles: Mapping[str, str]) -> list[str]:
    """What is explained, in words: the class with its probability, then what one must know beside it."""
    name = titles.get(found.explained) or found.explained
    said = [f"{name}: {found.probability:.1%}"]
    if found.explained == found.predicted:
        said.append(f"The most probable class of {found.task}, from {MODES[found.mode]}.")
    else:
        other = titles.get(found.predicted) or found.predicted
        said.append(f"As asked; the most probable class of {found.task} is {other}, from {MODES[found.mode]}.")
    if found.truth is not None:
        said.append(f"Truth: {titles.get(found.truth) or found.truth}.")
    if not found.assessable:
        faults = [f"{kind}: {', '.join(flags)}" for kind, flags in found.quality.items() if flags]
        said.append(f"Not assessable ({'; '.join(faults)}): the program gives no answer for such images.")
    if found.unasked:
        said.append(UNASKED)
    if found.share is None:
        said.append("Nothing in the maps speaks for this class.")
    return said


def _told(found: Explanation, kind: Kind) -> str:
    if found.share is None or found.share[kind] == 0:
        return "saliency: none for this class"
    return f"{found.share[kind]:.0%} of the saliency" if len(found.share) > 1 else "saliency"


def _legend(page: Image.Image, pen: ImageDraw.ImageDraw, y: int, font: Font) -> None:
    ramp = shades(np.linspace(0, 1, 160)[None].repeat(12, axis=0))
    page.paste(Image.fromarray(ramp.round().astype(np.uint8)), (_GAP, y + 3))
    pen.text((_GAP + 170, y), "speaks for the class: little to most, in each image by itself", fill=_INK, font=font)
    y += 24
    pen.rectangle((_GAP, y + 2, _GAP + 159, y + 15), fill=(150, 150, 150))
    pen.rectangle((_GAP + 4, y + 5, _GAP + 155, y + 12), outline=_OUTLINE, width=2)
    pen.text((_GAP + 170, y), "round the smallest area with half of an image's saliency", fill=_INK, font=font)


def _edge(mask: NDArray[np.bool_], thickness: int) -> NDArray[np.bool_]:
    """The pixels of a mask within `thickness` of one outside of it; the rim of the image is no edge."""
    padded = np.pad(mask, thickness, mode="edge")
    inside = np.ones_like(mask)
    height, width = mask.shape
    for down in range(2 * thickness + 1):
        for across in range(2 * thickness + 1):
            inside &= padded[down : down + height, across : across + width]
    return np.asarray(mask & ~inside)


def _line_height(font: Font) -> int:
    return round(1.35 * getattr(font, "size", 11))


def _wrapped(text: str, font: Font, width: int) -> Sequence[str]:
    """Words in lines of at most `width` pixels."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            lines.append(line)
            longer = word
        line = longer
    return [*lines, line] if line else lines
