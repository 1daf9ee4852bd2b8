"""Explicit Q/DQ ONNX: symmetric weights a channel, symmetric activations a tensor."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgeskin.files import write_atomic
from edgeskin.quantize.bias import correct_biases
from edgeskin.quantize.calibration import Frames
from edgeskin.quantize.nodes import same_origin
from edgeskin.quantize.quiet import quiet
from edgeskin.spec.recipe import Recipe

# What gains from INT8 on a CPU, and what lies between two such nodes and would else force a change of type.
OPERATIONS = ("Conv", "Gemm", "MatMul", "Add", "Clip", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool")
_CHUNK = 8  # examinations whose intermediate outputs a calibrator holds at once


def quantize_qdq(
    model: Path, frames: list[Frames], recipe: Recipe, keep: set[str], out: Path, on_step: Callable[..., None]
) -> Path:
    """Write `out`: the model with QuantizeLinear / DequantizeLinear pairs, biases as int32."""
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, quiet():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(model, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared)
        ranges = _ranges(prepared, frames, recipe, Path(folder), on_step)
        quantizer = QDQQuantizer(
            graph,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=_symmetric(ranges),
            nodes_to_quantize=[],
            nodes_to_exclude=[node.name for node in graph.graph.node if same_origin(node.name, keep)],
            op_types_to_quantize=list(OPERATIONS),
            extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        if recipe.bias_correction:
            correct_biases(prepared, quantizer.model.model, frames)
        write_atomic(out, quantizer.model.model.SerializeToString(deterministic=True))
    return out


def _ranges(prepared: Path, frames: list[Frames], recipe: Recipe, folder: Path, on_step: Callable[..., None]) -> Any:
    """Range of every activation over the frames, fed in chunks so that memory does not grow with their number."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, chunk: list[Frames]) -> None:
            self._left: Iterator[Frames] = iter(chunk)

        def get_next(self) -> dict[str, Frames] | None:
            frame = next(self._left, None)
            if frame is None:
                return None
            on_step(1)
            return {"frames": frame}

    calibrator = create_calibrator(
        prepared,
        list(OPERATIONS),
        augmented_model_path=str(folder / "augmented.onnx"),
        calibrate_method=methods[recipe.calibrator],
        providers=["CPUExecutionProvider"],
    )
    for start in range(0, len(frames), _CHUNK):
        calibrator.collect_data(Reader(frames[start : start + _CHUNK]))
    return calibrator.compute_data()


def _symmetric(ranges: Any) -> Any:
    """Make every range symmetric: [0, a] becomes uint8 with zero point 0, [-a, a] uint8 with zero point 128.

    The same numbers as signed INT8 where a tensor is signed, and one bit more where it is not, as after ReLU6.
    x86 wants it so: ONNX Runtime has no fast kernel for signed activations there, and only with zero point 0 does the
    clipping of ReLU6 vanish into the rounding to uint8.
    """
    from onnxruntime.quantization.calibrate import TensorData, TensorsData

    data = {}
    for name in ranges:
        low, high = (float(np.min(v)) if i == 0 else float(np.max(v)) for i, v in enumerate(ranges[name].range_value))
        if low < 0:
            high = max(-low, high)
            low = -high * 128 / 127  # 127 steps up, 128 down: the zero point is exactly 128
        data[name] = TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
    return TensorsData(ranges.calibration_method, data)
