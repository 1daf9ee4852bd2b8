"""Which patterns of a Q/DQ graph TensorRT refuses, computes with wrong scales, or runs in floating point or unfused.

Pure ONNX: no builder is needed, and none says all of this. Several patterns parse and build without a word, and are
only seen in the latency, or in the answers.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgeskin.errors import EdgeskinError
from edgeskin.quantize.graph import MULTIPLYING, attribute, opset

Effect = Literal["refused", "wrong numbers", "not INT8", "not fused"]

_OLDEST = 13  # opset: the first with scales a channel
# Highest opset by the first TensorRT whose parser takes it (onnx-tensorrt, docs/operators.md of each release).
_NEWEST = {(8, 5): 17, (9, 2): 19, (10, 0): 20, (10, 15): 24}
# First TensorRT whose parser has the operator, where no opset tells it (onnx-tensorrt, docs/Changelog.md).
_SINCE = {
    "LayerNormalization": (8, 6), "GroupNormalization": (8, 6), "IsInf": (8, 6), "Hardmax": (9, 2),
    "DeformConv": (10, 1), "STFT": (10, 5),
}  # fmt: skip
_NEVER = {
    "AffineGrid", "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CenterCropPad",
    "Col2Im", "Compress", "ConcatFromSequence", "ConvInteger", "DFT", "Det", "DynamicQuantizeLinear", "ImageDecoder",
    "MatMulInteger", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Multinomial", "NegativeLogLikelihoodLoss",
    "Optional", "OptionalGetElement", "OptionalHasElement", "QLinearConv", "QLinearMatMul", "RegexFullMatch",
    "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength",
    "SequenceMap", "SoftmaxCrossEntropyLoss", "SplitToSequence", "StringNormalizer", "TfIdfVectorizer", "Unique",
}  # fmt: skip
_TAKE_UINT8 = {"Cast", "CastLike", "QuantizeLinear", "DequantizeLinear"}  # the last two have rules of their own
_LAYERS = (*MULTIPLYING, "ConvTranspose")


@dataclass(frozen=True, slots=True)
class Finding:
    """One pattern at one node."""

    rule: str
    node: str
    effect: Effect
    why: str
    cure: str

    def line(self) -> str:
        """In one line: node, effect, reason."""
        return f"{self.node}: {self.effect}: {self.why}"


def lint(model: Any, tensorrt: str) -> tuple[Finding, ...]:
    """Every finding about an onnx.ModelProto, in the order of the nodes.

    Args:
        model: with all shapes fixed and every node named (`graph.load`).
        tensorrt: version on the device, "10.3.0".

    Raises:
        EdgeskinError: no version of TensorRT.
    """
    try:
        numbers = tuple(int(part) for part in tensorrt.split(".")[:2])
        version = (numbers[0], numbers[1])
    except (ValueError, IndexError):
        raise EdgeskinError("no version of TensorRT", got=tensorrt, possible="10.3.0 and the like") from None
    graph = _Graph(model)
    found = [*_opset(model, version), *_inputs(model)]
    for node in model.graph.node:
        for rule in _RULES:
            found += rule(node, graph, version)
    return tuple(found)


def refuse(findings: tuple[Finding, ...], name: str, tensorrt: str) -> None:
    """Raises EdgeskinError: there are findings; it names the first three and counts the rest."""
    if not findings:
        return
    first = "; ".join(one.line() for one in findings[:3])
    more = f"; and {len(findings) - 3} more" if len(findings) > 3 else ""
    cures = "; ".join(dict.fromkeys(one.cure for one in findings[:3]))
    raise EdgeskinError(f"{name} does not suit TensorRT {tensorrt}", got=first + more, fix=cures)


class _Graph:
    """Look-ups in an onnx.ModelProto."""

    def __init__(self, model: Any) -> None:
        import onnx

        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.users: dict[str, list[tuple[Any, int]]] = {}
        for node in model.graph.node:
            for place, name in enumerate(node.input):
                self.users.setdefault(name, []).append((node, place))
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and any(a.name == "value" for a in node.attribute):
                self._stored[node.output[0]] = next(a.t for a in node.attribute if a.name == "value")
        typed = onnx.shape_inference.infer_shapes(model).graph
        self.types = {v.name: v.type.tensor_type.elem_type for v in (*typed.value_info, *typed.input, *typed.output)}
        self.types |= {name: tensor.data_type for name, tensor in self._stored.items()}

    def constant(self, name: str) -> Any:
        """Value of a stored tensor as an array, or None."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self._stored[name]) if name in self._stored else None

    def is_constant(self, name: str) -> bool:
        return name in self._stored

    def made_by(self, name: str, kind: str) -> Any:
        """The node of that type that makes a tensor, or None."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == kind else None

    def quantised(self, name: str) -> bool:
        return self.made_by(name, "DequantizeLinear") is not None

    def is_weight(self, node: Any) -> bool:
        """Whether a QuantizeLinear or DequantizeLinear works on a stored tensor, directly or after rounding it."""
        before = self.made_by(node.input[0], "QuantizeLinear")
        return self.is_constant(node.input[0] if before is None else before.input[0])


Rule = Callable[[Any, _Graph, tuple[int, int]], Iterator[Finding]]


def _opset(model: Any, version: tuple[int, int]) -> Iterator[Finding]:
    used = opset(model)
    newest = max((top for first, top in _NEWEST.items() if first <= version), default=0)
    told = ".".join(map(str, version))
    if not _OLDEST <= used <= newest:
        why = f"opset {used}, TensorRT {told} takes {_OLDEST} to {newest}"
        yield Finding("opset", "the graph", "refused", why, f"export with opset {min(max(used, 17), newest)}")


def _inputs(model: Any) -> Iterator[Finding]:
    stored = {tensor.name for tensor in model.graph.initializer}
    for port in model.graph.input:
        sizes = port.type.tensor_type.shape.dim
        if port.name not in stored and not all(size.dim_value > 0 for size in sizes):
            yield Finding("open shape", port.name, "refused", "an input of open size", "export with fixed sizes")


def _operator(node: Any, graph: _Graph, version: tuple[int, int]) -> Iterator[Finding]:
    if node.domain not in ("", "ai.onnx"):
        why = f"{node.domain}.{node.op_type} is no standard operator"
        yield Finding("operator", node.name, "refused", why, "export without the optimisations of another engine")
    elif node.op_type in _NEVER:
        why = f"the parser has no {node.op_type}"
        yield Finding(
            "operator", node.name, "refused", why, "write it with QuantizeLinear, DequantizeLinear and plain operators"
        )
    elif version < _SINCE.get(node.op_type, (0, 0)):
        why = f"{node.op_type} needs TensorRT {'.'.join(map(str, _SINCE[node.op_type]))}"
        yield Finding("operator", node.name, "refused", why, "export it as plain operators")
    elif node.op_type == "Attention":
        why = "Attention in FP32 fails in the builder"
        yield Finding("attention", node.name, "refused", why, "export it as products and Softmax")


def _bytes(node: Any, graph: _Graph, version: tuple[int, int]) -> Iterator[Finding]:
    from onnx import TensorProto

    for name in node.input:
        if (
            graph.types.get(name) == TensorProto.UINT8
            and not graph.is_constant(name)
            and node.op_type not in _TAKE_UINT8
        ):
            why = f"{node.op_type} of uint8, which is a type of inputs and outputs alone"
            yield Finding("uint8", node.name, "refused", why, "cast the frames to float first")


def _integers(node: Any, graph: _Graph, version: tuple[int, int]) -> Iterator[Finding]:
    """Stored type, zero point, scale and axis of one QuantizeLinear or DequantizeLinear."""
    from onnx import TensorProto

    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return
    weight = graph.is_weight(node)
    integer = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
    kind = graph.types.get(integer, TensorProto.UNDEFINED)
    word = TensorProto.DataType.Name(kind).lower()
    if kind == TensorProto.UINT8 and not weight:
        point = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
        if point is not None and not np.any(point):
            why = "uint8 of zero point 0 is taken as int8"
            yield Finding("uint8 activation", node.name, "wrong numbers", why, "quantise activations as int8")
    elif kind != TensorProto.INT8:
        name = "integer bias" if kind == TensorProto.INT32 else "type"
        cure = "leave the bias in floating point" if kind == TensorProto.INT32 else "quantise as int8"
        yield Finding(name, node.name, "refused", f"{word} where only int8 is taken", cure)
    yield from _zero_point(node, graph)
    scale = graph.constant(node.input[1])
    if scale is None:
        yield Finding("open scale", node.name, "refused", "a scale that is computed", "store the scale as a constant")
        return
    if not (np.all(np.isfinite(scale)) and np.all(scale > 0)):
        worst = float(scale.reshape(-1)[np.argmin(np.where(np.isfinite(scale), scale, -math.inf))])
        why = f"a scale of {worst:g}"
        yield Finding(
            "scale", node.name, "wrong numbers", why, "calibrate again; leave what is always 0 in floating point"
        )
    if attribute(node, "block_size", 0):
        yield Finding("blocks", node.name, "refused", "int8 in blocks", "a scale a channel or a tensor")
    elif scale.size > 1:
        yield from _axis(node, graph, weight)


def _zero_point(node: Any, graph: _Graph) -> Iterator[Finding]:
    if len(node.input) < 3 or not node.input[2]:
        return
    point = graph.constant(node.input[2])
    if point is None:
        yield Finding("open zero point", node.name, "refused", "a zero point that is computed", "zero point 0, stored")
    elif np.any(point):
        worst = int(point.reshape(-1)[np.argmax(np.abs(point.astype(np.int64)))])
        yield Finding("zero point", node.name, "refused", f"zero point {worst}", "quantise symmetrically, zero point 0")


def _axis(node: Any, graph: _Graph, weight: bool) -> Iterator[Finding]:
    """Scales a channel: of weights alone, along what the layer puts out."""
    if not weight:
        why = "an activation with a scale for each channel"
        yield Finding("activation channels", node.name, "not INT8", why, "one scale a tensor for activations")
        return
    if node.op_type == "QuantizeLinear":
        return  # judged where its DequantizeLinear meets the layer
    source = graph.constant(node.input[0])
    rank = source.ndim if source is not None else graph.constant(graph.makers[node.input[0]].input[0]).ndim
    axis = attribute(node, "axis", 1) % rank
    for user, place in graph.users.get(node.output[0], []):
        wanted = _output_axis(user, place, rank)
        if wanted is not None and axis != wanted:
            why = f"scales along axis {axis} of the weight of {user.name}, whose output channels are axis {wanted}"
            yield Finding("weight axis", node.name, "not INT8", why, f"one scale an output channel, axis {wanted}")


def _output_axis(layer: Any, place: int, rank: int) -> int | None:
    """Axis of a weight's output channels; None where the tensor is no weight."""
    if place != 1 or layer.op_type not in _LAYERS:
        return None
    if layer.op_type == "Gemm":
        return 0 if attribute(layer, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": rank - 1}[str(layer.op_type)]


def _partners(node: Any, graph: _Graph, version: tuple[int, int]) -> Iterator[Finding]:
    """Nothing but a DequantizeLinear of the same scale follows a QuantizeLinear."""
    if node.op_type == "QuantizeLinear":
        for user, _ in graph.users.get(node.output[0], []):
            if user.op_type != "DequantizeLinear":
                why = f"integers go into {user.op_type} {user.name}"
                yield Finding("loose integers", node.name, "refused", why, "dequantise before every other operator")
    elif node.op_type == "DequantizeLinear" and not graph.is_constant(node.input[0]):
        before = graph.made_by(node.input[0], "QuantizeLinear")
        if before is None:
            why = "its integers come from no QuantizeLinear"
            yield Finding("loose integers", node.name, "refused", why, "quantise right before it")
            return
        given, taken = (graph.constant(one.input[1]) for one in (before, node))
        if given is not None and taken is not None and not np.array_equal(given, taken):
            why = f"its scale is not that of {before.name}"
            yield Finding("unequal scales", node.name, "wrong numbers", why, "the same scale on both sides")


def _layer(node: Any, graph: _Graph, version: tuple[int, int]) -> Iterator[Finding]:
    """A layer is INT8 with both of its factors or not at all."""
    if node.op_type not in _LAYERS:
        return
    halves = [graph.quantised(name) for name in node.input[:2]]
    if halves[0] != halves[1]:
        lacking = "its input" if halves[1] else "its weight or second factor"
        yield Finding("half a layer", node.name, "not INT8", f"{lacking} is not quantised", "quantise both, or neither")


def _residual(node: Any, graph: _Graph, version: tuple[int, int]) -> Iterator[Finding]:
    """Of an addition one branch is left to fuse with the layer that ends the block."""
    if node.op_type != "Add":
        return
    rounded = [graph.made_by(name, "DequantizeLinear") for name in node.input]
    if any(one is None or graph.is_constant(one.input[0]) for one in rounded):
        return
    for one in rounded:
        before = graph.made_by(one.input[0], "QuantizeLinear")
        source = graph.makers.get(before.input[0]) if before is not None else None
        alone = source is not None and all(
            len(graph.users[tensor]) == 1 for tensor in (before.input[0], before.output[0], one.output[0])
        )
        if source is not None and alone and source.op_type in _LAYERS:
            why = f"both branches are rounded, so {source.name} cannot fuse with the addition"
            yield Finding("residual", node.name, "not fused", why, "quantise only the branch that skips the block")
            return


_RULES: tuple[Rule, ...] = (_operator, _bytes, _integers, _partners, _layer, _residual)
