"""Derm7pt from its release to the figures of the literature, on a drawn release in the same layout.

The release is not ours to keep: cases, images and splits here are drawn. What only the true table can show, e.g. that
the points reproduce its score on all rows, is asked where it lies beside the checkout.
"""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from edgeskin import catalog, checklist
from edgeskin.cli import app
from edgeskin.data import phantom
from edgeskin.data.check import check_images
from edgeskin.data.phantom_draw import draw
from edgeskin.data.registry import load_pairs
from edgeskin.data.roles import assign
from edgeskin.spec.result import VerifyResult

SPC = catalog.schema("spc")
REAL = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "derm7pt" / "release_v0"
OFFICIAL = {"train": 413, "valid": 203, "test": 395}
COLUMNS = [
    "case_num", "diagnosis", "seven_point_score", "pigment_network", "streaks", "pigmentation", "regression_structures",
    "dots_and_globules", "blue_whitish_veil", "vascular_structures", "level_of_diagnostic_difficulty", "elevation",
    "location", "sex", "management", "clinic", "derm", "case_id", "notes",
]  # fmt: skip
FOLDERS = ("NEL", "FAL", "GDL", "Aal")
BORDER = 4  # black pixels around every third image


def write_release(root: Path, splits: dict[str, int], size: int = 0, seed: int = 0) -> dict[str, list[int]]:
    """A release of drawn cases, without the mark of a phantom. `size` 0: images of one pixel.

    Returns:
        The row positions in each of the official lists, in the lists' own order, which is not that of the table.
    """
    count = sum(splits.values())
    rng = np.random.default_rng(seed)
    rows, images = [], {}
    for number, case in enumerate(phantom.cases(count, seed)):
        folder = FOLDERS[number % len(FOLDERS)]
        clinic = f"{folder}/{folder}{2 * number:03d}.{'JPG' if number % 2 else 'jpg'}"
        derm = f"{folder}/{folder.capitalize()}{2 * number + 1:03d}.{'jpg' if number % 3 else 'JPG'}"
        lacks = number % 110 == 5  # 9 or 10 of 1,011, as in the release
        pictures = draw(case.latent, size) if size else [np.zeros((1, 1, 3), np.uint8)] * 2
        for name, pixels in zip((clinic, derm), pictures, strict=True):
            framed = (
                np.pad(pixels, ((BORDER, BORDER), (BORDER, BORDER), (0, 0))) if size and number % 3 == 0 else pixels
            )
            if name == derm or not lacks:
                images[name] = framed
        rows.append(
            {
                "case_num": number + 1, "diagnosis": case.diagnosis, "seven_point_score": case.score,
                **case.latent.criteria, "level_of_diagnostic_difficulty": case.difficulty,
                "elevation": case.latent.elevation, "location": case.latent.location, "sex": case.sex,
                "management": "excision", "clinic": derm if lacks else clinic,
                "derm": derm.replace(".jpg", ".JPG") if number % 25 == 24 else derm,  # table and disk disagree
                "case_id": f"{folder} {number}", "notes": "clinical image missing" if lacks else "",
            }
        )  # fmt: skip
    (root / "meta").mkdir(parents=True)
    with (root / "meta/meta.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    order, lists, start = rng.permutation(count), {}, 0
    for name, of in splits.items():
        lists[name] = order[start : start + of].tolist()
        start += of
        (root / f"meta/{name}_indexes.csv").write_text("\n".join(["indexes", *map(str, lists[name])]) + "\n")
    encoded: dict[bytes, bytes] = {}
    for name, pixels in images.items():
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if (key := pixels.tobytes()) not in encoded:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, format="JPEG", quality=90)
            encoded[key] = buffer.getvalue()
        path.write_bytes(encoded[key])
    return lists


def test_the_official_split_of_a_release_of_full_size(tmp_path):
    lists = write_release(tmp_path / "release_v0", OFFICIAL)
    pairs = load_pairs("derm7pt", tmp_path)
    assert (len(pairs.pairs), pairs.phantom) == (1011, False)
    assert 9 <= sum(pair.clinical is None for pair in pairs.pairs) <= 10
    roles = assign(pairs, catalog.training_recipe("derm7pt").data.roles)
    named = {role: {pair.lesion_id for pair in roles[role]} for role in ("train", "calibration", "control", "test")}
    official = {name: {str(position + 1) for position in chosen} for name, chosen in lists.items()}
    assert named["test"] == official["test"]
    assert named["control"] == official["valid"]
    assert named["train"] | named["calibration"] == official["train"]
    assert not named["train"] & named["calibration"]
    assert len(named["calibration"]) == pytest.approx(0.04 * 1011, abs=3)
    assert {role: len(ids) for role, ids in named.items()}["test"] == 395
    # Every class of every task occurs among what calibrates: it is drawn in the shares of the diagnoses.
    assert {pair.labels["DIAG"] for pair in roles["calibration"]} == set(range(5))


def test_the_recipe_is_of_the_official_split_at_224_pixels():
    recipe = catalog.training_recipe("derm7pt")
    assert (recipe.data.name, recipe.data.schema_name, recipe.data.border_px) == ("derm7pt", "spc", 25)
    assert recipe.train.size == 224
    assert catalog.schema(recipe.data.schema_name) == SPC


def table_facts(root: Path) -> None:
    """What has to hold of the table of a release, drawn or true: the points give the score of every row."""
    pairs = load_pairs("derm7pt", root).pairs
    labels = {task.name: np.array([pair.labels[task.name] for pair in pairs]) for task in SPC.tasks}
    with (root / "meta/meta.csv").open(newline="", encoding="utf-8-sig") as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == COLUMNS
    assert checklist.scores(labels, SPC).tolist() == [int(row["seven_point_score"]) for row in rows]


def test_the_table_of_a_drawn_release(tmp_path):
    write_release(tmp_path, {"train": 60, "valid": 20, "test": 40})
    table_facts(tmp_path)


@pytest.mark.shared
@pytest.mark.skipif(not REAL.exists(), reason="Derm7pt is not beside the checkout; its users bring it")
def test_the_true_release():
    """Counts and rates as in the data set's description; images are not read."""
    table_facts(REAL)
    pairs = load_pairs("derm7pt", REAL).pairs
    labels = {task.name: np.array([pair.labels[task.name] for pair in pairs]) for task in SPC.tasks}
    assert np.bincount(labels["DIAG"]).tolist() == [42, 575, 252, 97, 45]
    assert [np.bincount(labels[name]).tolist() for name in ("PN", "BWV", "VS", "PIG", "STR", "DaG", "RS")] == [
        [400, 381, 230], [816, 195], [823, 117, 71], [588, 118, 305], [653, 107, 251], [229, 334, 448], [758, 253],
    ]  # fmt: skip
    scores, melanoma = checklist.scores(labels, SPC), labels["DIAG"] == 2
    rates = [
        round(float(rate), 3)
        for limit in (1, 3)
        for rate in ((scores >= limit)[melanoma].mean(), (scores < limit)[~melanoma].mean())
    ]
    assert rates == [0.992, 0.407, 0.929, 0.822]
    assert [sum(pair.role == role for pair in pairs) for role in ("train", "control", "test")] == [413, 203, 395]
    assert sum(pair.clinical is None for pair in pairs) == 9


def cli(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return " ".join(done.stdout.split())


@pytest.mark.slow
def test_from_a_release_to_the_table_of_the_literature(tmp_path):
    pytest.importorskip("timm", reason="needs the extra train")
    pytest.importorskip("onnxruntime")
    root = tmp_path / "release_v0"
    lists = write_release(root, {"train": 80, "valid": 40, "test": 60}, size=72)
    check_images(load_pairs("derm7pt", root, border_px=BORDER))
    small = ["--backbone", "test_efficientnet", "--weights", "scratch", "--epochs", 1, "--batch-pairs", 16]
    small += ["--size", 64, "--train-size", 64, "--start-size", 64, "--border-px", BORDER, "--workers", 0]
    cli("train", "--recipe", "derm7pt", "--root", root, "--out", tmp_path / "run", *small, "--accelerator", "cpu")
    made = ["--target", "onnxruntime", "--out", tmp_path / "bundle", "--calibration-pairs", 4]
    cli("export", tmp_path / "run", *made, "--no-tune", "--allow-ungated")  # few lesions, hardly trained
    said = cli("verify", tmp_path / "bundle", "--bootstrap", 200, "--out", tmp_path / "verify.json")
    found = VerifyResult.parse(json.loads((tmp_path / "verify.json").read_text()), "verify.json")
    assert (found.data, found.role, found.lesions, found.phantom) == ("derm7pt", "test", 60, False)
    assert found.without_clinical == sum(position % 110 == 5 for position in lists["test"])
    if found.without_clinical:
        assert found.every_lesion is not None
        assert (found.every_lesion.lesions, found.accuracy["dermoscopic"].lesions) == (60, 60)
        assert found.accuracy["pair"].lesions == 60 - found.without_clinical
    for mode in ("pair", "dermoscopic"):
        accuracy = found.accuracy[mode]
        assert accuracy.literature is not None
        assert accuracy.score is not None
        each = [accuracy.tasks[task.name]["accuracy"].bundle.value for task in SPC.tasks]
        average = accuracy.literature.average_accuracy.bundle
        assert average.value == pytest.approx(np.mean(each))
        assert average.low < average.value < average.high
        assert [one.title for one in accuracy.literature.classes] == [
            "MEL", "PN-ATP", "BWV-PRS", "VS-IR", "PIG-IR", "STR-IR", "DaG-IR", "RS-PRS",
        ]  # fmt: skip
        for one in accuracy.literature.classes:
            for figure in (one.auc, one.sensitivity, one.specificity, one.precision):
                for side in (figure.fp32, figure.bundle):
                    assert (side.value is None) == bool(side.reason)
        assert [one.threshold for one in accuracy.score.reached] == [1, 3]
        assert accuracy.score.labelled == accuracy.lesions
        assert set(accuracy.calibration) == {task.name for task in SPC.tasks}
    assert "mean accuracy of 8 tasks" in said
    assert "DaG-IR" in said
    assert "true criteria, 60 lesions" in said
    cli("report", tmp_path / "bundle", "--verified", tmp_path / "verify.json", "--out", tmp_path / "report.html")
    for page in ("report.html", "report.md"):
        text = (tmp_path / page).read_text()
        assert "A class against the rest of its task" in text
        assert "mean accuracy of 8 tasks" in text
        assert "Phantom data" not in text
