"""The script behind `edgeskin models`, whole, on the smallest backbone."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgeskin.spec.backbones import TriedBackbones
from edgeskin.spec.manifest import MODES

pytest.importorskip("timm", reason="needs the extra train")
pytest.importorskip("nncf", reason="needs the extra export")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("model_zoo", ROOT / "benchmarks" / "model_zoo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sizes = {"CALIBRATION": 4, "SCORED": 2, "LESIONS": 8, "BATCH": 4}
    for name, value in sizes.items():
        monkeypatch.setattr(module, name, value)
    return module


@pytest.mark.slow
def test_a_backbone_comes_through_and_is_not_done_again(
    zoo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a count to three targets; the record stays as it is when the script is called again."""
    monkeypatch.setattr(zoo, "BACKBONES", {"test_efficientnet": ("CNN", 4)})
    out = tmp_path / "models.json"
    monkeypatch.setattr(sys, "argv", ["model_zoo.py", "--work", str(tmp_path / "work"), "--out", str(out)])
    zoo.main()
    record = TriedBackbones.parse(json.loads(out.read_text()), "here")
    (one,) = record.backbones
    assert (one.name, one.size_px, one.steps, record.calibration_pairs) == ("test_efficientnet", 224, 4, 4)
    assert set(one.noise_db) == set(MODES)
    for target, found in one.exports.items():
        assert found["fp32"].ok, (target, found["fp32"].why)
        assert set(found["int8"].sqnr_db) == set(found["int8"].int8_share) == set(MODES), found["int8"].why
        assert found["int8"].ok == (min(found["int8"].sqnr_db.values()) >= zoo.LEAST_DB)
    assert not list((tmp_path / "work").iterdir())
    before = out.stat().st_mtime_ns
    zoo.main()
    assert out.stat().st_mtime_ns == before


def test_a_network_that_no_engine_takes_is_a_row_with_its_reason(zoo: ModuleType, tmp_path: Path) -> None:
    """A file that is no graph: the build refuses it, and nothing is raised."""
    from edgeskin import catalog

    graphs = {mode: tmp_path / f"{mode}.onnx" for mode in MODES}
    for path in graphs.values():
        path.write_bytes(b"not a graph")
    plan = catalog.recipe("onnxruntime-int8").model_copy(update={"calibration_pairs": 4})
    found = zoo.int8(graphs, plan, [], {}, [], tmp_path / "built")
    assert not found.ok
    assert found.why.startswith("unreadable model file: got ")
    assert "\n" not in found.why
