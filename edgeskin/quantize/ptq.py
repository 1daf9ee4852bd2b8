"""Post-training quantisation: FP32 ONNX + calibration frames + recipe -> INT8 model file."""

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgeskin.backends import get, require_file
from edgeskin.errors import EdgeskinError, missing_extra
from edgeskin.files import os_errors
from edgeskin.quantize.calibration import Frames, calibration_frames
from edgeskin.quantize.nodes import kept, labels, same_origin
from edgeskin.quantize.quiet import quiet
from edgeskin.spec.recipe import Recipe

Step = Callable[..., None]


def quantize(model: Path, frames: Iterable[Frames], recipe: Recipe, out: Path, on_step: Step = lambda *_: None) -> Path:
    """Quantise a model as its recipe says; `backends.<target>.build` turns the result into the bundle's files.

    Args:
        model: FP32 ONNX, input `frames` uint8 [images, H, W, 3].
        frames: calibration pairs, uint8 [2, H, W, 3] each; a graph of one image gets the dermoscopic frame.
        out: folder for the quantised model, `<model stem>.xml` (nncf) or `.onnx` (qdq).
        on_step: called once for each calibration pair, e.g. the `step` of `out.progress`.

    Returns:
        The path of the quantised model.

    Raises:
        EdgeskinError: no INT8 recipe, a package is missing, too few or unfit frames, a keep_fp32 without a match.
    """
    if recipe.quantizer == "none":
        raise EdgeskinError("this recipe does not quantise", got=recipe.name, fix="choose an int8 recipe")
    for package, extra in (("onnx", "export"), (_PACKAGES[recipe.quantizer], _EXTRAS[recipe.quantizer])):
        if find_spec(package) is None:
            raise missing_extra(package, extra)
    if reason := get(recipe.target).unsupported(recipe):
        raise EdgeskinError(f"cannot quantise for {recipe.target}", got=reason)
    require_file(model, (".onnx",))
    import onnx

    graph = onnx.load(model)
    shape = [size.dim_value for size in graph.graph.input[0].type.tensor_type.shape.dim]
    chosen = calibration_frames(frames, recipe, images=shape[0])
    if list(chosen[0].shape) != shape:
        raise EdgeskinError(
            "the calibration frames do not fit the model",
            got=f"{chosen[0].shape[1]}x{chosen[0].shape[2]}",
            possible=f"{shape[1]}x{shape[2]}",
            fix="prepare them with the checkpoint's preprocessing",
        )
    keep = kept(recipe.keep_fp32, labels(graph), required=shape[0] == 2)
    with os_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    if recipe.quantizer == "qdq":
        from edgeskin.quantize.qdq import quantize_qdq

        return quantize_qdq(model, chosen, recipe, keep, out / f"{model.stem}.onnx", on_step)
    return _nncf(model, graph, chosen, recipe, keep, out, on_step)


_PACKAGES = {"nncf": "nncf", "qdq": "onnxruntime"}
_EXTRAS = {"nncf": "export", "qdq": "onnxruntime"}


def _nncf(
    model: Path, graph: Any, frames: list[Frames], recipe: Recipe, keep: set[str], out: Path, on_step: Step
) -> Path:
    from edgeskin.backends import openvino as target

    with quiet(), target.signal_stack_kept():
        import nncf
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            AdvancedSmoothQuantParameters,
        )
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        ir = target.convert_model(model)
        names = [op.get_friendly_name() for op in ir.get_ops() if op.get_type_name() != "Constant"]
        ignored = sorted(name for name in names if same_origin(name, keep))
        seen: set[int] = set()

        def feed(item: tuple[int, Frames]) -> Frames:
            number, frame = item
            if number not in seen:  # some algorithms go through the data more than once
                seen.add(number)
                on_step(1)
            return frame

        alpha = {} if recipe.smooth_quant else {"convolution": -1.0, "matmul": -1.0}
        quantized = nncf.quantize(
            ir,
            nncf.Dataset(list(enumerate(frames)), feed),
            subset_size=len(frames),
            preset=nncf.QuantizationPreset(recipe.preset),
            model_type=nncf.ModelType.TRANSFORMER if is_transformer(graph) else None,
            ignored_scope=nncf.IgnoredScope(names=ignored, validate=False) if ignored else None,
            fast_bias_correction=True,
            advanced_parameters=AdvancedQuantizationParameters(
                disable_bias_correction=not recipe.bias_correction,
                # The default, the mean of each examination's extremes, clips about half of them.
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                smooth_quant_alphas=AdvancedSmoothQuantParameters(**alpha),
            ),
        )
    return out / target.save(quantized, out, model.stem)[0]


def is_transformer(graph: Any) -> bool:
    """Whether matrix products outnumber convolutions: the backbone is a Transformer, not only the exchange."""
    kinds = [node.op_type for node in graph.graph.node]
    return kinds.count("MatMul") + kinds.count("Gemm") > kinds.count("Conv")
