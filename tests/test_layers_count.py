"""Counts of layers against graphs that are small enough to count by hand, in both file formats."""

from pathlib import Path

import numpy as np
import pytest

from edgeskin import catalog, layers
from edgeskin.backends import openvino as openvino_backend
from edgeskin.bundle import open_bundle
from edgeskin.errors import EdgeskinError
from edgeskin.spec.device import LayerCounts

GOLDEN = Path(__file__).resolve().parent / "golden" / "tiny-onnxruntime"
# A convolution 3 -> 8 (3 x 3) on 16 x 16, one a channel (3 x 3), a mean over the image, a matrix 8 -> 5.
CONV, DEPTH, GEMM = 2 * 8 * 16 * 16 * 27, 2 * 8 * 16 * 16 * 9, 2 * 5 * 8
IMAGE, PLANES = 2 * 3 * 16 * 16, 2 * 8 * 16 * 16
WEIGHTS = 8 * 3 * 9 + 8 * 9 + 8 * 5


def onnx_file(path: Path, *, quantised: bool) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, stored = [], []

    def weight(name: str, shape: tuple[int, ...]) -> str:
        if not quantised:
            stored.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
            return name
        stored.append(numpy_helper.from_array(rng.integers(-9, 9, shape).astype(np.int8), f"{name}_q"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", "scale", "zero"], [name]))
        return name

    def activation(name: str) -> str:
        if not quantised:
            return name
        nodes.append(helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}_q8"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q8", "scale", "zero"], [f"{name}_dq"]))
        return f"{name}_dq"

    if quantised:
        stored += [numpy_helper.from_array(np.float32(0.1), "scale"), numpy_helper.from_array(np.int8(0), "zero")]
    pads = {"pads": [1, 1, 1, 1]}
    nodes.append(helper.make_node("Conv", [activation("x"), weight("w1", (8, 3, 3, 3))], ["a"], **pads))
    nodes.append(helper.make_node("Relu", ["a"], ["b"]))
    nodes.append(helper.make_node("Conv", [activation("b"), weight("w2", (8, 1, 3, 3))], ["c"], group=8, **pads))
    nodes.append(helper.make_node("ReduceMean", ["c", "axes"], ["d"], keepdims=0))
    stored.append(numpy_helper.from_array(np.array([2, 3], np.int64), "axes"))
    nodes.append(helper.make_node("Gemm", [activation("d"), weight("w3", (5, 8))], ["y"], transB=1))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 3, 16, 16))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 5))],
        stored,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def openvino_int8(path: Path) -> Path:
    """The first convolution alone, as NNCF leaves it: 8-bit weights, FakeQuantize before the data."""
    import openvino
    from openvino import opset13 as ops

    x = ops.parameter((2, 3, 16, 16), np.float32)
    limits = [ops.constant(np.float32(value)) for value in (0, 1, 0, 1)]
    data = ops.fake_quantize(x, *limits, levels=256)
    weight = ops.multiply(
        ops.convert(ops.constant(np.ones((8, 3, 3, 3), np.int8)), "f32"), ops.constant(np.float32(0.1))
    )
    conv = ops.convolution(data, weight, [1, 1], [1, 1], [1, 1], [1, 1])
    mean = ops.reduce_mean(conv, ops.constant(np.array([2, 3])), keep_dims=False)
    head = ops.matmul(mean, ops.constant(np.ones((8, 5), np.float32)), False, False)
    openvino_backend.save(openvino.Model([head], [x], "small"), path.parent, path.stem)
    return path


def test_fp32_is_counted_by_hand_and_alike_in_both_formats(tmp_path: Path) -> None:
    source = onnx_file(tmp_path / "small.onnx", quantised=False)
    plan = catalog.recipe("openvino-fp32")
    openvino_backend.build(source, tmp_path, plan)
    wanted = LayerCounts(
        mode="pair",
        layers=4,
        int8_macs=0,
        fp32_macs=CONV + DEPTH + GEMM,
        weight_bytes=4 * WEIGHTS,
        activation_bytes=4 * (IMAGE + PLANES + 2 * PLANES + PLANES + 16 + 16 + 10),
    )
    assert layers.count_file(source, "pair") == wanted
    assert layers.count_file(tmp_path / "small.xml", "pair") == wanted


def test_int8_onnx_moves_a_byte_where_fp32_moves_four(tmp_path: Path) -> None:
    found = layers.count_file(onnx_file(tmp_path / "small.onnx", quantised=True), "pair")
    assert (found.int8_macs, found.fp32_macs) == (CONV + DEPTH + GEMM, 0)
    assert found.weight_bytes == WEIGHTS
    assert found.activation_bytes == IMAGE + PLANES + 2 * PLANES + 16 + 10 + 4 * (PLANES + 16)


def test_int8_openvino_tells_what_is_quantised_from_what_is_not(tmp_path: Path) -> None:
    found = layers.count_file(openvino_int8(tmp_path / "small.xml"), "pair")
    assert (found.int8_macs, found.fp32_macs) == (CONV, GEMM)
    assert found.weight_bytes == 8 * 3 * 9 + 4 * 40
    assert found.layers == 3


def test_a_bundle_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESKIN_CACHE", str(tmp_path))
    bundle = open_bundle(GOLDEN)
    pair, alone = layers.count(bundle, "pair"), layers.count(bundle, "dermoscopic")
    assert pair.int8_macs > alone.int8_macs > 0
    kept = sorted((tmp_path / "roofline").glob("*.json"))
    assert len(kept) == 2
    monkeypatch.setattr(layers, "count_file", None)  # would fail if it were called again
    assert layers.count(bundle, "pair") == pair


def test_a_damaged_cache_is_counted_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESKIN_CACHE", str(tmp_path))
    bundle = open_bundle(GOLDEN)
    found = layers.count(bundle)
    kept = next((tmp_path / "roofline").glob("*.json"))
    for damage in ("", "{", '{"mode": "pair"}'):
        kept.write_text(damage)
        assert layers.count(bundle) == found


def test_a_graph_without_products_is_refused(tmp_path: Path) -> None:
    import openvino
    from openvino import opset13 as ops

    x = ops.parameter((1, 3), np.float32)
    openvino_backend.save(openvino.Model([ops.relu(x)], [x], "none"), tmp_path, "none")
    with pytest.raises(EdgeskinError, match="without a layer that multiplies"):
        layers.count_file(tmp_path / "none.xml", "pair")
