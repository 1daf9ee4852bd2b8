"""PyTorch: a checkpoint as it was trained, and its way out as FP32 ONNX for every other backend."""

import importlib.util
import os
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskin.errors import EdgeskinError, missing_extra
from edgeskin.files import write_atomic
from edgeskin.spec.device import Device
from edgeskin.spec.manifest import MODES, Mode
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.train import Checkpoint

NAME = "torch"
PARITY = 2e-3  # max |logit difference| of ONNX Runtime against torch: FP32 rounding in another order of sums


def unsupported(recipe: Recipe | None = None, device: Device | None = None) -> str | None:
    """Why torch cannot be used here, or None."""
    for package, extra in (("torch", "train"), ("timm", "train"), ("onnxscript", "export")):
        if importlib.util.find_spec(package) is None:
            return missing_extra(package, extra).line()
    return None


def build(run: Path, record: Checkpoint, folder: Path, opset: int) -> dict[Mode, Path]:
    """Export both graphs of a checkpoint as ONNX and check each against torch on random frames.

    Input `frames` uint8 [images, H, W, 3], output `logits` float32 [rows, K], three of a pair with a fused
    head, else one an image; normalisation is in the graph.

    Raises:
        EdgeskinError: the exporter's graph does not give what torch gives.
    """
    _refuse_unsupported()
    from edgeskin.model.checkpoint import load_network

    return build_network(load_network(run, record), record.preprocess, folder, opset)


def build_network(network: Any, preprocess: Preprocess, folder: Path, opset: int) -> dict[Mode, Path]:
    """The same of a pair network in memory, in evaluation mode, that takes frames prepared in that way.

    Raises:
        EdgeskinError: the exporter's graph does not give what torch gives.
    """
    _refuse_unsupported()
    import torch

    from edgeskin.model.network import FixedInput

    shape = (preprocess.height, preprocess.width, 3)
    files: dict[Mode, Path] = {}
    for mode in MODES:
        images = 2 if mode == "pair" else 1
        fixed = FixedInput(network, images).eval()
        frames = np.random.default_rng(0).integers(0, 256, (images, *shape), dtype=np.uint8)
        program = _export(fixed, torch.from_numpy(frames), opset)
        path = folder / f"{mode}.onnx"
        write_atomic(path, _clean(program.model_proto))
        with torch.inference_mode():
            expected = fixed(torch.from_numpy(frames)).numpy()
        _check(path, frames, expected, mode)
        files[mode] = path
    return files


def _refuse_unsupported() -> None:
    if reason := unsupported():
        raise EdgeskinError("cannot export", got=reason, fix="pip install 'edgeskin[export]'")


def _export(network: Any, frames: Any, opset: int) -> Any:
    import torch

    # The exporter reports its stages on the terminal; what matters of it arrives as an exception.
    with (
        Path(os.devnull).open("w") as sink,
        redirect_stdout(sink),
        redirect_stderr(sink),
        warnings.catch_warnings(),
        torch.no_grad(),
    ):
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            network,
            (frames,),
            input_names=["frames"],
            output_names=["logits"],
            opset_version=opset,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _clean(model: Any) -> bytes:
    """Serialise without stack traces and paths of the exporting machine: equal checkpoints give equal bytes."""
    model.doc_string = ""
    del model.metadata_props[:]
    for graph in (model.graph, *(function for function in model.functions)):
        del graph.metadata_props[:]
        graph.doc_string = ""
        for item in (*graph.node, *graph.value_info):
            item.doc_string = ""
            del item.metadata_props[:]
    for item in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    return model.SerializeToString(deterministic=True)


def _check(path: Path, frames: NDArray[np.uint8], expected: NDArray[np.float32], mode: Mode) -> None:
    try:
        import onnxruntime
    except ImportError:
        raise missing_extra("onnxruntime", "onnxruntime") from None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = session.run(None, {"frames": frames})[0]
    error = float(np.abs(given - expected).max())
    scale = max(1.0, float(np.abs(expected).max()))
    if given.shape != expected.shape or not error <= PARITY * scale:
        raise EdgeskinError(
            f"the exported {mode} graph does not give what torch gives",
            got=f"max difference {error:.2e} of logits up to {scale:.1f}",
            possible=f"at most {PARITY * scale:.0e}",
            fix="report this backbone; another one may export cleanly",
        )
