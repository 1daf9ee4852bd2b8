"""What quantising itself promises, on the tiny network: errors before work, symmetric files, layers left alone."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeskin import backends, catalog
from edgeskin.errors import EdgeskinError
from edgeskin.quantize import ptq
from edgeskin.spec.recipe import Recipe

QUANTIZERS = {"nncf": "openvino", "qdq": "onnxruntime"}  # and the target that shows what each made


def _recipe(quantizer: str, /, **changes: object) -> Recipe:
    given = {"quantizer": quantizer, "calibration_pairs": 8, **changes}
    return catalog.recipe(f"{QUANTIZERS[quantizer]}-int8").model_copy(update=given)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize(
    ("changes", "frames", "message"),
    [
        ({}, lambda pairs: pairs[:7], "too few calibration pairs: got 7; possible: 8 or more"),
        (
            {},
            lambda pairs: [p[:, :24, :24] for p in pairs],
            "frames do not fit the model: got '24x24'; possible: 32x32",
        ),
        ({"keep_fp32": ("stemm",)}, lambda pairs: pairs, "keep_fp32 matches no node: got 'stemm'; possible: stem"),
        ({"precision": "fp32", "quantizer": "none"}, lambda pairs: pairs, "this recipe does not quantise"),
    ],
)
def test_faults_are_found_before_any_file_is_written(quantizer, changes, frames, message, onnx_models, pairs, tmp_path):
    with pytest.raises(EdgeskinError, match=message):
        ptq.quantize(onnx_models[2], frames(pairs), _recipe(quantizer, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(("quantizer", "package"), [("nncf", "nncf"), ("qdq", "onnx")])
def test_a_missing_package_is_named(quantizer, package, monkeypatch, onnx_models, pairs, tmp_path):
    real = ptq.find_spec
    monkeypatch.setattr(ptq, "find_spec", lambda name: None if name == package else real(name))
    with pytest.raises(EdgeskinError, match=rf"'{package}' is not installed; fix: pip install 'edgeskin\[export\]'"):
        ptq.quantize(onnx_models[2], pairs, _recipe(quantizer), tmp_path)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_kept_layers_run_in_fp32_and_progress_counts_pairs(quantizer, onnx_models, pairs, tmp_path):
    steps: list[int] = []
    backend = backends.get(QUANTIZERS[quantizer])
    for images in (2, 1):
        path = ptq.quantize(
            onnx_models[images], pairs, _recipe(quantizer, keep_fp32=("/Conv/",)), tmp_path, lambda n=1: steps.append(n)
        )
        counts = backend.open(path).executed_precisions()
        assert counts["fp32"] >= 3  # the convolutions; one of the four may be fused away
        assert counts["int8"] >= 3
    assert sum(steps) == 2 * 8


def test_qdq_file_is_symmetric(onnx_models, pairs, tmp_path):
    path = ptq.quantize(onnx_models[2], pairs, _recipe("qdq"), tmp_path)
    graph = onnx.load(path).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = signed = unsigned = 0
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        zero = constants[node.input[2]]
        if zero.dtype in (np.int8, np.int32):
            assert not zero.any()
            weights += zero.dtype == np.int8
        else:
            assert zero.dtype == np.uint8
            assert zero.ndim == 0
            assert int(zero) in (0, 128)
            signed, unsigned = signed + (int(zero) == 128), unsigned + (int(zero) == 0)
    assert weights >= 9  # four convolutions, three projections, two heads
    assert signed
    assert unsigned >= 6  # behind three ReLU6, a Q and a DQ each
    assert not [node for node in graph.node if node.op_type == "Clip"]


def test_equal_input_gives_equal_bytes_and_leaves_nothing_beside_them(onnx_models, pairs, tmp_path):
    first = ptq.quantize(onnx_models[1], pairs, _recipe("qdq"), tmp_path / "a")
    assert ptq.quantize(onnx_models[1], iter(pairs), _recipe("qdq"), tmp_path / "b").read_bytes() == (
        first.read_bytes()
    )
    assert list((tmp_path / "a").iterdir()) == [first]


def test_transformer_is_told_from_a_network_with_an_exchange(onnx_models):
    def graph(kinds: list[str]) -> onnx.ModelProto:
        nodes = [onnx.helper.make_node(kind, ["x"], ["y"]) for kind in kinds]
        return onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], []))

    assert ptq.is_transformer(graph(["Conv"] + ["MatMul"] * 4))
    assert not ptq.is_transformer(graph(["Conv"] * 4 + ["MatMul", "Gemm"]))


def test_model_path_is_checked(pairs, tmp_path):
    with pytest.raises(EdgeskinError, match="no such model file"):
        ptq.quantize(Path("absent.onnx"), pairs, _recipe("nncf"), tmp_path)
