"""NNCF's own way to INT8, for OpenVINO: FP32 ONNX + calibration frames -> OpenVINO IR with FakeQuantize."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeskin.backends import broken
from edgeskin.backends import openvino as target
from edgeskin.errors import EdgeskinError
from edgeskin.quantize.calibration import CalibrationFrames, Frames
from edgeskin.quantize.graph import is_transformer, settle_names
from edgeskin.quantize.nodes import same_origin
from edgeskin.quantize.ranges import overflow
from edgeskin.quiet import quiet
from edgeskin.spec.recipe import Recipe

# NNCF gives a tensor that was 0 on every frame this range: a scale out of the air.
_LEAST_RANGE = 8.1e-5


def quantize_nncf(
    model: Path, frames: CalibrationFrames, recipe: Recipe, keep: set[str], out: Path, on_step: Callable[..., object]
) -> Path:
    """Write `<model stem>.xml` and `.bin` into `out`; the path of the former.

    Layers at a tensor that was 0 on every calibration frame stay in floating point: any scale would be invented.

    Args:
        keep: names of ONNX nodes that stay in floating point.
        on_step: called with 1 for each calibration pair.

    Raises:
        EdgeskinError: weights or activations that are not finite numbers, or a graph that NNCF refuses.
    """
    import onnx

    with quiet(), target.signal_stack_kept():
        graph = onnx.load(model)
        transformer = is_transformer(graph)
        ir = _converted(model, graph)
        _refuse_overflow(ir, frames)
        names = [op.get_friendly_name() for op in ir.get_ops() if op.get_type_name() != "Constant"]
        ignored = {name for name in names if same_origin(name, keep)}
        quantized = _quantized(ir, frames, recipe, ignored, transformer, on_step)
        if silent := _silent(quantized) & set(names) - ignored:
            quantized = _quantized(ir, frames, recipe, ignored | silent, transformer, lambda *_: None)
        _refuse_random(quantized)
    return out / target.save(quantized, out, model.stem)[0]


def _converted(model: Path, graph: Any) -> Any:
    """The graph as openvino.Model, its nodes named as in `graph.load`."""
    import onnx

    try:
        if not settle_names(graph):
            return target.convert_model(model)
        with tempfile.TemporaryDirectory() as folder:
            named = Path(folder) / model.name
            onnx.save(graph, named)
            return target.convert_model(named)
    except Exception as error:
        if isinstance(error, RuntimeError) or type(error).__module__.startswith("openvino."):
            raise broken(model, error) from error
        raise


def _quantized(
    ir: Any,
    frames: CalibrationFrames,
    recipe: Recipe,
    ignored: set[str],
    transformer: bool,
    on_step: Callable[..., object],
) -> Any:
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, AdvancedSmoothQuantParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    seen: set[int] = set()

    def feed(place: int) -> Frames:
        if place not in seen:  # some algorithms go through the data more than once
            seen.add(place)
            if not frames.is_extra(place):
                on_step(1)
        return frames[place]

    alpha = {} if recipe.smooth_quant else {"convolution": -1.0, "matmul": -1.0}
    try:
        return nncf.quantize(
            ir,
            nncf.Dataset(range(len(frames)), feed),
            subset_size=len(frames),
            preset=nncf.QuantizationPreset(recipe.preset),
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
            ignored_scope=nncf.IgnoredScope(names=sorted(ignored), validate=False) if ignored else None,
            fast_bias_correction=True,
            advanced_parameters=AdvancedQuantizationParameters(
                disable_bias_correction=not recipe.bias_correction,
                # The default, the mean of each examination's extremes, clips about half of them.
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                smooth_quant_alphas=AdvancedSmoothQuantParameters(**alpha),
            ),
        )
    except Exception as error:
        if isinstance(error, RuntimeError) or type(error).__module__.startswith("nncf."):
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise EdgeskinError(
                "NNCF refuses the model", got=first[:160], fix='use a recipe with quantizer = "qdq"'
            ) from error
        raise


def _refuse_overflow(ir: Any, frames: CalibrationFrames) -> None:
    """FP32 must answer with numbers on every frame, and compute nothing but numbers on the first."""
    if where := _overflowing(ir, frames[0]):
        raise overflow(where, frames.name(0))
    request = _compiled(ir).create_infer_request()
    for place in range(len(frames)):
        if not np.isfinite(request.infer([frames[place]])[0]).all():
            raise overflow(_overflowing(ir, frames[place]) or "the logits", frames.name(place))


def _overflowing(ir: Any, frame: Frames) -> str:
    """The first operation whose result on that frame is not finite; "" if all are."""
    watched = ir.clone()
    makers = [
        op
        for op in watched.get_ordered_ops()
        if op.get_type_name() not in ("Constant", "Parameter", "Result")
        and not any(user.get_node().get_type_name() == "Result" for user in op.output(0).get_target_inputs())
        and all(port.get_element_type().to_string() in ("f32", "f16") for port in op.outputs())
    ]
    there = len(watched.outputs)
    watched.add_outputs([op.output(0) for op in makers])
    request = _compiled(watched).create_infer_request()
    request.infer([frame])
    for number, op in enumerate(makers):
        if not np.isfinite(request.get_output_tensor(there + number).data).all():
            return f"{op.get_type_name()} {op.get_friendly_name()}"
    return "" if np.isfinite(request.get_output_tensor(0).data).all() else "the logits"


def _compiled(ir: Any) -> Any:
    return target.core().compile_model(ir, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def _silent(quantized: Any) -> set[str]:
    """Operations on either side of a FakeQuantize whose range NNCF invented."""
    found: set[str] = set()
    for op in quantized.get_ordered_ops():
        if op.get_type_name() != "FakeQuantize":
            continue
        source, *bounds = (port.get_source_output().get_node() for port in op.inputs())
        constant = [bound.get_data() for bound in bounds if bound.get_type_name() == "Constant"]
        if source.get_type_name() == "Constant" or max(float(np.abs(c).max()) for c in constant) > _LEAST_RANGE:
            continue
        users = [port.get_node() for port in op.output(0).get_target_inputs()]
        found |= {node.get_friendly_name() for node in (source, *users)}
    return found


def _refuse_random(quantized: Any) -> None:
    """Every scale and every corrected bias must be a finite number."""
    for op in quantized.get_ordered_ops():
        if op.get_type_name() != "Constant" or op.get_element_type().to_string() not in ("f32", "f16"):
            continue
        if not np.isfinite(op.get_data()).all():
            users = {port.get_node().get_friendly_name() for port in op.output(0).get_target_inputs()}
            raise EdgeskinError(
                "quantisation gave a scale that is not a finite number",
                got=", ".join(sorted(users)),
                fix="keep this layer in floating point by keep_fp32 in the recipe",
            )
