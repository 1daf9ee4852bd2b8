"""Bias correction of the Q/DQ file takes back what rounding the weights shifts."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeskin import backends, catalog
from edgeskin.quantize import ptq
from edgeskin.quantize.bias import mean_error


def test_grouped_convolution_against_its_definition():
    import torch

    rng = np.random.default_rng(0)
    weight = rng.normal(size=(6, 2, 3, 3))
    rounded = weight + rng.normal(scale=0.01, size=weight.shape)
    means = rng.normal(size=4)
    x = torch.from_numpy(np.broadcast_to(means[None, :, None, None], (1, 4, 3, 3)).copy())
    exact, off = (torch.nn.functional.conv2d(x, torch.from_numpy(w), groups=2)[0, :, 0, 0] for w in (weight, rounded))
    np.testing.assert_allclose(mean_error(weight, rounded, means), (exact - off).numpy(), atol=1e-12)


def test_mean_error_of_a_layer_shrinks(tmp_path):
    """One 1x1 convolution on bright frames: every channel's mean returns to where it was, up to one step."""
    rng = np.random.default_rng(1)
    weight = rng.normal(scale=0.05, size=(16, 3, 1, 1)).astype(np.float32)
    weight[:, 0] = np.sign(weight[:, 0]) * 2.0  # a large weight a channel makes the others round coarsely
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Transpose", ["frames"], ["nchw"], name="t", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["nchw"], ["x"], name="c", to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["y"], name="conv"),
        helper.make_node("ReduceMean", ["y", "axes"], ["logits"], name="m", keepdims=0),
    ]
    constants = [
        numpy_helper.from_array(weight, "conv.weight"),
        numpy_helper.from_array(np.zeros(16, np.float32), "conv.bias"),
        numpy_helper.from_array(np.array([2, 3]), "axes"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("frames", TensorProto.UINT8, [1, 16, 16, 3])],
        [value("logits", TensorProto.FLOAT, [1, 16])],
        constants,
    )
    path = tmp_path / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    frames = [rng.integers(180, 256, (2, 16, 16, 3), dtype=np.uint8) for _ in range(8)]
    backend = backends.get("onnxruntime")
    reference = np.stack([backend.open(path).run(f[1:]) for f in frames])
    error = {}
    for corrected in (False, True):
        recipe = catalog.recipe("onnxruntime-int8").model_copy(
            update={"calibration_pairs": 8, "bias_correction": corrected}
        )
        session = backend.open(ptq.quantize(path, frames, recipe, tmp_path / str(corrected)))
        error[corrected] = np.abs(np.stack([session.run(f[1:]) for f in frames]).mean(0) - reference.mean(0)).mean()
    assert error[True] < 0.5 * error[False]
