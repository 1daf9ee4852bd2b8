"""Many examinations at once: a CSV or a folder of pairs in, a line of answers for each lesion out."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeskin import out
from edgeskin.errors import EdgeskinError
from edgeskin.files import os_errors
from edgeskin.runtime import Classifier, Result

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
_KINDS = ("clinical", "dermoscopic")


@dataclass(frozen=True, slots=True)
class Examination:
    """One lesion to classify."""

    lesion_id: str
    dermoscopic: Path
    clinical: Path | None


def read_examinations(source: Path) -> list[Examination]:
    """Examinations from a CSV (columns lesion_id, dermoscopic, clinical; paths relative to it) or from a folder.

    In a folder a lesion is either `<id>_clinical.<ext>` and `<id>_dermoscopic.<ext>`, or a folder `<id>/` with
    `clinical.<ext>` and `dermoscopic.<ext>`. The clinical image may be missing.

    Raises:
        EdgeskinError: nothing there, a missing column, a lesion without dermoscopic image; all faults together.
    """
    if source.is_dir():
        found = _from_folder(source)
    elif source.is_file():
        found = _from_csv(source)
    else:
        raise EdgeskinError("no such pairs", got=str(source), possible="a CSV file, a folder", fix="check the path")
    if not found:
        raise EdgeskinError(
            "no pairs found",
            got=str(source),
            possible="<id>_clinical.jpg + <id>_dermoscopic.jpg, <id>/clinical.jpg + <id>/dermoscopic.jpg, or a CSV",
            fix="rename the files or write a CSV with columns lesion_id, dermoscopic, clinical",
        )
    return found


def _from_csv(source: Path) -> list[Examination]:
    found, faults, seen = [], [], set()
    with source.open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.DictReader(handle)
        lacking = {"lesion_id", "dermoscopic"} - set(reader.fieldnames or ())
        if lacking:
            raise EdgeskinError(
                f"{source} lacks columns", got=", ".join(sorted(lacking)), possible="lesion_id, dermoscopic, clinical"
            )
        for number, row in enumerate(reader, start=2):
            lesion, dermoscopic, clinical = ((row.get(k) or "").strip() for k in ("lesion_id", *reversed(_KINDS)))
            if not lesion or not dermoscopic:
                faults.append(f"row {number}: lesion_id or dermoscopic is empty")
            elif lesion in seen:
                faults.append(f"row {number}: duplicate lesion_id {lesion!r}")
            seen.add(lesion)
            paths = [source.parent / name for name in (dermoscopic, clinical) if name]
            faults += [f"row {number}: no such image: {path}" for path in paths if not path.is_file()]
            found.append(
                Examination(lesion, source.parent / dermoscopic, source.parent / clinical if clinical else None)
            )
    if faults:
        raise EdgeskinError(
            f"{len(faults)} problem{'s' if len(faults) > 1 else ''} in {source}",
            got=faults[0],
            fix="mend these rows",
            details=faults,
        )
    return found


def _from_folder(source: Path) -> list[Examination]:
    images: dict[str, dict[str, Path]] = {}
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() not in _SUFFIXES:
            continue
        name = path.stem.lower()
        for kind in _KINDS:
            if name == kind:
                images.setdefault(path.parent.relative_to(source).as_posix(), {})[kind] = path
            elif name.endswith(f"_{kind}"):
                lesion = (path.parent.relative_to(source) / path.stem[: -len(kind) - 1]).as_posix()
                images.setdefault(lesion, {})[kind] = path
    faults = [f"{lesion}: no dermoscopic image" for lesion, kinds in images.items() if "dermoscopic" not in kinds]
    if faults:
        raise EdgeskinError(
            f"{len(faults)} lesions without a dermoscopic image", got=faults[0], fix="add it", details=faults
        )
    return [Examination(lesion, kinds["dermoscopic"], kinds.get("clinical")) for lesion, kinds in images.items()]


def classify_all(model: Classifier, examinations: list[Examination], lines: Path | None) -> Iterator[dict[str, Any]]:
    """Answers one by one as JSON data; a lesion that cannot be read gets a row with its error, the rest go on.

    Args:
        lines: a .jsonl file that receives a line a lesion; lesions already in it are not done again.
    """
    done = _done(lines) if lines else {}
    with out.progress("classifying", len(examinations)) as step:
        for examination in examinations:
            row = done.get(examination.lesion_id)
            if row is None:
                row = _row(model, examination)
                if lines:
                    with os_errors(lines), lines.open("a", encoding="utf-8") as handle:
                        handle.write(json.dumps(row) + "\n")
            step()
            yield row


def _row(model: Classifier, examination: Examination) -> dict[str, Any]:
    try:
        result: Result = model.classify(dermoscopic=examination.dermoscopic, clinical=examination.clinical)
    except EdgeskinError as error:
        return {"lesion_id": examination.lesion_id, "error": error.line()}
    return {"lesion_id": examination.lesion_id, **result.to_json()}


def _done(lines: Path) -> dict[str, dict[str, Any]]:
    """Rows of an earlier, interrupted run. A last line cut by a kill is dropped; failed lesions are tried again."""
    if not lines.is_file():
        return {}
    kept: dict[str, dict[str, Any]] = {}
    text = lines.read_text(encoding="utf-8")
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and "lesion_id" in row and "error" not in row:
            kept[row["lesion_id"]] = row
    from edgeskin.files import write_atomic

    write_atomic(lines, "".join(json.dumps(row) + "\n" for row in kept.values()))
    return kept
