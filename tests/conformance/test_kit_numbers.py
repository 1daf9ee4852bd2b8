"""Numbers of a kit: scales that FP16 holds, and an emulation that computes what the hub's graph says."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from edgeskin import backends, catalog
from edgeskin.backends._tensorrt_graph import widened
from edgeskin.quantize import ptq
from edgeskin.quantize.scales import settle_scales

PAIR = ("QuantizeLinear", "DequantizeLinear")


@pytest.fixture(scope="module", params=[2, 1])
def hub(request, onnx_models, pairs, tmp_path_factory) -> tuple[int, Path]:
    """Images, and the graph that the recipe tensorrt-int8 makes of the tiny network, still in FP32."""
    recipe = catalog.recipe("tensorrt-int8").model_copy(update={"calibration_pairs": 16})
    return request.param, ptq.quantize(onnx_models[request.param], pairs, recipe, tmp_path_factory.mktemp("hub"))


def kit_graph(hub: tuple[int, Path], out: Path) -> Path:
    return out / backends.get("tensorrt").build(hub[1], out, catalog.recipe("tensorrt-int8"))[0]


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_every_scale_is_one_that_fp16_holds(hub):
    model = onnx.load(hub[1])
    stored = constants(model)
    scales = [stored[node.input[1]] for node in model.graph.node if node.op_type in PAIR]
    assert len(scales) > 20
    for scale in scales:
        assert scale.dtype == np.float32
        assert (scale > 0).all()
        np.testing.assert_array_equal(scale.astype(np.float16).astype(np.float32), scale)


def test_the_fp16_graph_has_the_same_scales_and_integers(hub, tmp_path):
    plain, half = onnx.load(hub[1]), onnx.load(kit_graph(hub, tmp_path))
    before, after = constants(plain), constants(half)
    # The conversion may rename, but not reorder: nodes of a pair bear their old names.
    named = {node.name: node for node in half.graph.node}
    pairs = [node for node in plain.graph.node if node.op_type in PAIR]
    for node in pairs:
        other = named[node.name]
        assert after[other.input[1]].dtype == np.float16
        np.testing.assert_array_equal(after[other.input[1]].astype(np.float32), before[node.input[1]])
        if node.input[0] in before:
            np.testing.assert_array_equal(after[other.input[0]], before[node.input[0]])


def test_the_emulation_is_the_hub_graph_with_constants_rounded_to_fp16(hub, pairs, tmp_path):
    """Bit for bit: nothing between a kit's Q/DQ nodes is rounded but what is stored in FP16."""
    images, path = hub
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            rounded = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    rounded_path = tmp_path / "rounded.onnx"
    onnx.save(model, rounded_path)
    open_ = backends.get("tensorrt").open
    kit = open_(kit_graph(hub, tmp_path / "kit"), threads=1)
    plain = open_(rounded_path, threads=1)
    exact = open_(path, threads=1)
    found, expected, unrounded = (
        np.stack([session.run(pair[-images:]) for pair in pairs[:12]]) for session in (kit, plain, exact)
    )
    np.testing.assert_array_equal(found, expected)
    assert 0 < np.abs(found - unrounded).max() < 0.3, "biases were rounded, and only they"


def test_widening_leaves_no_fp16(hub, tmp_path):
    wide = widened(onnx.load(kit_graph(hub, tmp_path)))
    assert not [tensor.name for tensor in wide.graph.initializer if tensor.data_type == TensorProto.FLOAT16]
    onnx.checker.check_model(wide)
    typed = onnx.shape_inference.infer_shapes(wide, strict_mode=True).graph
    assert TensorProto.FLOAT16 not in {value.type.tensor_type.elem_type for value in typed.value_info}


def layer(weight: np.ndarray, scale: np.ndarray, axis: int) -> onnx.ModelProto:
    """A weight that a QuantizeLinear would round, as the quantiser of ONNX Runtime leaves it."""
    zero = numpy_helper.from_array(np.zeros(scale.shape, np.int8), "zero")
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "s", "zero"], ["q"], name="q", axis=axis),
        helper.make_node("DequantizeLinear", ["q", "s", "zero"], ["dq"], name="dq", axis=axis),
    ]
    ports = [helper.make_tensor_value_info("dq", TensorProto.FLOAT, weight.shape)]
    stored = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(scale, "s"), zero]
    return helper.make_model(helper.make_graph(nodes, "g", [], ports, stored))


WEIGHTS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=st.floats(-9, 9, width=32)
)


@given(
    weight=hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=st.floats(-9, 9, width=32)
    ),
    per_channel=st.booleans(),
    data=st.data(),
)
def test_settled_scales_round_no_weight_out_of_range(weight, per_channel, data):
    """Oracle: numpy. A scale goes up to the next number of FP16, so that what fitted still fits."""
    axis = data.draw(st.integers(0, weight.ndim - 1))
    others = tuple(place for place in range(weight.ndim) if place != axis)
    largest = np.abs(weight).max(others if per_channel else None)
    scale = np.maximum(largest / np.float32(127), np.float32(1e-7)).astype(np.float32)
    model = layer(weight, np.asarray(scale), axis)
    settle_scales(model, {"w": numpy_helper.from_array(weight, "w")})
    stored = constants(model)
    settled = stored["s"]
    assert settled.shape == scale.shape
    np.testing.assert_array_equal(settled.astype(np.float16).astype(np.float32), settled)
    assert (settled >= scale).all()
    ulp = np.maximum(np.spacing(scale.astype(np.float16)).astype(np.float64), 2.0**-24)
    assert (settled - scale <= ulp).all()
    (node,) = model.graph.node
    assert node.op_type == "DequantizeLinear"
    integers = stored[node.input[0]]
    assert integers.dtype == np.int8
    wide = settled.reshape([-1 if place == axis else 1 for place in range(weight.ndim)]) if per_channel else settled
    assert np.abs(integers.astype(int)).max(initial=0) <= 127
    assert np.abs(integers * wide.astype(np.float64) - weight).max() <= wide.max() * 0.5001
