"""CUDA behind TensorRT: names and signatures of the real package, and the life of every resource on a stand-in.

The stand-in keeps "device" memory on the host and queues what a stream gets until it is synchronised, as CUDA does.
"""

import ast
import ctypes
import gc
import importlib.util
import inspect
import itertools
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeskin.backends import _cuda
from edgeskin.errors import EdgeskinError

SOURCE = ast.parse(Path(_cuda.__file__).read_text(encoding="utf-8"))
HAS_PACKAGE = importlib.util.find_spec("cuda") is not None and importlib.util.find_spec("cuda.bindings") is not None
HAS_DRIVER = Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvhost-ctrl").exists()
needs_package = pytest.mark.skipif(not HAS_PACKAGE, reason="the package cuda-bindings is not installed")


class Error(IntEnum):
    cudaSuccess = 0  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorInsufficientDriver = 35  # noqa: N815
    cudaErrorNoDevice = 100  # noqa: N815
    cudaErrorStreamCaptureInvalidated = 901  # noqa: N815


class FakeCudart:
    """The calls that we use, on host memory. `fail[name]` makes a call return that error."""

    cudaStreamNonBlocking = 1  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="in", cudaMemcpyDeviceToHost="out")  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="local")  # noqa: N815

    def __init__(self) -> None:
        self.fail: dict[str, Error] = {}
        self.memory: dict[int, tuple[str, Any]] = {}
        self.streams: dict[int, list[Any]] = {}
        self.capturing: dict[int, list[Any]] = {}
        self.templates: dict[int, list[Any]] = {}
        self.executables: dict[int, list[Any]] = {}
        self.cleared = 0
        self.current = 0
        self.driver = 12060
        self.devices = 1
        self._numbers = itertools.count(1)

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        fail = object.__getattribute__(self, "__dict__").get("fail", {})
        if name in fail:
            values = 2 if name == "cudaMemGetInfo" else 1
            return lambda *arguments: (fail[name], *[None] * values)
        return found

    @property
    def left(self) -> int:
        return len(self.memory) + len(self.streams) + len(self.templates) + len(self.executables)

    def cudaDriverGetVersion(self):  # noqa: N802
        return Error.cudaSuccess, self.driver

    def cudaGetDeviceCount(self):  # noqa: N802
        return Error.cudaSuccess, self.devices

    def cudaSetDevice(self, index):  # noqa: N802
        self.current = index
        return (Error.cudaSuccess,)

    def cudaGetDeviceProperties(self, index):  # noqa: N802
        names = (b"Orin\0", b"Other")
        return Error.cudaSuccess, SimpleNamespace(name=names[index], major=8, minor=7, integrated=1 - index)

    def cudaMemGetInfo(self):  # noqa: N802
        return Error.cudaSuccess, 5 << 30, 7 << 30

    def _take(self, kind: str, size: int) -> int:
        memory = (ctypes.c_byte * size)()
        pointer = ctypes.addressof(memory)
        self.memory[pointer] = (kind, memory)
        return pointer

    def _give(self, kind: str, pointer: int) -> tuple[Error]:
        assert self.memory.pop(pointer)[0] == kind, "given back to the other allocator"
        return (Error.cudaSuccess,)

    def cudaMalloc(self, size):  # noqa: N802
        return Error.cudaSuccess, self._take("device", size)

    def cudaFree(self, pointer):  # noqa: N802
        return self._give("device", pointer)

    def cudaHostAlloc(self, size, flags):  # noqa: N802
        return Error.cudaSuccess, self._take("host", size)

    def cudaFreeHost(self, pointer):  # noqa: N802
        return self._give("host", pointer)

    def cudaStreamCreateWithFlags(self, flags):  # noqa: N802
        assert flags == self.cudaStreamNonBlocking
        number = next(self._numbers)
        self.streams[number] = []
        return Error.cudaSuccess, number

    def cudaStreamDestroy(self, stream):  # noqa: N802
        del self.streams[stream]
        return (Error.cudaSuccess,)

    def _queue(self, stream, work) -> None:
        self.capturing.get(stream, self.streams[stream]).append(work)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):  # noqa: N802
        # The kind says which side is whose; the wrong one is an error on a real GPU.
        assert self.memory[target][0] == {"in": "device", "out": "host"}[kind]
        self._queue(stream, lambda: ctypes.memmove(target, source, size))
        return (Error.cudaSuccess,)

    def cudaStreamSynchronize(self, stream):  # noqa: N802
        assert stream not in self.capturing, "not allowed in a capture"
        for work in self.streams[stream]:
            work()
        self.streams[stream].clear()
        return (Error.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream, mode):  # noqa: N802
        assert mode == "local"
        self.capturing[stream] = []
        return (Error.cudaSuccess,)

    def cudaStreamEndCapture(self, stream):  # noqa: N802
        number = next(self._numbers)
        self.templates[number] = self.capturing.pop(stream)
        return Error.cudaSuccess, number

    def cudaGraphInstantiateWithFlags(self, template, flags):  # noqa: N802
        number = next(self._numbers)
        self.executables[number] = list(self.templates[template])
        return Error.cudaSuccess, number

    def cudaGraphDestroy(self, template):  # noqa: N802
        self.templates.pop(template, None)
        return (Error.cudaSuccess,)

    def cudaGraphLaunch(self, executable, stream):  # noqa: N802
        self.streams[stream].extend(self.executables[executable])
        return (Error.cudaSuccess,)

    def cudaGraphExecDestroy(self, executable):  # noqa: N802
        del self.executables[executable]
        return (Error.cudaSuccess,)

    def cudaGetLastError(self):  # noqa: N802
        self.cleared += 1
        return (Error.cudaSuccess,)


@pytest.fixture
def cudart(monkeypatch: pytest.MonkeyPatch) -> FakeCudart:
    fake = FakeCudart()
    monkeypatch.setattr(_cuda, "_cudart", lambda: fake)
    return fake


def used_calls() -> dict[str, int]:
    """Name -> number of arguments of every function of the runtime that the module calls."""
    found: dict[str, int] = {}
    for node in ast.walk(SOURCE):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id == "call" and isinstance(node.args[0], ast.Constant):
            found[node.args[0].value] = len(node.args) - 1
        if isinstance(node.func, ast.Attribute) and node.func.attr.startswith("cuda"):
            found[node.func.attr] = len(node.args)
    # Those that give something back are named, not called, and take the handle.
    named = {n.value for n in ast.walk(SOURCE) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    named |= {n.attr for n in ast.walk(SOURCE) if isinstance(n, ast.Attribute)}
    return found | {name: 1 for name in named if name.startswith(("cudaFree", "cudaStreamDestroy", "cudaGraphExecD"))}


def test_the_calls_are_found_in_the_source():
    calls = used_calls()
    assert calls["cudaMemcpyAsync"] == 5
    assert calls["cudaStreamEndCapture"] == calls["cudaFreeHost"] == 1
    assert len(calls) >= 20


@needs_package
@pytest.mark.parametrize(("name", "arguments"), sorted(used_calls().items()))
def test_the_real_package_has_the_call_with_as_many_arguments(name: str, arguments: int):
    assert len(inspect.signature(getattr(_cuda._cudart(), name)).parameters) == arguments


@needs_package
def test_the_real_package_has_the_values():
    cudart = _cuda._cudart()
    assert int(cudart.cudaMemcpyKind.cudaMemcpyHostToDevice) == 1
    assert int(cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost) == 2
    assert int(cudart.cudaStreamNonBlocking) == 1
    assert hasattr(cudart.cudaStreamCaptureMode, "cudaStreamCaptureModeThreadLocal")
    assert {"name", "major", "minor", "integrated"} <= set(dir(cudart.cudaDeviceProp))
    assert {error.name for error in Error} <= set(cudart.cudaError_t.__members__)
    assert set(_cuda._CURES) <= set(cudart.cudaError_t.__members__)


@needs_package
@pytest.mark.skipif(HAS_DRIVER, reason="this machine has a driver")
def test_the_real_package_without_a_driver_gives_reasons_and_no_crash():
    assert "no NVIDIA driver" in (_cuda.unsupported() or "")
    for ask in (_cuda.gpu, lambda: _cuda.DeviceArray(16), lambda: _cuda.PinnedArray((2,), np.float32), _cuda.Stream):
        with pytest.raises((EdgeskinError, RuntimeError), match=r"cudaErrorInsufficientDriver|libcuda|cuInit"):
            ask()


def test_without_the_package_the_cure_is_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_cuda, "import_module", lambda name: importlib.import_module("edgeskin.no_such_module"))
    reason = _cuda.unsupported() or ""
    assert reason.startswith("the package 'cuda-bindings' is not installed; fix: pip install 'cuda-bindings==12.*'")


def test_the_older_name_of_the_package_is_taken(monkeypatch: pytest.MonkeyPatch):
    def old(name: str) -> Any:
        if name == "cuda.bindings.runtime":
            raise ModuleNotFoundError(name=name)
        return name

    monkeypatch.setattr(_cuda, "import_module", old)
    assert _cuda._cudart() == "cuda.cudart"


def test_a_package_that_cannot_be_loaded_says_why(monkeypatch: pytest.MonkeyPatch):
    def broken(name: str) -> Any:
        raise ImportError("libcudart.so.12: no such file")

    monkeypatch.setattr(_cuda, "import_module", broken)
    assert "cannot be loaded (libcudart.so.12: no such file)" in (_cuda.unsupported() or "")


def test_reasons(cudart: FakeCudart):
    assert _cuda.unsupported() is None
    cudart.devices = 0
    assert "sees no GPU" in (_cuda.unsupported() or "")
    cudart.fail["cudaGetDeviceCount"] = Error.cudaErrorNoDevice
    assert "sees no GPU" in (_cuda.unsupported() or "")
    cudart.fail["cudaGetDeviceCount"] = Error.cudaErrorInsufficientDriver
    reason = _cuda.unsupported() or ""
    assert "a driver for CUDA 12.6" in reason
    assert "cuda-bindings==12.*" in reason
    cudart.driver = 0
    assert "no NVIDIA driver" in (_cuda.unsupported() or "")
    cudart.driver = 12060
    cudart.fail["cudaGetDeviceCount"] = Error.cudaErrorStreamCaptureInvalidated
    assert "does not answer: got 'cudaErrorStreamCaptureInvalidated'" in (_cuda.unsupported() or "")


def test_the_gpu(cudart: FakeCudart):
    cudart.devices = 2
    assert _cuda.gpu() == _cuda.Gpu("Orin", "8.7", 7 << 30, 5 << 30, "12.6", True)
    assert (_cuda.gpu(1).integrated, cudart.current) == (False, 1)
    with pytest.raises(EdgeskinError, match="no such GPU: got 2; possible: 0 to 1"):
        _cuda.gpu(2)


def test_a_failed_call_names_itself_and_the_error(cudart: FakeCudart):
    cudart.fail["cudaMalloc"] = Error.cudaErrorMemoryAllocation
    with pytest.raises(EdgeskinError, match=r"cudaMalloc failed: got 'cudaErrorMemoryAllocation'; fix: close other"):
        _cuda.DeviceArray(8)
    assert cudart.left == 0


def test_device_memory_is_given_back_once(cudart: FakeCudart):
    array = _cuda.DeviceArray(100)
    assert cudart.left == 1
    array.free()
    array.free()
    assert cudart.left == 0
    array = _cuda.DeviceArray(0)
    del array
    gc.collect()
    assert cudart.left == 0


def test_a_refused_release_is_an_error(cudart: FakeCudart):
    array = _cuda.DeviceArray(4)
    cudart.fail["cudaFree"] = Error.cudaErrorStreamCaptureInvalidated
    with pytest.raises(EdgeskinError, match="cudaFree failed"):
        array.free()


def test_pinned_memory_lives_as_long_as_its_last_view(cudart: FakeCudart):
    pinned = _cuda.PinnedArray((2, 3), np.float32)
    assert (pinned.array.shape, pinned.array.dtype, pinned.nbytes) == ((2, 3), np.float32, 24)
    assert pinned.array.ctypes.data == pinned.pointer
    pinned.array[:] = 7
    row = pinned.array[1]
    del pinned
    gc.collect()
    assert cudart.left == 1
    assert row.tolist() == [7, 7, 7]
    del row
    gc.collect()
    assert cudart.left == 0


def test_copies_there_and_back(cudart: FakeCudart):
    stream, device = _cuda.Stream(), _cuda.DeviceArray(6)
    source, target = _cuda.PinnedArray((2, 3), np.uint8), _cuda.PinnedArray((6,), np.uint8)
    source.array[:] = [[1, 2, 3], [4, 5, 6]]
    stream.copy_in(device, source)
    stream.copy_out(target, device)
    assert not target.array.any(), "queued, not done"
    stream.synchronize()
    assert target.array.tolist() == [1, 2, 3, 4, 5, 6]
    with pytest.raises(EdgeskinError, match="two sizes: got '5 and 6 bytes'"):
        stream.copy_in(device, _cuda.PinnedArray((5,), np.uint8))
    assert stream.pointer in cudart.streams
    stream.free()
    assert not cudart.streams


def test_a_captured_graph_repeats_the_work(cudart: FakeCudart):
    stream, device = _cuda.Stream(), _cuda.DeviceArray(2)
    source, target = _cuda.PinnedArray((2,), np.uint8), _cuda.PinnedArray((2,), np.uint8)

    def work() -> None:
        stream.copy_in(device, source)
        stream.copy_out(target, device)

    graph = _cuda.capture(stream, work)
    assert isinstance(graph, _cuda.Graph)
    assert not cudart.templates, "the template is not needed any more"
    for value in (3, 9):
        source.array[:] = value
        graph.launch()
        stream.synchronize()
        assert target.array.tolist() == [value, value]
    graph.free()
    assert not cudart.executables


@pytest.mark.parametrize("name", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiateWithFlags"])
def test_a_refused_capture_is_a_reason(cudart: FakeCudart, name: str):
    stream = _cuda.Stream()
    cudart.fail[name] = Error.cudaErrorStreamCaptureInvalidated
    reason = _cuda.capture(stream, lambda: None)
    assert reason == f"CUDA's {name} failed: got 'cudaErrorStreamCaptureInvalidated'"
    assert not cudart.templates
    assert not cudart.executables
    assert cudart.cleared == (name != "cudaStreamBeginCapture"), "a left error would be reported by the next call"


def test_work_that_fails_in_a_capture_leaves_the_stream_usable(cudart: FakeCudart):
    stream = _cuda.Stream()

    def refused() -> None:
        raise EdgeskinError("TensorRT cannot be captured")

    assert _cuda.capture(stream, refused) == "TensorRT cannot be captured"
    assert not cudart.capturing
    assert not cudart.templates
    with pytest.raises(ZeroDivisionError):
        _cuda.capture(stream, lambda: 1 // 0)  # type: ignore[arg-type,return-value]
    assert not cudart.capturing
    assert not cudart.templates
    stream.synchronize()
