"""Scales that FP16 holds exactly, and weights stored as the integers that they give."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeskin.quantize.graph import attribute

PAIR = ("QuantizeLinear", "DequantizeLinear")


def settle_scales(quantized: Any, weights: Mapping[str, Any]) -> None:
    """Round every scale up to a number that FP16 holds, and store the weights as the integers that it gives.

    In a strongly typed network a scale has the type of what it scales: rounded later, weights and activations would all
    be off by up to 0.05 %, and scales below 6e-5 by more. Weights that a QuantizeLinear would round when the engine is
    built are rounded here, from FP32; the node goes.

    Args:
        quantized: onnx.ModelProto, changed in place.
        weights: the FP32 onnx.TensorProto of each weight by its name; `<name>_quantized` are stored integers of it.
    """
    import onnx

    stored = {tensor.name: tensor for tensor in quantized.graph.initializer}
    makers = {output: node for node in quantized.graph.node for output in node.output}
    pairs = [node for node in quantized.graph.node if node.op_type in PAIR]
    for name in dict.fromkeys(node.input[1] for node in pairs):
        scale = onnx.numpy_helper.to_array(stored[name])
        near = scale.astype(np.float16)
        up = np.where(near.astype(np.float32) < scale, np.nextafter(near, np.float16(np.inf)), near)
        stored[name].CopyFrom(onnx.numpy_helper.from_array(up.astype(np.float32).reshape(scale.shape), name))
    for node in pairs:
        integers, before = node.input[0], makers.get(node.input[0])
        origin = integers.removesuffix("_quantized") if before is None else before.input[0]
        if node.op_type != "DequantizeLinear" or origin not in weights or (before is None and integers not in stored):
            continue
        values, scale = onnx.numpy_helper.to_array(weights[origin]), onnx.numpy_helper.to_array(stored[node.input[1]])
        if scale.ndim:
            axis = attribute(node, "axis", 1) % values.ndim
            scale = scale.reshape([-1 if place == axis else 1 for place in range(values.ndim)])
        rounded = onnx.numpy_helper.from_array(np.clip(np.rint(values / scale), -127, 127).astype(np.int8), integers)
        if before is None:
            stored[integers].CopyFrom(rounded)
        elif integers not in stored:
            quantized.graph.initializer.append(rounded)
            stored[integers] = quantized.graph.initializer[-1]
    keep_nodes(quantized, [node for node in quantized.graph.node if not _stands_for(node, stored)])


def keep_nodes(model: Any, nodes: list[Any]) -> None:
    """Leave only these nodes in a graph, in this order, and the constants that they take."""
    used = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)


def _stands_for(node: Any, stored: Mapping[str, Any]) -> bool:
    """Whether a node would make what is now stored."""
    return node.op_type == "QuantizeLinear" and node.output[0] in stored
