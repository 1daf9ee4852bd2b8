"""One sound Q/DQ graph, and each way to spoil it: the right node, the right effect, and nothing else."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgeskin.errors import EdgeskinError
from edgeskin.quantize.lint import lint, refuse

VERSION = "10.3.0"


def sound(opset: int = 17) -> ModelProto:
    """uint8 frames -> two convolutions with a residual addition -> head; every layer INT8 as TensorRT likes it."""
    rng = np.random.default_rng(0)
    stored: list[TensorProto] = []
    nodes: list[NodeProto] = []

    def keep(name: str, value: np.ndarray) -> str:
        stored.append(numpy_helper.from_array(value, name))
        return name

    def node(kind: str, inputs: list[str], name: str, **more: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"{name}.out"], name=name, **more))
        return f"{name}.out"

    def rounded(tensor: str, name: str) -> str:
        scale, zero = keep(f"{name}.scale", np.float32(0.05)), keep(f"{name}.zero", np.int8(0))
        quantised = node("QuantizeLinear", [tensor, scale, zero], f"{name}.q")
        return node("DequantizeLinear", [quantised, scale, zero], f"{name}.dq")

    def weight(name: str, shape: tuple[int, ...]) -> str:
        values = keep(f"{name}.values", rng.integers(-127, 128, shape).astype(np.int8))
        scale = keep(f"{name}.scale", np.full(shape[0], 0.01, np.float32))
        return node(
            "DequantizeLinear", [values, scale, keep(f"{name}.zero", np.zeros(shape[0], np.int8))], name, axis=0
        )

    x = node("Cast", ["frames"], "cast", to=TensorProto.FLOAT)
    x = rounded(node("Transpose", [x], "turn", perm=[0, 3, 1, 2]), "a")
    bias = keep("bias", np.zeros(8, np.float32))
    stem = node("Conv", [x, weight("w1", (8, 3, 3, 3)), bias], "conv1", pads=[1, 1, 1, 1])
    skip = rounded(node("Relu", [stem], "relu"), "b")
    x = node("Conv", [skip, weight("w2", (8, 8, 3, 3))], "conv2", pads=[1, 1, 1, 1])
    x = node("GlobalAveragePool", [node("Add", [x, skip], "add")], "pool")
    x = rounded(node("Flatten", [x], "flat"), "c")
    nodes.append(helper.make_node("Gemm", [x, weight("w3", (5, 8))], ["logits"], name="head", transB=1))
    graph = helper.make_graph(
        nodes,
        "sound",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, [1, 8, 8, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 5])],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def by_name(model: ModelProto, name: str) -> NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def store(model: ModelProto, name: str, value: np.ndarray) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(value, name))
            return
    model.graph.initializer.append(numpy_helper.from_array(value, name))


def attribute(node: NodeProto, name: str, value: object) -> None:
    kept = [one for one in node.attribute if one.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def zero_point(model: ModelProto) -> None:
    store(model, "a.zero", np.int8(3))


def zero_point_of_a_weight(model: ModelProto) -> None:
    store(model, "w2.zero", np.full(8, -2, np.int8))


def uint8_activation(model: ModelProto) -> None:
    store(model, "a.zero", np.uint8(0))


def no_zero_point(model: ModelProto) -> None:
    for name in ("a.q", "a.dq"):
        del by_name(model, name).input[2]


def uint8_weight(model: ModelProto) -> None:
    store(model, "w1.values", np.ones((8, 3, 3, 3), np.uint8))
    store(model, "w1.zero", np.zeros(8, np.uint8))


def int16(model: ModelProto) -> None:
    store(model, "c.zero", np.int16(0))
    model.opset_import[0].version = 20


def integer_bias(model: ModelProto) -> None:
    store(model, "bias.values", np.zeros(8, np.int32))
    store(model, "bias.scale", np.full(8, 0.01, np.float32))
    made = helper.make_node("DequantizeLinear", ["bias.values", "bias.scale"], ["bias.out"], name="bias.dq", axis=0)
    model.graph.node.insert(0, made)
    by_name(model, "conv1").input[2] = "bias.out"


def weight_axis(model: ModelProto) -> None:
    store(model, "w2.scale", np.full(8, 0.01, np.float32))
    attribute(by_name(model, "w2"), "axis", 1)


def gemm_axis(model: ModelProto) -> None:
    store(model, "w3.scale", np.full(8, 0.01, np.float32))
    store(model, "w3.zero", np.zeros(8, np.int8))
    attribute(by_name(model, "w3"), "axis", 1)


def activation_channels(model: ModelProto) -> None:
    store(model, "b.scale", np.full(8, 0.05, np.float32))
    store(model, "b.zero", np.zeros(8, np.int8))


def half_a_layer(model: ModelProto) -> None:
    by_name(model, "head").input[0] = "flat.out"
    for name in ("c.q", "c.dq"):
        model.graph.node.remove(by_name(model, name))


def float_weight(model: ModelProto) -> None:
    store(model, "w2.float", np.ones((8, 8, 3, 3), np.float32))
    by_name(model, "conv2").input[1] = "w2.float"
    model.graph.node.remove(by_name(model, "w2"))


def residual(model: ModelProto) -> None:
    store(model, "d.scale", np.float32(0.05))
    store(model, "d.zero", np.int8(0))
    place = list(model.graph.node).index(by_name(model, "add"))
    both = [
        helper.make_node("QuantizeLinear", ["conv2.out", "d.scale", "d.zero"], ["d.q.out"], name="d.q"),
        helper.make_node("DequantizeLinear", ["d.q.out", "d.scale", "d.zero"], ["d.out"], name="d.dq"),
    ]
    for offset, node in enumerate(both):
        model.graph.node.insert(place + offset, node)
    by_name(model, "add").input[0] = "d.out"


def unequal_scales(model: ModelProto) -> None:
    store(model, "other", np.float32(0.07))
    by_name(model, "b.dq").input[1] = "other"


def scale_of_zero(model: ModelProto) -> None:
    store(model, "b.scale", np.float32(0))


def infinite_scale(model: ModelProto) -> None:
    store(model, "w1.scale", np.array([0.01] * 7 + [np.inf], np.float32))


def computed_scale(model: ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Abs", ["a.scale"], ["a.abs"], name="abs"))
    for name in ("a.q", "a.dq"):
        by_name(model, name).input[1] = "a.abs"


def loose_integers(model: ModelProto) -> None:
    place = list(model.graph.node).index(by_name(model, "a.dq"))
    model.graph.node.insert(place, helper.make_node("Identity", ["a.q.out"], ["a.same"], name="same"))
    by_name(model, "a.dq").input[0] = "a.same"


def uint8_transpose(model: ModelProto) -> None:
    cast, turn = by_name(model, "cast"), by_name(model, "turn")
    cast.input[0], turn.input[0] = "turn.raw", "frames"
    turn.output[0], cast.output[0] = "turn.raw", "turn.out"
    model.graph.node.remove(turn)
    model.graph.node.insert(0, turn)


def foreign_operator(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    by_name(model, "relu").op_type = "Gelu"
    by_name(model, "relu").domain = "com.microsoft"


def unknown_operator(model: ModelProto) -> None:
    place = list(model.graph.node).index(by_name(model, "pool"))
    made = helper.make_node("BitwiseNot", ["frames"], ["unused"], name="flip")
    model.graph.node.insert(place, made)
    model.opset_import[0].version = 18


def open_shape(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def new_opset(model: ModelProto) -> None:
    model.opset_import[0].version = 21


def old_opset(model: ModelProto) -> None:
    model.opset_import[0].version = 12


def blocks(model: ModelProto) -> None:
    model.opset_import[0].version = 21
    store(model, "w2.scale", np.full((8, 4, 3, 3), 0.01, np.float32))
    store(model, "w2.zero", np.zeros((8, 4, 3, 3), np.int8))
    attribute(by_name(model, "w2"), "axis", 1)
    attribute(by_name(model, "w2"), "block_size", 2)


CORPUS: list[tuple[Callable[[ModelProto], None], str, set[tuple[str, str, str]]]] = [
    (zero_point, VERSION, {("zero point", "a.q", "refused"), ("zero point", "a.dq", "refused")}),
    (zero_point_of_a_weight, VERSION, {("zero point", "w2", "refused")}),
    (
        uint8_activation,
        VERSION,
        {("uint8 activation", "a.q", "wrong numbers"), ("uint8 activation", "a.dq", "wrong numbers")},
    ),
    (
        no_zero_point,
        VERSION,
        {("uint8 activation", "a.q", "wrong numbers"), ("uint8 activation", "a.dq", "wrong numbers")},
    ),
    (uint8_weight, VERSION, {("type", "w1", "refused")}),
    (int16, VERSION, {("type", "c.q", "refused"), ("type", "c.dq", "refused")}),
    (integer_bias, VERSION, {("integer bias", "bias.dq", "refused")}),
    (weight_axis, VERSION, {("weight axis", "w2", "not INT8")}),
    (gemm_axis, VERSION, {("weight axis", "w3", "not INT8")}),
    (
        activation_channels,
        VERSION,
        {("activation channels", "b.q", "not INT8"), ("activation channels", "b.dq", "not INT8")},
    ),
    (half_a_layer, VERSION, {("half a layer", "head", "not INT8")}),
    (float_weight, VERSION, {("half a layer", "conv2", "not INT8")}),
    (residual, VERSION, {("residual", "add", "not fused")}),
    (unequal_scales, VERSION, {("unequal scales", "b.dq", "wrong numbers")}),
    (scale_of_zero, VERSION, {("scale", "b.q", "wrong numbers"), ("scale", "b.dq", "wrong numbers")}),
    (infinite_scale, VERSION, {("scale", "w1", "wrong numbers")}),
    (computed_scale, VERSION, {("open scale", "a.q", "refused"), ("open scale", "a.dq", "refused")}),
    (loose_integers, VERSION, {("loose integers", "a.q", "refused"), ("loose integers", "a.dq", "refused")}),
    (uint8_transpose, VERSION, {("uint8", "turn", "refused")}),
    (foreign_operator, VERSION, {("operator", "relu", "refused")}),
    (unknown_operator, VERSION, {("operator", "flip", "refused"), ("uint8", "flip", "refused")}),
    (open_shape, VERSION, {("open shape", "frames", "refused")}),
    (new_opset, VERSION, {("opset", "the graph", "refused")}),
    (old_opset, VERSION, {("opset", "the graph", "refused")}),
    (blocks, "10.16.1", {("blocks", "w2", "refused")}),
]


@pytest.mark.parametrize("tensorrt", ["8.6.2", "10.3.0", "10.13.3", "10.16.2", "11.4.1"])
def test_a_sound_graph_passes_in_every_version(tensorrt: str) -> None:
    assert lint(sound(), tensorrt) == ()
    refuse(lint(sound(), tensorrt), "sound.onnx", tensorrt)


@pytest.mark.parametrize(("spoil", "tensorrt", "wanted"), CORPUS, ids=[one[0].__name__ for one in CORPUS])
def test_each_fault_is_found_at_its_node(
    spoil: Callable[[ModelProto], None], tensorrt: str, wanted: set[tuple[str, str, str]]
) -> None:
    model = sound()
    spoil(model)
    found = lint(model, tensorrt)
    assert {(one.rule, one.node, one.effect) for one in found} == wanted
    assert all(one.why and one.cure for one in found)
    with pytest.raises(EdgeskinError, match=f"does not suit TensorRT {tensorrt}") as caught:
        refuse(found, "pair.onnx", tensorrt)
    assert found[0].node in str(caught.value.got)
    assert "\n" not in caught.value.line()


@given(st.lists(st.sampled_from([one[0] for one in CORPUS if one[1] == VERSION]), min_size=2, max_size=2, unique=True))
def test_two_faults_hide_none_of_the_nodes(faults: list[Callable[[ModelProto], None]]) -> None:
    """Whatever else is wrong, something is said about the graph."""
    model = sound()
    for spoil in faults:
        try:
            spoil(model)
        except StopIteration:  # the first took away what the second spoils
            return
    assert lint(model, VERSION)


def test_a_layer_in_floating_point_is_no_fault() -> None:
    model = sound()
    float_weight(model)
    by_name(model, "conv2").input[0] = "relu.out"
    assert lint(model, VERSION) == ()


@pytest.mark.parametrize("version", ["", "ten", "10", "10.x"])
def test_a_version_that_is_none_is_refused(version: str) -> None:
    with pytest.raises(EdgeskinError, match="no version of TensorRT"):
        lint(sound(), version)


def test_more_than_three_findings_are_counted() -> None:
    model = sound()
    for spoil in (zero_point, unequal_scales, integer_bias, uint8_weight):
        spoil(model)
    with pytest.raises(EdgeskinError, match="and 2 more"):
        refuse(lint(model, VERSION), "pair.onnx", VERSION)
