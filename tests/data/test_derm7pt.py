"""Derm7pt's released layout on synthetic rows."""

import csv
import itertools
from pathlib import Path

import pytest
from PIL import Image

from edgeskin import catalog, decide
from edgeskin.data.derm7pt import load
from edgeskin.data.phantom import COLUMNS
from edgeskin.data.roles import assign
from edgeskin.errors import EdgeskinError
from edgeskin.spec.roles import RoleSpec

SCHEMA = catalog.schema("spc")
SPLITS = {"train": range(0, 12), "valid": range(12, 16), "test": range(16, 20)}
# Points as the seven-point checklist gives them, typed from its publication and not taken from the schema.
MAJOR = {
    "pigment_network": ["atypical"],
    "blue_whitish_veil": ["present"],
    "vascular_structures": ["dotted", "linear irregular"],
}
MINOR = {
    "streaks": ["irregular"],
    "pigmentation": ["diffuse irregular", "localized irregular"],
    "dots_and_globules": ["irregular"],
    "regression_structures": ["blue areas", "white areas", "combinations"],
}


def row(i):
    """Case i: raw values turn at different rates, so that many combinations occur."""
    values = {task.column: list(task.raw_to_index) for task in SCHEMA.tasks}
    record = {column: raw[(i * (3 + k)) % len(raw)] for k, (column, raw) in enumerate(values.items())}
    score = sum(2 for c, hit in MAJOR.items() if record[c] in hit) + sum(
        1 for c, hit in MINOR.items() if record[c] in hit
    )
    return {
        "case_num": str(i + 1), "seven_point_score": str(score), "level_of_diagnostic_difficulty": "high",
        "elevation": "flat", "location": "back", "sex": "male", "management": "excision",
        "clinic": f"NEL/NEL{2 * i:03d}.JPG", "derm": f"NEL/Nel{2 * i + 1:03d}.jpg", "case_id": "", "notes": "",
        **record,
    }  # fmt: skip


class Collection:
    """A small collection, to be spoilt before it is written."""

    def __init__(self):
        self.rows = [row(i) for i in range(20)]
        self.splits = {name: [str(i) for i in chosen] for name, chosen in SPLITS.items()}
        self.columns = list(COLUMNS)
        self.files = {r[k] for r in self.rows for k in ("clinic", "derm")}

    def write(self, root: Path) -> Path:
        (root / "meta").mkdir(parents=True)
        with (root / "meta/meta.csv").open("w", newline="") as handle:
            writer = csv.DictWriter(handle, self.columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.rows)
        for name, chosen in self.splits.items():
            (root / f"meta/{name}_indexes.csv").write_text("\n".join(["indexes", *chosen]) + "\n")
        for name in self.files:
            path = root / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 6)).save(path, format="JPEG")
        return root


def test_layout_roles_and_labels(tmp_path):
    pairs = load(Collection().write(tmp_path), SCHEMA)
    assert pairs.name == "derm7pt"
    assert not pairs.phantom
    assert [p.lesion_id for p in pairs.pairs] == [str(i + 1) for i in range(20)]
    assert [p.role for p in pairs.pairs] == ["train"] * 12 + ["control"] * 4 + ["test"] * 4
    assert all(p.patient_id is None for p in pairs.pairs)
    assert all(set(p.meta) == {"elevation", "location", "sex"} for p in pairs.pairs)
    fifth = pairs.pairs[4]
    assert fifth.clinical == tmp_path / "images/NEL/NEL008.JPG"
    assert fifth.dermoscopic == tmp_path / "images/NEL/Nel009.jpg"
    for pair, record in zip(pairs.pairs, Collection().rows, strict=True):
        for task in SCHEMA.tasks:
            name = task.class_names[pair.labels[task.name]]
            assert record[task.column] in next(c.values for c in task.classes if c.name == name)


def test_the_score_is_the_sum_of_the_points(tmp_path):
    collection = Collection()
    pairs = load(collection.write(tmp_path), SCHEMA)
    scores = [decide.points(p.labels, SCHEMA) for p in pairs.pairs]
    assert scores == [int(r["seven_point_score"]) for r in collection.rows]
    assert len(set(scores)) > 3


def test_the_score_over_all_combinations_of_kinds():
    criteria = [t for t in SCHEMA.tasks if t.name != "DIAG"]
    best = 0
    for kinds in itertools.product(*(range(len(t.classes)) for t in criteria)):
        labels = {"DIAG": 0} | {t.name: k for t, k in zip(criteria, kinds, strict=True)}
        raw = {t.column: t.classes[k].values[0] for t, k in zip(criteria, kinds, strict=True)}
        expected = sum(2 for c, hit in MAJOR.items() if raw[c] in hit) + sum(
            1 for c, hit in MINOR.items() if raw[c] in hit
        )
        assert decide.points(labels, SCHEMA) == expected
        best = max(best, expected)
    assert best == 10


def test_root_may_be_the_parent_of_the_release(tmp_path):
    root = Collection().write(tmp_path / "release_v0")
    assert load(tmp_path, SCHEMA).pairs == load(root, SCHEMA).pairs


def test_names_resolve_whatever_their_case(tmp_path):
    collection = Collection()
    collection.files.remove("NEL/NEL008.JPG")
    collection.files.add("nel/Nel008.jpg")
    collection.rows[0]["derm"] = "NEL\\NEL001.JPG"
    pairs = load(collection.write(tmp_path), SCHEMA).pairs
    assert pairs[4].clinical == tmp_path / "images/nel/Nel008.jpg"
    assert pairs[0].dermoscopic == tmp_path / "images/NEL/Nel001.jpg"


def test_clinic_equal_to_derm_means_no_clinical_image(tmp_path):
    collection = Collection()
    collection.rows[2]["clinic"] = collection.rows[2]["derm"]
    collection.rows[3]["clinic"] = collection.rows[3]["derm"].upper()
    collection.rows[5]["clinic"] = ""
    pairs = load(collection.write(tmp_path), SCHEMA).pairs
    assert [i for i, p in enumerate(pairs) if p.clinical is None] == [2, 3, 5]


def test_calibration_comes_out_of_train(tmp_path):
    roles = assign(load(Collection().write(tmp_path), SCHEMA), RoleSpec(calibration=0.2))
    assert {p.lesion_id for r in ("train", "calibration") for p in roles[r]} == {str(i) for i in range(1, 13)}
    assert [p.lesion_id for p in roles["test"]] == ["17", "18", "19", "20"]


def test_a_patient_column_is_used_and_case_id_is_not(tmp_path):
    collection = Collection()
    collection.columns.append("patient_id")
    for i, record in enumerate(collection.rows):
        record.update(patient_id="" if i == 0 else f"P{i}", case_id="same")
    pairs = load(collection.write(tmp_path), SCHEMA).pairs
    assert [p.patient_id for p in pairs[:3]] == [None, "P1", "P2"]


def test_the_marker_makes_a_phantom(tmp_path):
    root = Collection().write(tmp_path)
    (root / "PHANTOM").write_text("drawn")
    assert load(root, SCHEMA).phantom


def spoil_duplicate(c):
    c.rows[3]["case_num"] = "1"


def spoil_class(c):
    c.rows[3]["streaks"] = "wavy"


def spoil_empty(c):
    c.rows[3]["streaks"] = ""


def spoil_file(c):
    c.files.remove("NEL/Nel007.jpg")


def spoil_clinical(c):
    c.files.remove("NEL/NEL006.JPG")


def spoil_unnamed(c):
    c.rows[3]["derm"] = ""


def spoil_twins(c):
    c.files.remove("NEL/Nel007.jpg")
    c.files.update({"NEL/NEL007.jpg", "NEL/nel007.jpg"})


def spoil_split_twice(c):
    c.splits["test"].append("3")


def spoil_split_range(c):
    c.splits["test"].append("20")


def spoil_split_text(c):
    c.splits["test"].append("-1")


def spoil_split_gap(c):
    c.splits["train"].remove("3")


def spoil_escape(c):
    c.rows[3]["derm"] = "../meta/meta.csv"


FAULTS = {
    spoil_duplicate: "row 5: meta/meta.csv: duplicate case_num '1', first in row 2",
    spoil_class: "row 5: meta/meta.csv: unknown class 'wavy' for task STR; possible: absent, regular, irregular",
    spoil_empty: "row 5: meta/meta.csv: unknown class '' for task STR",
    spoil_file: "images/NEL/Nel007.jpg: no such dermoscopic image",
    spoil_clinical: "images/NEL/NEL006.JPG: no such clinical image",
    spoil_unnamed: "row 5: meta/meta.csv: no dermoscopic image named",
    spoil_twins: "dermoscopic image: 2 files differ only in case",
    spoil_split_twice: "row 6: meta/test_indexes.csv: row position 3 is already in meta/train_indexes.csv",
    spoil_split_range: "row 6: meta/test_indexes.csv: row position 20 is beyond the 20 rows of meta/meta.csv",
    spoil_split_text: "row 6: meta/test_indexes.csv: expected a row position, found '-1'",
    spoil_split_gap: "row 5: meta/meta.csv: row position 3 is in none of",
    spoil_escape: "images/../meta/meta.csv: no such dermoscopic image",
}  # fmt: skip


@pytest.mark.parametrize("spoil", FAULTS, ids=lambda f: f.__name__[6:])
def test_each_fault_is_named_with_row_and_path(tmp_path, spoil):
    collection = Collection()
    spoil(collection)
    with pytest.raises(EdgeskinError, match=r"in the data") as caught:
        load(collection.write(tmp_path), SCHEMA)
    assert any(FAULTS[spoil] in detail for detail in caught.value.details), caught.value.details
    assert "row 5" in caught.value.details[0] or "row 6" in caught.value.details[0]


def test_all_faults_come_together(tmp_path):
    collection = Collection()
    for spoil in (spoil_duplicate, spoil_class, spoil_file, spoil_split_text):
        spoil(collection)
    with pytest.raises(EdgeskinError, match=r"^4 problems"):
        load(collection.write(tmp_path), SCHEMA)


def test_wrong_layouts(tmp_path):
    with pytest.raises(EdgeskinError, match=r"missing root"):
        load(tmp_path / "nowhere", SCHEMA)
    with pytest.raises(EdgeskinError, match=r"wrong layout for Derm7pt"):
        load(tmp_path, SCHEMA)
    collection = Collection()
    collection.columns.remove("streaks")
    with pytest.raises(EdgeskinError, match=r"missing column streaks"):
        load(collection.write(tmp_path / "a"), SCHEMA)
