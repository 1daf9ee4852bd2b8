"""Model Optimizer itself, where it is installed: the graph that it makes is one for TensorRT, of our frames alone."""

from importlib import util
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from edgeskin import backends, catalog, metrics
from edgeskin.engine import sibling
from edgeskin.errors import EdgeskinError
from edgeskin.quantize import modelopt, ptq
from edgeskin.quantize.bias import dequantized, mean_error
from edgeskin.quantize.calibration import calibration_frames
from edgeskin.quantize.graph import load
from edgeskin.quantize.lint import lint
from edgeskin.quantize.prepared import floats_at, prepared
from edgeskin.quantize.qdq import Hub
from edgeskin.quantize.ranges import measure
from edgeskin.spec.recipe import Recipe

_LACKING = [package for package in modelopt.PACKAGES if util.find_spec(package) is None]
pytestmark = pytest.mark.skipif(bool(_LACKING), reason=f"needs edgeskin[modelopt]; no {', '.join(_LACKING)}")
TENSORRT = "10.3.0"


def _recipe(**changes: object) -> Recipe:
    given = {"calibration_pairs": 8, "blank_clinical": 0.25, **changes}
    return catalog.recipe("tensorrt-int8-modelopt").model_copy(update=given)


def _built(quantized: Path, recipe: Recipe) -> Path:
    out = quantized.parent / "built"
    return out / backends.get("tensorrt").build(quantized, out, recipe)[0]


def _logits(model: Path, frames: list[np.ndarray], target: str) -> np.ndarray:
    session = backends.get(target).open(model, threads=1)
    return np.stack([session.run(frame) for frame in frames])


def _makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


@pytest.mark.parametrize(
    ("images", "calibrator", "least_db"), [(2, "minmax", 20), (2, "entropy", 10), (1, "minmax", 20)]
)
def test_its_graph_passes_the_linter_and_the_sibling_and_answers_as_fp32(
    images, calibrator, least_db, onnx_models, pairs, tmp_path
):
    recipe = _recipe(calibration_pairs=24, calibrator=calibrator)
    steps: list[int] = []
    path = _built(ptq.quantize(onnx_models[images], pairs, recipe, tmp_path, steps.append), recipe)
    assert lint(load(path), TENSORRT) == ()
    assert sum(steps) == 24
    graph = onnx.load(path).graph
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) >= 5
    whole = [
        tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    ]
    assert len(whole) >= 7  # weights are stored as integers: nothing is left to round to FP16 first
    frames = [pair[-images:] for pair in pairs[24:]]
    found = _logits(path, frames, "tensorrt")
    assert metrics.sqnr_db(_logits(onnx_models[images], frames, "onnxruntime"), found) > least_db
    if sibling.unsupported() is None:
        mode = "pair" if images == 2 else "dermoscopic"
        assert sibling.accept({mode: path}).modes[mode].audit.int8_share > 0.5


@pytest.mark.parametrize("images", [2, 1])
def test_its_scales_are_those_of_every_pair(images, onnx_models, pairs, tmp_path):
    """Oracle: the extremes that we measure ourselves, pair by pair, up to the next number that FP16 holds."""
    given = [np.clip(pair, 60, 190) for pair in pairs[:8]]
    given[-1] = pairs[7]  # the last alone goes to the ends: without it, or cut in two, the scales would be others
    recipe = _recipe()
    path = ptq.quantize(onnx_models[images], given, recipe, tmp_path / "out")
    frames = calibration_frames(given, recipe, images)
    graph = load(prepared(onnx_models[images], tmp_path))
    tensors = floats_at(graph, modelopt.OPERATIONS)
    ranges = measure(graph, tensors, frozenset(), frames, tmp_path, "k", lambda _: None)
    quantized = onnx.load(path)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    makers = _makers(quantized)
    compared = 0
    for node in quantized.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in ranges.low:
            scale = float(stored[node.input[1]])
            assert np.float32(np.float16(scale)) == scale
            exact = max(-ranges.low[node.input[0]], ranges.high[node.input[0]]) / 127
            if makers[node.input[0]].op_type == "Softmax":
                exact = 1 / 127  # as it always does
            assert exact * (1 - 1e-6) <= scale <= exact * 1.001
            compared += 1
    assert compared == sum(node.op_type == "QuantizeLinear" for node in quantized.graph.node) >= 5


def test_equal_input_gives_equal_bytes_and_leaves_nothing_else(onnx_models, pairs, tmp_path, monkeypatch, capfd):
    work, temporary = tmp_path / "work", tmp_path / "temporary"
    work.mkdir()
    temporary.mkdir()
    given = tmp_path / "given" / "tiny2.onnx"
    given.parent.mkdir()
    given.write_bytes(onnx_models[2].read_bytes())
    before = (given.read_bytes(), given.stat().st_mtime_ns)
    recipe = _recipe()
    ours = catalog.recipe("tensorrt-int8").model_copy(update={"calibration_pairs": 8})
    hub = Hub(given, pairs, ours, tmp_path / "hub").write(set(), tmp_path / "first.onnx").read_bytes()
    capfd.readouterr()
    monkeypatch.chdir(work)
    monkeypatch.setenv("TMPDIR", str(temporary))
    room = tmp_path / "a" / ".calibration-tiny2" / "room"
    room.mkdir(parents=True)
    (room / "left by a kill").touch()
    one, two = (ptq.quantize(given, pairs, recipe, tmp_path / name) for name in ("a", "b"))
    assert one.read_bytes() == two.read_bytes()
    assert capfd.readouterr() == ("", "")
    assert not list(work.iterdir())
    assert not list(temporary.iterdir())
    for out in (tmp_path / "a", tmp_path / "b"):
        assert [path.name for path in out.iterdir()] == ["tiny2.onnx"]
    assert (given.read_bytes(), given.stat().st_mtime_ns) == before
    assert [path.name for path in given.parent.iterdir()] == ["tiny2.onnx"]
    # Our own quantiser stands on the same library, which Model Optimizer changes where it runs.
    again = Hub(given, pairs, ours, tmp_path / "hub2").write(set(), tmp_path / "again.onnx").read_bytes()
    assert again == hub


def test_keep_fp32_keeps_that_layer_and_no_other(onnx_models, pairs, tmp_path):
    """Model Optimizer matches names from their start on: `a` must not keep `a_1` too."""
    model = onnx.load(onnx_models[2])
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    for place, node in enumerate(layers):
        node.name = "layer" + "_1" * place
    given = tmp_path / "named.onnx"
    onnx.save(model, given)
    path = ptq.quantize(given, pairs, _recipe(keep_fp32=("/layer$",)), tmp_path / "out")
    quantized = onnx.load(path)
    makers = _makers(quantized)
    inside = {
        node.name: [name in makers and makers[name].op_type == "DequantizeLinear" for name in node.input[:2]]
        for node in quantized.graph.node
        if node.op_type == "Conv"
    }
    assert inside.pop("layer") == [False, False]
    assert len(inside) == len(layers) - 1 >= 3
    assert all(all(both) for both in inside.values())
    assert lint(load(_built(path, _recipe())), TENSORRT) == ()


def test_biases_take_back_the_mean_error(onnx_models, pairs, tmp_path):
    """Oracle: the error that the rounded weights of a layer make of its mean input."""
    recipe = _recipe()
    paths = [
        ptq.quantize(onnx_models[2], pairs, recipe.model_copy(update={"bias_correction": on}), tmp_path / str(on))
        for on in (False, True)
    ]
    plain, mended = (onnx.load(path) for path in paths)
    stored, after = ({t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (plain, mended))
    graph = load(prepared(onnx_models[2], tmp_path))
    exact = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    layers = {node.name: node for node in graph.graph.node if node.op_type == "Conv"}
    tensors = [node.input[0] for node in layers.values()]
    frames = calibration_frames(pairs, recipe)
    means = measure(graph, tensors, frozenset(tensors), frames, tmp_path, "k", lambda _: None).means
    makers = _makers(plain)
    moved = {name for name in stored if not np.array_equal(stored[name], after[name])}
    assert moved >= {node.input[2] for node in plain.graph.node if node.name in layers}
    for node in plain.graph.node:
        if node.name in layers:
            before = layers[node.name]
            rounded = dequantized(makers[node.input[1]], {t.name: t for t in plain.graph.initializer})
            shift = mean_error(exact[before.input[1]].astype(np.float64), rounded, means[before.input[0]])
            np.testing.assert_allclose(after[node.input[2]] - stored[node.input[2]], shift, atol=1e-5)
            assert np.abs(shift).max() > 1e-4


def test_a_tensor_that_is_always_0_gets_no_invented_scale(onnx_models, pairs, tmp_path):
    model = onnx.load(onnx_models[2])
    for tensor in model.graph.initializer:
        if tensor.name.startswith("narrow.0."):  # behind the ReLU6 all is 0
            value = numpy_helper.to_array(tensor)
            value = value * np.float32(0) - (value.ndim == 1)
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), tensor.name))
    silent = tmp_path / "silent.onnx"
    onnx.save(model, silent)
    path = ptq.quantize(silent, pairs, _recipe(), tmp_path / "out")
    quantized = onnx.load(path)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    rounded = [float(stored[n.input[1]]) for n in quantized.graph.node if n.op_type == "QuantizeLinear"]
    assert len(rounded) >= 3
    assert 1.0 not in rounded  # what it gives a tensor without extent
    np.testing.assert_allclose(
        _logits(path, pairs[:4], "onnxruntime"), _logits(silent, pairs[:4], "onnxruntime"), atol=0.1
    )


def test_an_overflow_is_named(onnx_models, pairs, tmp_path):
    model = onnx.load(onnx_models[2])
    tensor = next(t for t in model.graph.initializer if t.name == "narrow.0.weight")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(3e38), tensor.name))
    broken = tmp_path / "big.onnx"
    onnx.save(model, broken)
    with pytest.raises(EdgeskinError, match=r"activations are not finite numbers: got '\w+ .*, on calibration pair 0'"):
        ptq.quantize(broken, pairs, _recipe(), tmp_path / "out")


@pytest.mark.filterwarnings("ignore")
def test_a_file_of_an_older_opset_is_raised_and_its_layers_are_found_again(networks, pairs, tmp_path):
    given = tmp_path / "old.onnx"
    torch.onnx.export(
        networks[2],
        (torch.zeros(2, 32, 32, 3, dtype=torch.uint8),),
        str(given),
        dynamo=False,
        opset_version=17,
        input_names=["frames"],
        output_names=["logits"],
    )
    recipe = _recipe(calibration_pairs=24, keep_fp32=("/depthwise/",))
    path = _built(ptq.quantize(given, pairs, recipe, tmp_path / "out"), recipe)
    assert lint(load(path), TENSORRT) == ()
    quantized = onnx.load(path)
    makers = _makers(quantized)
    for node in quantized.graph.node:
        if node.op_type == "Conv":
            whole = node.input[1] not in makers
            assert whole == ("depthwise" in node.name), node.name
    frames = pairs[24:]
    assert metrics.sqnr_db(_logits(given, frames, "onnxruntime"), _logits(path, frames, "tensorrt")) > 20
