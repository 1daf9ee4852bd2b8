"""OpenVINO on the CPU: IR files (.xml + .bin)."""

import ctypes
import functools
import importlib
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskin.backends import BF16, FP16, FP32, INT8, Executed, Port, Session, broken, check_threads, require_file
from edgeskin.errors import EdgeskinError, missing_extra
from edgeskin.files import os_errors
from edgeskin.spec.device import Device
from edgeskin.spec.recipe import Recipe

NAME = "openvino"
_CONVERTER = "openvino.tools.ovc"
HINTS = ("f32", "bf16", "default")
_MULTIPLYING = {"Convolution", "FullyConnected", "MatMul", "Deconvolution"}
_REORDERS = {"Reorder", "Convert"}
_SILENT = {"Const", "Input", "Output", "Reshape"}  # nothing is computed there
_COUNTED = re.compile(r"(?<![^/])([A-Z][A-Za-z0-9]*)_\d+(?=$|/)")  # the engine's own naming: Type_number
_BETWEEN_TAGS = re.compile(r"(?<=>)\s+(?=<)")  # a third of the text
_WORDS = {"u8": INT8, "i8": INT8, "f32": FP32, "bf16": BF16, "f16": FP16}


def unsupported(recipe: Recipe | None = None, device: Device | None = None) -> str | None:
    """Why OpenVINO cannot be used for that recipe and device, or None."""
    if find_spec("openvino") is None:
        return missing_extra("openvino", "openvino").line()
    if recipe is not None and recipe.target != NAME:
        return f"recipe {recipe.name} is for target {recipe.target}"
    if device is not None and NAME not in device.targets:
        return f"device {device.name} runs {', '.join(device.targets)}, not {NAME}"
    return None


def build(model: Path, out: Path, recipe: Recipe, stem: str | None = None) -> tuple[str, ...]:
    """Write `<stem>.xml` and `<stem>.bin` from an ONNX or an IR file; equal input gives equal bytes.

    Weights stay in the precision they have: nothing is compressed to FP16 behind the reference's back.
    """
    _package()
    require_file(model, (".onnx", ".xml"))
    if reason := unsupported(recipe):
        raise EdgeskinError(f"cannot build for {NAME}", got=reason)
    try:
        graph = core().read_model(model) if model.suffix == ".xml" else convert_model(model)
    except Exception as error:
        if isinstance(error, RuntimeError) or type(error).__module__.startswith("openvino."):
            raise broken(model, error) from error
        raise
    return save(graph, out, stem or model.stem)


def save(graph: Any, out: Path, stem: str) -> tuple[str, str]:
    """Write an openvino.Model so that two builds of one model give the same bytes."""
    openvino = _package()
    _settle_names(graph)
    xml = out / f"{stem}.xml"
    with os_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        openvino.save_model(graph, xml, compress_to_fp16=False)
        # The engine's version, conversion parameters and paths of the building machine belong to the manifest.
        text = xml.read_text(encoding="utf-8")
        head, notes, _ = text.rpartition("</edges>")
        xml.write_text(_BETWEEN_TAGS.sub("", f"{head}{notes}\n</net>\n"), encoding="utf-8")
    return xml.name, xml.with_suffix(".bin").name


def _settle_names(graph: Any) -> None:
    """Replace names that count objects of the running process (`Reshape_786871`) by the place in the graph."""
    graph.set_friendly_name("edgeskin")
    for place, op in enumerate(graph.get_ordered_ops()):
        name = op.get_friendly_name()
        settled = _COUNTED.sub(rf"\1.{place}", name)
        if settled != name:
            op.set_friendly_name(settled)


def open(path: Path, *, threads: int = 0, cache: Path | None = None, precision_hint: str = "f32") -> Session:
    """Compile an IR (or ONNX) file for this CPU.

    Args:
        cache: folder for compiled blobs, which shortens the next start; None: no cache.
        precision_hint: for what is not INT8: "f32", "bf16", or "default" for the engine's own choice.
    """
    _package()
    require_file(path, (".xml", ".onnx"))
    if precision_hint not in HINTS:
        raise EdgeskinError("unknown precision hint", got=precision_hint, possible=HINTS)
    count = check_threads(threads)
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": count}
    if precision_hint != "default":
        config["INFERENCE_PRECISION_HINT"] = precision_hint
    if cache is not None:
        config["CACHE_DIR"] = str(cache)
    try:
        compiled = core().compile_model(core().read_model(path), "CPU", config)
    except RuntimeError as error:
        raise broken(path, error) from error
    return _OpenVino(path, compiled, count)


class _OpenVino(Session):
    def __init__(self, path: Path, compiled: Any, threads: int) -> None:
        self._compiled, self._threads = compiled, threads
        self._bind(path, [_port(p) for p in compiled.inputs], [_port(p) for p in compiled.outputs])
        self._request = compiled.create_infer_request()

    def _infer(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        # Both shared: no copy in, and one copy out of the request's buffer, which the next run overwrites.
        self._request.infer([frames], share_inputs=True, share_outputs=True)
        return np.array(self._request.get_output_tensor(0).data, np.float32)

    def describe(self) -> dict[str, str]:
        return {
            "backend": NAME,
            "version": metadata.version("openvino"),
            "device": str(self._compiled.get_property("EXECUTION_DEVICES")[0]),
            "threads": str(self._threads),
            "precision_hint": str(self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()),
        }

    def executed_layers(self) -> tuple[list[Executed], int]:
        layers, reorders = [], 0
        for op in self._compiled.get_runtime_model().get_ordered_ops():
            facts = {key: str(value.value) for key, value in op.get_rt_info().items()}
            kind = facts.get("layerType", "")
            if kind in _REORDERS:
                reorders += 1
            elif kind not in _SILENT:
                raw = facts.get("runtimePrecision", "")
                origin = tuple(name for name in facts.get("originalLayersNames", "").split(",") if name)
                written = math.prod(op.get_output_shape(0)) if op.get_output_size() else 0
                word, multiplies = _WORDS.get(raw, raw), kind in _MULTIPLYING
                layers.append(Executed(op.get_friendly_name(), origin, kind, word, multiplies, written))
        return layers, reorders


@functools.cache
def core() -> Any:
    """The process's only openvino.Core, which lives as long as the process.

    Its CPU plugin gives the thread a stack of its own for signal handlers, and takes it away when the core goes. Of two
    cores of which the older goes first, the younger then brings back the stack that is gone already, and the next
    signal, that a child has ended for one, kills the process.
    """
    return _package().Core()


class _Stack(ctypes.Structure):  # stack_t of Linux
    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """After work with cores that are not ours (NNCF makes several), this thread handles signals where it did before."""
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


def _port(port: Any) -> Port:
    shape = [None if size.is_dynamic else size.get_length() for size in port.get_partial_shape()]
    return Port(port.get_any_name(), port.get_element_type().to_dtype().name, shape)


def _package() -> Any:
    """The package without its converter, which brings telemetry and two thirds of the time that the import takes."""
    if find_spec("openvino") is None:
        raise missing_extra("openvino", "openvino")
    if "openvino" in sys.modules or _CONVERTER in sys.modules:
        import openvino

        return openvino
    sys.modules[_CONVERTER] = None  # type: ignore[assignment]  # the package goes on without it when this import fails
    try:
        import openvino
    finally:
        del sys.modules[_CONVERTER]
    openvino.convert_model = convert_model  # for others in this process
    return openvino


def convert_model(*arguments: Any, **options: Any) -> Any:
    """openvino.convert_model, whose package is imported when it is called."""
    return importlib.import_module(_CONVERTER).convert_model(*arguments, **options)
