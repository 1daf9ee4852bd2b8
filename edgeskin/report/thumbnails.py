"""Lesions that flip, with their pictures: what a doctor would want to look at first."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from edgeskin.preprocess import read_photo
from edgeskin.report.inputs import Answer, BundleInput, Thumbnail
from edgeskin.report.parts import Card, Part
from edgeskin.report.text import MODE_TITLES, Table
from edgeskin.spec.manifest import Mode
from edgeskin.spec.result import Parity

QUALITY = 82
FEW = 12  # rows that are shown without a click


def thumbnail(path: Path | None, side: int = 112) -> str:
    """The middle square of a photograph, side x side pixels, as base64 of a JPEG without metadata; "" without a path.

    Raises:
        EdgeskinError: no such file, or not an image.
    """
    if path is None:
        return ""
    square = ImageOps.fit(read_photo(path), (side, side), Image.Resampling.LANCZOS)
    kept = io.BytesIO()
    Image.fromarray(np.asarray(square)).save(kept, "JPEG", quality=QUALITY, optimize=True)  # a new image: no comment
    return base64.b64encode(kept.getvalue()).decode()


def part(bundle: BundleInput) -> Part | None:
    """Every lesion whose diagnosis or referral flips, of the gate and of verify.

    None without a gate and without pictures: verify's table of flips then says all that is known.
    """
    sources = _sources(bundle)
    asked = bundle.evidence is not None and bundle.evidence.gate is not None
    if not sources or not (asked or bundle.thumbnails):
        return None
    target = bundle.manifest.task_schema.target.title
    found = {name: _flipped(parity) for name, parity in sources.items()}
    rows = [
        (lesion, role, MODE_TITLES[mode], what)
        for role, lesions in found.items()
        for lesion, flips in lesions.items()
        for mode, what in flips
    ]
    title = f"Flipped lesions{', emulated' if bundle.manifest.stage == 'kit' else ''}"
    if not rows:
        return Part(title, notes=(f"No lesion of {_roles(found)} has another diagnosis or referral.",))
    lesions = {lesion: flips for one in found.values() for lesion, flips in one.items()}
    cards = [
        _card(lesion, bundle.thumbnails[lesion], flips, target)
        for lesion, flips in lesions.items()
        if lesion in bundle.thumbnails
    ]
    table = Table(
        "Lesions that flip",
        ("Lesion", "role", "mode", "flips"),
        tuple(rows),
        "Lesions by the first 16 hex digits of the SHA-256 of their ids. Referral: P(target) crosses the threshold.",
        key="flipped",
    )
    few = len(rows) <= FEW and not cards
    return Part(
        title,
        tables=(table,) if few else (),
        cards=tuple(sorted(cards, key=lambda card: not card.grave)),
        folded=() if few else (table,),
    )


def _sources(bundle: BundleInput) -> dict[str, dict[Mode, Parity]]:
    """Role -> comparisons; where gate and verify had the same role, what verify found on its machine counts."""
    gate = bundle.evidence.gate if bundle.evidence else None
    found = {gate.role: gate.parity} if gate is not None and gate.parity else {}
    if bundle.verify is not None and bundle.verify.parity:
        found[bundle.verify.role] = bundle.verify.parity
    return found


def _roles(found: dict[str, dict[str, list[tuple[Mode, str]]]]) -> str:
    return " or ".join(f"role {name}" for name in found)


def _flipped(parity: dict[Mode, Parity]) -> dict[str, list[tuple[Mode, str]]]:
    """Lesion -> what flips in which mode."""
    found: dict[str, list[tuple[Mode, str]]] = {}
    for mode in MODE_TITLES:
        if mode in parity:
            named = (("diagnosis", parity[mode].predicted.lesions), ("referral", parity[mode].referral.lesions))
            for lesion in sorted({lesion for _, lesions in named for lesion in lesions}):
                what = " and ".join(word for word, lesions in named if lesion in lesions)
                found.setdefault(lesion, []).append((mode, what))
    return found


def _card(lesion: str, picture: Thumbnail, flips: list[tuple[Mode, str]], target: str) -> Card:
    lines = [(f"truth: {picture.truth}", False)] if picture.truth else []
    grave = False
    for mode, what in flips:
        lines += list(_said(mode, what, picture.answers.get(mode), target))
        answer = picture.answers.get(mode)
        grave |= answer is not None and answer.fp32 != answer.bundle and target in (answer.fp32, answer.bundle)
    return Card(lesion, picture, tuple(lines), grave)


def _said(mode: Mode, what: str, answer: Answer | None, target: str) -> Iterator[tuple[str, bool]]:
    yield f"{MODE_TITLES[mode]}: {what} flip{'' if ' and ' in what else 's'}", True
    if answer is None:
        return
    yield f"{answer.fp32} → {answer.bundle}" if answer.fp32 != answer.bundle else f"{answer.fp32} in both", False
    if answer.p_fp32 is not None and answer.p_bundle is not None:
        yield f"P({target}) {answer.p_fp32:.3f} → {answer.p_bundle:.3f}", False
