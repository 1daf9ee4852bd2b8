"""Two ways to an engine on the device: TensorRT's Python package, or its program trtexec."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from edgeskin import backends
from edgeskin import tensorrt_here as here
from edgeskin.backends import Session
from edgeskin.engine import trtexec
from edgeskin.engine.builder import Asked, build_plan
from edgeskin.env import cache_dir
from edgeskin.errors import EdgeskinError
from edgeskin.files import write_atomic
from edgeskin.spec.manifest import Compatibility, Manifest

Step = Callable[[int], object]


@dataclass(frozen=True)
class Limits:
    """What a build may use."""

    workspace_bytes: int
    dla_core: int | None = None


class Maker(Protocol):
    """Builds engines on this machine, and opens them."""

    name: Literal["tensorrt", "trtexec"]
    compatibility: Compatibility  # of this machine
    cases: int  # how many drawn ones are put to an engine
    used_cache: bool  # whether what was timed at an earlier build shortened one of these

    def build(self, graph: Path, plan: Path, limits: Limits, step: Step) -> None:
        """Write the engine, whole or not at all."""

    def open(self, plan: Path) -> Session:
        """Load an engine."""


@dataclass
class PythonMaker:
    """TensorRT's Python package. `cache`: file of what was timed here before; a build with it is faster."""

    compatibility: Compatibility
    cache: Path
    used_cache: bool = field(default=False, init=False)
    name: Literal["tensorrt", "trtexec"] = field(default="tensorrt", init=False)
    cases: int = field(default=24, init=False)

    def build(self, graph: Path, plan: Path, limits: Limits, step: Step) -> None:
        """Write the engine, whole or not at all, and keep what was timed.

        Raises:
            EdgeskinError: the parser or the builder refuses the graph, or memory runs out.
        """
        from edgeskin.backends.tensorrt import module

        try:
            known = self.cache.read_bytes()
        except FileNotFoundError:
            known = b""
        asked = Asked(limits.workspace_bytes, known, limits.dla_core)
        built = build_plan(module(), graph.name, graph.read_bytes(), asked, step)
        self.used_cache |= bool(known)
        write_atomic(plan, built.data)
        if built.timing_cache:
            write_atomic(self.cache, built.timing_cache)

    def open(self, plan: Path) -> Session:
        """Load an engine."""
        return backends.get("tensorrt").open(plan)


def find(manifest: Manifest, *, program: bool = False) -> Maker:
    """What builds engines on this machine.

    Args:
        manifest: of the kit.
        program: trtexec instead of the Python package.

    Raises:
        EdgeskinError: no GPU or driver, or neither the package nor, if that is asked for, the program is there.
    """
    found = trtexec.find() if program else None
    if program and found is None:
        raise EdgeskinError(
            "trtexec is not here",
            got=f"not in PATH, nor {trtexec.PLACES[0]}",
            fix="on a Jetson `sudo apt install nvidia-jetpack`",
        )
    machine = here.here(tensorrt=trtexec.version(found) if found else None)
    if isinstance(machine, str):
        raise EdgeskinError("no engine can be built here", got=machine)
    cache = timing_cache(cache_dir() / "tensorrt", machine)
    if found is None:
        return PythonMaker(machine, cache)
    from edgeskin.engine.program import Program

    frames = manifest.preprocess
    shape = (frames.height, frames.width, manifest.task_schema.logits)
    return Program(found, machine, cache, shape, manifest.rows["pair"])


def timing_cache(folder: Path, machine: Compatibility) -> Path:
    """The file of timings that hold on this machine alone.

    >>> from edgeskin.spec.manifest import Compatibility
    >>> machine = Compatibility(device="x", arch="aarch64", sm="8.7", tensorrt="10.3.0", driver="12.6")
    >>> timing_cache(Path("cache"), machine).name
    'timing-10.3.0-sm87-driver12.6.bin'
    """
    return folder / f"timing-{machine.tensorrt}-sm{machine.sm.replace('.', '')}-driver{machine.driver}.bin"
