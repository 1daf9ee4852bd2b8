"""Typing a graph for TensorRT, on small graphs made by hand."""

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra export")
pytest.importorskip("onnxruntime", reason="needs the extra onnxruntime")


def enlarged(folder: Path, noted: bool) -> Path:
    """Two enlargements by the same stored scales, whose type the file may note beside the tensor itself."""
    from onnx import TensorProto, helper, numpy_helper

    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["frames"], ["floats"], "cast", to=TensorProto.FLOAT),
            helper.make_node("Resize", ["floats", "", "scales"], ["once"], "once", mode="linear"),
            helper.make_node("Resize", ["once", "", "scales"], ["twice"], "twice", mode="linear"),
            helper.make_node("ReduceMean", ["twice", "axes"], ["logits"], "mean", keepdims=0),
        ],
        "enlarged",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])],
        [scales, numpy_helper.from_array(np.array([2, 3], np.int64), "axes")],
    )
    graph.value_info.append(helper.make_tensor_value_info("once", TensorProto.FLOAT, [1, 3, 8, 8]))
    if noted:
        graph.value_info.append(helper.make_tensor_value_info("scales", TensorProto.FLOAT, [4]))
    path = folder / "enlarged.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


@pytest.mark.parametrize("noted", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_tensor_has_one_type(tmp_path: Path, noted: bool, precision: str) -> None:
    """Also the stored scales of a Resize, which stay in FP32; what is computed stays the same."""
    import onnxruntime as ort

    from edgeskin.backends._tensorrt_graph import strongly_typed
    from edgeskin.quantize.lint import lint

    path = enlarged(tmp_path, noted)
    typed = strongly_typed(path, precision)
    onnx.shape_inference.infer_shapes(typed, data_prop=True, strict_mode=True)
    assert lint(typed, "10.3.0") == ()
    resizes = [node for node in typed.graph.node if node.op_type == "Resize"]
    assert {node.input[2] for node in resizes} == {"scales"}
    assert [t.data_type for t in typed.graph.initializer if t.name == "scales"] == [onnx.TensorProto.FLOAT]
    frames = np.arange(48, dtype=np.uint8).reshape(1, 3, 4, 4)
    given = [
        ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"frames": frames})[0]
        for model in (path.read_bytes(), typed.SerializeToString())
    ]
    np.testing.assert_allclose(*given, rtol=2e-3)
