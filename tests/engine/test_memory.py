"""The memory that a build needs: graphs worked out by hand, and trees of /proc laid out for the purpose."""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeskin.engine import memory
from edgeskin.engine.memory import MIB, Available
from edgeskin.errors import EdgeskinError
from edgeskin.spec.engine import GraphNeeds, MemoryEstimate

Tree = Callable[..., Path]


def asks(weights: int, largest: int, activations: int) -> GraphNeeds:
    return GraphNeeds(weights_bytes=weights, largest_weight_bytes=largest, activation_bytes=activations)


def port(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name: str, *shape: int, dtype: str = "float32") -> Any:
    return numpy_helper.from_array(np.zeros(shape, dtype), name)


def write(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any]) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def test_a_residual_holds_three_tensors_at_once(tmp_path: Path):
    # x 400 B and y 400 B are held throughout. Live beside them: a; a+b; a+b (b read, c written -> a+b+c); then y.
    nodes = [node("Relu", "x", "a"), node("Neg", "a", "b"), node("Abs", "b", "c"), node("Add", "a c", "y")]
    path = write(tmp_path / "g.onnx", nodes, [port("x", [100])], [port("y", [100])], [])
    assert memory.needs(path) == asks(0, 0, 400 * (2 + 3))


def test_a_chain_holds_two_whatever_its_length(tmp_path: Path):
    names = ["x", *"abcdefg", "y"]
    nodes = [node("Relu", before, after) for before, after in itertools.pairwise(names)]
    path = write(tmp_path / "g.onnx", nodes, [port("x", [100])], [port("y", [100])], [])
    assert memory.needs(path).activation_bytes == 400 * (2 + 2)


def test_quantised_tensors_count_in_their_own_precision_and_weights_are_no_activations(tmp_path: Path):
    nodes = [
        node("QuantizeLinear", "w ws wz", "wq"),  # weights: worked out of constants alone
        node("DequantizeLinear", "wq ws wz", "wd"),
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        node("Gemm", "d wd", "y"),
    ]
    scalars = [weight("s"), weight("ws"), weight("z", dtype="int8"), weight("wz", dtype="int8")]
    weights = [weight("w", 1000, 10), *scalars]
    path = write(tmp_path / "g.onnx", nodes, [port("x", [8, 1000])], [port("y", [8, 10])], weights)
    # Held: x 32000, y 320. Live at most: q 8000 and d 32000, when d is written.
    assert memory.needs(path) == asks(40000 + 4 + 4 + 1 + 1, 40000, 32320 + 8000 + 32000)


def test_half_precision_halves(tmp_path: Path):
    nodes = [node("Relu", "x", "a"), node("Neg", "a", "y")]
    kinds = {2: TensorProto.FLOAT16, 4: TensorProto.FLOAT}
    found = {}
    for size, kind in kinds.items():
        path = write(tmp_path / f"{size}.onnx", nodes, [port("x", [50], kind)], [port("y", [50], kind)], [])
        found[size] = memory.needs(path).activation_bytes
    assert found == {2: 300, 4: 600}


def test_a_branch_keeps_what_it_reads_alive(tmp_path: Path):
    out = [port("r", [10])]
    then = helper.make_graph([node("Neg", "a", "r")], "then", [], out)
    other = helper.make_graph([node("Abs", "a", "r")], "else", [], out)
    nodes = [
        node("Relu", "x", "a"),  # read inside the branches alone
        node("Neg", "x", "b"),
        node("Abs", "b", "c"),
        node("If", "t", "d", then_branch=then, else_branch=other),
        node("Add", "c d", "y"),
    ]
    truth = numpy_helper.from_array(np.array(True), "t")
    path = write(tmp_path / "g.onnx", nodes, [port("x", [10])], [port("y", [10])], [truth])
    assert memory.needs(path).activation_bytes == 40 * (2 + 3)  # a, b, c; and a, c, d


def test_a_tensor_of_unknown_shape_counts_as_the_largest(tmp_path: Path):
    nodes = [node("NonZero", "x", "n"), node("Cast", "n", "y", to=TensorProto.FLOAT)]
    path = write(tmp_path / "g.onnx", nodes, [port("x", [10, 10])], [port("y", [2, "k"])], [])
    # x 400 and y unknown are held; n int64 unknown: three times the largest known one.
    assert memory.needs(path).activation_bytes == 1200


def test_four_bits_are_packed(tmp_path: Path):
    assert memory._bytes(TensorProto.INT4, [3, 3]) == 5
    assert memory._bytes(TensorProto.BFLOAT16, [3, 3]) == 18
    assert memory._bytes(TensorProto.FLOAT, []) == 4


def test_no_graph_is_told_in_one_line(tmp_path: Path):
    with pytest.raises(EdgeskinError, match="no such model file"):
        memory.needs(tmp_path / "absent.onnx")
    (tmp_path / "g.onnx").write_bytes(b"\xff\xffnothing")
    with pytest.raises(EdgeskinError, match="unreadable model file"):
        memory.needs(tmp_path / "g.onnx")


def test_without_the_package_the_cure_is_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "g.onnx").touch()
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EdgeskinError, match="'onnx' is not installed; fix: pip install onnx"):
        memory.needs(tmp_path / "g.onnx")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    def make(meminfo: str, swaps: tuple[str, ...] = (), **files: str) -> Path:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/meminfo").write_text(meminfo)
        header = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        (tmp_path / "proc/swaps").write_text(header + "".join(f"{line}\n" for line in swaps))
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


ORIN_NANO = "MemTotal:        7802136 kB\nMemFree: 300000 kB\nHugePages_Total: 0\nMemAvailable:    5300000 kB\n"


def test_a_jetson_with_zram_and_a_swap_file(tree: Tree):
    root = tree(
        ORIN_NANO,
        ("/dev/zram0 partition 650176 1024 5", "/dev/zram1 partition 650176 0 5", "/mnt/8GB.swap file 8388604 4 -2"),
        sys__block__zram0__disksize="665780224",
    )
    assert memory.available(root) == Available(5300000 * 1024, 8388600 * 1024, zram=True, shared=True)


def test_swap_on_disk_alone_is_no_zram(tree: Tree):
    root = tree(ORIN_NANO, ("/dev/nvme0n1p2 partition 1000 400 -2",))
    assert memory.available(root) == Available(5300000 * 1024, 600 * 1024)


def test_the_limit_of_a_container_counts(tree: Tree):
    group = {"sys__fs__cgroup__memory_dot_max": f"{3 << 30}\n", "sys__fs__cgroup__memory_dot_current": f"{1 << 30}\n"}
    assert memory.available(tree(ORIN_NANO, **group)).memory_bytes == 2 << 30


def test_no_limit_of_a_container_is_none(tree: Tree):
    group = {"sys__fs__cgroup__memory_dot_max": "max\n", "sys__fs__cgroup__memory_dot_current": "5\n"}
    assert memory.available(tree(ORIN_NANO, **group)).memory_bytes == 5300000 * 1024


def test_another_system_is_told(tree: Tree):
    with pytest.raises(EdgeskinError, match="no MemAvailable"):
        memory.available(tree("MemTotal: 5 kB\n"))


def test_a_gpu_with_its_own_memory_counts_that():
    assert memory.available(gpu_free_bytes=7) == Available(7, shared=False)


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="not Linux")
def test_this_machine_has_less_than_its_total():
    total = next(int(line.split()[1]) * 1024 for line in Path("/proc/meminfo").read_text().splitlines())
    assert 0 < memory.available().memory_bytes < total


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    nodes = [node("Gemm", "x w", "a"), node("Gemm", "a v", "y")]
    weights = [weight("w", 1000, 1000), weight("v", 1000, 500)]
    return write(tmp_path / "g.onnx", nodes, [port("x", [2, 1000])], [port("y", [2, 500])], weights)


def test_the_estimate_is_the_sum_of_its_documented_parts(graph: Path):
    found = memory.estimate(memory.needs(graph), Available(4 << 30, swap_bytes=9, zram=True))
    w, v = 4_000_000, 2_000_000
    assert found.weights_bytes == 4 * (w + v) + 2 * w
    assert found.activation_bytes == 2 * (8000 + 8000 + 4000)
    assert found.overhead_bytes == 1600 * MIB
    assert found.workspace_bytes == 1024 * MIB
    parts = (found.weights_bytes, found.activation_bytes, found.overhead_bytes, found.workspace_bytes)
    assert found.needed_bytes == sum(parts)
    assert (found.available_bytes, found.swap_bytes, found.zram) == (4 << 30, 9, True)
    memory.refuse(found)


def test_the_workspace_shrinks_before_the_build_is_refused(graph: Path):
    found = {
        mib: memory.estimate(memory.needs(graph), Available(mib * MIB)).workspace_bytes // MIB
        for mib in (2000, 1800, 1700)
    }
    assert found == {2000: 184, 1800: 84, 1700: 64}  # half of what 1630.6 MiB leave, rounded down
    memory.refuse(memory.estimate(memory.needs(graph), Available(1700 * MIB)))
    with pytest.raises(EdgeskinError, match="not enough memory"):
        memory.refuse(memory.estimate(memory.needs(graph), Available(1690 * MIB)))


def test_a_gpu_of_its_own_needs_less_of_everything(graph: Path):
    shared = memory.estimate(memory.needs(graph), Available(8 << 30))
    own = memory.estimate(memory.needs(graph), Available(8 << 30, shared=False))
    assert own.weights_bytes == 2 * 6_000_000 + 2 * 4_000_000
    assert own.overhead_bytes < shared.overhead_bytes


@pytest.mark.parametrize("asked", [0, -5])
def test_no_such_workspace(graph: Path, asked: int):
    with pytest.raises(EdgeskinError, match="no such workspace"):
        memory.estimate(memory.needs(graph), Available(8 << 30), workspace_mb=asked)


def made(available: int, **changes: Any) -> MemoryEstimate:
    """An estimate of 2000 MiB."""
    fields = {"swap_bytes": 0, "zram": False, "workspace_bytes": 64 * MIB} | changes
    return MemoryEstimate(
        weights_bytes=200 * MIB,
        activation_bytes=136 * MIB,
        overhead_bytes=1600 * MIB,
        needed_bytes=1936 * MIB + fields["workspace_bytes"],
        available_bytes=available * MIB,
        **fields,
    )


def test_exactly_enough_is_enough():
    memory.refuse(made(2000))
    with pytest.raises(EdgeskinError):
        memory.refuse(made(1999))


def test_the_refusal_names_every_part_and_the_cures_in_order():
    with pytest.raises(EdgeskinError) as caught:
        memory.refuse(made(1000, zram=True))
    line = caught.value.line()
    assert line.startswith("not enough memory to build the engine: about 2.1 GB (weights 0.21 + activations 0.14 + ")
    assert "workspace 0.07 + CUDA and TensorRT 1.68): got '1.0 GB free'" in line
    assert line.index("systemctl isolate multi-user.target") < line.index("add swap on disk (zram adds none)")
    assert "--workspace-mb" not in line, "it is the least already"


def test_a_workspace_that_was_asked_for_can_be_made_smaller():
    with pytest.raises(EdgeskinError, match="or pass --workspace-mb 64"):
        memory.refuse(made(1000, workspace_bytes=512 * MIB))


def test_half_of_the_swap_counts_and_never_more_than_a_quarter_of_the_need():
    memory.refuse(made(1600, swap_bytes=800 * MIB))
    with pytest.raises(EdgeskinError, match=r"and 0\.42 GB of swap"):
        memory.refuse(made(1599, swap_bytes=800 * MIB))
    memory.refuse(made(1500, swap_bytes=99_000 * MIB))
    with pytest.raises(EdgeskinError) as caught:
        memory.refuse(made(1499, swap_bytes=99_000 * MIB))
    assert "add swap" not in caught.value.line(), "more would not be counted"


def test_a_gpu_of_its_own_has_no_desktop_to_close():
    with pytest.raises(EdgeskinError, match=r"fix: close other programs that use the GPU$"):
        memory.refuse(made(100), shared=False)
