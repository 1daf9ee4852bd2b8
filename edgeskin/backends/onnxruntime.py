"""ONNX Runtime on the CPU: one .onnx file, FP32 or with explicit Q/DQ nodes."""

import json
import math
import re
import tempfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskin.backends import BF16, FP16, FP32, INT8, Executed, Port, Session, broken, check_threads, require_file
from edgeskin.errors import EdgeskinError, missing_extra
from edgeskin.files import write_atomic
from edgeskin.spec.device import Device
from edgeskin.spec.recipe import Recipe

NAME = "onnxruntime"
HINTS = ("f32", "default")
_FLOAT = {"Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
_INTEGER = {"QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat"}
_REORDERS = {"QuantizeLinear", "DequantizeLinear", "ReorderInput", "ReorderOutput", "Cast"}
_RENAMED = re.compile(r"^fused |(_token_\d+|_nhwc|_nchwc)+$")
_WORDS = {"float": FP32, "float16": FP16, "bfloat16": BF16}
# Rounds weights that a file leaves in floating point, a tensor at a time, where a convolution's neighbours are INT8:
# layers kept in FP32 for accuracy would lose it here. What we build has its biases in INT32 and needs none of it.
_UNWANTED = ("WeightBiasQuantization",)
_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


def unsupported(recipe: Recipe | None = None, device: Device | None = None) -> str | None:
    """Why ONNX Runtime cannot be used for that recipe and device, or None."""
    if find_spec("onnxruntime") is None:
        return missing_extra("onnxruntime", "onnxruntime").line()
    if recipe is not None and recipe.target != NAME:
        return f"recipe {recipe.name} is for target {recipe.target}"
    if recipe is not None and recipe.inference_precision not in ("f32", "default"):
        return f"{NAME} has no {recipe.inference_precision} on the CPU"
    if device is not None and NAME not in device.targets:
        return f"device {device.name} runs {', '.join(device.targets)}, not {NAME}"
    return None


def build(model: Path, out: Path, recipe: Recipe, stem: str | None = None) -> tuple[str, ...]:
    """Write `<stem>.onnx`, weights inside, without notes of the exporter; equal input gives equal bytes."""
    require_file(model, (".onnx",))
    if reason := unsupported(recipe):
        raise EdgeskinError(f"cannot build for {NAME}", got=reason)
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        graph = onnx.load(model)
        onnx.checker.check_model(graph)
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise broken(model, error) from error
    # Stack traces and module paths of the exporting machine are of no use to an engine.
    graph.doc_string = ""
    del graph.metadata_props[:]
    graph.graph.doc_string = ""
    del graph.graph.metadata_props[:]
    for part in (*graph.graph.node, *graph.graph.value_info, *graph.graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    _share_constants(graph.graph)
    name = f"{stem or model.stem}.onnx"
    write_atomic(out / name, graph.SerializeToString(deterministic=True))
    return (name,)


def _share_constants(graph: Any) -> None:
    """Keep one of equal constants, of which Q/DQ graphs are full: zero points of layers of the same width."""
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        return  # a branch or loop takes constants by name, out of sight
    public = {value.name for value in (*graph.input, *graph.output)}
    kept: dict[bytes, str] = {}
    renamed: dict[str, str] = {}
    for tensor in graph.initializer:
        nameless = type(tensor)()
        nameless.CopyFrom(tensor)
        nameless.ClearField("name")
        if tensor.name not in public:
            renamed[tensor.name] = kept.setdefault(nameless.SerializeToString(deterministic=True), tensor.name)
    unique = [tensor for tensor in graph.initializer if renamed.get(tensor.name, tensor.name) == tensor.name]
    del graph.initializer[:]
    graph.initializer.extend(unique)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)


def open(path: Path, *, threads: int = 0, cache: Path | None = None, precision_hint: str = "f32") -> Session:
    """Load an .onnx file for this CPU. `cache` is not used: a session of this size starts in a fraction of a second."""
    if find_spec("onnxruntime") is None:
        raise missing_extra("onnxruntime", "onnxruntime")
    require_file(path, (".onnx",))
    if precision_hint not in HINTS:
        raise EdgeskinError("unknown precision hint", got=precision_hint, possible=HINTS)
    return _OnnxRuntime(path, check_threads(threads))


class _OnnxRuntime(Session):
    def __init__(self, path: Path, threads: int) -> None:
        self._path, self._threads = path, threads
        self._session = _session(path, threads)
        self._bind(
            path, [_port(p) for p in self._session.get_inputs()], [_port(p) for p in self._session.get_outputs()]
        )

    def _infer(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._session.run(None, {"frames": frames})[0]
        return logits

    def describe(self) -> dict[str, str]:
        return {
            "backend": NAME,
            "version": metadata.version("onnxruntime"),
            "device": "CPU",
            "threads": str(self._threads),
            "precision_hint": "f32",
        }

    def executed_layers(self) -> tuple[list[Executed], int]:
        """Runs once under the profiler: its trace names the kernels that really ran, after every fusion."""
        with tempfile.TemporaryDirectory() as folder:
            session = _session(self._path, self._threads, profile=str(Path(folder) / "trace"))
            session.run(None, {"frames": np.zeros((self.images, self.height, self.width, 3), np.uint8)})
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        layers, reorders = [], 0
        for event in events:
            if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
                continue
            name, kind = event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]
            origin = _origin(name)
            if kind in _REORDERS or (kind == "Transpose" and origin != name):  # the layout's own, not the file's
                reorders += 1
                continue
            read, written = (event["args"][f"{side}_type_shape"] for side in ("input", "output"))
            raw = next(iter(read[0]), "") if read else ""
            word = INT8 if kind in _INTEGER else _WORDS.get(raw, raw)
            size = sum(math.prod(shape) for value in written[:1] for shape in value.values())
            layers.append(Executed(name, (origin,), kind, word, kind in _INTEGER | _FLOAT, size))
        return layers, reorders


def _origin(name: str) -> str:
    """The file's node behind a name that an optimiser gave.

    >>> [_origin(name) for name in ("conv_3_token_41", "fused conv_3", "conv_3_nchwc", "conv_3")]
    ['conv_3', 'conv_3', 'conv_3', 'conv_3']
    """
    return _RENAMED.sub("", name)


def _session(path: Path, threads: int, profile: str = "") -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # Threads spin within a run only: between two examinations they would eat a small board's other cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    try:
        return ort.InferenceSession(
            path, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(_UNWANTED)
        )
    except Exception as error:
        if type(error).__module__.startswith("onnxruntime"):
            raise broken(path, error) from error
        raise


def _port(port: Any) -> Port:
    shape = [size if isinstance(size, int) else None for size in port.shape]
    return Port(port.name, _DTYPES.get(port.type, port.type), shape)
