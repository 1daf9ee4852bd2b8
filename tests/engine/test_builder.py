"""Graphs of a kit through TensorRT's parser and a builder for the CPU; failures through a module that fails."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from edgeskin import audit
from edgeskin.backends._tensorrt_layers import from_log
from edgeskin.engine.builder import Asked, Plan, build_plan
from edgeskin.errors import EdgeskinError
from edgeskin.layers import read_file
from edgeskin.spec.manifest import MODES, Mode

Graphs = dict[str, dict[Mode, Path]]
Spoil = Callable[[Callable[[ModelProto], None]], Path]
ASKED = Asked(sm="8.6")


def built(rtx: ModuleType, path: Path, asked: Asked = ASKED, **more: Any) -> Plan:
    return build_plan(rtx, path.name, path.read_bytes(), asked, **more)


def refusal(trt: Any, graph: bytes = b"", asked: Asked = ASKED) -> str:
    with pytest.raises(EdgeskinError) as caught:
        build_plan(trt, "the pair graph", graph, asked)
    line = caught.value.line()
    assert "\n" not in line
    assert "the pair graph" in line
    return line


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("precision", ["int8", "fp16", "fp32"])
def test_a_graph_of_each_precision_becomes_a_plan(rtx: ModuleType, graphs: Graphs, precision: str, mode: Mode) -> None:
    steps: list[int] = []
    plan = built(rtx, graphs[precision][mode], step=steps.append)
    assert len(plan.data) > 10_000
    assert plan.seconds > 0
    assert min(steps) > 0
    assert 90 <= sum(steps) <= 100, "the builder's own phases add up to a whole"
    assert not [line for line in plan.log if "deprecat" in line.lower()]


def test_the_log_tells_which_layers_run_in_int8(rtx: ModuleType, graphs: Graphs) -> None:
    path = graphs["int8"]["pair"]
    plan = built(rtx, path, replace(ASKED, verbose=True))
    layers, reformats = from_log(plan.log)
    found = audit.join(read_file(path), layers, reformats)
    assert found.int8_share == 1.0
    assert found.planned_int8_macs == found.macs > 0
    assert (found.fell_back, found.unasked) == ((), ())
    assert {name for layer in found.layers for name in layer.origin} == {"stem", "block", "head"}


@pytest.mark.parametrize(("precision", "word"), [("fp16", "fp16"), ("fp32", "fp32")])
def test_a_strongly_typed_graph_is_compiled_in_its_own_types(
    rtx: ModuleType, graphs: Graphs, precision: str, word: str
) -> None:
    layers, _ = from_log(built(rtx, graphs[precision]["pair"], replace(ASKED, verbose=True)).log)
    assert {layer.precision for layer in layers if layer.multiplies} == {word}


def test_without_verbose_single_layers_are_not_kept(rtx: ModuleType, graphs: Graphs) -> None:
    quiet = built(rtx, graphs["int8"]["pair"])
    assert 0 < len(quiet.log) < 200
    with pytest.raises(EdgeskinError):
        from_log(quiet.log)


def test_a_timing_cache_is_given_back_and_taken(rtx: ModuleType, graphs: Graphs) -> None:
    first = built(rtx, graphs["int8"]["pair"])
    assert first.timing_cache
    again = built(rtx, graphs["int8"]["pair"], replace(ASKED, timing_cache=first.timing_cache))
    assert again.timing_cache == first.timing_cache
    assert len(again.data) == len(first.data)


@pytest.mark.parametrize("damaged", [b"garbage", b"\0" * 300])
def test_a_damaged_timing_cache_ends_no_build(rtx: ModuleType, graphs: Graphs, damaged: bytes) -> None:
    plan = built(rtx, graphs["int8"]["pair"], replace(ASKED, timing_cache=damaged))
    assert plan.data
    assert plan.timing_cache not in (b"", damaged)


def test_too_little_workspace_is_told_as_such(rtx: ModuleType, graphs: Graphs) -> None:
    with pytest.raises(EdgeskinError, match="workspace") as caught:
        built(rtx, graphs["int8"]["pair"], replace(ASKED, workspace_bytes=1 << 20))
    assert "--workspace-mb with more" in caught.value.line()
    assert "more than 1 MiB" in caught.value.line()


def stored(model: ModelProto, name: str, value: np.ndarray) -> None:
    next(t for t in model.graph.initializer if t.name == name).CopyFrom(numpy_helper.from_array(value, name))


def named(model: ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def zero_point(model: ModelProto) -> None:
    stored(model, "relu.out_zero_point", np.array(3, np.int8))


def integer_bias(model: ModelProto) -> None:
    constants = {"ib": np.arange(16, dtype=np.int32), "is": np.array(0.01, np.float16), "iz": np.array(0, np.int32)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    stem = named(model, "stem")
    dequantise = helper.make_node("DequantizeLinear", list(constants), ["bias"], name="bias_DequantizeLinear")
    model.graph.node.insert(list(model.graph.node).index(stem), dequantise)
    stem.input[2] = "bias"


def unknown_operator(model: ModelProto) -> None:
    named(model, "after").op_type = "Det"


def unknown_domain(model: ModelProto) -> None:
    named(model, "after").op_type, named(model, "after").domain = "QuickGelu", "com.microsoft"


@pytest.mark.parametrize(
    ("edit", "node", "why"),
    [
        (zero_point, "QuantizeLinear relu.out_QuantizeLinear", "zero point"),
        (integer_bias, "DequantizeLinear bias_DequantizeLinear", "Int32"),
        (unknown_operator, "Det after", ""),
        (unknown_domain, "QuickGelu after", "Plugin not found"),
    ],
)
def test_the_parser_names_the_node_that_it_refuses(
    rtx: ModuleType, spoilt: Spoil, edit: Callable[[ModelProto], None], node: str, why: str
) -> None:
    line = refusal(rtx, spoilt(edit).read_bytes())
    assert line.startswith("TensorRT's parser refuses the pair graph: got ")
    assert f"{node}: " in line
    assert why in line


def test_what_is_no_onnx_is_told(rtx: ModuleType) -> None:
    line = refusal(rtx, b"nonsense")
    assert "the file: " in line
    assert "ONNX" in line


class Failing(SimpleNamespace):
    """A module `trt` that fails as told, for what no builder without a GPU does. No result comes of it."""

    def __init__(self, *said: str, errors: list[tuple[str, str, int, str]] | None = None, cache: bool = True) -> None:
        class Logger:
            Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3, VERBOSE=4)

        self.caches: list[bytes] = []
        self.flags: list[int] = []

        def build(network: object, config: object) -> None:
            for line in said:
                self.log.log(Logger.Severity.WARNING if line.startswith("~") else Logger.Severity.ERROR, line)

        def make_cache(data: bytes) -> object | None:
            self.caches.append(data)
            return object() if cache or not data else None  # as IBuilderConfig.create_timing_cache does of damaged data

        def set_cache(given: object | None, ignore_mismatch: bool) -> None:
            if given is None:
                raise TypeError("set_timing_cache(): incompatible function arguments")

        def problem(operator: str, node: str, number: int, why: str) -> SimpleNamespace:
            return SimpleNamespace(
                node_operator=lambda: operator, node_name=lambda: node, node=lambda: number, desc=lambda: why
            )

        def make_builder(log: Any) -> SimpleNamespace:
            self.log = log
            self.config = config = SimpleNamespace(
                set_memory_pool_limit=lambda *_: None, clear_flag=lambda _: None, set_flag=self.flags.append,
                create_timing_cache=make_cache, set_timing_cache=set_cache,
            )  # fmt: skip
            return SimpleNamespace(
                create_network=lambda _: None, create_builder_config=lambda: config, build_serialized_network=build
            )

        found = [problem(*one) for one in errors or []]
        super().__init__(
            ILogger=Logger,
            Builder=make_builder,
            OnnxParser=lambda *_: SimpleNamespace(
                parse=lambda _: errors is None, num_errors=len(found), get_error=lambda place: found[place]
            ),
            NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
            MemoryPoolType=SimpleNamespace(WORKSPACE=0),
            ProfilingVerbosity=SimpleNamespace(DETAILED=1),
            BuilderFlag=SimpleNamespace(TF32=0, GPU_FALLBACK=1),
            DeviceType=SimpleNamespace(DLA=1),
        )


@pytest.mark.parametrize(
    "said",
    [
        ["Error Code 2: OutOfMemory (Requested size was 268435456 bytes.)"],
        ["Error Code 1: Cuda Runtime (out of memory)"],
        [
            "~Skipping tactic 3 due to insufficient memory on requested size of 26843",
            "Error Code 10: Internal Error",
        ],
    ],
)
def test_a_builder_that_runs_out_of_memory_gets_the_cure(said: list[str]) -> None:
    line = refusal(Failing(*said), asked=Asked(workspace_bytes=512 << 20))
    assert "ran out of memory while it built the pair graph" in line
    assert "a workspace below 512 MiB" in line
    assert "--workspace-mb with less" in line
    assert next(one for one in said if not one.startswith("~"))[:40] in line


def test_a_builder_that_fails_otherwise_gets_no_such_cure() -> None:
    line = refusal(Failing("Error Code 10: Could not find any implementation for node stem.", "a second one"))
    assert line.startswith("TensorRT cannot build the pair graph")
    assert "Could not find any implementation for node stem." in line
    assert "a second one" not in line
    assert "memory" not in line


def test_a_builder_that_says_nothing_is_no_riddle() -> None:
    assert "got 'nothing'" in refusal(Failing())


def test_several_refused_nodes_are_counted() -> None:
    errors = [("Conv", f"conv{n}", n, "of\n two   lines") for n in range(5)]
    line = refusal(Failing(errors=errors))
    assert "Conv conv0: of two lines; Conv conv1: of two lines; Conv conv2: of two lines; and 2 more" in line
    assert "conv3" not in line
    assert "and" not in refusal(Failing(errors=errors[:1])).split("conv0")[1].split("fix")[0]
    assert "Conv node 4: x" in refusal(Failing(errors=[("Conv", "", 4, "x")]))


def test_a_cache_that_tensorrt_does_not_take_is_begun_anew() -> None:
    trt = Failing(cache=False)
    refusal(trt, asked=Asked(timing_cache=b"damaged"))  # of a build that says nothing, not a TypeError
    assert trt.caches == [b"damaged", b""]


def test_dla_is_asked_for_with_the_gpu_behind_it() -> None:
    trt = Failing("Error Code 3: DLA core 1 is not there")
    refusal(trt, asked=Asked(dla_core=1))
    assert (trt.config.DLA_core, trt.config.default_device_type, trt.flags) == (1, trt.DeviceType.DLA, [1])
    plain = Failing("no reason")
    refusal(plain)
    assert not hasattr(plain.config, "DLA_core")
    assert plain.flags == []
