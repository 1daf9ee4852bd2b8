"""MILK10k's official layout on synthetic rows, and on the real pairs where they are at hand."""

import csv
from pathlib import Path

import pytest
from PIL import Image

from edgeskin import catalog
from edgeskin.data.milk10k import load
from edgeskin.data.pairs import UNLABELLED
from edgeskin.data.registry import load_pairs
from edgeskin.errors import EdgeskinError

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "milk10k"
CLASSES = ("AKIEC", "BCC", "BEN_OTH", "BKL", "DF", "INF", "MAL_OTH", "MEL", "NV", "SCCKA", "VASC")
TRUTH, METADATA = "MILK10k_Training_GroundTruth.csv", "MILK10k_Training_Metadata.csv"
SCHEMA = catalog.schema("milk10k")


class Collection:
    """Rows of a small collection, to be spoilt before it is written."""

    def __init__(self) -> None:
        self.truth = [[f"IL_{i}", *("1.0" if k == i % 11 else "0.0" for k in range(11))] for i in range(12)]
        self.meta = [
            [f"IL_{i}", kind, f"ISIC_{i}{place}", "55", "female", "3", "trunk", "0.9"]
            for i in range(12)
            for place, kind in enumerate(("clinical: close-up", "dermoscopic"))
        ]
        self.truth_header = ["lesion_id", *CLASSES]
        self.meta_header = [
            "lesion_id",
            "image_type",
            "isic_id",
            "age_approx",
            "sex",
            "skin_tone_class",
            "site",
            "MONET_hair",
        ]
        self.without: set[str] = set()

    def write(self, root: Path) -> Path:
        for name, header, rows in ((TRUTH, self.truth_header, self.truth), (METADATA, self.meta_header, self.meta)):
            with (root / name).open("w", newline="") as handle:
                csv.writer(handle).writerows([header, *rows])
        (root / "MILK10k_Training_Input").mkdir()
        for row in self.meta:
            folder = root / "MILK10k_Training_Input" / row[0]
            folder.mkdir(exist_ok=True)
            if row[2] not in self.without:
                Image.new("RGB", (8, 6)).save(folder / f"{row[2]}.jpg")
        return root


def test_a_clean_collection(tmp_path):
    collection = Collection()
    del collection.meta[0]  # IL_0 has no clinical image
    pairs = load(collection.write(tmp_path), SCHEMA)
    assert pairs.name == "milk10k"
    assert not pairs.phantom
    assert [p.lesion_id for p in pairs.pairs] == [f"IL_{i}" for i in range(12)]
    assert [p.labels["DIAG"] for p in pairs.pairs] == [i % 11 for i in range(12)]
    assert [p.clinical is None for p in pairs.pairs] == [True] + [False] * 11
    third = pairs.by_id()["IL_2"]
    assert third.dermoscopic == tmp_path / "MILK10k_Training_Input/IL_2/ISIC_21.jpg"
    assert third.row == 4
    assert dict(third.meta) == {"age_approx": "55", "sex": "female", "skin_tone_class": "3", "site": "trunk"}


def test_grouped_classes(tmp_path):
    labels = [p.labels["DIAG"] for p in load(Collection().write(tmp_path), catalog.schema("milk10k5")).pairs]
    names = catalog.schema("milk10k5").tasks[0].class_names
    assert [names[k] for k in labels[:11]] == [
        "MISC", "BCC", "MISC", "SK", "MISC", "MISC", "MISC", "MEL", "NEV", "MISC", "MISC",
    ]  # fmt: skip


def spoil_duplicate_lesion(c):
    c.truth.append(c.truth[3])


def spoil_no_class(c):
    c.truth[1][2] = "0.0"


def spoil_two_classes(c):
    c.truth[1][5] = "1.0"


def spoil_no_number(c):
    c.truth[1][5] = "yes"


def spoil_kind(c):
    c.meta[4][1] = "overview"


def spoil_two_images(c):
    c.meta.append(["IL_1", "dermoscopic", "ISIC_x"])


def spoil_missing_file(c):
    c.without.add("ISIC_51")


def spoil_no_dermoscopic(c):
    del c.meta[1]


def spoil_no_truth(c):
    del c.truth[6]


def spoil_unknown_class(c):
    c.truth_header[3] = "NEW"


def spoil_empty_id(c):
    c.truth[4][0] = ""


FAULTS = {
    spoil_duplicate_lesion: f"row 14: {TRUTH}: duplicate lesion_id 'IL_3', first in row 5",
    spoil_no_class: f"row 3: {TRUTH}: expected one class, found none",
    spoil_two_classes: f"row 3: {TRUTH}: expected one class, found BCC, DF",
    spoil_no_number: f"row 3: {TRUTH}: column DF: expected 0 or 1, found 'yes'",
    spoil_kind: "ISIC_20.jpg: unknown image_type 'overview'; possible: clinical: close-up, dermoscopic",
    spoil_two_images: "ISIC_x.jpg: lesion 'IL_1' has two dermoscopic images",
    spoil_missing_file: "IL_5/ISIC_51.jpg: no such image",
    spoil_no_dermoscopic: f"row 2: {TRUTH}: lesion 'IL_0' has no dermoscopic image in {METADATA}",
    spoil_no_truth: f"{METADATA}: lesion 'IL_6' has images but no ground truth",
    spoil_unknown_class: f"row 4: {TRUTH}: unknown class 'NEW' for task DIAG; possible: akiec, bcc, ben_oth, bkl",
    spoil_empty_id: f"row 6: {TRUTH}: no lesion_id",
}


@pytest.mark.parametrize("spoil", FAULTS, ids=lambda f: f.__name__[6:])
def test_each_fault_is_named_with_row_and_path(tmp_path, spoil):
    collection = Collection()
    spoil(collection)
    with pytest.raises(EdgeskinError, match=r"in the data") as caught:
        load(collection.write(tmp_path), SCHEMA)
    assert any(FAULTS[spoil] in detail for detail in caught.value.details), caught.value.details


def test_all_faults_come_together(tmp_path):
    collection = Collection()
    for spoil in (spoil_duplicate_lesion, spoil_two_classes, spoil_kind, spoil_missing_file):
        spoil(collection)
    with pytest.raises(EdgeskinError, match=r"^4 problems in the data") as caught:
        load(collection.write(tmp_path), SCHEMA)
    assert len(caught.value.details) == 4


def test_wrong_layouts(tmp_path):
    with pytest.raises(EdgeskinError, match=r"missing root"):
        load(tmp_path / "nowhere", SCHEMA)
    with pytest.raises(EdgeskinError, match=f"wrong layout for MILK10k: got .* without {TRUTH}, {METADATA}"):
        load(tmp_path, SCHEMA)
    collection = Collection()
    collection.meta_header[2] = "id"
    with pytest.raises(EdgeskinError, match=r"missing column isic_id"):
        load(collection.write(tmp_path), SCHEMA)


def test_a_table_that_is_no_table(tmp_path):
    root = Collection().write(tmp_path)
    (root / TRUTH).write_bytes(b"lesion_id,\xff\xfe\n1,2\n")
    with pytest.raises(EdgeskinError, match=r"not a readable table"):
        load(root, SCHEMA)
    (root / TRUTH).write_text("lesion_id,BCC\n")
    with pytest.raises(EdgeskinError, match=r"no rows"):
        load(root, SCHEMA)
    (root / TRUTH).write_text("lesion_id,BCC\nIL_0,1.0,1.0\n")
    with pytest.raises(EdgeskinError, match=r"line 2 has more cells than the header"):
        load(root, SCHEMA)


def test_registry(tmp_path):
    root = Collection().write(tmp_path)
    pairs = load_pairs("milk10k", root, border_px=7)
    assert (pairs.border_px, pairs.schema.name) == (7, "milk10k")
    assert load_pairs("milk10k", root, "milk10k5").schema.name == "milk10k5"
    with pytest.raises(EdgeskinError, match=r"unknown data set: got 'milk'; .*did you mean 'milk10k'"):
        load_pairs("milk", root)
    with pytest.raises(EdgeskinError, match=r"'csv' has no schema of its own"):
        load_pairs("csv", root)
    with pytest.raises(EdgeskinError, match=r"wrong border"):
        load_pairs("milk10k", root, border_px=-1)
    with pytest.raises(EdgeskinError, match=r"unknown schema"):
        load_pairs("milk10k", root, "milk11k")


def test_a_schema_with_other_tasks_leaves_them_unlabelled(tmp_path):
    text = Path(catalog.__file__).parent.joinpath("spec/schemas/milk10k.toml").read_text()
    extra = '\n[[tasks]]\nname = "EXTRA"\ncolumn = "elsewhere"\nclasses = [{ name = "no" }, { name = "yes" }]\n'
    (tmp_path / "s.toml").write_text(text + extra)
    root = tmp_path / "data"
    root.mkdir()
    pairs = load_pairs("milk10k", Collection().write(root), str(tmp_path / "s.toml"))
    assert {p.labels["EXTRA"] for p in pairs.pairs} == {UNLABELLED}
    (tmp_path / "t.toml").write_text(text.replace('column = "diagnosis"', 'column = "elsewhere"').replace("DIAG", "X"))
    with pytest.raises(EdgeskinError, match=r"the schema does not fit the data set"):
        load_pairs("milk10k", root, str(tmp_path / "t.toml"))


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="the real pairs are not beside the checkout")
def test_the_real_collection():
    pairs = load_pairs("milk10k", SHARED)
    assert len(pairs.pairs) == 4192
    assert all(p.clinical for p in pairs.pairs)
