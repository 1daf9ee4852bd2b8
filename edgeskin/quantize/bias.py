"""Bias correction for Q/DQ graphs: take back the mean error that rounding the weights causes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskin.quantize.graph import attribute

Floats = NDArray[np.float64]


def mean_error(weight: Floats, rounded: Floats, mean_input: Floats) -> Floats:
    """E[W x] - E[W' x] a output channel, for an input of a constant mean a channel (Nagel et al. 2019, eq. 17).

    Args:
        weight: [out, in / groups, ...] as it was.
        rounded: the same after rounding.
        mean_input: [in], over examinations and places.

    >>> weight = np.array([[1.0, 2.0]])
    >>> mean_error(weight, np.array([[1.1, 1.9]]), np.array([1.0, 3.0])).round(6).tolist()
    [0.2]
    """
    lost = (weight - rounded).reshape(*weight.shape[:2], -1).sum(-1)  # [out, in / groups]
    groups = len(mean_input) // lost.shape[1]
    lost = lost.reshape(groups, -1, lost.shape[1])
    inputs = mean_input.reshape(groups, lost.shape[2])
    return np.asarray(np.einsum("goi,gi->go", lost, inputs).reshape(-1))


def mean_inputs(original: Any) -> frozenset[str]:
    """Tensors of an onnx.ModelProto whose mean a channel `correct_biases` asks for."""
    return frozenset(node.input[0] for node in _layers(original).values())


def correct_biases(original: Any, quantized: Any, means: Mapping[str, Floats]) -> int:
    """Shift the biases of a Q/DQ graph in place, int32 or floating point; returns how many layers were corrected.

    Args:
        original: the FP32 onnx.ModelProto that was quantised; its nodes have the same names.
        quantized: onnx.ModelProto with DequantizeLinear nodes on weights.
        means: mean a channel of each tensor that `mean_inputs` names.
    """
    from onnx import numpy_helper

    layers = _layers(original)
    constants = {t.name: t for t in original.graph.initializer}
    stored = {t.name: t for t in quantized.graph.initializer}
    makers = {o: n for n in quantized.graph.node for o in n.output}
    shared = _used_twice(quantized)
    corrected = 0
    for node in quantized.graph.node:
        before = layers.get(node.name)
        if before is None or len(node.input) < 3 or node.input[1] not in makers or node.input[2] in shared:
            continue
        exact = numpy_helper.to_array(constants[before.input[1]]).astype(np.float64)
        rounded = dequantized(makers[node.input[1]], stored)
        if node.op_type == "Gemm" and not attribute(node, "transB", 0):
            exact, rounded = exact.T, rounded.T
        shift = mean_error(exact, rounded, means[before.input[0]])
        if node.input[2] in makers:
            bias, scale = makers[node.input[2]].input[:2]
            steps = numpy_helper.to_array(stored[scale]).astype(np.float64)
            value = numpy_helper.to_array(stored[bias]) + np.rint(shift / steps).astype(np.int32)
        else:
            bias = node.input[2]
            value = (numpy_helper.to_array(stored[bias]) + shift).astype(np.float32)
        stored[bias].CopyFrom(numpy_helper.from_array(value, bias))
        corrected += 1
    return corrected


def dequantized(node: Any, stored: Mapping[str, Any]) -> Floats:
    """Values that a DequantizeLinear of stored integers, zero point 0, gives."""
    from onnx import numpy_helper

    whole, scale = (numpy_helper.to_array(stored[name]).astype(np.float64) for name in node.input[:2])
    if scale.ndim:
        axis = attribute(node, "axis", 1)
        scale = scale.reshape([-1 if i == axis % whole.ndim else 1 for i in range(whole.ndim)])
    return np.asarray(whole * scale)


def _layers(original: Any) -> dict[str, Any]:
    """Name -> layer with a constant weight and a constant bias."""
    constants = {tensor.name for tensor in original.graph.initializer}
    return {
        node.name: node
        for node in original.graph.node
        if node.op_type in ("Conv", "Gemm") and len(node.input) == 3 and constants.issuperset(node.input[1:])
    }


def _used_twice(model: Any) -> set[str]:
    """Tensors that more than one node takes: what is right for one layer's bias is wrong for another's."""
    seen: set[str] = set()
    twice: set[str] = set()
    for node in model.graph.node:
        for name in node.input:
            (twice if name in seen else seen).add(name)
    return twice
