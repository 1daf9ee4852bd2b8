"""The command line end to end on drawn pairs, with real engines: what commands make of these, and what they refuse."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgeskin
from edgeskin import chain
from edgeskin.errors import EdgeskinError
from tests.commands import cli, refused

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("nncf", reason="needs the extra export")

ROOT = Path(__file__).resolve().parents[1]
BACKBONE = "test_efficientnet"
TRAIN = [
    "--calibration",
    "0.1",
    "--epochs",
    "2",
    "--size",
    "64",
    "--start-size",
    "64",
    "--batch-pairs",
    "16",
    "--workers",
    "0",
]
# So small a network gains nothing from INT8, and so few lesions can prove nothing: tests/test_exporting.py asks that.
EXPORT = ["--calibration-pairs", "4", "--no-tune", "--allow-ungated"]
SUITE = """
name = "tiny"
min_warmup = 4
max_warmup = 8
min_queries = 8
min_seconds = 0
max_seconds = 20
frame_height = 120
frame_width = 160
cold_starts = 0
bootstrap = 100
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a phantom, a run, and a bundle for each target; everything through the command line."""
    folder = tmp_path_factory.mktemp("chain")
    cli("data", "phantom", "--n", 100, "--size", 64, "--seed", 3, "--out", folder / "phantom")
    source = ["--data", "derm7pt", "--root", folder / "phantom"]
    cli("train", *source, "--backbone", BACKBONE, "--weights", "scratch", *TRAIN, "--out", folder / "run")
    for target in ("openvino", "onnxruntime"):
        cli("export", folder / "run", "--target", target, "--out", folder / target, *EXPORT)
    (folder / "tiny.toml").write_text(SUITE)
    return folder


def photos(folder: Path) -> tuple[Path, Path]:
    """A clinical and a dermoscopic photograph of the phantom."""
    with (folder / "phantom" / "meta" / "meta.csv").open(newline="") as handle:
        row = next(r for r in csv.DictReader(handle) if r["clinic"].lower() != r["derm"].lower())
    images = folder / "phantom" / "images"
    found = {p.relative_to(images).as_posix().lower(): p for p in images.rglob("*.*")}
    return found[row["clinic"].lower()], found[row["derm"].lower()]


def test_finished_work_is_not_done_again(made, capsys):
    stamp = (made / "openvino" / "manifest.json").stat().st_mtime_ns
    cli("export", made / "run", "--target", "openvino", "--out", made / "openvino", *EXPORT)
    assert (made / "openvino" / "manifest.json").stat().st_mtime_ns == stamp
    weights = (made / "run" / "checkpoint.safetensors").stat().st_mtime_ns
    source = ["--data", "derm7pt", "--root", made / "phantom"]
    cli("train", *source, "--backbone", BACKBONE, "--weights", "scratch", *TRAIN, "--out", made / "run")
    assert (made / "run" / "checkpoint.safetensors").stat().st_mtime_ns == weights


def test_bundles_carry_no_patient_image_and_no_path(made):
    manifest = json.loads((made / "openvino" / "manifest.json").read_text())
    assert manifest["phantom"] is True
    assert {c["mode"] for c in manifest["golden"]} == {"pair", "dermoscopic"}
    model = (made / "openvino" / "model" / "pair.xml").read_text()
    assert str(ROOT) not in model
    assert str(made) not in model
    assert not re.search(r">\s+<", model.strip())
    onnx_bytes = (made / "onnxruntime" / "model" / "pair.onnx").read_bytes()
    assert str(ROOT).encode() not in onnx_bytes


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_the_two_modes_of_an_examination(made, target):
    clinical, dermoscopic = photos(made)
    pair = json.loads(cli("run", made / target, "--clinical", clinical, "--dermoscopic", dermoscopic, "--json"))
    alone = json.loads(cli("run", made / target, "--dermoscopic", dermoscopic, "--json"))
    assert (pair["mode"], alone["mode"]) == ("pair", "dermoscopic")
    assert set(pair["branches"]) == {"clinical", "dermoscopic"}
    for answer in (pair, alone):
        for classes in answer["probabilities"].values():
            assert sum(classes.values()) == pytest.approx(1)
        assert answer["decision"]["refer"] == (answer["decision"]["probability"] >= answer["decision"]["threshold"])
        assert answer["score"] is not None
    assert pair["probabilities"] != alone["probabilities"]
    assert "not a medical device" in cli("run", made / target, "--dermoscopic", dermoscopic)


def test_an_image_that_cannot_be_judged_is_no_error_and_no_class(made, tmp_path):
    clinical, _ = photos(made)
    Image.fromarray(np.full((64, 64, 3), 5, np.uint8)).save(tmp_path / "cap.png")
    asked = ["run", made / "onnxruntime", "--clinical", clinical, "--dermoscopic", tmp_path / "cap.png"]
    told = json.loads(cli(*asked, "--json"))
    assert told["quality"] == {"clinical": [], "dermoscopic": ["empty"]}
    assert (told["assessable"], told["decision"], told["predicted"], told["probabilities"]) == (False, None, {}, {})
    assert "not assessable: dermoscopic image empty" in cli(*asked)


def test_python_says_what_the_command_says(made):
    clinical, dermoscopic = photos(made)
    told = json.loads(
        cli("run", made / "onnxruntime", "--clinical", clinical, "--dermoscopic", dermoscopic, "--json", "--threads", 1)
    )
    model = edgeskin.load(made / "onnxruntime", threads=1)
    as_array = np.asarray(Image.open(dermoscopic).convert("RGB"))
    result = model.classify(clinical=Image.open(clinical), dermoscopic=as_array)
    assert result.probabilities == told["probabilities"]


def test_many_pairs_from_folder_and_csv(made, tmp_path):
    clinical, dermoscopic = photos(made)
    shutil.copy(clinical, tmp_path / "one_clinical.jpg")
    shutil.copy(dermoscopic, tmp_path / "one_dermoscopic.jpg")
    shutil.copy(dermoscopic, tmp_path / "two_dermoscopic.jpg")
    table = tmp_path / "pairs.csv"
    table.write_text(
        "lesion_id,dermoscopic,clinical\none,one_dermoscopic.jpg,one_clinical.jpg\ntwo,two_dermoscopic.jpg,\n"
    )
    from_folder = json.loads(cli("run", made / "openvino", "--pairs", tmp_path, "--json"))
    from_csv = json.loads(cli("run", made / "openvino", "--pairs", table, "--json"))
    assert [(r["lesion_id"], r["mode"]) for r in from_folder] == [("one", "pair"), ("two", "dermoscopic")]
    assert [r["probabilities"] for r in from_folder] == [r["probabilities"] for r in from_csv]


def test_verify_bench_and_report(made):
    clinical_free = ["--bootstrap", 100]
    for target in ("openvino", "onnxruntime"):
        out = made / f"verify-{target}.json"
        text = cli("verify", made / target, *clinical_free, "--out", out)
        assert "golden cases: 8 of 8" in text
        assert "flips of the class" in text
        found = json.loads(out.read_text())
        assert found["role"] == "test"
        assert (
            found["role_sha256"] == json.loads((made / target / "manifest.json").read_text())["roles"]["test"]["sha256"]
        )
        suite, bench = made / "tiny.toml", made / f"bench-{target}.json"
        cli("bench", made / target, "--suite", suite, "--verified", out, "--out", bench)
        measured = json.loads(bench.read_text())
        assert measured["verify"]["bundle_sha256"] == measured["bundle_sha256"]
        assert all(lane["same_outputs"]["same"] for lane in measured["lanes"])
    results = [f"--verified={made}/verify-{t}.json" for t in ("openvino", "onnxruntime")]
    results += [f"--benched={made}/bench-{t}.json" for t in ("openvino", "onnxruntime")]
    page = made / "report.html"
    cli("report", made / "openvino", made / "onnxruntime", *results, "--run", made / "run", "--out", page)
    html = page.read_text()
    assert "Phantom" in html
    assert "not a medical device" in html
    assert "http://" not in html.replace("http://www.w3.org", "")


def test_a_fresh_collection_is_scored_without_the_lesions_of_the_training(made, tmp_path):
    cli("data", "phantom", "--n", 20, "--size", 64, "--seed", 9, "--out", tmp_path / "fresh")
    error = refused("verify", made / "openvino", "--root", tmp_path / "fresh")
    assert "--role all" in error.line()
    # Case numbers run from 1, so most of the fresh phantom's ids are known: those lesions are left out, and said so.
    found = json.loads(
        cli("verify", made / "openvino", "--root", tmp_path / "fresh", "--role", "all", "--bootstrap", 100, "--json")
    )
    assert 0 < found["lesions"] < 20
    assert any("left out" in note for note in found["notes"])


def test_verify_without_the_data_holds_the_golden_cases(made, tmp_path):
    bundle = tmp_path / "b"
    shutil.copytree(made / "openvino", bundle)
    moved = tmp_path / "elsewhere"
    (made / "phantom").rename(moved)
    try:
        found = json.loads(cli("verify", bundle, "--json"))
    finally:
        moved.rename(made / "phantom")
    assert found["passed"]
    assert found["lesions"] == 0
    assert any("golden cases only" in note for note in found["notes"])


def test_pack_is_reproducible_and_runs(made, tmp_path):
    _, dermoscopic = photos(made)
    for name in ("a.zip", "b.zip"):
        cli("pack", made / "onnxruntime", "--lean", "--out", tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    packed = json.loads(cli("run", tmp_path / "a.zip", "--dermoscopic", dermoscopic, "--json"))
    folder = json.loads(cli("run", made / "onnxruntime", "--dermoscopic", dermoscopic, "--json"))
    assert packed["probabilities"] == folder["probabilities"]


def test_inspect_devices_doctor_and_data_check(made):
    summary = json.loads(cli("inspect", made / "openvino", "--json"))
    assert summary["target"] == "openvino"
    assert summary["provenance"]["calibration_pairs"] == 4
    assert "jetson-orin-nano" in {d["name"] for d in json.loads(cli("devices", "--json"))}
    assert {"python", "inference engine"} <= {c["name"] for c in json.loads(cli("doctor", "--json"))}
    counts = json.loads(cli("data", "check", "--data", "derm7pt", "--root", made / "phantom", "--json"))
    assert sum(r["lesions"] for r in counts["roles"].values()) == 100


@pytest.mark.slow
def test_two_processes_train_together(made, tmp_path):
    source = ["--data", "derm7pt", "--root", made / "phantom", "--backbone", BACKBONE, "--weights", "scratch"]
    command = [
        sys.executable,
        "-m",
        "edgeskin.cli",
        "train",
        *source,
        *TRAIN,
        "--devices",
        2,
        "--out",
        tmp_path / "run",
    ]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 2/2: loss") == 1  # one of them speaks
    record = json.loads((tmp_path / "run" / "checkpoint.json").read_text())
    assert record["train"]["devices"] == 2
    assert not (tmp_path / "run" / "frames").exists()


class TestRefusals:
    """Each is one line, exit code 2, and leaves nothing half-written."""

    def test_unknown_backbone(self, made, tmp_path):
        source = ["--data", "derm7pt", "--root", made / "phantom", "--out", tmp_path / "run"]
        error = refused("train", *source, "--backbone", "efficientnet_lite9")
        assert "unknown backbone" in error.line()
        assert not (tmp_path / "run" / "checkpoint.json").exists()

    def test_no_weights_is_no_silent_random_start(self, made, tmp_path):
        source = ["--data", "derm7pt", "--root", made / "phantom", "--out", tmp_path / "run"]
        assert "no pretrained weights" in refused("train", *source, "--backbone", BACKBONE).line()

    def test_unknown_target_device_recipe_and_role(self, made, tmp_path):
        run, out = made / "run", tmp_path / "b"
        assert "did you mean 'openvino'" in refused("export", run, "--target", "openvin", "--out", out).line()
        error = refused("export", run, "--target", "openvino", "--device", "raspbery-pi-5", "--out", out)
        assert "did you mean 'raspberry-pi-5'" in error.line()
        assert (
            "jetson-thor"
            in refused("export", run, "--target", "openvino", "--device", "jetson-thor", "--out", out).line()
        )
        assert (
            "unknown recipe"
            in refused("export", run, "--target", "openvino", "--recipe", "openvino-int4", "--out", out).line()
        )
        assert "unknown role" in refused("verify", made / "openvino", "--role", "tset").line()
        assert not out.exists()

    def test_too_few_calibration_pairs(self, made, tmp_path):
        error = refused("export", made / "run", "--target", "onnxruntime", "--out", tmp_path / "b")
        assert "too few calibration pairs" in error.line()
        assert "--calibration-pairs" in error.line()
        assert not (tmp_path / "b").exists()

    def test_truncated_checkpoint(self, made, tmp_path):
        run = tmp_path / "run"
        shutil.copytree(made / "run", run)
        weights = run / "checkpoint.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        error = refused("export", run, "--target", "openvino", "--out", tmp_path / "b")
        assert "truncated" in error.line()
        assert not (tmp_path / "b").exists()

    def test_tampered_bundle(self, made, tmp_path):
        bundle = tmp_path / "b"
        shutil.copytree(made / "openvino", bundle)
        model = bundle / "model" / "pair.bin"
        data = bytearray(model.read_bytes())
        data[len(data) // 2] ^= 1
        model.write_bytes(bytes(data))
        assert "pair.bin" in refused("inspect", bundle).line()

    def test_unknown_class_and_corrupt_image_are_told_together(self, made, tmp_path):
        root = tmp_path / "phantom"
        shutil.copytree(made / "phantom", root)
        meta = root / "meta" / "meta.csv"
        rows = list(csv.DictReader(meta.read_text().splitlines()))
        rows[3]["diagnosis"], rows[5]["streaks"] = "frostbite", "many"
        with meta.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        error = refused("data", "check", "--data", "derm7pt", "--root", root)
        assert any("frostbite" in d and "row 5" in d for d in error.details)
        assert any("many" in d and "row 7" in d for d in error.details)
        shutil.copy(made / "phantom" / "meta" / "meta.csv", meta)
        victims = sorted((root / "images").rglob("*.*"))[:2]
        for victim in victims:
            victim.write_bytes(victim.read_bytes()[:300])
        error = refused("train", "--data", "derm7pt", "--root", root, "--out", tmp_path / "run")
        assert all(any(victim.name in d for d in error.details) for victim in victims)
        assert not (tmp_path / "run").exists()

    def test_empty_role(self, made, tmp_path):
        image = photos(made)[1]
        shutil.copy(image, tmp_path / "a.jpg")
        names = "DIAG,PN,BWV,VS,PIG,STR,DaG,RS"
        (tmp_path / "pairs.csv").write_text(
            f"lesion_id,dermoscopic,clinical,{names}\n1,a.jpg,,NEV,ABS,ABS,ABS,ABS,ABS,ABS,ABS\n"
        )
        error = refused("train", "--data", "csv", "--schema", "spc", "--root", tmp_path, "--out", tmp_path / "run")
        assert "empty role" in error.line()

    def test_an_image_that_is_none(self, made, tmp_path):
        broken = tmp_path / "a.jpg"
        broken.write_text("no image")
        assert "unreadable image" in refused("run", made / "openvino", "--dermoscopic", broken).line()
        assert "dermoscopic image is needed" in refused("run", made / "openvino", "--clinical", broken).line()
        model = edgeskin.load(made / "openvino")
        with pytest.raises(EdgeskinError, match="wrong image dtype"):
            model.classify(dermoscopic=np.zeros((8, 8, 3), np.float32))  # type: ignore[arg-type]
        with pytest.raises(EdgeskinError, match="wrong image shape"):
            model.classify(dermoscopic=np.zeros((8, 8), np.uint8))

    def test_another_run_in_the_folder_is_kept(self, made):
        source = ["--data", "derm7pt", "--root", made / "phantom", "--out", made / "run"]
        before = (made / "run" / "checkpoint.json").read_bytes()
        error = refused("train", *source, "--backbone", BACKBONE, "--weights", "scratch", *TRAIN, "--seed", "5")
        assert "another run" in error.line()
        assert (made / "run" / "checkpoint.json").read_bytes() == before

    def test_data_that_changed_since_the_training(self, made, tmp_path):
        cli("data", "phantom", "--n", 20, "--size", 64, "--seed", 9, "--out", tmp_path / "other")
        error = refused(
            "export", made / "run", "--target", "openvino", "--root", tmp_path / "other", "--out", tmp_path / "b"
        )
        assert "changed since the training" in error.line()

    def test_no_such_extra(self, made, monkeypatch, tmp_path):
        import importlib.util

        real = importlib.util.find_spec

        def without(name: str, package: str | None = None):
            return None if name == "openvino" else real(name, package)

        monkeypatch.setattr(importlib.util, "find_spec", without)
        monkeypatch.setattr("edgeskin.backends.openvino.find_spec", without)
        _, dermoscopic = photos(made)
        assert (
            "pip install 'edgeskin[openvino]'" in refused("run", made / "openvino", "--dermoscopic", dermoscopic).line()
        )

    def test_disk_full_leaves_no_bundle(self, made, monkeypatch, tmp_path):
        import errno

        real = os.fsync

        def full(handle: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(EdgeskinError, match="disk is full"):
            chain.export(made / "run", "onnxruntime", tmp_path / "b", calibration_pairs=4, allow_ungated=True)
        monkeypatch.setattr(os, "fsync", real)
        assert list(tmp_path.iterdir()) == []
