"""A collection of one's own from pairs.csv."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeskin import catalog
from edgeskin.data.collection import load
from edgeskin.data.pairs import UNLABELLED, read_table
from edgeskin.data.registry import load_pairs
from edgeskin.errors import EdgeskinError

SCHEMA = catalog.schema("milk10k5")
SPC = catalog.schema("spc")


def write(root: Path, rows: list[dict[str, str]], name="pairs.csv") -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    (root / name).write_text(text.getvalue(), encoding="utf-8")
    return root


def rows_of(n, **more):
    return [
        {"lesion_id": f"L{i}", "dermoscopic": "d.jpg", "clinical": "c.jpg", "diagnosis": "NV", **more} for i in range(n)
    ]


@pytest.fixture
def root(tmp_path):
    for name in ("d.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_the_documented_columns(root):
    rows = rows_of(3, patient_id="P", role="test", site="arm")
    rows[0].update(clinical="", diagnosis="mel", role="TRAIN", patient_id="")
    rows[1].update(diagnosis="")
    pairs = load(write(root, rows), SCHEMA).pairs
    assert [p.clinical for p in pairs] == [None, root / "c.jpg", root / "c.jpg"]
    assert [p.labels["DIAG"] for p in pairs] == [2, UNLABELLED, 1]
    assert [p.role for p in pairs] == ["train", "test", "test"]
    assert [p.patient_id for p in pairs] == [None, "P", "P"]
    assert dict(pairs[0].meta) == {"site": "arm"}
    assert [p.row for p in pairs] == [2, 3, 4]


def test_only_what_is_required(root):
    rows = [{"lesion_id": "a", "dermoscopic": "d.jpg", "DIAG": "seborrheic"}]
    with pytest.raises(EdgeskinError, match=r"1 problem in the data.*unknown class 'seborrheic' for task DIAG"):
        load(write(root, rows), SCHEMA)
    rows[0]["DIAG"] = "SK"  # the class's own name, in a column of the task's own name
    (pair,) = load(write(root, rows), SCHEMA).pairs
    assert (pair.clinical, pair.role, pair.patient_id, pair.labels["DIAG"]) == (None, None, None, 4)


def test_root_may_be_the_file_itself_and_paths_are_relative_to_it(root):
    write(root, rows_of(1), "mine.csv")
    assert load(root / "mine.csv", SCHEMA).pairs[0].dermoscopic == root / "d.jpg"
    pairs = load_pairs("csv", root / "mine.csv", schema="milk10k5", border_px=2)
    assert (pairs.name, pairs.border_px) == ("csv", 2)


def test_eight_tasks(root):
    row = {"lesion_id": "a", "dermoscopic": "d.jpg"} | {t.column: t.classes[-1].values[-1].upper() for t in SPC.tasks}
    (pair,) = load(write(root, [row]), SPC).pairs
    assert list(pair.labels.values()) == [4, 2, 1, 2, 2, 2, 2, 1]


def test_all_faults_come_together(root):
    rows = rows_of(6)
    rows[1]["lesion_id"] = "L0"
    rows[2]["dermoscopic"] = "no.jpg"
    rows[3]["clinical"] = "no.jpg"
    rows[4].update(diagnosis="zebra", dermoscopic="")
    rows[5].update(lesion_id="", role="exam")
    for row in rows:
        row.setdefault("role", "")
    with pytest.raises(EdgeskinError, match=r"^7 problems") as caught:
        load(write(root, rows), SCHEMA)
    assert caught.value.details == (
        "row 3: pairs.csv: duplicate lesion_id 'L0', first in row 2",
        f"row 4: {root}/no.jpg: no such dermoscopic image",
        f"row 5: {root}/no.jpg: no such clinical image",
        "row 6: pairs.csv: no dermoscopic image named",
        "row 6: pairs.csv: unknown class 'zebra' for task DIAG; possible: bcc, nv, mel, akiec, ben_oth, df, "
        "inf, mal_oth, sccka, vasc, bkl",
        "row 7: pairs.csv: no lesion_id",
        "row 7: pairs.csv: unknown role 'exam'; possible: train, calibration, control, test",
    )


def test_wrong_layouts(root):
    with pytest.raises(EdgeskinError, match=r"missing root"):
        load(root / "nowhere", SCHEMA)
    with pytest.raises(EdgeskinError, match=r"wrong layout for csv: got .* without pairs\.csv"):
        load(root, SCHEMA)
    with pytest.raises(EdgeskinError, match=r"missing column dermoscopic"):
        load(write(root, [{"lesion_id": "a", "diagnosis": "NV"}]), SCHEMA)
    with pytest.raises(EdgeskinError, match=r"missing task columns pigment_network, blue_whitish_veil"):
        load(write(root, rows_of(1)), SPC)


cells = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(cells, st.sampled_from(["NV", "mel", "BCC", ""]), st.text(max_size=8), st.booleans()),
                min_size=1, max_size=20, unique_by=lambda r: r[0]))  # fmt: skip
def test_what_is_written_is_read(root, records):
    rows = [{"lesion_id": i, "dermoscopic": "d.jpg", "clinical": "c.jpg" if c else "", "diagnosis": d,
             "note": n.replace("\x00", "").encode("utf-8", "ignore").decode()} for i, d, n, c in records]  # fmt: skip
    pairs = load(write(root, rows), SCHEMA).pairs
    assert [p.lesion_id for p in pairs] == [r["lesion_id"] for r in rows]
    assert [p.labels["DIAG"] for p in pairs] == [{"NV": 1, "mel": 2, "BCC": 0, "": -1}[r["diagnosis"]] for r in rows]
    assert [p.clinical is None for p in pairs] == [not r["clinical"] for r in rows]
    with (root / "pairs.csv").open(newline="", encoding="utf-8") as handle:
        assert [p.meta["note"] for p in pairs] == [r["note"].strip() for r in csv.DictReader(handle)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=120), st.text(alphabet='lesion_id,dermoscopic"\n\r \x00é;', max_size=80).map(str.encode)
    )
)
def test_any_bytes_give_rows_or_one_error(tmp_path, junk):
    path = tmp_path / "t.csv"
    path.write_bytes(b"lesion_id,dermoscopic\n" + junk)
    try:
        rows = read_table(path, ["lesion_id"])
    except EdgeskinError as error:
        refusal = error
    else:
        assert rows
        assert all(set(record) == {"lesion_id", "dermoscopic"} for _, record in rows)
        assert all(isinstance(cell, str) for _, record in rows for cell in record.values())
        return
    assert "\n" not in refusal.line()
