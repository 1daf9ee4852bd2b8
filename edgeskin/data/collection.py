"""A collection of one's own: a folder with `pairs.csv`, or the CSV file itself. UTF-8, comma, one row a lesion.

lesion_id     required, unique
dermoscopic   required: image path, relative to the CSV file (or absolute)
clinical      image path; the column or a cell may be missing or empty: no clinical image
<task>        one column for each task of the schema, under the task's `column` or else its name; the cell
              holds a raw value or a class name of that task, in any case; empty: unlabelled
patient_id    optional: all lesions of a patient get the same role
role          optional: train, calibration, control or test. Empty cells beside filled ones mean train;
              without the column, roles are drawn
any other     is kept for sub-group reports
"""

from pathlib import Path
from typing import cast

from edgeskin.data.pairs import UNLABELLED, Pair, PairSet, Problems, class_number, read_table
from edgeskin.errors import EdgeskinError
from edgeskin.spec.roles import ROLES, Role
from edgeskin.spec.schema import Schema

TABLE = "pairs.csv"
_OWN = {"lesion_id", "dermoscopic", "clinical", "patient_id", "role"}


def load(root: Path, schema: Schema) -> PairSet:
    """Read the collection; every fault is reported together.

    Raises:
        EdgeskinError: missing root, not a CSV, a missing column, or the list of all faults with row and path.
    """
    if not root.exists():
        raise EdgeskinError("missing root", got=str(root), fix=f"pass --root DIR with {TABLE}, or the CSV file itself")
    table = root / TABLE if root.is_dir() else root
    if not table.is_file():
        raise EdgeskinError(
            "wrong layout for csv", got=f"{root} without {TABLE}", fix=f"write {TABLE} or pass its path"
        )
    folder = table.parent
    rows = read_table(table, ["lesion_id", "dermoscopic"])
    header = rows[0][1].keys()
    columns = {t.name: t.column if t.column in header else t.name for t in schema.tasks}
    absent = [t.column or t.name for t in schema.tasks if columns[t.name] not in header]
    if absent:
        raise EdgeskinError(
            f"missing task columns {', '.join(absent)}",
            got=f"{table} with {', '.join(header)}",
            fix="add the columns (cells may be empty) or pass another --schema",
        )
    problems = Problems()
    pairs: list[Pair] = []
    seen: dict[str, int] = {}
    for row, record in rows:
        lesion = record["lesion_id"]
        if not lesion:
            problems.add(row, table.name, "no lesion_id")
        elif lesion in seen:
            problems.add(row, table.name, f"duplicate lesion_id {lesion!r}, first in row {seen[lesion]}")
        seen.setdefault(lesion, row)
        if not record["dermoscopic"]:
            problems.add(row, table.name, "no dermoscopic image named")
        role = record.get("role", "").lower()
        if role and role not in ROLES:
            problems.add(row, table.name, f"unknown role {role!r}; possible: {', '.join(ROLES)}")
        labels = {
            t.name: class_number(t, cell, problems, row, table.name)
            if (cell := record[columns[t.name]])
            else UNLABELLED
            for t in schema.tasks
        }
        images = {k: folder / record[k] for k in ("dermoscopic", "clinical") if record.get(k)}
        for kind, path in images.items():
            if not path.is_file():
                problems.add(row, path, f"no such {kind} image")
        used = _OWN | set(columns.values())
        pairs.append(
            Pair(
                lesion,
                images.get("dermoscopic", folder),
                images.get("clinical"),
                labels,
                row,
                patient_id=record.get("patient_id") or None,
                role=cast(Role, role) if role else None,
                meta={k: v for k, v in record.items() if k not in used},
            )
        )
    problems.raise_if_any(root)
    return PairSet("csv", root, schema, tuple(pairs))
