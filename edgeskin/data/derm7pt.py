"""Derm7pt (Kawahara et al. 2019, doi:10.1109/JBHI.2018.2824327) in its released layout; users bring it themselves.

    release_v0/
      meta/meta.csv                                  one row a case, 19 columns
      meta/{train,valid,test}_indexes.csv            one column `indexes`: zero-based row positions of meta.csv
      images/<FOLDER>/<file>                         named by the columns `clinic` and `derm`

A case whose `clinic` equals its `derm` has no clinical image. `management` and `level_of_diagnostic_difficulty`
are decided with or after the diagnosis and are not kept. The data has no patient ids; a column `patient_id`
is used where a user has added one.
"""

import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from edgeskin.data.pairs import Pair, PairSet, Problems, class_number, read_table, require_root
from edgeskin.errors import EdgeskinError
from edgeskin.spec.roles import Role
from edgeskin.spec.schema import Schema

LAYOUT = "Derm7pt"
DEFAULT_SCHEMA = "spc"
PHANTOM_MARKER = "PHANTOM"  # a file of this name in the root marks drawn images
_META = "meta/meta.csv"
_SPLITS: dict[str, Role] = {
    "meta/train_indexes.csv": "train",
    "meta/valid_indexes.csv": "control",
    "meta/test_indexes.csv": "test",
}
_KEPT = ("elevation", "location", "sex")


def load(root: Path, schema: Schema) -> PairSet:
    """Read the table, the official split and the image names; every fault is reported together.

    `root` is `release_v0` or the folder that holds it. The official train / valid / test become the roles
    train / control / test; `roles.assign` draws calibration from train.

    Raises:
        EdgeskinError: missing root, wrong layout, a missing column, or the list of all faults with row and path.
    """
    if not (root / "meta").is_dir() and (root / "release_v0").is_dir():
        root = root / "release_v0"
    require_root(root, [_META, *_SPLITS, "images"], LAYOUT)
    columns = {task.name: task.column or task.name for task in schema.tasks}
    rows = read_table(root / _META, ["case_num", "clinic", "derm", *columns.values()])
    problems = Problems()
    roles = _read_roles(root, len(rows), problems)
    files = _Files(root / "images")
    pairs: list[Pair] = []
    seen: dict[str, int] = {}
    for position, (row, record) in enumerate(rows):
        lesion = record["case_num"]
        if not lesion:
            problems.add(row, _META, "no case_num")
        elif lesion in seen:
            problems.add(row, _META, f"duplicate case_num {lesion!r}, first in row {seen[lesion]}")
        seen.setdefault(lesion, row)
        dermoscopic = files.find(record["derm"], row, "dermoscopic", problems)
        one_image = record["clinic"].lower() in ("", record["derm"].lower())
        clinical = None if one_image else files.find(record["clinic"], row, "clinical", problems)
        labels = {t.name: class_number(t, record[columns[t.name]], problems, row, _META) for t in schema.tasks}
        if position not in roles:
            problems.add(row, _META, f"row position {position} is in none of {', '.join(_SPLITS)}")
        if dermoscopic is not None:
            pairs.append(
                Pair(
                    lesion,
                    dermoscopic,
                    clinical if clinical != dermoscopic else None,
                    labels,
                    row,
                    patient_id=record.get("patient_id") or None,
                    role=roles.get(position),
                    meta={k: record[k] for k in _KEPT if k in record},
                )
            )
    problems.raise_if_any(root)
    return PairSet("derm7pt", root, schema, tuple(pairs), phantom=(root / PHANTOM_MARKER).is_file())


def _read_roles(root: Path, count: int, problems: Problems) -> Mapping[int, Role]:
    """Row position of meta.csv -> role."""
    roles: dict[int, Role] = {}
    source: dict[int, str] = {}
    for name, role in _SPLITS.items():
        for row, record in read_table(root / name, ["indexes"]):
            text = record["indexes"]
            if not (text.isascii() and text.isdigit()):
                problems.add(row, name, f"expected a row position, found {text!r}")
            elif (position := int(text)) >= count:
                problems.add(row, name, f"row position {position} is beyond the {count} rows of {_META}")
            elif position in roles:
                problems.add(row, name, f"row position {position} is already in {source[position]}")
            else:
                roles[position], source[position] = role, name
    return roles


class _Files:
    """The images of a folder by name regardless of case: table and disk disagree on it in places."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise EdgeskinError(f"wrong layout for {LAYOUT}", got=str(folder), possible="a folder of images")
        self.folder = folder
        self.exact: set[str] = set()
        self.by_lower: dict[str, list[str]] = defaultdict(list)
        for parent, _, names in os.walk(folder):
            for name in names:
                relative = (Path(parent) / name).relative_to(folder).as_posix()
                self.exact.add(relative)
                self.by_lower[relative.lower()].append(relative)

    def find(self, name: str, row: int, kind: str, problems: Problems) -> Path | None:
        """The image that a cell names; None, and a noted fault, if there is none or more than one."""
        name = name.replace("\\", "/")
        if name in self.exact:
            return self.folder / name
        found = self.by_lower.get(name.lower(), []) if name else []
        if len(found) == 1:
            return self.folder / found[0]
        if not name:
            problems.add(row, _META, f"no {kind} image named")
        elif found:
            problems.add(row, self.folder / name, f"{kind} image: {len(found)} files differ only in case: {found}")
        else:
            problems.add(row, self.folder / name, f"no such {kind} image")
        return None
