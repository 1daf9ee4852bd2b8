"""What a bundle's graph asks of a machine: products, bytes and layers, counted without running it and without torch."""

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgeskin.bundle import Bundle
from edgeskin.env import cache_dir
from edgeskin.errors import EdgeskinError, missing_extra
from edgeskin.files import pretty_json, write_atomic
from edgeskin.spec.device import LayerCounts
from edgeskin.spec.manifest import Mode

_CACHE = "layers-2"  # of files of this form; another form, another number
# Operators that only move values: an integer that goes in comes out.
_MOVING = {
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "StridedSlice", "Split", "VariadicSplit", "Concat",
    "Gather", "Flatten", "Identity", "Pad",
}  # fmt: skip
# Operators of few products that start a kernel of their own; what is not named here is fused into its neighbours.
_LIGHT = {
    "MVN", "LayerNormalization", "Softmax", "ReduceMean", "AvgPool", "MaxPool", "AveragePool", "GlobalAveragePool",
    "AdaptiveAvgPool", "Interpolate", "Resize",
}  # fmt: skip
_ACTIVATIONS = {"Clip", "Relu", "LeakyRelu", "HardSigmoid", "Sigmoid", "Tanh"}


@dataclass(frozen=True, slots=True)
class Layer:
    """One operator that starts work of its own; the two products of an attention kernel are two of one name.

    `names`: its own, and in ONNX those of what it puts out, an activation that engines fuse with it included.
    """

    names: tuple[str, ...]
    macs: int
    int8: bool
    weights: int  # elements
    moved: int  # elements read and written, weights aside
    output: int = 0  # elements written


def conv_macs(output: Iterable[int], kernel: Iterable[int]) -> int:
    """Multiply-accumulates of a convolution: each output value sums its group's input channels x kernel height x width.

    >>> conv_macs(output=(2, 32, 112, 112), kernel=(3, 3, 3))  # 802,816 values of 27 products each
    21676032
    """
    return math.prod(output) * math.prod(kernel)


def count(bundle: Bundle, mode: Mode = "pair") -> LayerCounts:
    """Count the bundle's graph of that mode; kept in the cache under the bundle's hash.

    Raises:
        EdgeskinError: the package that reads such a graph is not installed (openvino for .xml, onnx for .onnx).
    """
    kept = cache_dir() / "roofline" / f"{_CACHE}-{bundle.sha256}-{mode}.json"
    if kept.is_file():
        with contextlib.suppress(EdgeskinError, ValueError, OSError):
            return LayerCounts.model_validate_json(kept.read_text(encoding="utf-8"))
    counts = count_file(bundle.path(bundle.manifest.graphs[mode].file), mode)
    with contextlib.suppress(EdgeskinError, OSError):  # a cache that cannot be written is no loss
        write_atomic(kept, pretty_json(counts.to_json()))
    return counts


def count_file(path: Path, mode: Mode) -> LayerCounts:
    """Count a model file: OpenVINO's .xml, or .onnx with every shape fixed."""
    layers = read_file(path)
    return LayerCounts(
        mode=mode,
        layers=len({layer.names for layer in layers}),
        int8_macs=sum(layer.macs for layer in layers if layer.int8),
        fp32_macs=sum(layer.macs for layer in layers if not layer.int8),
        weight_bytes=sum(layer.weights * (1 if layer.int8 else 4) for layer in layers),
        activation_bytes=sum(layer.moved * (1 if layer.int8 else 4) for layer in layers),
    )


def read_file(path: Path) -> list[Layer]:
    """Every layer of a model file in its order, with its name and whether the file asks for INT8.

    Raises:
        EdgeskinError: no layer multiplies, a shape is open, or the package that reads such a file is not installed.
    """
    if path.suffix not in (".xml", ".onnx"):
        raise EdgeskinError(
            "a compiled engine does not tell what was asked for",
            got=path.name,
            possible="model files .xml and .onnx",
            fix="use its kit, or a bundle that was packed without --lean",
        )
    layers = list(_openvino_layers(path) if path.suffix == ".xml" else _onnx_layers(path))
    if not any(layer.macs for layer in layers):
        raise EdgeskinError("a graph without a layer that multiplies", got=path.name, fix="export the bundle again")
    return layers


def _openvino_layers(path: Path) -> Iterator[Layer]:
    """Layers of an IR. INT8: both inputs come from a FakeQuantize of at most 256 levels or from 8-bit constants."""
    if find_spec("openvino") is None:
        raise missing_extra("openvino", "openvino")
    from edgeskin.backends.openvino import core

    def constant(node: Any) -> bool:
        kind = node.get_type_name()
        if kind in ("Convert", "Subtract", "Multiply", "Reshape", "FakeQuantize"):
            return constant(node.input_value(0).get_node())
        return bool(kind == "Constant")

    def quantised(node: Any) -> bool:
        kind = node.get_type_name()
        if kind == "Constant":
            return str(node.get_output_element_type(0).to_dtype()) in ("int8", "uint8")
        if kind in _MOVING or (kind in ("Convert", "Subtract", "Multiply") and constant(node)):
            return quantised(node.input_value(0).get_node())
        return bool(kind == "FakeQuantize") and int(node.get_attributes()["levels"]) <= 256

    for node in core().read_model(path).get_ordered_ops():
        kind, names = node.get_type_name(), (node.get_friendly_name(),)
        shapes = [tuple(value.get_shape()) for value in node.input_values()] if kind != "Parameter" else []
        output = tuple(node.get_output_shape(0)) if node.get_output_size() else ()
        if kind in ("Convolution", "GroupConvolution", "MatMul"):
            sources = [value.get_node() for value in node.input_values()]
            if all(constant(source) for source in sources):
                continue  # every engine works it out once, when it compiles
            int8 = all(quantised(source) for source in sources)
            if kind == "MatMul":
                inner = shapes[0][-2] if node.get_attributes().get("transpose_a") else shapes[0][-1]
                macs = math.prod(output) * inner
            else:
                macs = conv_macs(output, shapes[1][2 if kind == "GroupConvolution" else 1 :])
            yield _multiplying(names, macs, int8, shapes, output, weighted=constant(sources[1]))
        elif kind == "ScaledDotProductAttention":  # query [.., L, E], key [.., S, E], value [.., S, V]
            # Two products in one kernel: INT8 may come in at the first; between them values are floating point.
            scores = math.prod(shapes[0][:-1]) * shapes[1][-2]
            read = [math.prod(shape) for shape in shapes[:3]]
            int8 = all(quantised(value.get_node()) for value in node.input_values()[:2])
            yield Layer(names, scores * shapes[0][-1], int8, weights=0, moved=read[0] + read[1])
            moved = read[2] + math.prod(output)
            yield Layer(names, scores * shapes[2][-1], False, weights=0, moved=moved, output=math.prod(output))
        elif kind in _LIGHT:
            yield Layer(names, 0, int8=False, weights=0, moved=math.prod(shapes[0]) + math.prod(output))


def _onnx_layers(path: Path) -> Iterator[Layer]:
    """Layers of an ONNX graph. INT8 is what has both inputs from a DequantizeLinear of 8-bit values."""
    if find_spec("onnx") is None:
        raise EdgeskinError("the package 'onnx' is not installed", got=path.name, fix="pip install onnx")
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        shapes[value.name] = tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
    makers = {name: node for node in graph.node for name in node.output}
    stored = {tensor.name for tensor in graph.initializer}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types |= {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    bytes_ = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)

    def constant(name: str) -> bool:
        maker = makers.get(name)
        if maker is None:
            return name in stored
        moved = maker.op_type in (*_MOVING, "DequantizeLinear", "QuantizeLinear", "Cast")
        return maker.op_type == "Constant" or (moved and constant(maker.input[0]))

    def quantised(name: str) -> bool:
        maker = makers.get(name)
        if maker is not None and maker.op_type in _MOVING:
            return quantised(maker.input[0])
        return maker is not None and maker.op_type == "DequantizeLinear" and types.get(maker.input[0]) in bytes_

    def size(name: str) -> tuple[int, ...]:
        if name not in shapes:
            raise EdgeskinError(
                "a graph whose shapes are not all known", got=f"{path.name}: {name}", fix="export it again"
            )
        return shapes[name]

    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in graph.node:
        after = readers.get(node.output[0], [])
        fused = after[0].output if len(after) == 1 and after[0].op_type in _ACTIVATIONS else ()
        names = tuple(name for name in (node.name, *node.output, *fused) if name)
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            if all(constant(name) for name in node.input[:2]):
                continue
            inputs, output = [size(name) for name in node.input[:2]], size(node.output[0])
            int8 = all(quantised(name) for name in node.input[:2])
            flags = {attribute.name: attribute.i for attribute in node.attribute}
            if node.op_type == "Conv":
                macs = conv_macs(output, inputs[1][1:])
            else:
                macs = math.prod(output) * (inputs[0][0] if flags.get("transA") else inputs[0][-1])
            yield _multiplying(names, macs, int8, inputs, output, weighted=constant(node.input[1]))
        elif node.op_type in _LIGHT:
            output = size(node.output[0])
            yield Layer(names, 0, int8=False, weights=0, moved=math.prod(size(node.input[0])) + math.prod(output))


def _multiplying(
    names: tuple[str, ...],
    macs: int,
    int8: bool,
    inputs: list[tuple[int, ...]],
    output: tuple[int, ...],
    *,
    weighted: bool,
) -> Layer:
    read, written = [math.prod(shape) for shape in inputs[:2]], math.prod(output)
    moved = read[0] + written + (0 if weighted else read[1])
    return Layer(names, macs, int8, weights=read[1] if weighted else 0, moved=moved, output=written)
