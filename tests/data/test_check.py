"""Every pixel decodes, nothing is used twice."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeskin import catalog, out
from edgeskin.data.check import check_images, summary
from edgeskin.data.pairs import UNLABELLED, Pair, PairSet
from edgeskin.data.roles import Roles
from edgeskin.errors import EdgeskinError

SCHEMA = catalog.schema("milk10k5")


@pytest.fixture(autouse=True)
def _quiet():
    out.configure(quiet=True)
    yield
    out.configure()


def photo(path, width=40, height=30, seed=0, format="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format=format)
    return path


@pytest.fixture
def pairs(tmp_path):
    return [
        Pair(
            f"L{i}",
            photo(tmp_path / f"d{i}.jpg", seed=i),
            photo(tmp_path / f"c{i}.jpg", 50, seed=9 + i),
            {"DIAG": i},
            i + 2,
        )
        for i in range(4)
    ]


def collection(tmp_path, pairs, border_px=0):
    return PairSet("test", tmp_path, SCHEMA, tuple(pairs), border_px=border_px)


def test_a_clean_collection_passes(tmp_path, pairs):
    check_images(collection(tmp_path, pairs))


def test_every_unreadable_file_is_reported_once_and_together(tmp_path, pairs):
    whole = pairs[0].dermoscopic.read_bytes()
    pairs[0].dermoscopic.write_bytes(whole[: len(whole) // 2])
    pairs[1].clinical.write_text("not an image")
    pairs[2].dermoscopic.unlink()
    pairs[3].dermoscopic.write_bytes(b"")
    with pytest.raises(EdgeskinError, match=r"^4 problems in the data") as caught:
        check_images(collection(tmp_path, pairs))
    rows = [detail.split(":")[0] for detail in caught.value.details]
    assert rows == ["row 2", "row 3", "row 4", "row 5"]
    assert "d0.jpg" in caught.value.details[0]
    assert "truncated" in caught.value.details[0]
    assert "c1.jpg" in caught.value.details[1]
    assert "no such image" in caught.value.details[2]


def test_a_file_that_only_fails_in_its_last_bytes_is_found(tmp_path, pairs):
    buffer = io.BytesIO()
    photo(buffer, 200, 200, format="PNG")
    pairs[0].dermoscopic.write_bytes(buffer.getvalue()[:-3000])
    with Image.open(pairs[0].dermoscopic) as image:
        assert image.size == (200, 200)  # the header is fine
    with pytest.raises(EdgeskinError, match=r"1 problem "):
        check_images(collection(tmp_path, pairs))


def test_the_same_lesion_or_image_twice(tmp_path, pairs):
    (tmp_path / "link.jpg").symlink_to(pairs[1].clinical)
    pairs.append(Pair("L0", tmp_path / "link.jpg", None, {"DIAG": 0}, 6))
    pairs.append(Pair("L9", pairs[2].dermoscopic, None, {"DIAG": 0}, 7))
    with pytest.raises(EdgeskinError, match=r"^3 problems") as caught:
        check_images(collection(tmp_path, pairs))
    assert "duplicate lesion 'L0', first in row 2" in caught.value.details[0]
    assert "image is used twice, first by lesion 'L1' in row 3" in caught.value.details[1]
    assert "image is used twice, first by lesion 'L2' in row 4" in caught.value.details[2]


def test_images_smaller_than_their_border(tmp_path, pairs):
    check_images(collection(tmp_path, pairs, border_px=14))
    with pytest.raises(EdgeskinError, match=r"^8 problems.*is smaller than its border of 15 px"):
        check_images(collection(tmp_path, pairs, border_px=15))


def test_summary_counts(tmp_path, pairs):
    pairs[1] = Pair("L1", pairs[1].dermoscopic, None, {"DIAG": UNLABELLED}, 3, patient_id="P")
    roles = Roles({"train": tuple(pairs[:2]), "calibration": (pairs[2],), "control": (pairs[3],), "test": ()})
    found = summary(collection(tmp_path, pairs), roles)
    assert found["lesions"] == 4
    assert found["patients"] == 1
    assert found["missing_clinical"] == 1
    assert found["roles"]["train"]["missing_clinical"] == 1
    assert found["roles"]["train"]["classes"]["DIAG"] == {
        "BCC": 1,
        "NEV": 0,
        "MEL": 0,
        "MISC": 0,
        "SK": 0,
        "unlabelled": 1,
    }
    assert found["roles"]["control"]["classes"]["DIAG"]["MISC"] == 1
    assert found["image_sizes"] == {"dermoscopic": {"40x30": 4}, "clinical": {"50x30": 3}}
    assert found["root"] == str(Path(tmp_path))
