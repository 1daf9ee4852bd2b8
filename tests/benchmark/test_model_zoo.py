"""The script behind `edgeskin models`, whole, on the smallest backbone."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgeskin import catalog
from edgeskin.spec.backbones import Tried, TriedBackbones
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


def stubbed(zoo: ModuleType, out: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """Call the script with a measurement that takes no time; the backbones that it measured."""
    done: list[str] = []
    row = catalog.backbones().backbones[0].to_json()

    def measure(name: str, family: str, steps: int, _: Path) -> Tried:
        done.append(name)
        return Tried.parse({**row, "name": name, "family": family, "steps": steps}, name)

    monkeypatch.setattr(zoo, "BACKBONES", {"resnet50": ("CNN", 4), "convnext_tiny": ("CNN", 4)})
    monkeypatch.setattr(zoo, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["model_zoo.py", "--work", str(out.parent / "work"), "--out", str(out), *words])
    zoo.main()
    return done


CHANGED = {
    "versions": {"python": "2.7"},
    "machine": "riscv64 Linux",
    "processor": "another one",
    "calibration_pairs": 5,
    "scored_pairs": 3,
    "noise_grey_levels": 1,
    "note": "another training",
}


@pytest.mark.parametrize("field", CHANGED)
def test_rows_that_were_made_otherwise_are_not_kept(
    field: str, zoo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "models.json"
    assert stubbed(zoo, path, monkeypatch) == ["resnet50", "convnext_tiny"]
    made = path.read_text()
    assert stubbed(zoo, path, monkeypatch) == []
    assert stubbed(zoo, path, monkeypatch, "--backbone", "resnet50") == ["resnet50"]
    assert path.read_text() == made
    other = json.dumps(json.loads(made) | {field: CHANGED[field]})
    path.write_text(other)
    with pytest.raises(SystemExit, match=f"the other rows were made otherwise: got 'other {field}'; fix: all again"):
        stubbed(zoo, path, monkeypatch, "--backbone", "resnet50")
    assert path.read_text() == other
    assert stubbed(zoo, path, monkeypatch) == ["resnet50", "convnext_tiny"]
    assert path.read_text() == made


def test_a_network_that_no_engine_takes_is_a_row_with_its_reason(zoo: ModuleType, tmp_path: Path) -> None:
    """A file that is no graph: the build refuses it, and nothing is raised."""
    graphs = {mode: tmp_path / f"{mode}.onnx" for mode in MODES}
    for path in graphs.values():
        path.write_bytes(b"not a graph")
    plan = catalog.recipe("onnxruntime-int8").model_copy(update={"calibration_pairs": 4})
    found = zoo.int8(graphs, plan, [], {}, [], tmp_path / "built")
    assert not found.ok
    assert found.why.startswith("unreadable model file: got ")
    assert "\n" not in found.why
