"""The hub: explicit Q/DQ ONNX, symmetric weights a channel, symmetric activations a tensor."""

import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from edgeskin.backends import broken
from edgeskin.backends._tensorrt_graph import cast_first
from edgeskin.errors import EdgeskinError
from edgeskin.files import canonical_json, os_errors, sha256_bytes, sha256_file, staged_file, write_atomic
from edgeskin.quantize.bias import correct_biases, mean_inputs
from edgeskin.quantize.calibration import CalibrationFrames, Frames, calibration_frames
from edgeskin.quantize.graph import MULTIPLYING, attribute, interface, load, opset, settle_names
from edgeskin.quantize.nodes import same_origin
from edgeskin.quantize.ranges import Ranges, Step, measure
from edgeskin.quiet import quiet
from edgeskin.spec.recipe import Recipe

# What gains from INT8 on a CPU, and what lies between two such nodes and would else force a change of type.
OPERATIONS = ("Conv", "Gemm", "MatMul", "Add", "Clip", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool")
_OPSET = 13  # the first that knows scales a channel
_FORMAT = 1  # of what a hub keeps; raise it when the same key would give other numbers


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
        self._prepared = _prepared(model, folder)
        graph = self._graph = load(self._prepared)
        tensors = _tensors(graph)
        with quiet():
            self.ranges: Ranges = measure(
                graph,
                tensors,
                mean_inputs(graph) & set(tensors),
                chosen,
                folder,
                _key(sha256_file(self._prepared), chosen.sha256),
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
            _snap_scales(quantized, self._graph)
            cast_first(quantized)
        quantizer.model.topological_sort()
        if self._recipe.bias_correction:
            correct_biases(self._graph, quantized, self.ranges.means)
        write_atomic(out, quantized.SerializeToString(deterministic=True))
        return out


def _key(*parts: object) -> str:
    return sha256_bytes(canonical_json([_FORMAT, metadata.version("onnxruntime"), *parts]).encode())[:16]


def _prepared(model: Path, folder: Path) -> Path:
    """The graph with its constants folded, its normalisations in the convolutions, and every shape known."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = folder / f"prepared-{_key(sha256_file(model))}.onnx"
    if path.is_file():
        return path
    graph = load(model)
    used = opset(graph)
    if used < _OPSET:
        raise EdgeskinError(
            "the ONNX file is too old to hold quantised layers",
            got=f"{model.name}, opset {used}",
            possible=f"opset {_OPSET} or newer",
            fix="export it anew",
        )
    with tempfile.TemporaryDirectory() as scratch, quiet():
        named, ready = Path(scratch) / "named.onnx", Path(scratch) / "ready.onnx"
        onnx.save(graph, named)
        try:
            quant_pre_process(named, ready, skip_symbolic_shape=True)
        except Exception as error:
            if isinstance(error, RuntimeError) or type(error).__module__.startswith(("onnx", "google")):
                raise broken(model, error) from error
            raise
        graph = onnx.shape_inference.infer_shapes(onnx.load(ready))
    settle_names(graph)
    with staged_file(path) as staged:
        staged.write_bytes(graph.SerializeToString(deterministic=True))
    return path


def _tensors(graph: Any) -> list[str]:
    """Floating point tensors that quantisation may touch, in the order of execution."""
    from onnx import TensorProto

    known = (*graph.graph.value_info, *graph.graph.input, *graph.graph.output)
    floating = {v.name for v in known if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    floating -= {tensor.name for tensor in graph.graph.initializer}
    touched = [n for node in graph.graph.node if node.op_type in OPERATIONS for n in (*node.input, *node.output)]
    return [name for name in dict.fromkeys(touched) if name in floating]


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
    left = [node for node in quantized.graph.node if node.name not in gone]
    used = {name for node in left for name in node.input}
    constants = [tensor for tensor in quantized.graph.initializer if tensor.name in used]
    del quantized.graph.node[:], quantized.graph.initializer[:]
    quantized.graph.node.extend(left)
    quantized.graph.initializer.extend(constants)


def _snap_scales(quantized: Any, graph: Any) -> None:
    """Round every scale up to a number that FP16 holds, and quantise the weights anew with it.

    In a strongly typed network a scale has the type of what it scales: rounded later, weights and activations would all
    be off by up to 0.05 %, and scales below 6e-5 by more.
    """
    import onnx

    stored = {tensor.name: tensor for tensor in quantized.graph.initializer}
    floats = {tensor.name: tensor for tensor in graph.graph.initializer}
    pairs = [node for node in quantized.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for name in dict.fromkeys(node.input[1] for node in pairs):
        scale = onnx.numpy_helper.to_array(stored[name])
        near = scale.astype(np.float16)
        up = np.where(near.astype(np.float32) < scale, np.nextafter(near, np.float16(np.inf)), near)
        stored[name].CopyFrom(onnx.numpy_helper.from_array(up.astype(np.float32).reshape(scale.shape), name))
    for node in pairs:
        weight = floats.get(node.input[0].removesuffix("_quantized"))
        if node.op_type != "DequantizeLinear" or node.input[0] not in stored or weight is None:
            continue
        values, scale = onnx.numpy_helper.to_array(weight), onnx.numpy_helper.to_array(stored[node.input[1]])
        if scale.ndim:
            axis = attribute(node, "axis", 1) % values.ndim
            scale = scale.reshape([-1 if place == axis else 1 for place in range(values.ndim)])
        integers = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
        stored[node.input[0]].CopyFrom(onnx.numpy_helper.from_array(integers, node.input[0]))


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
