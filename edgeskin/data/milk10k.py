"""MILK10k in its official layout (ISIC 2025, doi:10.34970/648456): one clinical and one dermoscopic image a lesion."""

from pathlib import Path

from edgeskin.data.pairs import UNLABELLED, Pair, PairSet, Problems, class_number, read_table, require_root
from edgeskin.errors import EdgeskinError
from edgeskin.spec.schema import Schema, Task

LAYOUT = "MILK10k"
DEFAULT_SCHEMA = "milk10k"
_TRUTH = "MILK10k_Training_GroundTruth.csv"
_METADATA = "MILK10k_Training_Metadata.csv"
_IMAGES = "MILK10k_Training_Input"
_KINDS = {"clinical: close-up": "clinical", "dermoscopic": "dermoscopic"}
_KEPT = ("age_approx", "sex", "skin_tone_class", "site")  # MONET_* are another model's opinion: never kept


def load(root: Path, schema: Schema) -> PairSet:
    """Read the two CSV files and match images to lesions; every fault is reported together.

    Raises:
        EdgeskinError: missing root, wrong layout, or the list of all faults with row and path.
    """
    require_root(root, [_TRUTH, _METADATA, _IMAGES], LAYOUT)
    if not any(_is_diagnosis(task) for task in schema.tasks):
        raise EdgeskinError(
            "the schema does not fit the data set",
            got=f"schema {schema.name!r} without a task on column 'diagnosis'",
            fix=f"--schema {DEFAULT_SCHEMA}",
        )
    problems = Problems()
    images, mentioned = _read_images(root, problems)
    pairs: list[Pair] = []
    seen: dict[str, int] = {}
    for row, record in read_table(root / _TRUTH, ["lesion_id"]):
        lesion = record["lesion_id"]
        if not lesion:
            problems.add(row, _TRUTH, "no lesion_id")
            continue
        if lesion in seen:
            problems.add(row, _TRUTH, f"duplicate lesion_id {lesion!r}, first in row {seen[lesion]}")
            continue
        seen[lesion] = row
        labels = _labels(record, schema, row, problems)
        found = images.get(lesion, {})
        if "dermoscopic" not in found:
            if (lesion, "dermoscopic") not in mentioned:  # else its file is missing, and that is said already
                problems.add(row, _TRUTH, f"lesion {lesion!r} has no dermoscopic image in {_METADATA}")
            continue
        dermoscopic, meta = found["dermoscopic"]
        clinical = found["clinical"][0] if "clinical" in found else None
        pairs.append(Pair(lesion, dermoscopic, clinical, labels, row, meta=meta))
    for lesion in sorted(images.keys() - seen.keys()):
        problems.add(None, _METADATA, f"lesion {lesion!r} has images but no ground truth")
    problems.raise_if_any(root)
    return PairSet(LAYOUT.lower(), root, schema, tuple(pairs))


def _is_diagnosis(task: Task) -> bool:
    return (task.column or task.name).lower() in ("diagnosis", "diag")


_Found = dict[str, dict[str, tuple[Path, dict[str, str]]]]  # lesion -> kind -> image, kept columns


def _read_images(root: Path, problems: Problems) -> tuple[_Found, set[tuple[str, str]]]:
    """Images by lesion and kind, and which (lesion, kind) the table names at all."""
    images: _Found = {}
    mentioned: set[tuple[str, str]] = set()
    for row, record in read_table(root / _METADATA, ["lesion_id", "image_type", "isic_id"]):
        lesion, kind = record["lesion_id"], _KINDS.get(record["image_type"])
        path = root / _IMAGES / lesion / f"{record['isic_id']}.jpg"
        if kind is None:
            problems.add(row, path, f"unknown image_type {record['image_type']!r}; possible: {', '.join(_KINDS)}")
        elif (lesion, kind) in mentioned:
            problems.add(row, path, f"lesion {lesion!r} has two {kind} images")
        else:
            mentioned.add((lesion, kind))
            images.setdefault(lesion, {})
            if path.is_file():
                images[lesion][kind] = (path, {k: record.get(k, "") for k in _KEPT})
            else:
                problems.add(row, path, "no such image")
    return images, mentioned


def _labels(record: dict[str, str], schema: Schema, row: int, problems: Problems) -> dict[str, int]:
    hot = []
    for name, cell in record.items():
        if name == "lesion_id":
            continue
        if cell not in ("0", "1", "0.0", "1.0"):
            problems.add(row, _TRUTH, f"column {name}: expected 0 or 1, found {cell!r}")
            return {}
        if float(cell) == 1.0:
            hot.append(name)
    if len(hot) != 1:
        problems.add(row, _TRUTH, f"expected one class, found {', '.join(hot) or 'none'}")
        return {}
    return {
        task.name: class_number(task, hot[0], problems, row, _TRUTH) if _is_diagnosis(task) else UNLABELLED
        for task in schema.tasks
    }
