"""What building an engine needs of memory, and what the machine has: refused before the kernel kills the builder.

TensorRT tells only afterwards what it used, so this is an estimate. Its parts, and where each comes from:

- weights: the documents promise "at least two copies" while building, the network's and the engine's. Ours holds four:
  the file's bytes that the parser reads, the network, the engine, the plan. The layer that is being timed needs its own
  twice more: folded with its scale and bias, and in the layout of the candidate.
- activations: twice the largest sum of tensors that live together, walking the graph in its order, each in the
  precision that the graph gives it. Twice, because timing takes buffers beside those of the plan: for a graph of ours
  whose sum is 9.9 MB in FP16 and 19.6 MB in FP32, TensorRT for RTX 1.7.1 planned 21.3 MB either way.
- workspace: the scratch memory that one candidate may ask for. TensorRT's own limit is all of the GPU's memory, on a
  Jetson all of the machine's; exports there run out of memory without a limit and do not with 1 GiB (ultralytics
  #23845, #23945). We give half of what is left over, since timing takes from it too, between 64 MiB and 1 GiB.
- overhead: CUDA's context and the library of kernels. Logs of TensorRT say, for the process: a machine with 10.3.0
  +927 MiB and 1001 in all; Thor with 10.13 +1227 and 1459 in all (meta-tegra #2120). The rest is for Python and NumPy.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeskin.backends import _cuda, broken, require_file
from edgeskin.errors import EdgeskinError
from edgeskin.spec.engine import GraphNeeds, MemoryEstimate

MIB = 1 << 20
WORKSPACE_MIB = (64, 1024)  # the least and the most that is chosen here
_COPIES = {True: 4, False: 2}  # of the weights; a GPU with memory of its own holds the engine's and the candidate's
_OVERHEAD = {True: 1600 * MIB, False: 600 * MIB}


@dataclass(frozen=True, slots=True)
class Available:
    """Memory that can be taken now. `shared`: CPU and GPU have it together, as on a Jetson."""

    memory_bytes: int
    swap_bytes: int = 0  # free, on disk
    zram: bool = False  # swap in compressed memory, which adds none
    shared: bool = True


def available(root: Path = Path("/"), gpu_free_bytes: int | None = None) -> Available:
    """What /proc says can be taken, or the free memory of a GPU that has its own.

    Args:
        root: holds proc/ and sys/; another one in tests.
        gpu_free_bytes: of a GPU with memory of its own; None where it shares the machine's.

    Raises:
        EdgeskinError: no MemAvailable in /proc/meminfo.
    """
    if gpu_free_bytes is not None:
        return Available(gpu_free_bytes, shared=False)
    found = [line.split() for line in _text(root / "proc" / "meminfo").splitlines()]
    fields = {parts[0]: int(parts[1]) * 1024 for parts in found if len(parts) > 1 and parts[1].isdigit()}
    if "MemAvailable:" not in fields:
        raise EdgeskinError("no MemAvailable in /proc/meminfo", fix="build under Linux")
    memory = min([fields["MemAvailable:"], *_left_to_group(root)])
    compressed = {path.name for path in (root / "sys" / "block").glob("zram*")}
    swap, zram = 0, False
    for line in _text(root / "proc" / "swaps").splitlines()[1:]:
        name, _, size, used, *_ = line.split()
        if Path(name).name in compressed or Path(name).name.startswith("zram"):
            zram = True
        else:
            swap += (int(size) - int(used)) * 1024
    return Available(memory, swap, zram)


def _left_to_group(root: Path) -> list[int]:
    """What the limit of a container leaves, if there is one."""
    group = root / "sys" / "fs" / "cgroup"
    limit, used = (_text(group / name).strip() for name in ("memory.max", "memory.current"))
    return [max(int(limit) - int(used), 0)] if limit.isdigit() and used.isdigit() else []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def here() -> Available:
    """What this machine has for a build; a GPU with memory of its own is asked for it."""
    if _cuda.unsupported():  # a board with trtexec alone
        return available()
    gpu = _cuda.gpu()
    return available(gpu_free_bytes=None if gpu.integrated else gpu.free_bytes)


def estimate(asked: GraphNeeds, found: Available, workspace_mb: int | None = None) -> MemoryEstimate:
    """What building this graph needs, against what there is.

    Args:
        asked: what `needs` read off the graph, when its kit was made: a device need not have the package onnx.
        found: what `available` gave.
        workspace_mb: limit of the workspace in MiB; None chooses it from what is left.

    Raises:
        EdgeskinError: a workspace below 1 MiB.
    """
    if workspace_mb is not None and workspace_mb < 1:
        raise EdgeskinError("no such workspace", got=workspace_mb, possible="1 or more MiB")
    weights = asked.weights_bytes * _COPIES[found.shared] + 2 * asked.largest_weight_bytes
    overhead = _OVERHEAD[found.shared]
    activations = 2 * asked.activation_bytes
    fixed = weights + activations + overhead
    workspace = MIB * (choose_workspace(found.memory_bytes - fixed) if workspace_mb is None else workspace_mb)
    return MemoryEstimate(
        weights_bytes=weights,
        activation_bytes=activations,
        workspace_bytes=workspace,
        overhead_bytes=overhead,
        needed_bytes=fixed + workspace,
        available_bytes=found.memory_bytes,
        swap_bytes=found.swap_bytes,
        zram=found.zram,
    )


def choose_workspace(left_bytes: int) -> int:
    """MiB of workspace where that much is left over: half of it, within our limits.

    >>> [choose_workspace(mib << 20) for mib in (-500, 100, 600, 9000)]
    [64, 64, 300, 1024]
    """
    least, most = WORKSPACE_MIB
    return max(least, min(most, left_bytes // 2 // MIB))


def counted_swap(found: MemoryEstimate) -> int:
    """How much of the swap on disk helps: half of it, and at most a quarter of what is needed.

    Memory that the GPU maps stays where it is. Swap takes in what other programs leave idle and the copies of the
    weights that nobody reads, not what is being timed. Our choice of shares; nobody has published any.
    """
    return min(found.swap_bytes // 2, found.needed_bytes // 4)


def refuse(found: MemoryEstimate, *, shared: bool = True) -> None:
    """Raise if the build would run out of memory, with the cures in the order in which they help.

    Args:
        found: what `estimate` gave.
        shared: CPU and GPU share the memory.
    """
    there = found.available_bytes + counted_swap(found)
    if found.needed_bytes <= there:
        return
    cures = ["close other programs that use the GPU"]
    if shared:
        cures = ["close other programs and the desktop (`sudo systemctl isolate multi-user.target`)"]
        if counted_swap(found) < found.needed_bytes // 4:
            cures.append("add swap on disk (zram adds none)" if found.zram else "add swap on disk")
    least = WORKSPACE_MIB[0]
    if found.workspace_bytes > least * MIB:  # asked for: what is chosen here is the least by now
        cures.append(f"pass --workspace-mb {least}")
    parts = {
        "weights": found.weights_bytes,
        "activations": found.activation_bytes,
        "workspace": found.workspace_bytes,
        "CUDA and TensorRT": found.overhead_bytes,
    }
    split = " + ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items())
    swap = f" and {counted_swap(found) / 1e9:.2f} GB of swap" if counted_swap(found) else ""
    raise EdgeskinError(
        f"not enough memory to build the engine: about {found.needed_bytes / 1e9:.1f} GB ({split})",
        got=f"{found.available_bytes / 1e9:.1f} GB free{swap}",
        fix=", or ".join(cures),
    )


def needs(graph: Path) -> GraphNeeds:
    """Weights and the largest sum of activations that live together, read off an ONNX file.

    Raises:
        EdgeskinError: no ONNX file, or the package onnx is not installed.
    """
    require_file(graph, (".onnx",))
    try:
        import onnx
    except ImportError:
        raise EdgeskinError("the package 'onnx' is not installed", fix="pip install onnx") from None
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        # Shapes need no weights that lie in a file of their own.
        model = onnx.shape_inference.infer_shapes(onnx.load(graph, load_external_data=False), data_prop=True)
    except (DecodeError, onnx.shape_inference.InferenceError) as error:
        raise broken(graph, error) from error
    weights = [_bytes(tensor.data_type, tensor.dims) for tensor in model.graph.initializer]
    return GraphNeeds(
        weights_bytes=sum(weights),
        largest_weight_bytes=max(weights, default=0),
        activation_bytes=peak_live(model.graph),
    )


def peak_live(graph: Any) -> int:
    """Bytes of the tensors of an onnx.GraphProto that live together at most.

    A tensor lives from the node that writes it to the last one that reads it; inputs and outputs of the graph always,
    for the caller holds them. Constants, and what is worked out of constants alone, are weights and not counted. A
    tensor whose shape nobody knows is taken to be as large as the largest known one.
    """
    sizes = _sizes(graph)
    unknown = max(sizes.values(), default=0)
    constant = {tensor.name for tensor in graph.initializer} | {""}
    held = {port.name for port in (*graph.input, *graph.output)} - constant
    last: dict[str, int] = {}
    for place, node in enumerate(graph.node):
        last.update(dict.fromkeys(_reads(node), place))
    base = sum(sizes.get(name, unknown) for name in held)
    live: dict[str, int] = {}
    peak = base
    for place, node in enumerate(graph.node):
        if all(name in constant for name in _reads(node)):
            constant.update(node.output)
            continue
        live |= {name: sizes.get(name, unknown) for name in node.output if name not in held | constant}
        peak = max(peak, base + sum(live.values()))
        live = {name: size for name, size in live.items() if last.get(name, -1) > place}
    return peak


def _reads(node: Any) -> Iterable[str]:
    """Names that a node reads, those of its branches among them."""
    inner = [sub for attribute in node.attribute for sub in (attribute.g, *attribute.graphs)]
    return [*node.input, *(name for sub in inner for step in sub.node for name in _reads(step))]


def _sizes(graph: Any) -> dict[str, int]:
    """Bytes of every tensor whose shape is known."""
    found: dict[str, int] = {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        dims = kind.shape.dim
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            found[value.name] = _bytes(kind.elem_type, [dim.dim_value for dim in dims])
    return found


def _bytes(elem_type: int, dims: Iterable[int]) -> int:
    import math

    import onnx

    if elem_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        return (math.prod(dims) + 1) // 2
    return math.prod(dims) * int(onnx.helper.tensor_dtype_to_np_dtype(elem_type).itemsize)
