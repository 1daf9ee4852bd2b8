"""A network with a fused head from end to end: trained, exported, verified, run, and run by the runtime in C."""

import json
import shutil
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import edgeskin
from edgeskin import backends, catalog, preprocess
from edgeskin.bundle import Draft, Golden, write_bundle
from edgeskin.cli import app
from edgeskin.spec.manifest import IMAGES, GraphEntry, Mode, Provenance
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.train import Checkpoint, DataSpec, Fusion, NetworkSpec, Threshold, Thresholds, TrainSpec
from tests.runtime.conftest import run, seal
from tests.runtime.test_engines import photo

pytest.importorskip("timm", reason="needs the extra train")
pytest.importorskip("onnxscript", reason="needs the extra export")
TRAIN = ["--calibration", "0.1", "--control", "0.3", "--epochs", "2", "--size", "64", "--start-size", "64"]
TRAIN += ["--batch-pairs", "16", "--workers", "0"]
EXPORT = ["--calibration-pairs", "4", "--no-tune", "--allow-ungated"]
SHARES = {"fused_weight": 0.45, "temperature_fused": 1.3}


def cli(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def same_answers(bundle: Path, binding: ModuleType, library: Path, backend_path: Path) -> None:
    """Python and C say the same of pairs and of dermoscopic images alone, branch by branch."""
    with patch.object(preprocess, "_opencv", lambda: None):  # with OpenCV frames may differ by one grey level
        classifier = edgeskin.load(bundle)
        assert all(one.passed for one in classifier.self_test())
        with binding.EdgeSkin(bundle, library, backend_path=backend_path) as small:
            assert small.selftest()["failed"] == 0
            for seed in range(8):
                around = photo(seed + 100, 25) if seed % 4 else None
                theirs = classifier.classify(dermoscopic=photo(seed), clinical=around)
                ours = small.classify(photo(seed), around)
                assert theirs.decision is not None
                assert ours["predicted"] == theirs.predicted
                assert ours["score"] == theirs.score
                assert ours["decision"]["refer"] == theirs.decision.refer
                assert list(ours["branches"]) == list(theirs.branches)
                assert len(ours["logits"]) == (1 if around is None else 3)
                for branch, tasks in theirs.branches.items():
                    for task, classes in tasks.items():
                        assert ours["branches"][branch][task] == pytest.approx(classes, abs=1e-3)
                        assert ours["probabilities"][task] == pytest.approx(theirs.probabilities[task], abs=1e-3)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in FP32 for OpenVINO of a network that was never trained. Read it only."""
    import torch

    from edgeskin.backends import torch as exporter
    from edgeskin.model.network import PairNetwork
    from edgeskin.model.weights import create_encoder

    side, schema = 32, catalog.schema("milk10k5")
    how = Preprocess(height=side, width=side, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    spec = NetworkSpec(backbone="test_efficientnet", attention_stages=(), fused_head=True)
    torch.manual_seed(5)
    network = PairNetwork(create_encoder(spec, side), spec, schema, how).eval()
    for name, value in network.named_parameters():
        if name.split(".")[0] in ("clinical", "dermoscopic", "fused"):
            torch.nn.init.normal_(value, std=0.5)  # classes far enough apart that a changed answer means something
    folder = tmp_path_factory.mktemp("untrained")
    onnx = exporter.build_network(network, how, folder / "onnx", opset=20)
    plan, engine = Recipe(name="fp32", target="openvino", precision="fp32"), backends.get("openvino")
    entries: dict[Mode, GraphEntry] = {}
    cases = []
    for mode, path in onnx.items():
        file = f"model/{engine.build(path, folder / 'stage' / 'model', plan)[0]}"
        entries[mode] = GraphEntry(file=file, images=IMAGES[mode], precision="fp32")
        frames = np.stack([preprocess.prepare(photo(seed), how) for seed in range(IMAGES[mode])])
        logits = engine.open(folder / "stage" / file, threads=1).run(frames)
        cases.append(Golden(f"{mode}-0", mode, frames, logits, tolerance=0.02))
    threshold = Threshold(value=0.3, rule="by hand")
    shares = {task.name: Fusion(dermoscopic_weight=0.6, **SHARES) for task in schema.tasks}
    record = Checkpoint(
        created="", network=spec, data=DataSpec(name="drawn", root="."), train=TrainSpec(), task_schema=schema,
        preprocess=how, fusion=shares, thresholds=Thresholds(pair=threshold, dermoscopic=threshold), roles={},
        lesion_hashes={}, phantom=True, parameters=sum(p.numel() for p in network.parameters()), weights_sha256="",
        weights_source="", control_metrics={}, versions={}, git_revision="",
    )  # fmt: skip
    made = Provenance(
        checkpoint_sha256="0" * 64, checkpoint_weights_sha256="0" * 64, git_revision="", versions={}, machine="",
        created="",
    )  # fmt: skip
    write_bundle(folder / "bundle", Draft("fused", folder / "stage", entries, entries, cases, plan, record, made))
    return folder / "bundle"


def test_the_third_row_of_a_pairs_graph_decides_alike_in_python_and_in_c(
    untrained: Path, binding: ModuleType, runtime_build: Path, backend_path: Path, tmp_path: Path
) -> None:
    manifest, sessions = edgeskin.load(untrained).manifest, {}
    for mode, graph in manifest.graphs.items():
        sessions[mode] = backends.get("openvino").open(untrained / graph.file, threads=1)
    assert {mode: one.rows for mode, one in sessions.items()} == manifest.rows == {"pair": 3, "dermoscopic": 1}
    same_answers(untrained, binding, runtime_build / "libedgeskin.so", backend_path)

    paths = {"dermoscopic": tmp_path / "near.ppm", "clinical": tmp_path / "far.ppm"}
    for path, pixels in zip(paths.values(), (photo(1), photo(101, 25)), strict=True):
        Image.fromarray(pixels).save(path)
    told = run(runtime_build / "classify", "--backend-path", backend_path, "--json", untrained, *paths.values())
    assert told.returncode == 0, told.stderr
    branches = json.loads(told.stdout)["branches"]
    with patch.object(preprocess, "_opencv", lambda: None):
        answer = edgeskin.load(untrained).classify(**paths)
    assert list(branches) == list(answer.branches) == ["clinical", "dermoscopic", "fused"]
    for branch, tasks in answer.branches.items():
        for task, classes in tasks.items():
            assert branches[branch][task] == pytest.approx(classes, abs=1e-3)
    task = manifest.task_schema.tasks[0].name
    said = [np.array(list(branches[name][task].values())) for name in ("clinical", "dermoscopic", "fused")]
    together = 0.55 * (0.6 * said[1] + 0.4 * said[0]) + 0.45 * said[2]
    assert list(answer.probabilities[task].values()) == pytest.approx(together.tolist(), abs=1e-3)
    assert np.abs(said[2] - said[0]).max() > 0.05  # so that a missing third row would be seen


def test_a_manifest_that_denies_the_head_is_refused(
    untrained: Path, binding: ModuleType, runtime_library: Path, backend_path: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(untrained, tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["network"]["fused_head"] = False
    for one in manifest["fusion"].values():
        del one["fused_weight"], one["temperature_fused"]
    seal(bundle, network=manifest["network"], fusion=manifest["fusion"])
    with pytest.raises(edgeskin.EdgeskinError, match=r"does not fit its manifest: got .*\(2, 32, 32, 3, 5\)"):
        edgeskin.load(bundle).classify(dermoscopic=photo(1), clinical=photo(101, 25))
    with pytest.raises(binding.EdgeSkinError, match="a golden case does not fit the manifest"):
        binding.EdgeSkin(bundle, runtime_library, backend_path=backend_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network trained for seconds on drawn pairs, which lie beside it."""
    pytest.importorskip("nncf", reason="needs the extra export")
    folder = tmp_path_factory.mktemp("fused")
    cli("data", "phantom", "--n", 80, "--size", 64, "--seed", 3, "--out", folder / "phantom")
    data = ["--data", "derm7pt", "--root", folder / "phantom"]
    made = folder / "run"
    cli(
        "train", *data, "--backbone", "test_efficientnet", "--weights", "scratch", "--fused-head", *TRAIN, "--out", made
    )
    record = json.loads((made / "checkpoint.json").read_text())
    assert record["network"]["fused_head"]
    for one in record["fusion"].values():  # whatever the control role chose for a network of seconds: it has a say
        one |= SHARES
    (made / "checkpoint.json").write_text(json.dumps(record))
    return made


@pytest.mark.slow
def test_a_fused_head_from_training_to_the_device(
    trained: Path, binding: ModuleType, runtime_library: Path, backend_path: Path, tmp_path: Path
) -> None:
    record, bundle = json.loads((trained / "checkpoint.json").read_text()), tmp_path / "bundle"
    source = ["--data", "derm7pt", "--root", trained.parent / "phantom"]
    cli("export", trained, "--target", "openvino", "--out", bundle, *EXPORT)
    found = json.loads(cli("verify", bundle, *source, "--role", "test", "--json"))
    assert found["passed"]
    assert found["parity"]["pair"]["lesions"] > 0

    views = {"clinical": photo(101, 25), "dermoscopic": photo(1)}
    for name, pixels in views.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    paths = [word for name in views for word in (f"--{name}", tmp_path / f"{name}.png")]
    told = json.loads(cli("run", bundle, *paths, "--json"))
    assert list(told["branches"]) == ["clinical", "dermoscopic", "fused"]
    share = record["fusion"]["DIAG"]["dermoscopic_weight"]
    clinical, dermoscopic, fused = (
        np.array(list(told["branches"][name]["DIAG"].values())) for name in ("clinical", "dermoscopic", "fused")
    )
    together = 0.55 * (share * dermoscopic + (1 - share) * clinical) + 0.45 * fused
    assert list(told["probabilities"]["DIAG"].values()) == pytest.approx(together.tolist())
    assert np.abs(fused - clinical).max() > 1e-4

    same_answers(bundle, binding, runtime_library, backend_path)


@pytest.mark.slow
def test_a_search_and_fine_tuning_take_the_head_along(trained: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "searched"
    cli(
        "export",
        trained,
        "--target",
        "onnxruntime",
        "--out",
        bundle,
        *EXPORT,
        "--budget",
        "20s",
        "--qat",
        "--qat-epochs",
        1,
    )
    found = edgeskin.load(bundle)
    assert found.manifest.rows == {"pair": 3, "dermoscopic": 1}
    assert found.manifest.fusion["DIAG"].fused_weight == SHARES["fused_weight"]
    evidence = found.bundle.evidence()
    assert evidence is not None
    assert evidence.qat is not None
    assert evidence.search is not None
    assert evidence.search.candidates
    assert all(one.passed for one in found.self_test())
