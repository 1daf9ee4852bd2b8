"""What TensorRT needs of CUDA: the GPU, memory, a stream and a captured graph, through the package cuda-bindings.

Every call of the runtime goes through `call`, which names it when it fails. Nothing here imports TensorRT: some of its
versions crash the process where there is no driver, so ask `unsupported` first.
"""

import ctypes
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgeskin.errors import EdgeskinError

_INSTALL = "pip install 'cuda-bindings==12.*' (JetPack 6) or 'cuda-bindings==13.*' (JetPack 7)"
_NO_DRIVER = "install NVIDIA's driver (on a Jetson it comes with JetPack); start a container with --runtime nvidia"
_CURES = {
    "cudaErrorMemoryAllocation": "close other programs that use the GPU",
    "cudaErrorInsufficientDriver": _INSTALL,
    "cudaErrorNoDevice": _NO_DRIVER,
}


def _cudart() -> Any:
    """The runtime's module, under the name that the installed version gives it."""
    try:
        return import_module("cuda.bindings.runtime")
    except ModuleNotFoundError:  # before 12.8 it was cuda.cudart alone
        return import_module("cuda.cudart")


def check(result: Sequence[Any], what: str) -> Any:
    """What a call returned behind its error code: None, one value or a tuple.

    Raises:
        EdgeskinError: the code is not cudaSuccess; it carries the call's and the error's name.
    """
    code, *values = result
    if int(code) != 0:
        name = getattr(code, "name", str(code))
        raise EdgeskinError(f"CUDA's {what} failed", got=name, fix=_CURES.get(name))
    return tuple(values) if len(values) > 1 else values[0] if values else None


def call(name: str, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime by its name and check what it returns."""
    return check(getattr(_cudart(), name)(*arguments), name)


def unsupported() -> str | None:
    """Why CUDA cannot be used here, with the cure, or None. It never raises, whatever is installed."""
    try:
        cudart = _cudart()
    except ImportError as error:
        what = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded ({error})"
        return EdgeskinError(f"the package 'cuda-bindings' {what}", fix=_INSTALL).line()
    try:
        driver = int(cudart.cudaDriverGetVersion()[1] or 0)  # 0, and no error, where there is none
        if driver == 0:
            return EdgeskinError("no NVIDIA driver on this machine", fix=_NO_DRIVER).line()
        code, count = cudart.cudaGetDeviceCount()
    except RuntimeError as error:  # bindings for CUDA 11 raise where libcuda.so.1 is missing
        return EdgeskinError("no NVIDIA driver on this machine", got=str(error), fix=_NO_DRIVER).line()
    name = getattr(code, "name", str(code))
    if name == "cudaErrorInsufficientDriver":
        return EdgeskinError(
            "the driver is too old for the package 'cuda-bindings'",
            got=f"a driver for CUDA {_dotted(driver)}",
            fix=f"pip install 'cuda-bindings=={driver // 1000}.*'",
        ).line()
    if name == "cudaErrorNoDevice" or (int(code) == 0 and not count):
        return EdgeskinError("the NVIDIA driver sees no GPU", fix=_NO_DRIVER).line()
    if int(code) != 0:
        return EdgeskinError("the NVIDIA driver does not answer", got=name, fix="restart the machine").line()
    return None


def _dotted(version: int) -> str:
    """CUDA's number of a version with a dot.

    >>> _dotted(12060)
    '12.6'
    """
    return f"{version // 1000}.{version % 1000 // 10}"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU. `integrated`: it shares the memory of the CPU, as on every Jetson."""

    name: str
    sm: str  # compute capability, "8.7"
    total_bytes: int
    free_bytes: int
    driver: str  # highest CUDA version that the driver supports, "12.6"
    integrated: bool


def gpu(index: int = 0) -> Gpu:
    """The GPU of that number, which becomes the one that the calls of this thread go to.

    Raises:
        EdgeskinError: none has that number, or CUDA fails.
    """
    count = int(call("cudaGetDeviceCount"))
    if not 0 <= index < count:
        raise EdgeskinError("no such GPU", got=index, possible=f"0 to {count - 1}" if count else "none")
    call("cudaSetDevice", index)
    found = call("cudaGetDeviceProperties", index)
    free, total = call("cudaMemGetInfo")
    name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
    return Gpu(
        name=name.strip("\0 "),
        sm=f"{found.major}.{found.minor}",
        total_bytes=int(total),
        free_bytes=int(free),
        driver=_dotted(int(call("cudaDriverGetVersion"))),
        integrated=bool(found.integrated),
    )


class _Handle:
    """A resource of CUDA that is given back once: by `free`, or when its object is collected.

    Collected, it cannot report an error. It is left alone when the interpreter ends: the process gives everything back
    then, and CUDA may already be unloaded.
    """

    def __init__(self, handle: Any, release: str) -> None:
        self.handle = handle
        self._release = release
        self._finalizer = weakref.finalize(self, getattr(_cudart(), release), handle)
        self._finalizer.atexit = False

    def free(self) -> None:
        """Give it back now; a second time does nothing. Raises EdgeskinError if CUDA refuses."""
        if self._finalizer.detach() is not None:
            call(self._release, self.handle)


class DeviceArray(_Handle):
    """Bytes of GPU memory."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.pointer = int(call("cudaMalloc", max(nbytes, 1)))
        super().__init__(self.pointer, "cudaFree")


class PinnedArray:
    """An array in host memory that stays in its place, from which the GPU copies without a detour.

    The memory is given back when this object and every view of `array` are gone.
    """

    def __init__(self, shape: Sequence[int], dtype: DTypeLike) -> None:
        kind = np.dtype(dtype)
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        self.pointer = int(call("cudaHostAlloc", max(self.nbytes, 1), 0))
        memory = (ctypes.c_byte * max(self.nbytes, 1)).from_address(self.pointer)
        weakref.finalize(memory, _cudart().cudaFreeHost, self.pointer).atexit = False
        # A view keeps `memory` alive, so none can outlive what it looks at.
        self.array: NDArray[Any] = np.ndarray(tuple(shape), kind, buffer=memoryview(memory))


class Stream(_Handle):
    """A queue of work for the GPU, which does not wait for the default one."""

    def __init__(self) -> None:
        created = call("cudaStreamCreateWithFlags", _cudart().cudaStreamNonBlocking)
        super().__init__(created, "cudaStreamDestroy")

    @property
    def pointer(self) -> int:
        """The handle as TensorRT takes it."""
        return int(self.handle)

    def synchronize(self) -> None:
        """Wait until all work in the queue is done."""
        call("cudaStreamSynchronize", self.handle)

    def copy_in(self, device: DeviceArray, pinned: PinnedArray) -> None:
        """Queue a copy from the host to the GPU."""
        _fits(pinned, device)
        kind = _cudart().cudaMemcpyKind.cudaMemcpyHostToDevice
        call("cudaMemcpyAsync", device.pointer, pinned.pointer, pinned.nbytes, kind, self.handle)

    def copy_out(self, pinned: PinnedArray, device: DeviceArray) -> None:
        """Queue a copy from the GPU to the host; read the array after `synchronize`."""
        _fits(pinned, device)
        kind = _cudart().cudaMemcpyKind.cudaMemcpyDeviceToHost
        call("cudaMemcpyAsync", pinned.pointer, device.pointer, pinned.nbytes, kind, self.handle)


def _fits(pinned: PinnedArray, device: DeviceArray) -> None:
    if pinned.nbytes != device.nbytes:
        raise EdgeskinError("a copy between buffers of two sizes", got=f"{pinned.nbytes} and {device.nbytes} bytes")


class Graph(_Handle):
    """Work that was captured from a stream and is started as a whole: one launch instead of one a kernel."""

    def __init__(self, executable: Any, stream: Stream) -> None:
        self._stream = stream
        super().__init__(executable, "cudaGraphExecDestroy")

    def launch(self) -> None:
        """Queue the whole graph on the stream that it was captured from."""
        call("cudaGraphLaunch", self.handle, self._stream.handle)


def capture(stream: Stream, work: Callable[[], None]) -> Graph | str:
    """Capture what `work` queues on the stream; the reason instead where it cannot be captured.

    Run `work` once before, so that what is set up at a first run is done. An EdgeskinError of `work` is a reason too;
    any other error leaves the stream as it was and goes on.
    """
    cudart = _cudart()
    try:
        # Thread-local: what other threads do with CUDA meanwhile neither fails nor spoils the capture.
        call("cudaStreamBeginCapture", stream.handle, cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
    except EdgeskinError as error:
        return error.line()
    reason = ""
    template = None
    try:
        try:
            work()
        except EdgeskinError as error:
            reason = error.line()
        finally:
            # A stream stays in capture until this call, which fails for a spoilt one and ends it all the same.
            code, template = cudart.cudaStreamEndCapture(stream.handle)
            cudart.cudaGetLastError()  # else the next innocent call reports what failed here
        if reason or int(code) != 0:
            return reason or f"CUDA's cudaStreamEndCapture failed: got {getattr(code, 'name', code)!r}"
        # The signature of cudaGraphInstantiate changed from CUDA 11 to 12; this one is the same in 11, 12 and 13.
        return Graph(call("cudaGraphInstantiateWithFlags", template, 0), stream)
    except EdgeskinError as error:
        return error.line()
    finally:
        if template is not None and int(template) != 0:  # 0 after a spoilt capture
            cudart.cudaGraphDestroy(template)
