"""ONNX as TensorRT wants it: frames cast first, every tensor of the type that it is to be computed in."""

from pathlib import Path
from typing import Any

from edgeskin.backends import broken, require_file
from edgeskin.errors import EdgeskinError
from edgeskin.spec.recipe import Precision

_HALF_MAX = 65504.0


def strongly_typed(model: Path, precision: Precision) -> Any:
    """The onnx.ModelProto of a file, typed so that a strongly typed network runs as the recipe says.

    "int8": what the Q/DQ nodes do not cover runs in FP16, which needs scales that FP16 holds exactly, as the hub writes
    them; "fp16": all of it; "fp32": as it is. Input and output keep their types.

    Raises:
        EdgeskinError: no ONNX file, or constants that FP16 cannot hold.
    """
    require_file(model, (".onnx",))
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        graph = onnx.load(model)
        onnx.checker.check_model(graph)
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise broken(model, error) from error
    cast_first(graph)
    if precision != "fp32":
        graph = _in_half(graph, model)
    return graph


def cast_first(graph: Any) -> None:
    """Make floats of the frames before they are transposed: TensorRT takes uint8 as an input and into a Cast alone."""
    users: dict[str, list[Any]] = {}
    for node in graph.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    for turn in users.get("frames", []):
        after = users.get(turn.output[0], [])
        if turn.op_type == "Transpose" and len(after) == 1 and after[0].op_type == "Cast":
            cast, turned = after[0], after[0].output[0]
            floats = f"{turned}_before_{turn.name}"  # a new name: what the file notes of the old ones no longer holds
            cast.input[0], cast.output[0] = "frames", floats
            turn.input[0], turn.output[0] = floats, turned
            nodes = sorted(graph.graph.node, key=lambda node: node is not cast)  # keeps the order of the others
            _replace(graph.graph.node, nodes)


def _replace(repeated: Any, items: list[Any]) -> None:
    copies = [type(item)() for item in items]
    for copy, item in zip(copies, items, strict=True):
        copy.CopyFrom(item)
    del repeated[:]
    repeated.extend(copies)


def _in_half(graph: Any, model: Path) -> Any:
    import numpy as np
    from onnx import TensorProto, numpy_helper
    from onnxruntime.transformers.float16 import convert_float_to_float16

    large = [
        tensor.name
        for tensor in graph.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and np.abs(numpy_helper.to_array(tensor)).max(initial=0) > _HALF_MAX
    ]
    if large:
        raise EdgeskinError(
            f"{model.name} has constants that FP16 cannot hold",
            got=", ".join(large[:3]),
            possible=f"up to {_HALF_MAX:g}",
            fix="train with weight decay, or export for another target",
        )
    _refuse_rounded_scales(graph, model)
    # Exporters also note the types of stored tensors. The converter would write FP16 there and leave the scales of a
    # Resize as they are, which it must, and every reader would find two types for one tensor.
    stored = {tensor.name for tensor in graph.graph.initializer}
    _replace(graph.graph.value_info, [noted for noted in graph.graph.value_info if noted.name not in stored])
    return convert_float_to_float16(graph, keep_io_types=True)


def _refuse_rounded_scales(graph: Any, model: Path) -> None:
    """A scale that FP16 rounds would move every number behind it, and the weights were not quantised with it."""
    import numpy as np
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[1] in stored:
            scale = numpy_helper.to_array(stored[node.input[1]])
            if scale.dtype == np.float32 and not np.array_equal(scale.astype(np.float16).astype(np.float32), scale):
                raise EdgeskinError(
                    f"{model.name} has scales that FP16 cannot hold",
                    got=node.name,
                    possible="scales that the quantisers of target tensorrt write",
                    fix="quantise it with recipe tensorrt-int8",
                )


def widened(graph: Any) -> Any:
    """The graph with FP32 for FP16, in place, and its stored weights dequantised: the same numbers, unrounded between.

    A fused INT8 kernel sums products of integers exactly; rounding each dequantised number to FP16, as an engine
    without such kernels does, would add an error that the device does not make.
    """
    import numpy as np
    from onnx import AttributeProto, TensorProto, numpy_helper

    half, whole = TensorProto.FLOAT16, TensorProto.FLOAT
    for tensor in graph.graph.initializer:
        if tensor.data_type == half:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in graph.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == half:
                attribute.i = whole
            if attribute.type == AttributeProto.TENSOR and attribute.t.data_type == half:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float32)))
    del graph.graph.value_info[:]  # of the old types
    _dequantise_weights(graph)
    return graph


def _dequantise_weights(graph: Any) -> None:
    import numpy as np
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in graph.graph.initializer}
    nodes = []
    for node in graph.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in stored:
            nodes.append(node)
            continue
        integers = numpy_helper.to_array(stored[node.input[0]]).astype(np.float32)
        scale = numpy_helper.to_array(stored[node.input[1]]).astype(np.float32)
        if scale.ndim:
            axis = next((int(a.i) for a in node.attribute if a.name == "axis"), 1) % integers.ndim
            scale = scale.reshape([-1 if place == axis else 1 for place in range(integers.ndim)])
        graph.graph.initializer.append(numpy_helper.from_array(integers * scale, node.output[0]))  # zero point 0
    _replace(graph.graph.node, nodes)
