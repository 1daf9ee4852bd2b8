"""Inference engines, one file each, the same verbs: `unsupported`, `build`, `open`.

`unsupported(recipe, device)` gives the reason why a target cannot be used here, or None. `build(model, out, recipe)`
writes the target's files. `open(path)` gives a `Session`.
"""

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from edgeskin.errors import EdgeskinError, unknown
from edgeskin.spec.device import Device
from edgeskin.spec.recipe import Recipe

NAMES = ("openvino", "onnxruntime", "tensorrt")

# What a layer that multiplies can be executed in; every audit speaks in these words.
INT8, FP32, BF16, FP16 = "int8", "fp32", "bf16", "fp16"


class Port:
    """Name, numpy dtype name and shape of one input or output; a shape may hold None where the size is open."""

    def __init__(self, name: str, dtype: str, shape: Sequence[int | None]) -> None:
        self.name, self.dtype, self.shape = name, dtype, tuple(shape)

    def sizes(self, rank: int) -> tuple[int, ...]:
        """The shape where it is fixed and of that rank, else ()."""
        sizes = tuple(n for n in self.shape if n is not None)
        return sizes if len(sizes) == len(self.shape) == rank else ()


@dataclass(frozen=True, slots=True)
class Executed:
    """One layer as an engine compiled it, which may be several of the file's nodes in one."""

    name: str  # the engine's own
    origin: tuple[str, ...]  # names of the nodes that it was made of, as far as the engine tells
    kind: str  # the engine's own word: Convolution, QLinearConv ...
    precision: str  # INT8, FP32, BF16 or FP16
    multiplies: bool  # a convolution or a matrix product by its kind; others may have one inside (fused attention)
    output: int  # elements it writes


class Session(ABC):
    """An opened model. Input uint8 [images, height, width, 3], output float32 [rows, logits].

    There is a row for each image, and for a pair a third one if the network has a fused head.

    One session serves one thread at a time: it reuses one request and its buffers.
    """

    images: int
    rows: int
    height: int
    width: int
    logits: int

    def run(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of one examination, in an array that belongs to the caller.

        Args:
            frames: uint8 RGB [images, height, width, 3]; the clinical image comes first where there are two.

        Raises:
            EdgeskinError: another dtype or shape.
        """
        if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
            got = str(frames.dtype) if isinstance(frames, np.ndarray) else type(frames).__name__
            raise EdgeskinError(
                "wrong input dtype", got=got, possible="uint8 array, 0..255", fix="pass frames from preprocess.prepare"
            )
        wanted = (self.images, self.height, self.width, 3)
        if frames.shape != wanted:
            raise EdgeskinError(
                "wrong input shape",
                got=str(frames.shape),
                possible=f"{wanted} = images, height, width, RGB",
                fix="prepare the photographs with the bundle's own preprocessing",
            )
        return self._infer(np.ascontiguousarray(frames))

    @abstractmethod
    def _infer(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run on checked frames."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """The conditions of a run: backend, version, device, threads, precision_hint."""

    @abstractmethod
    def executed_layers(self) -> tuple[list[Executed], int]:
        """Layers in the order of their execution, and how many reorders the engine runs between them.

        Read from what the engine compiled, not from what the file asks for: an engine may fall back silently. A reorder
        only converts a type or a layout: what precision costs on the way in and out.
        """

    def executed_precisions(self) -> dict[str, int]:
        """How many multiplying layers (convolution, matrix product) run as "int8", "fp32", "bf16", "fp16"."""
        return dict(Counter(layer.precision for layer in self.executed_layers()[0] if layer.multiplies))

    def _bind(self, path: Path, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
        """Check the graph's interface and take its sizes."""
        fits = (
            [(p.name, p.dtype) for p in inputs] == [("frames", "uint8")]
            and [(p.name, p.dtype) for p in outputs] == [("logits", "float32")]
            and inputs[0].sizes(4)[::3] in ((1, 3), (2, 3))
            and (inputs[0].sizes(4)[:1] + outputs[0].sizes(2)[:1]) in ((1, 1), (2, 2), (2, 3))
        )
        if not fits:
            raise EdgeskinError(
                f"{path.name} is not a model of ours",
                got="; ".join(f"{p.name} {p.dtype} {list(p.shape)}" for p in (*inputs, *outputs)),
                possible="input frames uint8 [1 or 2, H, W, 3], logits float32 [images, K], or [3, K] of 2 images, "
                "all sizes fixed",
                fix="export it with `edgeskin export`",
            )
        self.images, self.height, self.width, _ = inputs[0].sizes(4)
        self.rows, self.logits = outputs[0].sizes(2)


class Backend(Protocol):
    """What every module of this package offers."""

    def unsupported(self, recipe: Recipe | None = None, device: Device | None = None) -> str | None:
        """The reason why this target cannot be used here for that recipe and device, or None."""

    def build(self, model: Path, out: Path, recipe: Recipe, stem: str | None = None) -> tuple[str, ...]:
        """Write the target's files into folder `out`; names of them, the main file first."""

    def open(self, path: Path, *, threads: int = 0, cache: Path | None = None, precision_hint: str = "f32") -> Session:
        """Load a built file. `threads` 0: all cores this process may use."""


def get(name: str) -> Backend:
    """The backend of that name. Raises EdgeskinError for an unknown name, with the nearest one."""
    if name not in NAMES:
        raise unknown("target", name, NAMES)
    return cast(Backend, import_module(f"edgeskin.backends.{name}"))


def usable_cores() -> int:
    """How many cores this process may use; fewer than the machine has when it is pinned."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_threads(threads: int) -> int:
    """The number of threads asked for, 0 turned into all usable cores."""
    if threads < 0:
        raise EdgeskinError("negative number of threads", got=threads, possible="0 (all cores), 1, 2, ...")
    return threads or usable_cores()


def require_file(path: Path, suffixes: Sequence[str]) -> None:
    """Check that a model file exists and has one of the suffixes."""
    if path.suffix not in suffixes:
        raise EdgeskinError("not a model file of this target", got=path.name, possible=suffixes)
    if not path.is_file():
        raise EdgeskinError("no such model file", got=str(path), fix="check the path")


def broken(path: Path, error: Exception) -> EdgeskinError:
    """The error for a file that the engine refuses."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return EdgeskinError("unreadable model file", got=f"{path.name}: {first[:160]}", fix="build it again")
