"""The hub: explicit Q/DQ ONNX, symmetric weights a channel, symmetric activations a tensor."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgeskin.backends._tensorrt_graph import cast_first
from edgeskin.files import os_errors, sha256_file, write_atomic
from edgeskin.quantize.bias import correct_biases, mean_inputs
from edgeskin.quantize.calibration import CalibrationFrames, Frames, calibration_frames
from edgeskin.quantize.graph import MULTIPLYING, interface, load
from edgeskin.quantize.nodes import same_origin
from edgeskin.quantize.prepared import floats_at, key_of, prepared
from edgeskin.quantize.ranges import Ranges, Step, measure
from edgeskin.quantize.scales import keep_nodes, settle_scales
from edgeskin.quiet import quiet
from edgeskin.spec.recipe import Recipe

# What gains from INT8 on a CPU, and what lies between two such nodes and would else force a change of type.
OPERATIONS = ("Conv", "Gemm", "MatMul", "Add", "Clip", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool")


class Hub:
    """One FP32 graph, calibrated once; `write` makes a quantised variant of it in a moment.

    What calibration found lies in `folder`, so that a hub of the same graph, frames and recipe takes it up, also from
    the middle after a kill.
    """

    def __init__(
        self, model: Path, frames: Iterable[Frames], recipe: Recipe, folder: Path, on_step: Step = lambda *_: None
    ) -> None:
        """Calibrate, or take up what is there.

        Args:
            model: FP32 ONNX as `graph.interface` wants it.
            frames: calibration pairs, uint8 [2, H, W, 3] each.
            recipe: one with quantizer "qdq".
            on_step: called with 1 for each calibration pair.

        Raises:
            EdgeskinError: another kind of ONNX file, too few or unfit frames, weights or activations that are not
                finite numbers.
        """
        self._recipe = recipe
        images = interface(load(model), model)[0]
        chosen = frames if isinstance(frames, CalibrationFrames) else calibration_frames(frames, recipe, images)
        levels = 256 if recipe.activations == "uint8" else 254
        with os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._prepared = prepared(model, folder)
        graph = self._graph = load(self._prepared)
        tensors = floats_at(graph, OPERATIONS)
        with quiet():
            self.ranges: Ranges = measure(
                graph,
                tensors,
                mean_inputs(graph) & set(tensors),
                chosen,
                folder,
                key_of(sha256_file(self._prepared), chosen.sha256),
                on_step,
                calibrator=recipe.calibrator,
                levels=levels,
            )

    def write(self, keep: set[str], out: Path) -> Path:
        """Write a variant of which the nodes `keep`, by their names in `model`, stay in floating point.

        Layers at a tensor that was 0 on every calibration frame stay too: any scale would be invented. Equal input
        gives equal bytes.
        """
        import onnx
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        signed = self._recipe.activations == "int8"
        graph = onnx.ModelProto()
        graph.CopyFrom(self._graph)
        silent = self.ranges.silent()
        constants = {tensor.name for tensor in graph.graph.initializer}
        excluded = [
            node.name
            for node in graph.graph.node
            if same_origin(node.name, keep)
            or not silent.isdisjoint((*node.input, *node.output))
            or (signed and node.op_type == "Add" and not constants.isdisjoint(node.input))  # a bias
        ]
        # Integer biases: ONNX Runtime's kernels want them, TensorRT refuses them, OpenVINO makes floats of them again.
        integer_bias = self._recipe.target == "onnxruntime" and not signed
        options: dict[str, Any] = {
            "WeightSymmetric": True,
            "ActivationSymmetric": signed,
            "QuantizeBias": integer_bias,
        }
        if signed:  # what TensorRT fuses: nothing is rounded between a layer and what it fuses with
            options["OpTypesToExcludeOutputQuantization"] = [*MULTIPLYING, "Add"]
        with quiet():
            quantizer = QDQQuantizer(
                graph,
                per_channel=True,
                reduce_range=False,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QInt8 if signed else QuantType.QUInt8,
                tensors_range=_symmetric(self.ranges, signed),
                nodes_to_quantize=[],
                nodes_to_exclude=excluded,
                op_types_to_quantize=list(OPERATIONS),
                extra_options=options,
            )
            quantizer.quantize_model()
        quantized = quantizer.model.model
        if signed:
            _free_one_branch(quantized)
            settle_scales(quantized, {tensor.name: tensor for tensor in self._graph.graph.initializer})
            cast_first(quantized)
        quantizer.model.topological_sort()
        if self._recipe.bias_correction:
            correct_biases(self._graph, quantized, self.ranges.means)
        write_atomic(out, quantized.SerializeToString(deterministic=True))
        return out


def _free_one_branch(quantized: Any) -> None:
    """Let one branch of an addition be: a convolution and the addition that ends its block become one layer.

    TensorRT fuses them only if nothing is rounded between them; the other branch, which skips the block, stays INT8.
    """
    makers = {output: node for node in quantized.graph.node for output in node.output}
    users: dict[str, int] = {}
    for node in quantized.graph.node:
        for name in node.input:
            users[name] = users.get(name, 0) + 1
    gone: set[str] = set()
    for node in quantized.graph.node:
        if node.op_type != "Add":
            continue
        for place, name in enumerate(node.input):
            after = makers.get(name)
            before = makers.get(after.input[0]) if after is not None and after.op_type == "DequantizeLinear" else None
            if after is None or before is None or before.op_type != "QuantizeLinear":
                continue
            source = makers.get(before.input[0])
            alone = users[name] == 1 and users[before.output[0]] == 1 and users[before.input[0]] == 1
            if source is not None and source.op_type in MULTIPLYING and alone:
                node.input[place] = before.input[0]
                gone |= {before.name, after.name}
                break
    keep_nodes(quantized, [node for node in quantized.graph.node if node.name not in gone])


def _symmetric(ranges: Ranges, signed: bool) -> Any:
    """Make every range symmetric: [0, a] becomes uint8 with zero point 0, [-a, a] uint8 with zero point 128.

    The same numbers as signed INT8 where a tensor is signed, and one bit more where it is not, as after ReLU6.
    x86 wants it so: ONNX Runtime has no fast kernel for signed activations there, and only with zero point 0 does the
    clipping of ReLU6 vanish into the rounding to uint8. With signed activations [-a, a] becomes int8 of zero point 0.
    """
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import TensorData, TensorsData

    data = {}
    for name, low in ranges.low.items():
        high = ranges.high[name]
        if low < 0:
            high = max(-low, high)
            low = -high if signed else -high * 128 / 127  # 127 steps up, 128 down: the zero point is exactly 128
        data[name] = TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
    return TensorsData(CalibrationMethod.MinMax, data)
