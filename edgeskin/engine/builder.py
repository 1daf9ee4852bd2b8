"""Strongly typed ONNX -> the bytes of an engine, by TensorRT 10 or 11, or by its sibling TensorRT for RTX."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edgeskin.backends._tensorrt_log import logger, said
from edgeskin.errors import EdgeskinError

Step = Callable[[int], object]
_WORKSPACE = ("within workspace limit", "workspace size")
_SHORT_OF_MEMORY = ("out of memory", "outofmemory", "cudaerrormemoryallocation", "bad_alloc", "insufficient memory")


@dataclass(frozen=True)
class Plan:
    """A built engine, not loaded."""

    data: bytes
    seconds: float
    log: list[str] = field(repr=False)
    timing_cache: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Asked:
    """How to build. Everything else is in the graph: a strongly typed network leaves no precision to choose."""

    workspace_bytes: int = 256 << 20
    timing_cache: bytes = b""
    dla_core: int | None = None
    sm: str = ""  # compute capability to build for, "8.6"; "": of the GPU here, the only choice but in the sibling
    verbose: bool = False


def build_plan(trt: Any, name: str, graph: bytes, asked: Asked, step: Step = lambda _: None) -> Plan:
    """Parse and build.

    Args:
        trt: the module tensorrt, or tensorrt_rtx.
        name: of the graph, for messages.
        graph: an ONNX file's bytes, all sizes fixed.
        step: called with 1 for each of the builder's 100 parts of a whole.

    Raises:
        EdgeskinError: the parser refuses a node, the builder fails or runs out of memory.
    """
    started = time.monotonic()
    log = logger(trt, verbose=asked.verbose)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph):
        raise EdgeskinError(
            f"TensorRT's parser refuses {name}",
            got=_problems(parser) or said(log),
            fix="export the kit for the TensorRT of this machine",
        )
    config = _configured(trt, builder, asked)
    monitor = _monitor(trt, step) if hasattr(config, "progress_monitor") else None
    if monitor is not None:
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _failed(name, log, asked)
    found = config.get_timing_cache()
    kept = bytes(found.serialize()) if found is not None else b""
    return Plan(bytes(plan), time.monotonic() - started, list(log.lines), kept)


def _configured(trt: Any, builder: Any, asked: Asked) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, asked.workspace_bytes)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the audit reads what was compiled
    config.clear_flag(trt.BuilderFlag.TF32)  # FP32 is the reference: products of 10 bits would not be
    timing = config.create_timing_cache(asked.timing_cache) or config.create_timing_cache(b"")  # None of a damaged one
    config.set_timing_cache(timing, ignore_mismatch=False)
    if asked.dla_core is not None:
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = asked.dla_core
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    if asked.sm and hasattr(config, "set_compute_capability"):
        word = f"SM{asked.sm.replace('.', '')}"
        if hasattr(config, "num_compute_capabilities"):
            config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(getattr(trt, "ComputeCapability", None), word), 0)
    return config


def _problems(parser: Any) -> str:
    """The parser's errors, node first, three at most."""
    found = []
    for place in range(min(parser.num_errors, 3)):
        problem = parser.get_error(place)
        told = [
            problem.node_operator(),
            problem.node_name() or (f"node {problem.node()}" if problem.node() >= 0 else ""),
        ]
        node = " ".join(filter(None, told)) or "the file"
        found.append(f"{node}: {' '.join(problem.desc().split())[:160]}")
    more = parser.num_errors - len(found)
    return "; ".join([*found, f"and {more} more"] if more > 0 else found)


def _failed(name: str, log: Any, asked: Asked) -> EdgeskinError:
    told = " ".join([*log.errors, *log.lines[-20:]]).lower()
    if any(word in told for word in _SHORT_OF_MEMORY):
        return EdgeskinError(
            f"TensorRT ran out of memory while it built {name}",
            got=said(log),
            possible=f"a workspace below {asked.workspace_bytes >> 20} MiB",
            fix="close what else runs, add swap on a disk, or pass --workspace-mb with less",
        )
    if any(word in told for word in _WORKSPACE):
        return EdgeskinError(
            f"TensorRT needs more workspace to build {name}",
            got=said(log),
            possible=f"more than {asked.workspace_bytes >> 20} MiB",
            fix="pass --workspace-mb with more",
        )
    return EdgeskinError(
        f"TensorRT cannot build {name}", got=said(log), fix="report it with the kit's name and this line"
    )


def _monitor(trt: Any, step: Step) -> Any:
    """Tells how far a build is: each phase that stands in no other takes its share of what is left."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._told, self._outer, self._steps = 0, "", 1

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._outer, self._steps = phase_name, max(num_steps, 1)

        def step_complete(self, phase_name: str, step_: int) -> bool:
            if phase_name == self._outer:
                self._tell(min(99, 100 * (step_ + 1) // self._steps))
            return True  # False would cancel the build

        def phase_finish(self, phase_name: str) -> None:
            if phase_name == self._outer:
                self._tell(99)

        def _tell(self, percent: int) -> None:
            if percent > self._told:
                step(percent - self._told)
                self._told = percent

    return Monitor()
