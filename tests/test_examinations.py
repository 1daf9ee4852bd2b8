import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgeskin
from edgeskin import out
from edgeskin.errors import EdgeskinError
from edgeskin.examinations import Examination, classify_all, read_examinations

pytest.importorskip("onnxruntime", reason="the tiny bundle needs edgeskin[onnxruntime]")
TINY = Path(__file__).resolve().parent / "golden" / "tiny-onnxruntime"


@pytest.fixture(autouse=True)
def _quiet():
    out.configure(quiet=True)
    yield
    out.configure()


@pytest.fixture(scope="module")
def model():
    return edgeskin.load(TINY, threads=1)


def image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(30, 220, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(small).resize((64, 48)).save(path)
    return path


@pytest.fixture
def lesions(tmp_path) -> list[Examination]:
    """Four lesions in files, the second without clinical image."""
    found = []
    for k in range(4):
        dermoscopic = image(tmp_path / f"d{k}.png", 2 * k)
        clinical = None if k == 1 else image(tmp_path / f"c{k}.png", 2 * k + 1)
        found.append(Examination(f"L{k}", dermoscopic, clinical))
    return found


def answers(rows):
    """Rows as they are once written and read again, without what differs from run to run."""
    return [{k: v for k, v in json.loads(json.dumps(row)).items() if k != "timings_ms"} for row in rows]


class TestCsv:
    def write(self, folder: Path, text: str | bytes) -> Path:
        path = folder / "pairs.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def test_paths_are_relative_to_the_table(self, tmp_path):
        d, c = image(tmp_path / "x" / "d.jpg"), image(tmp_path / "x" / "c.jpg")
        other = image(tmp_path / "elsewhere.png")
        text = f"lesion_id,dermoscopic,clinical,note\nA,x/d.jpg,x/c.jpg,old\n B , x/d.jpg ,,\nC,{other},x/c.jpg,\n"
        assert read_examinations(self.write(tmp_path, text)) == [
            Examination("A", d, c),
            Examination("B", d, None),
            Examination("C", other, c),
        ]

    def test_byte_order_mark_spaces_and_a_table_without_clinical_column(self, tmp_path):
        d = image(tmp_path / "d.jpg")
        path = self.write(tmp_path, "\ufefflesion_id, dermoscopic\r\nÄ,d.jpg\r\n")
        assert read_examinations(path) == [Examination("Ä", d, None)]

    def test_all_faults_are_listed_with_their_rows(self, tmp_path):
        image(tmp_path / "d.jpg")
        text = (
            "lesion_id,dermoscopic,clinical\nA,d.jpg,\nA,d.jpg,\n,d.jpg,\nB,,\nC,none.jpg,gone.jpg\nD,d.jpg,d,j.jpg\n"
        )
        with pytest.raises(EdgeskinError, match=r"6 problems in .*pairs.csv") as caught:
            read_examinations(self.write(tmp_path, text))
        told = "\n".join(caught.value.details)
        for part in (
            "row 3: duplicate lesion_id 'A'",
            "row 4: lesion_id or dermoscopic is empty",
            "row 5: lesion_id or dermoscopic is empty",
            "row 6: no such image",
            "gone.jpg",
            "row 7: more cells than the header has columns",
        ):
            assert part in told

    def test_a_lacking_column(self, tmp_path):
        with pytest.raises(EdgeskinError, match=r"lacks columns: got 'dermoscopic'; possible: lesion_id, dermoscopic"):
            read_examinations(self.write(tmp_path, "lesion_id,clinical\nA,c.jpg\n"))

    @pytest.mark.parametrize("text", ["", "lesion_id,dermoscopic\n"])
    def test_an_empty_table(self, tmp_path, text):
        with pytest.raises(EdgeskinError, match=r"lacks columns|no pairs found"):
            read_examinations(self.write(tmp_path, text))

    @pytest.mark.parametrize("text", [b"lesion_id,dermoscopic\n\xff\xfe,d.jpg\n", b'lesion_id,dermoscopic\n"A,d.jpg'])
    def test_no_table(self, tmp_path, text):
        with pytest.raises(EdgeskinError, match="not a readable table"):
            read_examinations(self.write(tmp_path, text))

    def test_nothing_there(self, tmp_path):
        with pytest.raises(EdgeskinError, match="no such pairs"):
            read_examinations(tmp_path / "none")


class TestFolder:
    def test_both_layouts(self, tmp_path):
        a = image(tmp_path / "A_dermoscopic.jpg"), image(tmp_path / "A_clinical.PNG")
        b = image(tmp_path / "B" / "dermoscopic.png"), image(tmp_path / "B" / "Clinical.jpg")
        c = image(tmp_path / "ward" / "C_1_Dermoscopic.jpeg")
        image(tmp_path / "cover.jpg")
        (tmp_path / "notes_clinical.txt").write_text("not an image")
        image(tmp_path / "._A_dermoscopic.jpg")  # what a Mac leaves beside a file
        found = {e.lesion_id: (e.dermoscopic, e.clinical) for e in read_examinations(tmp_path)}
        assert found == {"A": a, "B": b, "ward/C_1": (c, None)}

    def test_the_folder_of_one_lesion(self, tmp_path):
        d = image(tmp_path / "case7" / "dermoscopic.png")
        assert read_examinations(tmp_path / "case7") == [Examination("case7", d, None)]

    def test_faults_are_listed(self, tmp_path):
        image(tmp_path / "A_clinical.jpg")
        image(tmp_path / "B_dermoscopic.jpg")
        image(tmp_path / "B_dermoscopic.png")
        with pytest.raises(EdgeskinError, match="2 problems") as caught:
            read_examinations(tmp_path)
        told = caught.value.details
        assert "A: no dermoscopic image" in told
        assert "B: two dermoscopic images: B_dermoscopic.jpg, B_dermoscopic.png" in told

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(EdgeskinError, match=r"no pairs found.*possible: <id>_clinical.jpg"):
            read_examinations(tmp_path)


def test_rows_are_what_the_classifier_says(model, lesions):
    rows = list(classify_all(model, lesions, None))
    assert [row["lesion_id"] for row in rows] == ["L0", "L1", "L2", "L3"]
    assert [row["mode"] for row in rows] == ["pair", "dermoscopic", "pair", "pair"]
    for row, lesion in zip(rows, lesions, strict=True):
        expected = model.classify(dermoscopic=lesion.dermoscopic, clinical=lesion.clinical).to_json()
        assert row["probabilities"] == expected["probabilities"]
        assert row["decision"] == expected["decision"]
        assert row["bundle"] == model.bundle.sha256[:16]


def test_a_lesion_that_cannot_be_judged_is_an_answer(model, lesions, tmp_path):
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(lesions[1].dermoscopic)
    rows = list(classify_all(model, lesions, tmp_path / "a.jsonl"))
    assert [row["assessable"] for row in rows] == [True, False, True, True]
    assert rows[1]["quality"] == {"dermoscopic": ("empty",)}
    assert rows[1]["decision"] is None
    stored = (tmp_path / "a.jsonl").read_text()
    again = list(classify_all(model, lesions, tmp_path / "a.jsonl"))  # neither asked again nor written again
    assert (tmp_path / "a.jsonl").read_text() == stored
    assert [row["assessable"] for row in again] == [True, False, True, True]


def test_answers_from_before_the_quality_gate_are_asked_again(model, lesions, tmp_path):
    rows = list(classify_all(model, lesions, None))
    old = [{k: v for k, v in row.items() if k not in ("assessable", "quality")} for row in rows]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in old))
    assert all(row["assessable"] for row in classify_all(model, lesions, tmp_path / "a.jsonl"))
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == len(rows)


def test_a_corrupt_image_becomes_a_row_and_the_others_go_on(model, lesions, tmp_path):
    whole = lesions[2].clinical.read_bytes()
    lesions[2].clinical.write_bytes(whole[:60])
    lesions[0].dermoscopic.write_text("no image")
    rows = list(classify_all(model, lesions, tmp_path / "a.jsonl"))
    assert ["error" in row for row in rows] == [True, False, True, False]
    assert lesions[2].clinical.name in rows[2]["error"]
    assert "\n" not in rows[2]["error"]
    stored = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert answers(stored) == answers(rows)


def test_failed_lesions_are_tried_again(model, lesions, tmp_path):
    whole, lines = lesions[2].clinical.read_bytes(), tmp_path / "a.jsonl"
    lesions[2].clinical.write_bytes(b"")
    list(classify_all(model, lesions, lines))
    lesions[2].clinical.write_bytes(whole)  # mended
    rows = list(classify_all(model, lesions, lines))
    assert not any("error" in row for row in rows)
    stored = [json.loads(line)["lesion_id"] for line in lines.read_text().splitlines()]
    assert sorted(stored) == ["L0", "L1", "L2", "L3"]


@pytest.mark.parametrize("cut", [1, 5, 16, 300])
def test_a_killed_run_goes_on_where_it_was(model, lesions, tmp_path, monkeypatch, cut):
    """The kill fell into the third line, after `cut` bytes of it."""
    lines = tmp_path / "a.jsonl"
    expected = list(classify_all(model, lesions, lines))
    whole = lines.read_bytes().splitlines(keepends=True)
    assert len(whole[2]) > cut
    lines.write_bytes(b"".join(whole[:2]) + whole[2][:cut])
    done, classify = [], type(model).classify
    monkeypatch.setattr(
        type(model), "classify", lambda self, **given: done.append(given["dermoscopic"].name) or classify(self, **given)
    )
    rows = list(classify_all(model, lesions, lines))
    assert done == ["d2.png", "d3.png"]
    assert answers(rows) == answers(expected)
    stored = [json.loads(line) for line in lines.read_text().splitlines()]
    assert answers(stored) == answers(rows)


@pytest.mark.parametrize(
    "content", ["lesion_id,dermoscopic\nA,d.png\n", "notes", '{"a": 1}\n', "[1]\n", '{"lesion_id": "A"}\n']
)
def test_a_file_that_holds_something_else_is_left_alone(model, lesions, tmp_path, content):
    path = tmp_path / "mine.csv"
    path.write_text(content)
    with pytest.raises(EdgeskinError, match="this file holds no answers"):
        list(classify_all(model, lesions, path))
    assert path.read_text() == content


def test_answers_of_another_bundle_are_not_taken_for_this_ones(model, lesions, tmp_path):
    lines = tmp_path / "a.jsonl"
    list(classify_all(model, lesions, lines))
    before = lines.read_text().replace(model.bundle.sha256[:16], "0" * 16)
    lines.write_text(before)
    with pytest.raises(EdgeskinError, match="answers of another bundle"):
        list(classify_all(model, lesions, lines))
    assert lines.read_text() == before


def test_lesions_with_strange_names(model, lesions, tmp_path):
    """Line breaks of all kinds, quotes and other alphabets survive the file."""
    lines = tmp_path / "a.jsonl"
    strange = [Examination(name, lesions[0].dermoscopic, None) for name in ("a\u2028b", 'c"\n', "病", "{")]
    first = list(classify_all(model, strange, lines))
    shutil.copy(lines, tmp_path / "before")
    assert answers(classify_all(model, strange, lines)) == answers(first)
    assert lines.read_bytes() == (tmp_path / "before").read_bytes()
