"""Acceptance by the builder that works on the CPU: what it compiles against what the kit's graphs ask for."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from edgeskin.engine import sibling
from edgeskin.errors import EdgeskinError
from edgeskin.quantize.graph import load
from edgeskin.quantize.lint import lint
from edgeskin.spec.manifest import MODES, Mode

Graphs = dict[str, dict[Mode, Path]]
Spoil = Callable[[Callable[[ModelProto], None]], Path]


def test_a_sound_kit_runs_in_int8_as_planned(rtx: ModuleType, graphs: Graphs) -> None:
    steps: list[int] = []
    found = sibling.accept(graphs["int8"], steps.append)
    assert found.builder == f"tensorrt-rtx {rtx.__version__}"
    assert found.sm == "8.6"
    assert set(found.modes) == set(MODES)
    for graph in found.modes.values():
        assert graph.audit.int8_macs == graph.audit.planned_int8_macs == graph.audit.macs > 0
        assert graph.audit.fell_back == ()
        assert graph.layers >= len(graph.audit.layers) + graph.audit.reorders > 0
        assert graph.plan_bytes > 10_000
    pair, alone = (found.modes[mode].audit.macs for mode in MODES)
    assert pair == 2 * alone
    assert 180 <= sum(steps) <= 200, "a hundred a graph"


def test_a_graph_without_int8_is_not_called_int8(rtx: ModuleType, graphs: Graphs) -> None:
    for graph in sibling.accept(graphs["fp16"]).modes.values():
        assert graph.audit.int8_macs == graph.audit.planned_int8_macs == 0
        assert {layer.executed for layer in graph.audit.layers} <= {"fp16", "fp32"}
        assert graph.audit.macs > 0


def wrong_axis(model: ModelProto) -> None:
    """Scales of the second weight along its input channels."""
    node = next(node for node in model.graph.node if node.name == "w2_DequantizeLinear")
    next(a for a in node.attribute if a.name == "axis").i = 1


def half_a_layer(model: ModelProto) -> None:
    """The second weight left in FP16."""
    node = next(node for node in model.graph.node if node.name == "w2_DequantizeLinear")
    floats = numpy_helper.from_array(np.full((16, 16, 3, 3), 0.1, np.float16), node.output[0])
    model.graph.node.remove(node)
    model.graph.initializer.append(floats)


@pytest.mark.parametrize("edit", [wrong_axis, half_a_layer])
def test_what_the_builder_takes_without_a_word_and_does_not_run_in_int8_is_seen(
    rtx: ModuleType, spoilt: Spoil, edit: Callable[[ModelProto], None]
) -> None:
    path = spoilt(edit)
    audit = sibling.accept({"dermoscopic": path}).modes["dermoscopic"].audit
    block = next(layer for layer in audit.layers if "block" in layer.origin)
    assert block.executed == "fp16"
    assert audit.int8_share < 0.3
    if edit is wrong_axis:
        assert audit.fell_back == ("block",)
    assert {one.effect for one in lint(load(path), "10.3.0")} == {"not INT8"}, "the linter says so beforehand"


def zero_point(model: ModelProto) -> None:
    next(t for t in model.graph.initializer if t.name == "after.out_zero_point").CopyFrom(
        numpy_helper.from_array(np.array(-5, np.int8), "after.out_zero_point")
    )


def unknown(model: ModelProto) -> None:
    at = next(place for place, node in enumerate(model.graph.node) if node.name == "pool")
    node = helper.make_node("Det", ["after.out_DequantizeLinear_Output"], ["det"], name="det")
    model.graph.node.insert(at, node)


@pytest.mark.parametrize(("edit", "node"), [(zero_point, "after.out_QuantizeLinear"), (unknown, "Det det")])
def test_a_refused_graph_is_an_error_with_its_mode_and_node(
    rtx: ModuleType, graphs: Graphs, spoilt: Spoil, edit: Callable[[ModelProto], None], node: str
) -> None:
    with pytest.raises(EdgeskinError, match=r"refuses dermoscopic \(TensorRT for RTX\)") as caught:
        sibling.accept({"pair": graphs["int8"]["pair"], "dermoscopic": spoilt(edit)})
    assert node in caught.value.line()


def test_the_reason_without_the_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sibling, "PACKAGE", "a_package_that_is_not_there")
    reason = sibling.unsupported()
    assert reason is not None
    assert "edgeskin[tensorrt-rtx]" in reason


def test_with_the_package_there_is_no_reason(rtx: ModuleType) -> None:
    assert find_spec(sibling.PACKAGE) is not None
    assert sibling.unsupported() is None
