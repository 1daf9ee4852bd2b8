"""NVIDIA Model Optimizer's way to INT8, for TensorRT: FP32 ONNX + calibration frames -> explicit Q/DQ ONNX.

It runs in a process of its own: in this one it would change ONNX Runtime's quantiser for everybody, and it rewrites the
file that it is given, prints, and leaves temporary files behind.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from edgeskin.backends._tensorrt_graph import cast_first
from edgeskin.env import for_child
from edgeskin.errors import EdgeskinError
from edgeskin.files import os_errors, sha256_file, write_atomic
from edgeskin.quantize.bias import correct_biases, mean_inputs
from edgeskin.quantize.calibration import CalibrationFrames
from edgeskin.quantize.graph import load
from edgeskin.quantize.nodes import same_origin
from edgeskin.quantize.prepared import floats_at, key_of, prepared
from edgeskin.quantize.ranges import Ranges, measure
from edgeskin.quantize.scales import settle_scales
from edgeskin.quiet import quiet
from edgeskin.spec.recipe import Recipe

PACKAGES = ("modelopt", "onnxruntime", "onnx_graphsurgeon", "onnxslim", "onnxscript", "pynvml", "lief", "torch")
# What Model Optimizer quantises the inputs of.
OPERATIONS = (
    "Add", "AveragePool", "BatchNormalization", "Clip", "Conv", "ConvTranspose", "Gemm", "GlobalAveragePool",
    "HardSwish", "LayerNormalization", "LRN", "MatMul", "MaxPool", "Mul", "Resize",
)  # fmt: skip
_METHODS = {"minmax": "max", "entropy": "entropy"}


def quantize_modelopt(
    model: Path,
    frames: CalibrationFrames,
    recipe: Recipe,
    keep: set[str],
    out: Path,
    scratch: Path,
    on_step: Callable[..., object],
) -> Path:
    """Write `<model stem>.onnx` into `out`; its path. Equal input gives equal bytes.

    Layers at a tensor that was 0 on every calibration frame stay in floating point: any scale would be invented.

    Args:
        keep: names of ONNX nodes that stay in floating point.
        scratch: folder for what is needed meanwhile; ranges found there after a kill are taken up.
        on_step: called with 1 for each calibration pair.

    Raises:
        EdgeskinError: weights or activations that are not finite numbers, no frames, or a graph that Model Optimizer
            refuses.
    """
    import onnx

    if not len(frames):
        raise EdgeskinError(
            "Model Optimizer needs calibration pairs",
            got="none",
            possible="real pairs; without any it would draw random scales",
            fix="set calibration_pairs in the recipe",
        )
    with os_errors(scratch):
        scratch.mkdir(parents=True, exist_ok=True)
    ready = prepared(model, scratch)
    graph = load(ready)
    cast_first(graph)
    ranges = _measured(graph, frames, scratch, key_of("modelopt", sha256_file(ready), frames.sha256))
    silent = ranges.silent()
    # Model Optimizer takes names for patterns that match from the start on: none may begin like another.
    names = {f"node{place:06}": node.name for place, node in enumerate(graph.graph.node)}
    exclude = []
    for alias, node in zip(names, graph.graph.node, strict=True):
        if same_origin(node.name, keep) or not silent.isdisjoint((*node.input, *node.output)):
            exclude.append(alias)
        node.name = alias
    quantized = _quantised(graph, frames, _METHODS[recipe.calibrator], exclude, scratch / "room", on_step)
    for one in (graph, quantized):
        for node in one.graph.node:
            node.name = names.get(node.name, node.name)
    settle_scales(quantized, {tensor.name: tensor for tensor in quantized.graph.initializer})
    if recipe.bias_correction:
        correct_biases(graph, quantized, ranges.means)
    onnx.checker.check_model(quantized)
    path = out / f"{model.stem}.onnx"
    write_atomic(path, quantized.SerializeToString(deterministic=True))
    return path


def _measured(graph: Any, frames: CalibrationFrames, scratch: Path, key: str) -> Ranges:
    tensors = floats_at(graph, OPERATIONS)
    with quiet():
        return measure(graph, tensors, mean_inputs(graph) & set(tensors), frames, scratch, key, lambda *_: None)


def _quantised(
    graph: Any,
    frames: CalibrationFrames,
    method: str,
    exclude: list[str],
    room: Path,
    on_step: Callable[..., object],
) -> Any:
    """The onnx.ModelProto that Model Optimizer makes of a graph, in a folder that goes with all it left there."""
    import onnx

    with os_errors(room):
        shutil.rmtree(room, ignore_errors=True)  # of a run that was killed
        room.mkdir()
    try:
        given, made = room / "given.onnx", room / "made.onnx"
        onnx.save(graph, given)
        told = {
            "model": str(given.resolve()),
            "out": str(made.resolve()),
            "method": method,
            "exclude": exclude,
            "count": len(frames),
            "shape": frames.shape,
        }
        fed = _run(told, frames, room, on_step)
        if fed[-len(frames) :] != list(range(len(frames))):
            raise EdgeskinError(
                "Model Optimizer did not take every calibration pair",
                got=f"{len(set(fed))} of {len(frames)} inputs",
                fix='use a recipe with quantizer = "qdq"',
            )
        return onnx.load(made)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _run(told: dict[str, object], frames: CalibrationFrames, room: Path, on_step: Callable[..., object]) -> list[int]:
    """Start the process and give it the frames that it asks for; which it asked for, in order."""
    source = Path(__file__).with_name("_modelopt_process.py").read_text(encoding="utf-8")
    log = room / "log.txt"
    # Its sets of names must come in one order, and its temporary files lie where they go with the rest.
    surroundings = for_child(PYTHONHASHSEED="0", TMPDIR=str(room.resolve()))
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", source, json.dumps(told)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            cwd=room,
            env=surroundings,
        )
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            fed = _feed(process.stdin, process.stdout, frames, on_step)
            process.wait()
        finally:
            process.kill()
            process.communicate()
    if process.returncode:
        raise EdgeskinError(
            "Model Optimizer refuses the model" if process.returncode > 0 else "Model Optimizer was stopped",
            got=_last_line(log) if process.returncode > 0 else f"signal {-process.returncode}",
            fix='use a recipe with quantizer = "qdq"' if process.returncode > 0 else "free memory and run again",
        )
    return fed


def _feed(given: IO[bytes], asked: IO[bytes], frames: CalibrationFrames, on_step: Callable[..., object]) -> list[int]:
    fed: list[int] = []
    seen: set[int] = set()
    while len(number := asked.read(4)) == 4:
        place = int.from_bytes(number, "little")
        try:
            given.write(frames[place].data)
            given.flush()
        except BrokenPipeError:  # it ended; its log says why
            break
        fed.append(place)
        if place not in seen and not frames.is_extra(place):
            on_step(1)
        seen.add(place)
    return fed


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "no message")[:200]
