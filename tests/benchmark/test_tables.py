"""README tables out of result files."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgeskin.bundle import open_bundle
from edgeskin.errors import EdgeskinError
from edgeskin.files import pretty_json
from edgeskin.spec.result import Accuracy, Compared, Estimate, VerifyResult
from edgeskin.verify import verify_golden

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "golden" / "tiny-onnxruntime"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_tables", ROOT / "benchmarks" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark_tables"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "baseline.json").write_text((ROOT / "benchmarks" / "results" / "baseline.json").read_text())
    return tmp_path


def verified() -> VerifyResult:
    pytest.importorskip("onnxruntime")
    figure = Compared(
        fp32=Estimate(value=0.61),
        bundle=Estimate(value=0.604),
        difference=Estimate(value=-0.006, low=-0.012, high=0.001),
    )
    scored = Accuracy(lesions=587, threshold=0.2, tasks={"DIAG": {"macro_f1": figure}}, target={"auc": figure})
    result = verify_golden(open_bundle(TINY), threads=1)
    return result.model_copy(update={"phantom": False, "accuracy": {"pair": scored}})


def test_committed_tables_are_up_to_date(tables: ModuleType) -> None:
    assert tables.main(["--check"]) == 0


def test_baseline_stands_there_as_given(tables: ModuleType, results: Path) -> None:
    found = tables.milk10k(results)
    assert "| macro-F1 | 0.50 |" in found
    assert "not run by this command" in found
    assert "Not measured yet" in found


def test_figures_of_a_result_reach_the_table(tables: ModuleType, results: Path) -> None:
    (results / "milk10k-onnxruntime-verify.json").write_text(pretty_json(verified().to_json()))
    found = tables.milk10k(results)
    assert "| macro-F1 | 0.610 → 0.604, -0.006 [-0.012, +0.001] | 0.50 |" in found
    assert "| lesions | 587 | 1,048 |" in found
    assert "ONNX Runtime" in found
    assert "Not measured yet" not in found


def test_phantom_figures_do_not_pass_for_real_ones(tables: ModuleType, results: Path) -> None:
    drawn = verified().model_copy(update={"phantom": True})
    (results / "milk10k-x.json").write_text(pretty_json(drawn.to_json()))
    with pytest.raises(EdgeskinError, match="drawn images"):
        tables.milk10k(results)


def test_a_table_is_replaced_and_the_rest_of_the_page_stays(tables: ModuleType, results: Path) -> None:
    page = "before\n<!-- table:milk10k -->\nold\n<!-- /table -->\nafter\n"
    once = tables.fill(page, results, "page")
    assert once.startswith("before\n<!-- table:milk10k -->\n")
    assert once.endswith("<!-- /table -->\nafter\n")
    assert "old" not in once
    assert tables.fill(once, results, "page") == once
    with pytest.raises(EdgeskinError, match="unknown table"):
        tables.fill(page.replace("milk10k", "milk"), results, "page")


def test_check_finds_a_stale_page_and_writing_mends_it(
    tables: ModuleType, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = results / "README.md"
    page.write_text("<!-- table:milk10k -->\n<!-- /table -->\n")
    monkeypatch.setattr(tables, "PAGES", (page,))
    monkeypatch.setattr(tables, "RESULTS", results)
    monkeypatch.setattr(tables, "HERE", results / "benchmarks")
    assert tables.main(["--check"]) == 1
    assert "macro-F1" not in page.read_text()
    assert tables.main([]) == 0
    assert "macro-F1" in page.read_text()
    assert tables.main(["--check"]) == 0


def test_every_result_that_is_committed_is_json_with_a_known_source(tables: ModuleType) -> None:
    for path in (ROOT / "benchmarks" / "results").glob("milk10k-*.json"):
        assert json.loads(path.read_text())["format"] in (
            "edgeskin-verify/1",
            "edgeskin-bench/2",
            "edgeskin-evidence/1",
            "edgeskin-explained/1",
        )


def test_figures_of_a_quantised_network_reach_the_table(tables: ModuleType, results: Path) -> None:
    model = {
        "target": "openvino", "way": "PTQ", "bytes": 4_000_000, "size_ratio": 0.28, "p50_ms": 5.0, "macro_f1": 0.47,
        "deflated_ratio": 0.26,
        "latency_ratio": {"value": 0.48, "low": 0.47, "high": 0.5}, "balanced_accuracy": 0.5, "target_auc": 0.9,
        "class_flips": 3, "class_flips_interval": [0.002, 0.03], "target_flips": 0,
        "target_flips_interval": [-0.0, 0.01], "sqnr_db": 26.0, "lesions": 300, "target_lesions": 30, "gate": "passed",
    }  # fmt: skip
    network = {
        "backbone": "net", "size_px": 224, "parameters": 3_470_000, "weights_source": "random",
        "calibration_pairs": 300, "training": {"epochs": 8}, "roles": {"train": 3000, "control": 400},
        "fastest_fp32": "openvino f32",
        "searches": {"openvino": {"chosen": "a", "spent_s": 61.4, "complete": False, "kept_fp32": ["^x[./]"]}},
        "qat": {"epochs": 2, "learning_rate": 1e-5, "options": {"pairs": 480}}, "not_built": {"onnxruntime QAT": "no"},
        "models": [model, {**model, "way": "FP32", "sqnr_db": None, "gate": ""}],
    }  # fmt: skip
    versions = {"openvino": "1", "onnxruntime": "2", "nncf": "3"}
    record = {"networks": [network], "processor": "p", "cores": 2, "rounds": 150, "versions": versions}
    (results / "int8.json").write_text(json.dumps(record))
    found = tables.int8(results)
    assert "| OpenVINO PTQ | 4.0 (0.28) | 0.26 | 5.00 | 0.48 [0.47, 0.50] | 0.470 | 0.500 | 0.900 |" in found
    assert "| 3 = 1.0% [0.2%, 3.0%] | 0 = 0.0% [0.0%, 1.0%] | passed |" in found
    assert "cut short by its budget, in FP32: ^x[./]" in found
    assert "gated on 400 lesions" in found
    assert "QAT: 2 epochs on 480 pairs of role train, learning rate 1e-05." in found
    assert "Not built: onnxruntime QAT: no." in found
    assert found.startswith("### net\n\n|")
    assert found.count("| – | – | – |") == 1


def test_figures_of_build_kits_reach_the_table(tables: ModuleType, results: Path) -> None:
    assert tables.tensorrt(results) == "Not measured yet.\n"
    mode = {
        "kernels": 135, "int8_products": 0.95, "planned_int8_products": 1.0, "int8_layers": 60, "layers": 63,
        "fell_back": ["head"], "reformats": 2, "plan_bytes": 9,
    }  # fmt: skip
    asked = {
        "lesions": 120,
        "sqnr_db": 24.31,
        "class_flips": 3,
        "class_flips_interval": [0.009, 0.071],
        "target_flips": 1,
    }
    network = {
        "backbone": "net", "linter": {"10.3.0": [], "11.4.1": ["conv: refused"]},
        "sibling": {"builder": "tensorrt-rtx 1", "sm": "8.6", "modes": {"pair": mode}}, "emulated": {"pair": asked},
    }  # fmt: skip
    (results / "tensorrt-kits.json").write_text(json.dumps({"networks": [network]}))
    found = tables.tensorrt(results)
    assert (
        "| net, pair | 1 findings | 135 | 95.0% | 100.0% | 60 of 63 | 2 | 3 of 120 [0.9%, 7.1%] | 1 | 24.3 |" in found
    )
    assert "Linter: findings for TensorRT 10.3.0, 11.4.1 together." in found
    assert "compiled in floating point: net, pair: head." in found
    assert "Nothing here ran on TensorRT" in found


def test_figures_of_a_backbone_reach_the_table(tables: ModuleType, results: Path) -> None:
    assert tables.models(results) == "Not measured yet.\n"
    near = {"ok": True, "sqnr_db": {"pair": 21.4, "dermoscopic": 23.6}, "int8_share": {"pair": 0.97, "dermoscopic": 1}}
    row = {
        "name": "net", "size_px": 224, "stages": [{"module": "a", "channels": 8, "reduction": 4}], "hub": "",
        "encoder_parameters": 2_000_000, "parameters": 2_120_000, "two_encoders_parameters": 4_000_000,
        "pair_macs": 812_000_000, "dermoscopic_macs": 400_000_000, "family": "CNN", "steps": 120,
        "noise_db": {"pair": 30, "dermoscopic": 31.2},
        "exports": {
            "openvino": {"fp32": {"ok": True}, "int8": near},
            "onnxruntime": {"fp32": {"ok": True}, "int8": {**near, "ok": False, "why": "far from FP32: got 4 dB"}},
            "tensorrt": {"fp32": {"ok": True}, "int8": {**near, "builder": "tensorrt-rtx 1"}},
        },
    }  # fmt: skip
    record = {
        "command": "c", "note": "drawn", "calibration_pairs": 16, "scored_pairs": 8, "noise_grey_levels": 2,
        "machine": "m", "processor": "p",
        "versions": {"timm": "1", "torch": "2", "openvino": "3", "onnxruntime": "4"}, "backbones": [row],
    }  # fmt: skip
    (results / "models.json").write_text(json.dumps(record))
    found = tables.models(results)
    assert (
        "| net | CNN | 224 | 2.12 M | 53.0% | 0.81 G | 0.40 G | 30 / 31 dB | ok | ok, 97%, 21 / 24 dB | ok | no, 97%,"
        in found
    )
    assert "- net, ONNX Runtime INT8: far from FP32: got 4 dB" in found
    assert "kits compiled by tensorrt-rtx 1." in found


def test_figures_of_a_training_step_reach_the_table(tables: ModuleType, results: Path) -> None:
    assert tables.training(results).startswith("Not measured yet")
    spread = {"median": 0.8, "p25": 0.7, "p75": 0.9}
    ratio = {"value": 1.0789, "low": 1.05, "high": 1.1, "level": 0.95}
    one = {
        "crops_px": 192,
        "loop_step_s": {**spread, "median": 0.8632},
        "of_it_waiting_s": {**spread, "median": 0.0061},
        "forward_backward_s": spread,
        "over_forward_backward": ratio,
        "over_forward_backward_adamw": {**ratio, "value": 1.0654},
    }
    found = {"sizes": [one], "limit": 1.15, "valid": False, "reasons": ["192 px: other processes used 20%"]}
    said = {"backbone": "lite0", "batch_pairs": 32, "threads": 2, "workers": 1, "command": "python x.py"}
    text = json.dumps({**found, **said, "environment": {"cpu_model": "AMD EPYC"}})
    (results / "training-step.json").write_text(text)
    shown = tables.training(results)
    assert "| 192 px | 0.863 | 6 | 0.800 | 1.079 [1.050, 1.100] | 1.065 [1.050, 1.100] |" in shown
    assert "not valid: 192 px: other processes used 20%" in shown
    assert "AMD EPYC; limit 1.15" in shown
