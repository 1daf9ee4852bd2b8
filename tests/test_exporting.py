"""From a checkpoint to a proven bundle, with real engines: the gate, the audit, the search, QAT, and every refusal."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from edgeskin import catalog, chain, provenance
from edgeskin.data.phantom import write_phantom
from edgeskin.errors import EdgeskinError
from edgeskin.opening import open_bundle
from edgeskin.pictures import flipped
from edgeskin.spec.evidence import Evidence
from edgeskin.spec.manifest import Manifest
from edgeskin.spec.qat import QatSpec
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.result import Estimate
from edgeskin.spec.roles import RoleSpec
from edgeskin.spec.search import Speed
from edgeskin.spec.train import DataSpec, NetworkSpec, TrainSpec

pytest.importorskip("timm", reason="needs the extra train")

TARGETS = ("openvino", "onnxruntime")
WIDE = """
[gate]
bootstrap = 200
groups = ["sex"]
smallest_group = 5
[gate.margins.auc]
value = 1.0
reason = "for a network that was trained for seconds"
"""
STRICT = WIDE.replace("1.0", "0.0").replace("margins.auc", "margins.ece")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of seconds on drawn pairs, with a control role that holds melanomas."""
    folder = tmp_path_factory.mktemp("export")
    write_phantom(folder / "phantom", 160, 5, 64)
    data = DataSpec(
        name="derm7pt", root=str(folder / "phantom"), roles=RoleSpec(calibration=0.1, control=0.4, test=0.2)
    )
    spec = TrainSpec(epochs=2, batch_pairs=8, size=64, train_size=64, start_size=64, workers=0, accelerator="cpu")
    chain.train(data, NetworkSpec(backbone="test_efficientnet"), spec, "scratch", folder / "run")
    return folder / "run"


@pytest.mark.parametrize("modalities", ["dermoscopic", "clinical"])
def test_a_network_to_compare_with_is_not_exported(modalities: str, tmp_path: Path) -> None:
    from edgeskin.model.checkpoint import read_record, save_checkpoint
    from edgeskin.model.network import PairNetwork
    from edgeskin.model.weights import create_encoder
    from tests.backends.test_torch import save_run

    record, _ = save_run(tmp_path / "both")
    spec = record.network.model_copy(update={"modalities": modalities})
    torch.manual_seed(0)
    network = PairNetwork(create_encoder(spec, 32), spec, record.task_schema, record.preprocess)
    save_checkpoint(tmp_path / "alone", network.eval(), record.model_copy(update={"network": spec}))
    assert read_record(tmp_path / "alone").network.modalities == modalities
    with pytest.raises(EdgeskinError, match=f"no bundle takes it: got .*trained on {modalities} images") as caught:
        chain.export(tmp_path / "alone", "onnxruntime", tmp_path / "bundle")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def written(folder: Path, target: str, more: str = "", **changes: object) -> str:
    """A recipe file like the target's own, with these changes and this end; its path."""
    plain = catalog.recipe(f"{target}-int8").to_json() | {"gate": None, "calibration_pairs": 8} | changes
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items() if value is not None]
    path = folder / f"{target}.toml"
    path.write_text("\n".join(lines) + "\n" + more)
    return str(path)


def export(run: Path, target: str, bundle: Path, **options: object) -> Manifest:
    return chain.export(run, target, bundle, **{"tuned": False, **options})  # type: ignore[arg-type]


def proof(bundle: Path) -> Evidence:
    found = open_bundle(bundle).evidence()
    assert found is not None
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_a_bundle_that_holds_its_gate_says_so_and_carries_the_evidence(run: Path, tmp_path: Path, target: str) -> None:
    recipe = written(tmp_path, target, WIDE, int8_macs_floor=0.5)
    manifest = export(run, target, tmp_path / "b", recipe=recipe)
    assert manifest.gated.status == "passed"
    evidence = proof(tmp_path / "b")
    assert evidence.gate is not None
    assert evidence.gate.passed
    assert evidence.gate.lesions == manifest.roles["control"].lesions
    assert evidence.gate.role_sha256 == manifest.roles["control"].sha256
    assert {check.metric for check in evidence.gate.checks} == {"auc"}
    assert any(check.group.startswith("sex") for check in evidence.gate.checks)
    assert evidence.audit is not None
    assert evidence.audit.passed
    assert all(graph.int8_share >= 0.5 for graph in evidence.audit.modes.values())
    assert (evidence.search, evidence.speed, evidence.qat) == (None, None, None)
    lesions = [lesion for one in evidence.gate.parity.values() for lesion in one.referral.lesions]
    assert all(re.fullmatch(r"[0-9a-f]{16}", lesion) for lesion in lesions), "ids do not travel"


@pytest.mark.parametrize("target", TARGETS)
def test_a_gate_that_does_not_hold_writes_no_bundle(run: Path, tmp_path: Path, target: str) -> None:
    recipe = written(tmp_path, target, STRICT)
    with pytest.raises(EdgeskinError, match="--allow-ungated") as caught:
        export(run, target, tmp_path / "b", recipe=recipe)
    assert "ece" in caught.value.line()
    assert not (tmp_path / "b").exists()
    manifest = export(run, target, tmp_path / "b", recipe=recipe, allow_ungated=True)
    assert manifest.gated.status == "ungated"
    assert "ece" in manifest.gated.why
    evidence = proof(tmp_path / "b")
    assert evidence.gate is not None
    assert not evidence.gate.passed
    page = chain.report([tmp_path / "b"], [], [], tmp_path / "r.html")
    assert "NOT GATED" in page.read_text()
    assert "NOT GATED" in page.with_suffix(".md").read_text()


def test_an_int8_recipe_without_a_gate_needs_leave(run: Path, tmp_path: Path) -> None:
    recipe = written(tmp_path, "onnxruntime")
    with pytest.raises(EdgeskinError, match="the recipe has no gate"):
        export(run, "onnxruntime", tmp_path / "b", recipe=recipe)
    assert export(run, "onnxruntime", tmp_path / "b", recipe=recipe, allow_ungated=True).gated.status == "ungated"


def test_fp32_needs_no_gate(run: Path, tmp_path: Path) -> None:
    manifest = export(run, "onnxruntime", tmp_path / "b", recipe="onnxruntime-fp32")
    assert manifest.gated.status == "not needed"
    assert manifest.precision == "fp32"


def test_another_request_is_built_again_and_the_same_is_not(run: Path, tmp_path: Path) -> None:
    recipe = written(tmp_path, "onnxruntime", WIDE)
    first = export(run, "onnxruntime", tmp_path / "b", recipe=recipe)
    assert export(run, "onnxruntime", tmp_path / "b", recipe=recipe) == first
    other = export(run, "onnxruntime", tmp_path / "b", recipe=recipe, calibration_pairs=6)
    assert other.recipe.calibration_pairs == 6


def test_int8_that_falls_back_silently_fails_the_build(run: Path, tmp_path: Path) -> None:
    """ONNX Runtime runs what lies before a signed activation in FP32, whatever the file asks for."""
    recipe = written(tmp_path, "onnxruntime", WIDE, activations="int8", int8_macs_floor=0.95)
    with pytest.raises(EdgeskinError, match="silent FP32"):
        export(run, "onnxruntime", tmp_path / "b", recipe=recipe, allow_ungated=True)
    assert not (tmp_path / "b").exists()


def test_int8_that_is_not_faster_is_not_shipped(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(int8: Path, fp32: Path, recipe: Recipe, **_: object) -> Speed:
        assert int8.is_file()
        assert fp32.is_file()
        return Speed(
            machine="x", threads=2, p50_ms={"int8, f32": 2.0, "fp32, f32": 1.0},
            ratio=Estimate(value=2.0, low=1.9, high=2.1), int8_is_faster=False, why="int8 takes 2.00 times as long",
        )  # fmt: skip

    monkeypatch.setattr("edgeskin.benchmark.speed.speed", slow)
    recipe = written(tmp_path, "onnxruntime", WIDE)
    manifest = export(run, "onnxruntime", tmp_path / "b", recipe=recipe, tuned=True)
    assert (manifest.precision, manifest.recipe.precision) == ("fp32", "fp32")
    assert manifest.gated.status == "not needed"
    assert "2.00 times as long" in manifest.gated.why
    evidence = proof(tmp_path / "b")
    assert evidence.speed is not None
    assert not evidence.speed.int8_is_faster
    assert chain.verify(tmp_path / "b", bootstrap=100).passed


def test_speed_is_measured_where_the_bundle_is_made(run: Path, tmp_path: Path) -> None:
    manifest = export(run, "onnxruntime", tmp_path / "b", recipe=written(tmp_path, "onnxruntime", WIDE), tuned=True)
    evidence = proof(tmp_path / "b")
    assert evidence.speed is not None
    assert evidence.speed.machine == (provenance.processor() or provenance.machine())
    assert evidence.speed.int8_is_faster == (manifest.precision == "int8")


@pytest.mark.parametrize("target", TARGETS)
def test_a_search_ends_in_a_recipe_and_its_record(run: Path, tmp_path: Path, target: str) -> None:
    recipe = written(tmp_path, target, WIDE)
    manifest = export(run, target, tmp_path / "b", recipe=recipe, budget_s=6.0)
    evidence = proof(tmp_path / "b")
    assert evidence.search is not None
    chosen = next(one for one in evidence.search.candidates if one.name == evidence.search.chosen)
    assert manifest.recipe.keep_fp32 == chosen.recipe.keep_fp32
    assert manifest.recipe.calibrator == chosen.recipe.calibrator
    assert manifest.recipe.gate is not None
    assert evidence.search.role_sha256 == manifest.roles["control"].sha256
    folder = next(run.glob(f"search-{target}-*"))
    assert (folder / "state.json").is_file()


def test_a_search_of_which_nothing_holds_the_gate_is_built_once_and_only_with_leave(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = written(tmp_path, "onnxruntime", STRICT)
    with pytest.raises(EdgeskinError, match="--allow-ungated"):
        export(run, "onnxruntime", tmp_path / "b", recipe=recipe, budget_s=5.0)
    assert not (tmp_path / "b").exists()
    capfd.readouterr()
    manifest = export(run, "onnxruntime", tmp_path / "b", recipe=recipe, budget_s=5.0, allow_ungated=True)
    assert manifest.gated.status == "ungated"
    assert len(re.findall(r"^gate: .*fails$", capfd.readouterr().err, re.MULTILINE)) == 1
    evidence = proof(tmp_path / "b")
    assert evidence.search is not None
    assert {one.gate for one in evidence.search.candidates} == {"fails"}
    chosen = next(one for one in evidence.search.candidates if one.name == evidence.search.chosen)
    assert chosen.why_not == ""
    assert manifest.recipe.keep_fp32 == chosen.recipe.keep_fp32


def test_quantisation_aware_training_comes_before_the_same_export(run: Path, tmp_path: Path) -> None:
    spec = QatSpec(epochs=1, pairs=16, batch_pairs=8, calibration_pairs=8, workers=0, accelerator="cpu")
    manifest = export(run, "onnxruntime", tmp_path / "b", recipe=written(tmp_path, "onnxruntime", WIDE), qat=spec)
    evidence = proof(tmp_path / "b")
    assert evidence.qat is not None
    assert evidence.qat.checkpoint_sha256 == manifest.provenance.checkpoint_sha256
    assert evidence.qat.teacher_sha256 != evidence.qat.checkpoint_sha256
    plain = export(run, "onnxruntime", tmp_path / "p", recipe=written(tmp_path, "onnxruntime", WIDE))
    reference = [open_bundle(tmp_path / name).manifest.reference["pair"].file for name in ("b", "p")]
    files = [(tmp_path / name / file).read_bytes() for name, file in zip(("b", "p"), reference, strict=True)]
    assert files[0] == files[1], "the reference is the teacher in FP32"
    assert plain.thresholds == manifest.thresholds


def test_an_unknown_layer_names_near_ones(run: Path, tmp_path: Path) -> None:
    recipe = written(tmp_path, "onnxruntime", WIDE, keep_fp32=["conv_stm"])
    with pytest.raises(EdgeskinError, match="conv_stem"):
        export(run, "onnxruntime", tmp_path / "b", recipe=recipe)
    assert not (tmp_path / "b").exists()


def test_flipped_lesions_have_pictures_where_the_data_is(run: Path, tmp_path: Path) -> None:
    export(run, "openvino", tmp_path / "b", recipe=written(tmp_path, "openvino", STRICT), allow_ungated=True)
    found = chain.verify(tmp_path / "b", bootstrap=100)
    pictures = flipped(open_bundle(tmp_path / "b"), found)
    evidence = proof(tmp_path / "b")
    assert evidence.gate is not None
    named = {
        lesion
        for parity in (evidence.gate.parity, found.parity)
        for one in parity.values()
        for lesion in (*one.predicted.lesions, *one.referral.lesions)
    }
    assert set(pictures) == named
    for picture in pictures.values():
        assert picture.dermoscopic
        assert "dermoscopic" in picture.answers
    page = chain.report([tmp_path / "b"], [], [], tmp_path / "r.html")
    assert ("data:image/jpeg" in page.read_text()) == bool(flipped(open_bundle(tmp_path / "b"), None))
    bare = chain.report([tmp_path / "b"], [], [], tmp_path / "bare.html", pictures=False)
    assert "data:image/jpeg" not in bare.read_text()


def test_kill_9_in_the_middle_leaves_no_bundle_and_the_same_command_goes_on(run: Path, tmp_path: Path) -> None:
    recipe = written(tmp_path, "onnxruntime", WIDE, calibration_pairs=12)
    command = [sys.executable, "-m", "edgeskin.cli", "export", str(run), "--target", "onnxruntime"]
    command += ["--recipe", recipe, "--no-tune", "--out", str(tmp_path / "b")]
    working = run / "work-onnxruntime-int8"
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    deadline = time.monotonic() + 120
    while not working.exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "b").exists()
    manifest = export(run, "onnxruntime", tmp_path / "b", recipe=recipe)
    assert manifest.gated.status == "passed"
    assert not working.exists()
    assert not list(tmp_path.glob(".b*"))


def test_overflowing_weights_are_no_bundle(run: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    from edgeskin.files import sha256_file

    broken = tmp_path / "run"
    shutil.copytree(run, broken, ignore=shutil.ignore_patterns("onnx-*", "prepared", "search-*", "qat-*"))
    weights = load_file(broken / "checkpoint.safetensors")
    name = next(key for key in weights if key.endswith("conv_stem.weight"))
    weights[name] = torch.full_like(weights[name], 3e38)
    save_file(weights, broken / "checkpoint.safetensors")
    record = json.loads((broken / "checkpoint.json").read_text())
    record["weights_sha256"] = sha256_file(broken / "checkpoint.safetensors")
    (broken / "checkpoint.json").write_text(json.dumps(record))
    with pytest.raises(EdgeskinError, match="max difference nan"):  # told when the ONNX file is held against torch
        export(broken, "onnxruntime", tmp_path / "b", recipe=written(tmp_path, "onnxruntime", WIDE))
    assert not (tmp_path / "b").exists()
