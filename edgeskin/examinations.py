"""Many examinations at once: a CSV or a folder of pairs in, a line of answers for each lesion out."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeskin import out
from edgeskin.errors import EdgeskinError
from edgeskin.files import os_errors, write_atomic
from edgeskin.runtime import Classifier, Result

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
_KINDS = ("clinical", "dermoscopic")
_START = b'{"lesion_id": '  # of every line of answers


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
    try:
        with source.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle, strict=True)
            columns = {name.strip() for name in reader.fieldnames or ()}
            rows = [(reader.line_num, {(k or "").strip(): v for k, v in row.items()}) for row in reader]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise EdgeskinError("not a readable table", got=f"{source}: {error}", fix="save it as CSV in UTF-8") from error
    if lacking := {"lesion_id", "dermoscopic"} - columns:
        raise EdgeskinError(
            f"{source} lacks columns", got=", ".join(sorted(lacking)), possible="lesion_id, dermoscopic, clinical"
        )
    for number, row in rows:
        if "" in row:  # more cells than columns: an unquoted comma shifts all that follow
            faults.append(f"row {number}: more cells than the header has columns")
            continue
        lesion, dermoscopic, clinical = ((row.get(k) or "").strip() for k in ("lesion_id", *reversed(_KINDS)))
        if not lesion or not dermoscopic:
            faults.append(f"row {number}: lesion_id or dermoscopic is empty")
        elif lesion in seen:
            faults.append(f"row {number}: duplicate lesion_id {lesion!r}")
        seen.add(lesion)
        paths = [source.parent / name for name in (dermoscopic, clinical) if name]
        faults += [f"row {number}: no such image: {path}" for path in paths if not path.is_file()]
        found.append(Examination(lesion, source.parent / dermoscopic, source.parent / clinical if clinical else None))
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
    faults = []
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() not in _SUFFIXES or path.name.startswith("."):
            continue
        name, folder = path.stem.lower(), path.parent.relative_to(source)
        for kind in _KINDS:
            if name == kind:
                lesion = folder.as_posix() if folder.parts else source.resolve().name
            elif name.endswith(f"_{kind}"):
                lesion = (folder / path.stem[: -len(kind) - 1]).as_posix()
            else:
                continue
            if kind in images.setdefault(lesion, {}):
                faults.append(f"{lesion}: two {kind} images: {images[lesion][kind].name}, {path.name}")
            images[lesion][kind] = path
    faults += [f"{lesion}: no dermoscopic image" for lesion, kinds in images.items() if "dermoscopic" not in kinds]
    if faults:
        raise EdgeskinError(
            f"{len(faults)} problem{'s' if len(faults) > 1 else ''} in {source}",
            got=faults[0],
            fix="add or remove these images",
            details=faults,
        )
    return [Examination(lesion, kinds["dermoscopic"], kinds.get("clinical")) for lesion, kinds in images.items()]


def classify_all(model: Classifier, examinations: list[Examination], lines: Path | None) -> Iterator[dict[str, Any]]:
    """Answers one by one as JSON data; a lesion that cannot be read gets a row with its error, the rest go on.

    Args:
        lines: a .jsonl file that receives a line a lesion; lesions already in it are not done again.

    Raises:
        EdgeskinError: `lines` holds something else, or answers of another bundle.
    """
    done = _done(lines, _mark(model)) if lines else {}
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
        return {"lesion_id": examination.lesion_id, "bundle": _mark(model), "error": error.line()}
    return {"lesion_id": examination.lesion_id, "bundle": _mark(model), **result.to_json()}


def _mark(model: Classifier) -> str:
    """Which bundle an answer is from: answers of two bundles in one file would be taken for one's."""
    return model.bundle.sha256[:16]


def _done(lines: Path, mark: str) -> dict[str, dict[str, Any]]:
    """Rows of an earlier, interrupted run. A last line cut by a kill is dropped; failed lesions are tried again."""
    if not lines.is_file():
        return {}
    kept: dict[str, dict[str, Any]] = {}
    whole, _, cut = lines.read_bytes().rpartition(b"\n")
    for number, line in enumerate(whole.splitlines() if whole else [], start=1):
        row = _row_of(line)
        if row is None:
            raise _no_answers(lines, f"line {number}")
        if row["bundle"] != mark:
            raise EdgeskinError(
                "answers of another bundle are in this file", got=str(lines), fix="choose another --out, or delete it"
            )
        if "assessable" in row:  # neither an error nor an answer of a version that judged no images
            kept[row["lesion_id"]] = row
    if cut and not cut.startswith(_START[: len(cut)]):
        raise _no_answers(lines, "the last line")
    write_atomic(lines, "".join(json.dumps(row) + "\n" for row in kept.values()))
    return kept


def _row_of(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and {"lesion_id", "bundle"} <= row.keys() else None


def _no_answers(lines: Path, where: str) -> EdgeskinError:
    return EdgeskinError(
        "this file holds no answers", got=f"{lines}, {where}", fix="choose another --out; it was left as it is"
    )
