"""What a loader gives: pairs of one lesion each, and every fault of a collection at once."""

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeskin.errors import EdgeskinError
from edgeskin.spec.roles import Role
from edgeskin.spec.schema import Schema, Task

UNLABELLED = -1


@dataclass(frozen=True, slots=True)
class Pair:
    """One lesion: its dermoscopic image, its clinical image unless missing, its class number for each task.

    `labels` holds a class number for every task of the schema, UNLABELLED where the data has none. `role` is set
    where the data set comes with an official split. `meta` keeps columns for sub-group reports.
    """

    lesion_id: str
    dermoscopic: Path
    clinical: Path | None
    labels: Mapping[str, int]
    row: int
    patient_id: str | None = None
    role: Role | None = None
    meta: Mapping[str, str] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """What a bootstrap draws together: the patient, else the lesion; one may be called as the other is.

        >>> Pair("7", Path("a.jpg"), None, {}, 1).group, Pair("7", Path("a.jpg"), None, {}, 1, patient_id="7").group
        ('lesion 7', 'patient 7')
        """
        return f"patient {self.patient_id}" if self.patient_id else f"lesion {self.lesion_id}"


@dataclass(frozen=True, slots=True)
class PairSet:
    """A collection of pairs under one schema. `phantom` marks drawn images; `border_px` is cut from each side."""

    name: str
    root: Path
    schema: Schema
    pairs: tuple[Pair, ...]
    phantom: bool = False
    border_px: int = 0

    def by_id(self) -> dict[str, Pair]:
        """Lesion id -> pair."""
        return {pair.lesion_id: pair for pair in self.pairs}


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in a collection: where and what."""

    row: int | None
    path: str
    what: str

    def __str__(self) -> str:
        where = f"row {self.row}: " if self.row is not None else ""
        return f"{where}{self.path}: {self.what}"


@dataclass
class Problems:
    """Gathers every fault, so that a user mends a collection in one go."""

    found: list[Problem] = field(default_factory=list)

    def add(self, row: int | None, path: object, what: str) -> None:
        """Note a fault and go on."""
        self.found.append(Problem(row, str(path), what))

    def raise_if_any(self, root: Path) -> None:
        """Raise one EdgeskinError that lists all faults."""
        if self.found:
            count = len(self.found)
            raise EdgeskinError(
                f"{count} problem{'s' if count != 1 else ''} in the data",
                got=f"{root}; first: {self.found[0]}",
                fix="mend or remove these rows, then run `edgeskin data check`",
                details=[str(problem) for problem in self.found],
            )


Loader = Callable[[Path, Schema], PairSet]


def evenly(of: int, most: int) -> list[int]:
    """At most so many places of a role, evenly spread: it may be sorted by class.

    >>> evenly(9, 3), evenly(2, 3)
    ([0, 4, 8], [0, 1])
    """
    return [int(place) for place in np.linspace(0, of - 1, min(of, most)).round()]


def require_root(root: Path, needed: list[str], layout: str) -> None:
    """Check that a root exists and holds what its layout needs.

    Raises:
        EdgeskinError: the root is missing, or files of the layout are.
    """
    if not root.is_dir():
        raise EdgeskinError("missing root", got=str(root), fix=f"pass --root DIR, a folder in the layout of {layout}")
    absent = [name for name in needed if not (root / name).exists()]
    if absent:
        raise EdgeskinError(
            f"wrong layout for {layout}",
            got=f"{root} without {', '.join(absent)}",
            possible=needed,
            fix="point --root at the folder that holds these",
        )


def read_table(path: Path, needed: Iterable[str]) -> list[tuple[int, dict[str, str]]]:
    """Rows of a CSV file (UTF-8, comma, header) with their line numbers; cells stripped, missing cells "".

    Raises:
        EdgeskinError: not a readable CSV in UTF-8, no rows, or without a needed column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle, strict=True)
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            rows = []
            for record in reader:
                if None in record:  # more cells than columns: an unquoted comma shifts all that follow
                    raise csv.Error(f"line {reader.line_num} has more cells than the header")
                rows.append((reader.line_num, {k: (v or "").strip() for k, v in record.items()}))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise EdgeskinError("not a readable table", got=f"{path}: {error}", fix="save it as CSV in UTF-8") from error
    absent = [name for name in needed if name not in header]
    if absent:
        raise EdgeskinError(
            f"missing column{'s' if len(absent) > 1 else ''} {', '.join(absent)}",
            got=f"{path} with {', '.join(header) or 'no header'}",
            fix="add the column",
        )
    if not rows:
        raise EdgeskinError("the table has no rows", got=str(path), fix="add a row for each lesion")
    return rows


def class_number(task: Task, raw: str, problems: Problems, row: int, path: object) -> int:
    """Number of the class that a raw label stands for; UNLABELLED, and a noted fault, if there is none."""
    if (index := task.raw_to_index.get(raw.lower())) is not None:
        return index
    names = [name.lower() for name in task.class_names]
    if raw.lower() in names:
        return names.index(raw.lower())
    values = ", ".join(task.raw_to_index)
    problems.add(row, path, f"unknown class {raw!r} for task {task.name}; possible: {values}")
    return UNLABELLED
