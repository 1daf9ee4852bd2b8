"""TensorRT on the GPU: a strongly typed ONNX graph in a build kit, an engine (.plan) once the device has built it."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskin.backends import Executed, Port, Session, check_threads, require_file
from edgeskin.errors import EdgeskinError, missing_extra
from edgeskin.files import write_atomic
from edgeskin.spec.device import Device
from edgeskin.spec.recipe import Recipe

NAME = "tensorrt"
HINTS = ("f32", "default")  # a strongly typed engine has its precisions in it
_FIX = "on a Jetson it comes with JetPack: make the environment with --system-site-packages; else pip install tensorrt"


def unsupported(recipe: Recipe | None = None, device: Device | None = None) -> str | None:
    """Why TensorRT's kits and engines cannot be used for that recipe and device, or None.

    A kit is made, and put to the proof, by ONNX Runtime; an engine needs TensorRT and a GPU, which `open` asks for.
    """
    if recipe is not None and recipe.target != NAME:
        return f"recipe {recipe.name} is for target {recipe.target}"
    if device is not None and NAME not in device.targets:
        return f"device {device.name} runs {', '.join(device.targets)}, not {NAME}"
    if find_spec("onnxruntime") is None and find_spec(NAME) is None:
        return missing_extra("onnxruntime", "export").line()
    return None


def build(model: Path, out: Path, recipe: Recipe, stem: str | None = None) -> tuple[str, ...]:
    """Write `<stem>.onnx`, typed as a strongly typed network is to run it; equal input gives equal bytes."""
    if reason := unsupported(recipe):
        raise EdgeskinError(f"cannot build for {NAME}", got=reason)
    from edgeskin.backends._tensorrt_graph import strongly_typed

    graph = strongly_typed(model, recipe.precision)
    for node in graph.graph.node:  # stack traces and paths of the exporting machine are of no use to an engine
        del node.metadata_props[:]
        node.doc_string = ""
    name = f"{stem or model.stem}.onnx"
    write_atomic(out / name, graph.SerializeToString(deterministic=True))
    return (name,)


def open(path: Path, *, threads: int = 0, cache: Path | None = None, precision_hint: str = "f32") -> Session:
    """Load an engine (.plan) onto the GPU, or a kit's graph (.onnx) into an emulation on the CPU.

    Raises:
        EdgeskinError: TensorRT, driver or GPU are missing, the engine is of another version or GPU.
    """
    if path.suffix == ".onnx":
        for package in ("onnxruntime", "onnx"):
            if find_spec(package) is None:
                raise missing_extra(package, "export")
    require_file(path, (".plan", ".onnx"))
    if precision_hint not in HINTS:
        raise EdgeskinError("unknown precision hint", got=precision_hint, possible=HINTS)
    if path.suffix == ".onnx":
        from edgeskin.backends._emulation import Emulation

        return Emulation(path, check_threads(threads))
    return _Engine(path)


def module() -> Any:
    """The package tensorrt, once it is known that it will not crash: some versions do without a driver.

    Raises:
        EdgeskinError: no package, no driver or no GPU.
    """
    from edgeskin.backends import _cuda

    if find_spec("tensorrt") is None:
        raise EdgeskinError("the package 'tensorrt' is not installed", fix=_FIX)
    if reason := _cuda.unsupported():
        raise EdgeskinError("TensorRT needs an NVIDIA GPU and its driver", got=reason)
    import tensorrt  # type: ignore[import-not-found,import-untyped,unused-ignore]

    return tensorrt


class _Engine(Session):
    """One engine with buffers of its own: pinned on the host, fixed addresses on the device, one stream."""

    def __init__(self, path: Path) -> None:
        trt = module()
        from edgeskin.backends import _cuda
        from edgeskin.backends._tensorrt_log import logger, said

        self._trt, self._log, self._gpu = trt, logger(trt), _cuda.gpu()
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise EdgeskinError(
                "TensorRT refuses this engine",
                got=f"{path.name}: {said(self._log)}",
                possible="engines built on this machine with this version",
                fix="build it again from its kit: `edgeskin build KIT`",
            )
        names = [self._engine.get_tensor_name(place) for place in range(self._engine.num_io_tensors)]
        ports = {name: self._port(name) for name in names}
        kinds = {name: self._engine.get_tensor_mode(name) for name in names}
        self._bind(
            path,
            [port for name, port in ports.items() if kinds[name] == trt.TensorIOMode.INPUT],
            [port for name, port in ports.items() if kinds[name] == trt.TensorIOMode.OUTPUT],
        )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EdgeskinError(
                "TensorRT cannot make room for this engine",
                got=said(self._log),
                fix="close what else uses the GPU",
            )
        self._stream = _cuda.Stream()
        self._host_in = _cuda.PinnedArray((self.images, self.height, self.width, 3), np.dtype(np.uint8))
        self._host_out = _cuda.PinnedArray((self.rows, self.logits), np.dtype(np.float32))
        self._device_in = _cuda.DeviceArray(self._host_in.array.nbytes)
        self._device_out = _cuda.DeviceArray(self._host_out.array.nbytes)
        for name, device in (("frames", self._device_in), ("logits", self._device_out)):
            if not self._context.set_tensor_address(name, device.pointer):
                raise EdgeskinError("TensorRT refuses a buffer", got=f"{name}: {said(self._log)}")
        self._enqueue()  # allocates what a first run allocates, which a capture forbids
        self._stream.synchronize()
        # One launch instead of one a layer: on a board the launches of a small network take longer than its sums.
        self._graph = _cuda.capture(self._stream, self._enqueue)

    def _port(self, name: str) -> Port:
        dtype = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name))).name
        return Port(name, dtype, tuple(self._engine.get_tensor_shape(name)))

    def _enqueue(self) -> None:
        self._stream.copy_in(self._device_in, self._host_in)
        if not self._context.execute_async_v3(self._stream.pointer):
            from edgeskin.backends._tensorrt_log import said

            raise EdgeskinError("TensorRT failed to run", got=said(self._log), fix="run `edgeskin verify` here")
        self._stream.copy_out(self._host_out, self._device_out)

    def _infer(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        np.copyto(self._host_in.array, frames)
        if isinstance(self._graph, str):  # why there is none
            self._enqueue()
        else:
            self._graph.launch()
        self._stream.synchronize()
        return np.array(self._host_out.array, np.float32)

    def describe(self) -> dict[str, str]:
        return {
            "backend": NAME,
            "version": str(self._trt.__version__),
            "device": self._gpu.name,
            "threads": "1",
            "precision_hint": "default",
            "cuda_graph": f"no: {self._graph}" if isinstance(self._graph, str) else "yes",
        }

    def executed_layers(self) -> tuple[list[Executed], int]:
        from edgeskin.backends._tensorrt_layers import from_json

        return from_json(self.layer_information())

    def layer_information(self) -> str:
        """What the engine says about its layers, as JSON in TensorRT's own form."""
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))
