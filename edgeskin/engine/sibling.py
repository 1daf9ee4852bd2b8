"""Acceptance of a kit on a machine without a GPU: TensorRT for RTX parses its graphs and compiles them.

The parser is the one of TensorRT, the builder a kindred one for other GPUs: what it refuses, TensorRT would hardly
take; what it fuses hints at what TensorRT fuses. Its plan is thrown away: it is for no device of ours.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgeskin import audit
from edgeskin.backends._tensorrt_layers import from_log
from edgeskin.engine.builder import Asked, build_plan
from edgeskin.layers import read_file
from edgeskin.spec.engine import Sibling, SiblingGraph
from edgeskin.spec.manifest import Mode

PACKAGE = "tensorrt_rtx_bindings"
SM = "8.6"  # of the GPUs that it compiles for, the nearest to Orin's 8.7


def unsupported() -> str | None:
    """Why nothing can be accepted here, or None."""
    if find_spec(PACKAGE) is None:
        return "the package 'tensorrt-rtx' is not installed; fix: pip install 'edgeskin[tensorrt-rtx]'"
    return None


def accept(graphs: Mapping[Mode, Path], step: Callable[[int], object] = lambda _: None) -> Sibling:
    """Parse and compile every graph on the CPU.

    Args:
        step: called with 1 for each hundredth of a graph.

    Raises:
        EdgeskinError: the parser or the builder refuses a graph; it names the node.
    """
    trt = _module()
    found: dict[Mode, SiblingGraph] = {}
    for mode, path in graphs.items():
        plan = build_plan(trt, f"{mode} (TensorRT for RTX)", path.read_bytes(), Asked(sm=SM, verbose=True), step)
        layers, reformats = from_log(plan.log)
        found[mode] = SiblingGraph(
            layers=len(layers) + reformats,
            audit=audit.join(read_file(path), layers, reformats),
            plan_bytes=len(plan.data),
        )
    return Sibling(builder=f"tensorrt-rtx {trt.__version__}", sm=SM, modes=found)


def _module() -> Any:
    import tensorrt_rtx_bindings  # type: ignore[import-not-found,import-untyped,unused-ignore]

    return tensorrt_rtx_bindings
