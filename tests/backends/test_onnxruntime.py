"""What the ONNX Runtime build does to a file: notes go, equal constants become one, answers stay."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeskin import catalog
from edgeskin.backends import onnxruntime as backend

RECIPE = catalog.recipe("onnxruntime-int8")


def _graph(branch: bool) -> onnx.ModelProto:
    """(3 + 3 + 5) / 5 of a tensor, each constant a tensor of its own; with `branch`, one of them in a branch."""
    values = {"three": 3.0, "again": 3.0, "five": 5.0, "divisor": 5.0}
    constants = [numpy_helper.from_array(np.array([value], np.float32), name) for name, value in values.items()]
    nodes = [
        helper.make_node("Cast", ["frames"], ["x0"], to=TensorProto.FLOAT, doc_string="line 7 of a module"),
        helper.make_node("Add", ["x0", "three"], ["x1"]),
        helper.make_node("Add", ["x1", "again"], ["x2"]),
        helper.make_node("Add", ["x2", "five"], ["x3"]),
        helper.make_node("Div", ["x3", "divisor"], ["x4"]),
        helper.make_node("ReduceMean", ["x4"], ["x5"], keepdims=1),
        helper.make_node("Flatten", ["x5"], ["x6" if branch else "logits"]),
    ]
    if branch:
        constants.append(numpy_helper.from_array(np.array(True), "condition"))
        value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        arms = [
            helper.make_graph([helper.make_node("Add", ["x6", taken], ["y"])], f"takes {taken}", [], [value])
            for taken in ("again", "divisor")
        ]
        nodes.append(helper.make_node("If", ["condition"], ["logits"], then_branch=arms[0], else_branch=arms[1]))
    graph = helper.make_graph(
        nodes,
        "sums",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, [1, 4, 4, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _built(model: onnx.ModelProto, folder: Path) -> onnx.GraphProto:
    source = folder / "model.onnx"
    onnx.save(model, source)
    (name,) = backend.build(source, folder / "built", RECIPE)
    built = folder / "built" / name
    onnx.checker.check_model(onnx.load(built), full_check=True)
    frames = np.full((1, 4, 4, 3), 9, np.uint8)
    wanted = (9 + 3 + 3 + 5) / 5 + (3 if len(model.graph.node) == 8 else 0)
    assert backend.open(built, threads=1).run(frames) == pytest.approx(np.array([[wanted]]))
    return onnx.load(built).graph


def test_equal_constants_become_one_and_notes_go(tmp_path):
    graph = _built(_graph(branch=False), tmp_path)
    assert [tensor.name for tensor in graph.initializer] == ["three", "five"]
    assert [list(node.input)[1:] for node in graph.node[1:5]] == [["three"], ["three"], ["five"], ["five"]]
    assert not any(node.doc_string for node in graph.node)


def test_constants_that_a_branch_takes_by_name_stay(tmp_path):
    graph = _built(_graph(branch=True), tmp_path)
    assert {tensor.name for tensor in graph.initializer} >= {"three", "again", "five", "divisor"}
