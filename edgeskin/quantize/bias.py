"""Bias correction for Q/DQ graphs: take back the mean error that rounding the weights causes."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskin.quantize.calibration import Frames

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


def correct_biases(prepared: Path, quantized: Any, frames: list[Frames]) -> int:
    """Shift the int32 biases of a Q/DQ graph in place; returns how many layers were corrected.

    Args:
        prepared: the FP32 ONNX file that was quantised; its nodes have the same names.
        quantized: onnx.ModelProto with DequantizeLinear nodes on weights and biases.
    """
    import onnx
    from onnx import numpy_helper

    original = onnx.load(prepared)
    constants = {t.name: t for t in original.graph.initializer}
    layers = {n.name: n for n in original.graph.node if _correctable(n) and n.input[1] in constants}
    means = _input_means(original, sorted({n.input[0] for n in layers.values()}), frames)
    stored = {t.name: t for t in quantized.graph.initializer}
    makers = {o: n for n in quantized.graph.node for o in n.output}
    corrected = 0
    for node in quantized.graph.node:
        before = layers.get(node.name)
        weight, bias = (
            (makers.get(name) for name in node.input[1:3]) if before and len(node.input) == 3 else (None,) * 2
        )
        if before is None or weight is None or bias is None:
            continue
        exact = numpy_helper.to_array(constants[before.input[1]]).astype(np.float64)
        rounded = _dequantized(weight, stored)
        if node.op_type == "Gemm" and not _transposed(node):
            exact, rounded = exact.T, rounded.T
        shift = mean_error(exact, rounded, means[before.input[0]])
        steps = numpy_helper.to_array(stored[bias.input[1]]).astype(np.float64)
        whole = numpy_helper.to_array(stored[bias.input[0]]) + np.rint(shift / steps).astype(np.int32)
        stored[bias.input[0]].CopyFrom(numpy_helper.from_array(whole.astype(np.int32), bias.input[0]))
        corrected += 1
    return corrected


def _correctable(node: Any) -> bool:
    return node.op_type in ("Conv", "Gemm") and len(node.input) == 3


def _transposed(gemm: Any) -> bool:
    return any(a.name == "transB" and a.i == 1 for a in gemm.attribute)


def _dequantized(node: Any, stored: dict[str, Any]) -> Floats:
    """Values that a DequantizeLinear of stored integers, zero point 0, gives."""
    from onnx import numpy_helper

    whole, scale = (numpy_helper.to_array(stored[name]).astype(np.float64) for name in node.input[:2])
    if scale.ndim:
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        scale = scale.reshape([-1 if i == axis % whole.ndim else 1 for i in range(whole.ndim)])
    return np.asarray(whole * scale)


def _input_means(model: Any, tensors: list[str], frames: list[Frames]) -> dict[str, Floats]:
    """Mean a channel of some tensors over the frames: axis 1 of images [N, C, H, W], the last of rows [N, C]."""
    import onnx
    import onnxruntime as ort

    wanted = onnx.ModelProto()
    wanted.CopyFrom(model)
    known = {port.name for port in wanted.graph.output}
    wanted.graph.output.extend(onnx.helper.make_empty_tensor_value_info(t) for t in tensors if t not in known)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(wanted.SerializeToString(), options, providers=["CPUExecutionProvider"])
    sums = dict.fromkeys(tensors, 0.0)
    for frame in frames:
        for name, value in zip(tensors, session.run(tensors, {"frames": frame}), strict=True):
            axes = tuple(i for i in range(value.ndim) if i != 1)
            sums[name] = sums[name] + value.mean(axis=axes, dtype=np.float64)
    return {name: np.asarray(total / len(frames)) for name, total in sums.items()}
