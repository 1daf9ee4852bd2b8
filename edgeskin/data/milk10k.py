"""MILK10k in its official layout (ISIC 2025, doi:10.34970/648456): one clinical and one dermoscopic image a lesion."""

import csv
from pathlib import Path

from edgeskin.data.pairs import UNLABELLED, Pair, PairSet, Problems, require_root
from edgeskin.spec.schema import Schema

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
    problems = Problems()
    images = _read_images(root, problems)
    pairs: list[Pair] = []
    seen: dict[str, int] = {}
    with (root / _TRUTH).open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.DictReader(handle)
        classes = [c for c in (reader.fieldnames or []) if c != "lesion_id"]
        for row, record in enumerate(reader, start=2):
            lesion = record["lesion_id"]
            if lesion in seen:
                problems.add(row, _TRUTH, f"duplicate lesion_id {lesion!r}, first in row {seen[lesion]}")
                continue
            seen[lesion] = row
            labels = _labels(record, classes, schema, row, problems)
            found = images.get(lesion, {})
            if "dermoscopic" not in found:
                problems.add(row, _METADATA, f"lesion {lesion!r} has no dermoscopic image")
                continue
            dermoscopic, meta = found["dermoscopic"]
            clinical = found["clinical"][0] if "clinical" in found else None
            pairs.append(Pair(lesion, dermoscopic, clinical, labels, row, meta=meta))
    for lesion in images.keys() - seen.keys():
        problems.add(None, _METADATA, f"lesion {lesion!r} has images but no ground truth")
    problems.raise_if_any(root)
    return PairSet(LAYOUT.lower(), root, schema, tuple(pairs))


def _read_images(root: Path, problems: Problems) -> dict[str, dict[str, tuple[Path, dict[str, str]]]]:
    images: dict[str, dict[str, tuple[Path, dict[str, str]]]] = {}
    with (root / _METADATA).open(newline="", encoding="utf-8-sig") as handle:
        for row, record in enumerate(csv.DictReader(handle), start=2):
            lesion, kind = record["lesion_id"], _KINDS.get(record["image_type"])
            path = root / _IMAGES / lesion / f"{record['isic_id']}.jpg"
            if kind is None:
                problems.add(row, path, f"unknown image_type {record['image_type']!r}; possible: {', '.join(_KINDS)}")
            elif kind in images.setdefault(lesion, {}):
                problems.add(row, path, f"lesion {lesion!r} has two {kind} images")
            elif not path.is_file():
                problems.add(row, path, "no such image")
            else:
                images[lesion][kind] = (path, {k: record.get(k, "") for k in _KEPT})
    return images


def _labels(record: dict[str, str], classes: list[str], schema: Schema, row: int, problems: Problems) -> dict[str, int]:
    hot = [c for c in classes if record[c] and float(record[c]) == 1.0]
    if len(hot) != 1:
        problems.add(row, _TRUTH, f"expected one class, found {hot or 'none'}")
        return {}
    labels = {}
    for task in schema.tasks:
        if task.column != "diagnosis":
            labels[task.name] = UNLABELLED
        elif (index := task.raw_to_index.get(hot[0].lower())) is None:
            problems.add(row, _TRUTH, f"unknown class {hot[0]!r} for task {task.name} of schema {schema.name}")
        else:
            labels[task.name] = index
    return labels
