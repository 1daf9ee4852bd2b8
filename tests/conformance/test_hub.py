"""The Q/DQ hub: one calibration, many variants; INT8 that every engine takes; nothing that ends in random scales."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgeskin import backends, catalog, metrics
from edgeskin.errors import EdgeskinError
from edgeskin.quantize import ptq, ranges
from edgeskin.quantize.lint import lint
from edgeskin.quantize.qdq import Hub
from edgeskin.spec.recipe import Recipe

QUANTIZERS = {"nncf": "openvino", "qdq": "onnxruntime"}  # and the target that shows what each made


def _recipe(quantizer: str = "qdq", **changes: object) -> Recipe:
    given = {"quantizer": quantizer, "calibration_pairs": 8, "blank_clinical": 0.25, **changes}
    return catalog.recipe(f"{QUANTIZERS[quantizer]}-int8").model_copy(update=given)


def _logits(model: Path, frames: list[np.ndarray], target: str = "onnxruntime") -> np.ndarray:
    session = backends.get(target).open(model, threads=1)
    return np.stack([session.run(frame) for frame in frames])


def _points(path: Path) -> dict[str, list[tuple[np.dtype, int]]]:
    """Kind of node -> type and greatest magnitude of each zero point."""
    graph = onnx.load(path).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found: dict[str, list[tuple[np.dtype, int]]] = {"QuantizeLinear": [], "DequantizeLinear": []}
    for node in graph.node:
        if node.op_type in found:
            zero = constants[node.input[2]]
            found[node.op_type].append((zero.dtype, int(np.abs(zero.astype(int)).max())))
    return found


@pytest.mark.parametrize("images", [2, 1])
def test_signed_hub_has_zero_point_0_and_runs_everywhere(images, onnx_models, pairs, tmp_path):
    recipe = _recipe(activations="int8", calibration_pairs=24)
    path = ptq.quantize(onnx_models[images], pairs, recipe, tmp_path)
    points = _points(path)
    assert len(points["QuantizeLinear"]) >= 5
    assert {point for kind in points.values() for point in kind} == {(np.dtype(np.int8), 0)}  # no int32 bias either
    graph = onnx.load(path).graph
    weights = [t for t in graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) > 1]
    assert len(weights) >= 7 + images  # stored as INT8, not rounded when the engine starts
    scales = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in {w.name for w in weights}:
            assert list(scales[node.input[1]].dims)  # a channel
        elif node.op_type == "QuantizeLinear":
            assert not list(scales[node.input[1]].dims)  # a tensor
    frames = [pair[-images:] for pair in pairs[24:]]
    reference = _logits(onnx_models[images], frames)
    assert metrics.sqnr_db(reference, _logits(path, frames)) > 20
    assert metrics.sqnr_db(reference, _logits(_ir(path), frames, "openvino")) > 20


def _ir(path: Path) -> Path:
    recipe = catalog.recipe("openvino-int8")
    return path.parent / "ir" / backends.get("openvino").build(path, path.parent / "ir", recipe)[0]


def test_one_branch_of_an_addition_is_left_to_fuse(onnx_models, pairs, tmp_path):
    path = ptq.quantize(onnx_models[2], pairs, _recipe(activations="int8"), tmp_path)
    graph = onnx.load(path).graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    residual = [sorted(makers.get(n, "") for n in node.input) for node in graph.node if node.op_type == "Add"]
    assert ["Conv", "DequantizeLinear"] in residual
    assert len({node.name for node in graph.node}) == len(graph.node)


def test_a_variant_keeps_its_nodes_and_is_that_of_one_call(onnx_models, pairs, tmp_path):
    hub = Hub(onnx_models[2], pairs, _recipe(), tmp_path / "hub")
    nodes = [node for node in onnx.load(onnx_models[2]).graph.node if node.op_type == "Conv"]
    kept = {nodes[1].name}
    first = hub.write(kept, tmp_path / "some.onnx").read_bytes()
    none = hub.write(set(), tmp_path / "none.onnx").read_bytes()
    assert hub.write(kept, tmp_path / "again.onnx").read_bytes() == first  # a variant leaves no trace in the hub
    assert ptq.quantize(onnx_models[2], pairs, _recipe(), tmp_path / "q").read_bytes() == none
    graph = onnx.load(tmp_path / "some.onnx").graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "Conv":
            assert (makers.get(node.input[1]) == "DequantizeLinear") == (node.name not in kept)


def test_a_second_hub_calibrates_no_more(onnx_models, pairs, tmp_path, monkeypatch):
    def hub(frames: list[np.ndarray] = pairs, **changes: object) -> bytes:
        made = Hub(onnx_models[2], frames, _recipe(**changes), tmp_path / "hub", steps.append)
        return made.write(set(), tmp_path / "out.onnx").read_bytes()

    steps: list[int] = []
    sessions: list[bytes] = []
    real = ranges._session
    monkeypatch.setattr(ranges, "_session", lambda model: sessions.append(model) or real(model))
    first = hub()
    assert (len(sessions), sum(steps)) == (1, 8)
    assert hub() == first
    assert (len(sessions), sum(steps)) == (1, 16)  # progress is told all the same
    hub(calibrator="percentile")
    assert len(sessions) == 2  # histograms; the extremes are known
    hub(calibrator="entropy")
    assert len(sessions) == 2
    assert hub(frames=pairs[::-1]) != first
    assert len(sessions) == 3
    assert hub() == first


@pytest.mark.parametrize(("calibrator", "least_db"), [("minmax", 20), ("percentile", 20), ("entropy", 10)])
def test_every_calibrator_is_close_to_fp32(calibrator, least_db, onnx_models, pairs, tmp_path):
    path = ptq.quantize(onnx_models[2], pairs, _recipe(calibrator=calibrator, calibration_pairs=24), tmp_path)
    frames = pairs[24:]
    assert metrics.sqnr_db(_logits(onnx_models[2], frames), _logits(path, frames)) > least_db


def test_ranges_and_means_are_those_of_numpy(networks, onnx_models, pairs, tmp_path):
    """Oracle: torch's own activations of the stem, over the same inputs."""
    recipe = _recipe(calibration_pairs=12)
    hub = Hub(onnx_models[2], pairs, recipe, tmp_path)
    graph = onnx.load(next(tmp_path.glob("prepared-*.onnx"))).graph
    stem = next(node for node in graph.node if node.op_type == "Conv" and "stem" in node.input[1])
    inputs = [*pairs[:12], *(np.stack([np.zeros_like(pairs[i][0]), pairs[i][1]]) for i in (3, 7, 11))]
    with torch.no_grad():
        x = [(torch.from_numpy(f).permute(0, 3, 1, 2).float() - 127.5) / 127.5 for f in inputs]
        clipped = [networks[2].stem(one) for one in x]
    behind = next(node for node in graph.node if stem.output[0] in node.input).output[0]
    assert hub.ranges.low[stem.input[0]] == pytest.approx(min(float(one.min()) for one in x))
    assert hub.ranges.high[behind] == pytest.approx(max(float(one.max()) for one in clipped), rel=1e-5)
    expected = np.mean([one.mean((0, 2, 3)).numpy() for one in x], 0)
    np.testing.assert_allclose(hub.ranges.means[stem.input[0]], expected, atol=1e-5)


def _edited(source: Path, out: Path, change) -> Path:
    model = onnx.load(source)
    change(model)
    onnx.save(model, out)
    return out


def _scaled(model: onnx.ModelProto, factor: float, word: str = "narrow.0.weight") -> None:
    tensor = next(t for t in model.graph.initializer if t.name == word)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), word))


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_an_overflow_is_named(quantizer, onnx_models, pairs, tmp_path):
    def overflow(model: onnx.ModelProto) -> None:
        _scaled(model, 3e38)  # ReLU6 behind it hides the infinities from the logits

    broken = _edited(onnx_models[2], tmp_path / "big.onnx", overflow)
    with pytest.raises(EdgeskinError, match=r"activations are not finite numbers: got '\w+ .*, on calibration pair 0'"):
        ptq.quantize(broken, pairs, _recipe(quantizer), tmp_path / "out")
    nan = _edited(onnx_models[2], tmp_path / "nan.onnx", lambda model: _scaled(model, np.nan))
    with pytest.raises(EdgeskinError, match=r"a weight is not a finite number: got 'narrow\.0\.weight of "):
        ptq.quantize(nan, pairs, _recipe(quantizer), tmp_path / "out")


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_an_overflow_on_one_later_pair_names_that_pair(quantizer, onnx_models, pairs, tmp_path):
    """exp(x) of a sum overflows for one bright pair alone."""

    def bright(model: onnx.ModelProto) -> None:
        graph = model.graph
        logits = graph.output[0].name
        for node in graph.node:
            node.output[:] = ["plain" if name == logits else name for name in node.output]
        graph.initializer.extend(
            [
                numpy_helper.from_array(np.array([1, 2, 3]), "axes"),
                numpy_helper.from_array(np.array(4e-5, np.float32), "factor"),
            ]
        )
        graph.node.extend(
            [
                helper.make_node("Cast", ["frames"], ["whole"], name="cast", to=TensorProto.FLOAT),
                helper.make_node("ReduceSum", ["whole", "axes"], ["total"], name="total", keepdims=0),
                helper.make_node("Mul", ["total", "factor"], ["small"], name="small"),
                helper.make_node("Exp", ["small"], ["huge"], name="huge"),
                helper.make_node("Unsqueeze", ["huge", "last"], ["column"], name="column"),
                helper.make_node("Mul", ["column", "zero"], ["nothing"], name="nothing"),
                helper.make_node("Add", ["plain", "nothing"], [logits], name="sum"),
            ]
        )
        graph.initializer.extend(
            [
                numpy_helper.from_array(np.array([1]), "last"),
                numpy_helper.from_array(np.array(1e-30, np.float32), "zero"),
            ]
        )

    model = _edited(onnx_models[2], tmp_path / "bright.onnx", bright)
    given = [np.minimum(pair, 200) for pair in pairs[:8]]
    given[5] = np.maximum(given[5], 199) + 55 - (np.indices(given[5].shape).sum(0) % 2).astype(np.uint8)
    calm = [given[i] if i != 5 else given[4] for i in range(8)]
    assert ptq.quantize(model, calm, _recipe(quantizer), tmp_path / "calm").is_file()
    sums = [float(pair.astype(float).sum((1, 2, 3)).max()) for pair in given]
    limit = np.log(np.finfo(np.float32).max)
    factor = np.float32(limit / (0.5 * (sums[5] + max(s for i, s in enumerate(sums) if i != 5))))

    def tuned(graph: onnx.ModelProto) -> None:
        next(t for t in graph.graph.initializer if t.name == "factor").CopyFrom(
            numpy_helper.from_array(np.array(factor), "factor")
        )

    model = _edited(model, tmp_path / "tuned.onnx", tuned)
    with pytest.raises(EdgeskinError, match=r"activations are not finite numbers: .*, on calibration pair 5"):
        ptq.quantize(model, given, _recipe(quantizer), tmp_path / "out")


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_a_tensor_that_is_always_0_gets_no_invented_scale(quantizer, onnx_models, pairs, tmp_path):
    """A layer whose weights are 0 stays in floating point: what it might answer to other images is not clipped."""

    def silence(model: onnx.ModelProto) -> None:
        _scaled(model, 0.0, "narrow.0.weight")
        for tensor in model.graph.initializer:
            if tensor.name == "narrow.0.bias":
                tensor.CopyFrom(numpy_helper.from_array(-np.ones(32, np.float32), tensor.name))

    model = _edited(onnx_models[2], tmp_path / "silent.onnx", silence)
    path = ptq.quantize(model, pairs, _recipe(quantizer), tmp_path / "out")
    counts = backends.get(QUANTIZERS[quantizer]).open(path).executed_precisions()
    assert counts["fp32"] >= 1
    assert counts["int8"] >= 3
    np.testing.assert_allclose(_logits(path, pairs[:4], QUANTIZERS[quantizer]), _logits(model, pairs[:4]), atol=0.1)


def _foreign(network: torch.nn.Module, out: Path, **options: object) -> Path:
    """As the exporter of TorchScript writes it: names like /stem/0/Conv, nothing noted about modules."""
    images = network.images
    torch.onnx.export(
        network,
        (torch.zeros(images, 32, 32, 3, dtype=torch.uint8),),
        str(out),
        dynamo=False,
        opset_version=17,
        **{"input_names": ["frames"], "output_names": ["logits"], **options},
    )
    return out


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_another_exporters_file_works_or_is_one_clear_error(quantizer, networks, pairs, tmp_path):
    target = QUANTIZERS[quantizer]
    path = _foreign(networks[2], tmp_path / "foreign.onnx")
    found = ptq.quantize(path, pairs, _recipe(quantizer, calibration_pairs=24), tmp_path / "all")
    reference = _logits(path, pairs[24:])
    assert metrics.sqnr_db(reference, _logits(found, pairs[24:], target)) > 20
    whole = backends.get(target).open(found).executed_precisions()
    kept = ptq.quantize(path, pairs, _recipe(quantizer, keep_fp32=("/Conv/",)), tmp_path / "kept")
    assert backends.get(target).open(kept).executed_precisions()["fp32"] >= whole.get("fp32", 0) + 3

    def unnamed(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.name = ""

    bare = _edited(path, tmp_path / "bare.onnx", unnamed)
    kept = ptq.quantize(bare, pairs, _recipe(quantizer, keep_fp32=("/Conv/",)), tmp_path / "bare")
    assert backends.get(target).open(kept).executed_precisions()["fp32"] >= whole.get("fp32", 0) + 3
    for name, options, got in (
        ("input", {"input_names": ["image"]}, "image uint8"),
        ("dynamic", {"dynamic_axes": {"frames": {0: "batch"}}}, r"frames uint8 \[batch, 32, 32, 3\]"),
    ):
        other = _foreign(networks[2], tmp_path / f"{name}.onnx", **options)
        with pytest.raises(EdgeskinError, match=f"{name}.onnx is not a model that can be quantised here: got '{got}"):
            ptq.quantize(other, pairs, _recipe(quantizer), tmp_path / "out")
    (tmp_path / "junk.onnx").write_bytes(b"no model at all")
    with pytest.raises(EdgeskinError, match=r"unreadable model file: got .junk\.onnx: "):
        ptq.quantize(tmp_path / "junk.onnx", pairs, _recipe(quantizer), tmp_path / "out")


def test_an_old_opset_is_named(onnx_models, pairs, tmp_path):
    def age(model: onnx.ModelProto) -> None:
        del model.graph.node[1:]
        node = model.graph.node[0]
        node.CopyFrom(helper.make_node("Cast", ["frames"], ["logits"], name="c", to=TensorProto.FLOAT))
        del model.graph.initializer[:]
        del model.graph.value_info[:]
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("logits", TensorProto.FLOAT, [2, 32, 32, 3]))
        model.opset_import[0].version = 12

    old = _edited(onnx_models[2], tmp_path / "old.onnx", age)
    with pytest.raises(EdgeskinError, match=r"too old to hold quantised layers: got 'old\.onnx, opset 12'"):
        ptq.quantize(old, pairs, _recipe(), tmp_path / "out")


_HUB = """
import sys, time
from pathlib import Path
import numpy as np
from edgeskin import catalog
from edgeskin.quantize.qdq import Hub
model, frames, folder, pause = *map(Path, sys.argv[1:4]), float(sys.argv[4])
class Slow(list):
    def __getitem__(self, place):
        time.sleep(pause)
        return super().__getitem__(place)
recipe = catalog.recipe("onnxruntime-int8").model_copy(update={"calibration_pairs": 40, "calibrator": "percentile"})
steps = []
Hub(model, Slow(np.load(frames)), recipe, folder, steps.append).write(set(), folder / "out.onnx")
print(steps[0], sum(steps))
"""


def test_a_killed_calibration_goes_on_where_it_was(onnx_models, pairs, tmp_path):
    np.save(tmp_path / "frames.npy", np.stack(pairs[:40]))

    def command(folder: str, pause: str) -> list[str]:
        return [
            sys.executable,
            "-c",
            _HUB,
            str(onnx_models[2]),
            str(tmp_path / "frames.npy"),
            str(tmp_path / folder),
            pause,
        ]

    run = subprocess.Popen(command("killed", "0.02"), stdout=subprocess.DEVNULL)
    while not list((tmp_path / "killed").glob("extremes-*.npz")):
        assert run.poll() is None
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "killed" / "out.onnx").exists()
    told = subprocess.run(command("killed", "0"), check=True, capture_output=True, text=True).stdout.split()
    assert int(told[0]) >= 16  # the first step tells of what was done before
    assert int(told[1]) == 40
    subprocess.run(command("whole", "0"), check=True, capture_output=True)
    assert (tmp_path / "killed" / "out.onnx").read_bytes() == (tmp_path / "whole" / "out.onnx").read_bytes()


def test_damaged_notes_are_measured_again(onnx_models, pairs, tmp_path):
    first = Hub(onnx_models[2], pairs, _recipe(), tmp_path).ranges
    notes = next(tmp_path.glob("extremes-*.npz"))
    notes.write_bytes(notes.read_bytes()[:200])
    assert Hub(onnx_models[2], pairs, _recipe(), tmp_path).ranges.high == first.high


def test_calibrators_that_tensorrt_dropped_are_used_nowhere():
    root = Path(__file__).resolve().parents[2]
    banned = "IInt8" + "Calibrator", "IInt8" + "EntropyCalibrator", "IInt8" + "MinMaxCalibrator"
    for path in [*root.glob("edgeskin/**/*.py"), *root.glob("benchmarks/**/*.py"), *root.glob("tests/**/*.py")]:
        assert not [word for word in banned if word in path.read_text(encoding="utf-8")], path


def test_biases_are_integers_only_where_the_engine_wants_them(onnx_models, pairs, tmp_path):
    sizes = {}
    for target in ("openvino", "onnxruntime"):
        recipe = _recipe().model_copy(update={"target": target})
        path = ptq.quantize(onnx_models[2], pairs, recipe, tmp_path / target)
        kinds = {tensor.data_type for tensor in onnx.load(path).graph.initializer}
        assert (TensorProto.INT32 in kinds) == (target == "onnxruntime")
        frames = pairs[24:]
        built = path.parent / "built" / backends.get(target).build(path, path.parent / "built", recipe)[0]
        assert metrics.sqnr_db(_logits(onnx_models[2], frames), _logits(built, frames, target)) > 20
        sizes[target] = path.stat().st_size
    assert sizes["openvino"] < sizes["onnxruntime"]


@pytest.mark.parametrize("images", [2, 1])
def test_the_signed_hub_is_what_tensorrt_takes_and_the_unsigned_one_is_not(images, onnx_models, pairs, tmp_path):
    signed = ptq.quantize(onnx_models[images], pairs, _recipe(activations="int8"), tmp_path / "signed")
    assert lint(onnx.load(signed), "10.3.0") == ()
    unsigned = ptq.quantize(onnx_models[images], pairs, _recipe(), tmp_path / "unsigned")
    found = lint(onnx.load(unsigned), "10.3.0")
    assert {"uint8", "zero point", "uint8 activation", "integer bias"} <= {one.rule for one in found}
    names = {node.name for node in onnx.load(unsigned).graph.node}
    assert {one.node for one in found} <= names


def test_scales_that_fp16_would_round_are_refused(
    onnx_models: dict[int, Path], pairs: list[np.ndarray], tmp_path: Path
):
    """The hub of the CPU targets has scales as they come; those for TensorRT are settled when weights are rounded."""
    plain = ptq.quantize(onnx_models[2], pairs, _recipe(), tmp_path / "plain")
    recipe = catalog.recipe("tensorrt-int8")
    with pytest.raises(EdgeskinError, match=r"scales that FP16 cannot hold: got '.*; fix: quantise it with recipe"):
        backends.get("tensorrt").build(plain, tmp_path, recipe)
    signed = ptq.quantize(onnx_models[2], pairs, _recipe(activations="int8"), tmp_path / "signed")
    assert backends.get("tensorrt").build(signed, tmp_path, recipe) == ("tiny2.onnx",)
