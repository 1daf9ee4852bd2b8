"""A network with a fused head from end to end: trained, exported, verified, run, and run by the runtime in C."""

import json
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import edgeskin
from edgeskin import preprocess
from edgeskin.cli import app
from tests.runtime.conftest import seal
from tests.runtime.test_engines import photo

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("nncf", reason="needs the extra export")
TRAIN = ["--calibration", "0.1", "--control", "0.3", "--epochs", "2", "--size", "64", "--start-size", "64"]
TRAIN += ["--batch-pairs", "16", "--workers", "0"]
EXPORT = ["--calibration-pairs", "4", "--no-tune", "--allow-ungated"]
SHARES = {"fused_weight": 0.45, "temperature_fused": 1.3}


def cli(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network trained for seconds on drawn pairs, which lie beside it."""
    folder = tmp_path_factory.mktemp("fused")
    cli("data", "phantom", "--n", 80, "--size", 64, "--seed", 3, "--out", folder / "phantom")
    data = ["--data", "derm7pt", "--root", folder / "phantom"]
    made = folder / "run"
    cli(
        "train", *data, "--backbone", "test_efficientnet", "--weights", "scratch", "--fused-head", *TRAIN, "--out", made
    )
    record = json.loads((made / "checkpoint.json").read_text())
    assert record["network"]["fused_head"]
    assert all(0.25 <= one.get("temperature_fused", 1) <= 4 for one in record["fusion"].values())
    for one in record["fusion"].values():  # whatever the control role chose for a network of seconds: it has a say
        one |= SHARES
    (made / "checkpoint.json").write_text(json.dumps(record))
    return made


@pytest.mark.slow
def test_a_fused_head_from_training_to_the_device(
    run: Path, binding: ModuleType, runtime_library: Path, backend_path: Path, tmp_path: Path
) -> None:
    record, bundle = json.loads((run / "checkpoint.json").read_text()), tmp_path / "bundle"
    source = ["--data", "derm7pt", "--root", run.parent / "phantom"]
    cli("export", run, "--target", "openvino", "--out", bundle, *EXPORT)
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

    with patch.object(preprocess, "_opencv", lambda: None):  # with OpenCV frames may differ by one grey level
        classifier = edgeskin.load(bundle)
        assert all(one.passed for one in classifier.self_test())
        with binding.EdgeSkin(bundle, runtime_library, backend_path=backend_path) as small:
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

    # A graph without the head, or a manifest that denies it, does not pass as this bundle's.
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["network"]["fused_head"] = False
    for one in manifest["fusion"].values():
        del one["fused_weight"], one["temperature_fused"]
    seal(bundle, network=manifest["network"], fusion=manifest["fusion"])
    with pytest.raises(edgeskin.EdgeskinError, match=r"does not fit its manifest: got .*\(2, 64, 64, 3, 24\)"):
        edgeskin.load(bundle).classify(dermoscopic=photo(1), clinical=photo(101, 25))
    with pytest.raises(binding.EdgeSkinError, match="a golden case does not fit the manifest"):
        binding.EdgeSkin(bundle, runtime_library, backend_path=backend_path)


@pytest.mark.slow
def test_a_search_and_fine_tuning_take_the_head_along(run: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "searched"
    cli(
        "export",
        run,
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
