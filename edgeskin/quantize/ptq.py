"""Post-training quantisation: FP32 ONNX + calibration frames + recipe -> INT8 model file."""

import shutil
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

from edgeskin.backends import get
from edgeskin.errors import EdgeskinError, missing_extra
from edgeskin.files import os_errors
from edgeskin.quantize.calibration import Frames, calibration_frames
from edgeskin.quantize.graph import interface, is_transformer, load
from edgeskin.quantize.nodes import kept, labels
from edgeskin.spec.recipe import Recipe

__all__ = ["is_transformer", "quantize"]

Step = Callable[..., object]


def quantize(model: Path, frames: Iterable[Frames], recipe: Recipe, out: Path, on_step: Step = lambda *_: None) -> Path:
    """Quantise a model as its recipe says; `backends.<target>.build` turns the result into the bundle's files.

    Args:
        model: FP32 ONNX, input `frames` uint8 [images, H, W, 3].
        frames: calibration pairs, uint8 [2, H, W, 3] each; a graph of one image gets the dermoscopic frame. A
            sequence that reads from the disk, such as a `FrameStore`, keeps memory independent of their number.
        out: folder for the quantised model, `<model stem>.xml` (nncf) or `.onnx` (qdq, modelopt).
        on_step: called with 1 for each calibration pair, or with more where a killed run is taken up; e.g. the `step`
            of `out.progress`.

    Returns:
        The path of the quantised model.

    Raises:
        EdgeskinError: no INT8 recipe, a package is missing, too few or unfit frames, a keep_fp32 without a match,
            another kind of ONNX file, weights or activations that are not finite numbers.
    """
    if recipe.quantizer == "none":
        raise EdgeskinError("this recipe does not quantise", got=recipe.name, fix="choose an int8 recipe")
    for package, extra in (("onnx", "export"), *_needed(recipe.quantizer)):
        if find_spec(package) is None:
            raise missing_extra(package, extra)
    if reason := get(recipe.target).unsupported(recipe):
        raise EdgeskinError(f"cannot quantise for {recipe.target}", got=reason)
    graph = load(model)
    shape = interface(graph, model)
    chosen = calibration_frames(frames, recipe, images=shape[0])
    if chosen.shape != shape:
        raise EdgeskinError(
            "the calibration frames do not fit the model",
            got=f"{chosen.shape[1]}x{chosen.shape[2]}",
            possible=f"{shape[1]}x{shape[2]}",
            fix="prepare them with the checkpoint's preprocessing",
        )
    keep = kept(recipe.keep_fp32, labels(graph), required=shape[0] == 2)
    with os_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    if recipe.quantizer == "nncf":
        from edgeskin.quantize.nncf import quantize_nncf

        return quantize_nncf(model, chosen, recipe, keep, out, on_step)
    scratch = out / f".calibration-{model.stem}"  # left by a kill, taken up by the next call
    if recipe.quantizer == "qdq":
        from edgeskin.quantize.qdq import Hub

        path = Hub(model, chosen, recipe, scratch, on_step).write(keep, out / f"{model.stem}.onnx")
    else:
        from edgeskin.quantize.modelopt import quantize_modelopt

        path = quantize_modelopt(model, chosen, recipe, keep, out, scratch, on_step)
    shutil.rmtree(scratch, ignore_errors=True)
    return path


def _needed(quantizer: str) -> list[tuple[str, str]]:
    """Packages of a quantiser, each with the extra that installs it."""
    if quantizer == "modelopt":
        from edgeskin.quantize.modelopt import PACKAGES

        return [(package, "modelopt") for package in PACKAGES]
    return [("nncf", "export")] if quantizer == "nncf" else [("onnxruntime", "onnxruntime")]
