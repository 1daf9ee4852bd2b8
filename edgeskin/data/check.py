"""Look at a collection before anything is trained on it: every pixel decodes, nothing is used twice, what is in it."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, ImageDraw

from edgeskin import out
from edgeskin.data.pairs import UNLABELLED, Pair, PairSet, Problems
from edgeskin.data.roles import Roles
from edgeskin.errors import EdgeskinError
from edgeskin.preprocess import read_photo

T = TypeVar("T")
R = TypeVar("R")


def check_images(pairset: PairSet) -> None:
    """Decode every image in full and look for lesions or images that occur twice.

    Raises:
        EdgeskinError: all faults together, with row and path.
    """
    problems = Problems()
    lesions: dict[str, int] = {}
    images: dict[Path, Pair] = {}
    for pair in pairset.pairs:
        if pair.lesion_id in lesions:
            problems.add(
                pair.row, pairset.root, f"duplicate lesion {pair.lesion_id!r}, first in row {lesions[pair.lesion_id]}"
            )
        lesions.setdefault(pair.lesion_id, pair.row)
        for path in _paths(pair):
            real = path.resolve()
            if real in images:
                other = images[real]
                problems.add(
                    pair.row, path, f"image is used twice, first by lesion {other.lesion_id!r} in row {other.row}"
                )
            images.setdefault(real, pair)
    listed = list(images.items())
    with out.progress("checking images", len(listed)) as step:
        faults = _parallel(lambda item: _fault(item[0], pairset.border_px), listed, step)
    for (path, pair), fault in zip(listed, faults, strict=True):
        if fault:
            problems.add(pair.row, path, fault)
    problems.raise_if_any(pairset.root)


def summary(pairset: PairSet, roles: Roles) -> dict[str, Any]:
    """What is in a collection, as plain JSON data: counts by role, task and class, missing images, image sizes.

    Sizes are (width x height -> images), the ten most frequent; they come from the files' headers.
    """
    by_role = {
        role: {
            "lesions": len(pairs),
            "missing_clinical": sum(p.clinical is None for p in pairs),
            "classes": {t.name: _counts(pairs, t.name, t.class_names) for t in pairset.schema.tasks},
        }
        for role, pairs in roles.pairs.items()
    }
    kinds = {
        "dermoscopic": [p.dermoscopic for p in pairset.pairs],
        "clinical": [p.clinical for p in pairset.pairs if p.clinical is not None],
    }
    sizes = {kind: Counter(_parallel(_size, paths)).most_common(10) for kind, paths in kinds.items()}
    return {
        "data": pairset.name,
        "root": str(pairset.root),
        "schema": pairset.schema.name,
        "phantom": pairset.phantom,
        "lesions": len(pairset.pairs),
        "patients": len({p.patient_id for p in pairset.pairs if p.patient_id}),
        "missing_clinical": sum(p.clinical is None for p in pairset.pairs),
        "roles": by_role,
        "image_sizes": {kind: dict(found) for kind, found in sizes.items()},
    }


def contact_sheet(pairset: PairSet, path: Path, rows: int = 4, columns: int = 4, size: int = 160) -> None:
    """Write a picture of the first rows * columns pairs: clinical left, dermoscopic right, labels below."""
    line, height = 12, size + 40
    sheet = Image.new("RGB", (columns * (2 * size + 10), rows * height), "white")
    pen = ImageDraw.Draw(sheet)
    tasks = pairset.schema.tasks
    for index, pair in enumerate(pairset.pairs[: rows * columns]):
        left, top = index % columns * (2 * size + 10), index // columns * height
        for place, image in enumerate((pair.clinical, pair.dermoscopic)):
            if image is not None:
                photo = read_photo(image)
                photo.thumbnail((size, size))
                sheet.paste(photo, (left + place * size, top))
        words = [t.class_names[k] if t.name == "DIAG" else f"{t.name} {t.class_names[k]}"
                 for t in tasks if (k := pair.labels[t.name]) != UNLABELLED]  # fmt: skip
        half = (len(words) + 1) // 2
        for number, part in enumerate((words[:half], words[half:])):
            pen.text((left, top + size + 2 + number * line), "  ".join(part), fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _parallel(work: Callable[[T], R], items: Sequence[T], step: Callable[..., None] | None = None) -> list[R]:
    """Results in the order of the items; threads suffice, since Pillow decodes without the interpreter's lock."""
    results = []
    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        for result in pool.map(work, items):
            results.append(result)
            if step:
                step()
    return results


def _paths(pair: Pair) -> list[Path]:
    return [pair.dermoscopic] + ([pair.clinical] if pair.clinical is not None else [])


def _fault(path: Path, border_px: int) -> str | None:
    """What is wrong with an image file, if anything."""
    try:
        photo = read_photo(path)
    except EdgeskinError as error:
        return error.line()
    if min(photo.size) <= 2 * border_px:
        return f"{photo.width}x{photo.height} is smaller than its border of {border_px} px"
    return None


def _size(path: Path) -> str:
    try:
        with Image.open(path) as image:
            return f"{image.width}x{image.height}"
    except OSError:
        return "unreadable"


def _counts(pairs: tuple[Pair, ...], task: str, names: tuple[str, ...]) -> dict[str, int]:
    found = Counter(pair.labels[task] for pair in pairs)
    counts = {name: found[index] for index, name in enumerate(names)}
    return counts | ({"unlabelled": found[UNLABELLED]} if found[UNLABELLED] else {})
