"""One suite for every backend: the same model, the same frames, the same answers."""

import hashlib
import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeskin import audit, backends, catalog, layers
from edgeskin.errors import EdgeskinError
from edgeskin.metrics import sqnr_db
from edgeskin.quantize.ptq import quantize
from edgeskin.spec.recipe import Recipe

CALIBRATION = 24

# (precision, metric) -> bound, and why.
TOLERANCE = {
    # FP32 engines fuse and reorder sums: a few units in the last place of logits of size 10, times the depth.
    ("fp32", "max_error"): 2e-4,
    # 8 bits give about 6 dB a bit on a full-range signal; seven layers of rounding and a narrow network leave half.
    ("int8", "sqnr_db"): 20.0,
    # The classes of this untrained network lie close together: an answer may change where two logits nearly tie.
    ("int8", "agreement"): 0.9,
}


@pytest.fixture(scope="module", params=backends.NAMES)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def compiled(target: str) -> str:
    """A target that compiles on this machine. TensorRT's graphs are emulated; tests/engine compiles them."""
    if target == "tensorrt":
        pytest.skip("an emulation has no compiled layers")
    return target


def _recipe(target: str, precision: str) -> Recipe:
    recipe = catalog.recipe(f"{target}-{precision}")
    return recipe.model_copy(update={"calibration_pairs": CALIBRATION}) if precision == "int8" else recipe


@pytest.fixture(scope="module")
def built(
    target: str,
    onnx_models: dict[int, Path],
    pairs: list[np.ndarray],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[tuple[str, int], Path]:
    """(precision, images) -> the built main file."""
    folder = tmp_path_factory.mktemp(target)
    found = {}
    for images, model in onnx_models.items():
        for precision in ("fp32", "int8"):
            recipe, source = _recipe(target, precision), model
            if precision == "int8":
                source = quantize(model, pairs, recipe, folder / "quantized")
            out = folder / precision
            found[precision, images] = out / backends.get(target).build(source, out, recipe)[0]
    return found


def _logits(session: backends.Session, pairs: list[np.ndarray]) -> np.ndarray:
    return np.stack([session.run(pair[-session.images :]) for pair in pairs])


def _reference(network: torch.nn.Module, pairs: list[np.ndarray], images: int) -> np.ndarray:
    with torch.no_grad():
        return np.stack([network(torch.from_numpy(pair[-images:].copy())).numpy() for pair in pairs])


@pytest.mark.parametrize("images", [2, 1])
def test_fp32_agrees_with_torch(target, built, networks, pairs, images):
    session = backends.get(target).open(built["fp32", images])
    assert (session.images, session.height, session.width, session.logits) == (images, 32, 32, 7)
    difference = np.abs(_logits(session, pairs) - _reference(networks[images], pairs, images)).max()
    assert difference <= TOLERANCE["fp32", "max_error"]


@pytest.mark.parametrize("images", [2, 1])
def test_int8_stays_close_on_frames_it_was_not_calibrated_on(target, built, networks, pairs, images):
    unseen = pairs[CALIBRATION:]
    session = backends.get(target).open(built["int8", images])
    reference, got = _reference(networks[images], unseen, images), _logits(session, unseen)
    assert sqnr_db(reference, got) >= TOLERANCE["int8", "sqnr_db"]
    assert np.mean(reference.argmax(-1) == got.argmax(-1)) >= TOLERANCE["int8", "agreement"]
    assert not np.array_equal(reference, got)  # else nothing was quantised


@pytest.mark.parametrize("images", [2, 1])
def test_int8_is_executed_as_int8(compiled, target, built, images):
    backend = backends.get(target)
    plain = backend.open(built["fp32", images]).executed_precisions()
    reduced = backend.open(built["int8", images]).executed_precisions()
    assert set(plain) == {"fp32"}
    assert sum(reduced.values()) == sum(plain.values())
    # Four convolutions, three projections, one head or two; the two small products within attention may stay FP32.
    assert reduced["int8"] >= 4 + 3 + images
    assert reduced.get("fp32", 0) <= 2


@pytest.mark.parametrize("images", [2, 1])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_product_of_the_file_is_found_in_what_was_compiled(compiled, target, built, precision, images):
    path = built[precision, images]
    counted = layers.count_file(path, "pair")
    found = audit.audit_session(backends.get(target).open(path), path)
    assert found.macs == counted.int8_macs + counted.fp32_macs
    assert found.planned_int8_macs == counted.int8_macs
    assert not [layer for layer in found.layers if not layer.planned or layer.executed == audit.UNKNOWN]
    if precision == "fp32":
        assert (found.int8_macs, found.fell_back) == (0, ())
    else:
        assert found.fell_back == ()
        assert found.int8_share > 0.8  # the products within attention are many in so small a network
        assert {layer.kind for layer in found.layers if layer.executed != "int8"} <= {"Subgraph", "MatMul"}


def test_layers_that_the_recipe_keeps_are_planned_in_fp32(compiled, target, onnx_models, pairs, tmp_path):
    recipe = _recipe(target, "int8").model_copy(update={"keep_fp32": ("/Conv/",)})
    source = quantize(onnx_models[1], pairs, recipe, tmp_path / "quantized")
    path = tmp_path / backends.get(target).build(source, tmp_path, recipe)[0]
    found = audit.audit_session(backends.get(target).open(path), path)
    convolutions = [layer for layer in found.layers if "Conv" in layer.kind]
    assert convolutions
    # ONNX Runtime would round the weights of one of them by itself, a tensor at a time.
    assert {(layer.planned, layer.executed) for layer in convolutions} == {("fp32", "fp32")}
    assert (found.fell_back, found.unasked) == ((), ())
    assert 0 < found.int8_share < 0.5
    failed = audit.check({"dermoscopic": found}, 0.8, {})
    assert not failed.passed
    assert "the file asks for INT8 in" in failed.why


def test_two_opens_agree_bit_for_bit(target, built, pairs):
    backend = backends.get(target)
    first, second = (backend.open(built["int8", 2], threads=1) for _ in range(2))
    np.testing.assert_array_equal(_logits(first, pairs[:4]), _logits(second, pairs[:4]))


def test_results_belong_to_the_caller(target, built, pairs):
    session = backends.get(target).open(built["fp32", 2])
    first = session.run(pairs[0])
    kept = first.copy()
    session.run(pairs[1])
    np.testing.assert_array_equal(first, kept)


def test_frames_need_not_be_contiguous(target, built, pairs):
    session = backends.get(target).open(built["fp32", 2])
    swapped = pairs[0][..., ::-1]
    assert not swapped.flags.c_contiguous
    np.testing.assert_array_equal(session.run(swapped), session.run(swapped.copy()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.astype(np.float32), "wrong input dtype: got 'float32'"),
        (lambda f: f[0], r"wrong input shape: got '\(32, 32, 3\)'; possible: \(2, 32, 32, 3\)"),
        (lambda f: f[1:], r"wrong input shape: got '\(1, 32, 32, 3\)'"),
        (lambda f: f.transpose(0, 3, 1, 2), "wrong input shape"),
        (lambda f: f.tolist(), "wrong input dtype: got 'list'"),
    ],
)
def test_wrong_input_is_named(target, built, pairs, change, message):
    session = backends.get(target).open(built["fp32", 2])
    with pytest.raises(EdgeskinError, match=message):
        session.run(change(pairs[0]))


def test_threads_are_as_asked(target, built):
    backend = backends.get(target)
    assert backend.open(built["fp32", 1], threads=1).describe()["threads"] == "1"
    assert backend.open(built["fp32", 1]).describe()["threads"] == str(backends.usable_cores())
    with pytest.raises(EdgeskinError, match="negative number of threads: got -1"):
        backend.open(built["fp32", 1], threads=-1)


def test_describe_names_the_conditions(target, built):
    facts = backends.get(target).open(built["fp32", 1]).describe()
    assert facts["backend"] == ("emulation of tensorrt" if target == "tensorrt" else target)
    assert set(facts) == {"backend", "version", "device", "threads", "precision_hint"}
    assert facts["precision_hint"] == "f32"


def test_unknown_precision_hint(target, built):
    with pytest.raises(EdgeskinError, match="unknown precision hint: got 'int4'"):
        backends.get(target).open(built["fp32", 1], precision_hint="int4")


def test_missing_and_broken_files(target, built, tmp_path):
    backend, good = backends.get(target), built["fp32", 1]
    with pytest.raises(EdgeskinError, match="no such model file"):
        backend.open(tmp_path / good.name)
    with pytest.raises(EdgeskinError, match="not a model file of this target"):
        backend.open(tmp_path / "model.engine")
    bad = tmp_path / good.name
    bad.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    with pytest.raises(EdgeskinError, match="unreadable model file"):
        backend.open(bad)


def test_foreign_model_is_refused(target, tmp_path):
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
    )
    path = tmp_path / "foreign.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    with pytest.raises(EdgeskinError, match="not a model of ours: got 'x float32"):
        backends.get(target).open(path)


def test_build_refuses_what_is_not_its_own(target, onnx_models, tmp_path):
    other = next(name for name in backends.NAMES if name != target)
    with pytest.raises(EdgeskinError, match=f"recipe {other}-fp32 is for target {other}"):
        backends.get(target).build(onnx_models[1], tmp_path, catalog.recipe(f"{other}-fp32"))
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(onnx_models[1].read_bytes()[:-5000])
    with pytest.raises(EdgeskinError, match="unreadable model file"):
        backends.get(target).build(torn, tmp_path, _recipe(target, "fp32"))


def test_unsupported_gives_reasons(target, monkeypatch):
    backend = backends.get(target)
    recipe = _recipe(target, "int8")
    assert backend.unsupported() is None
    assert backend.unsupported(recipe) is None
    boards = {name: catalog.device(name) for name in catalog.device_names()}
    for board in boards.values():
        reason = backend.unsupported(recipe, board)
        assert (reason is None) == (target in board.targets)
        assert reason is None or board.name in reason
    real = importlib.util.find_spec
    engine, extra = ("onnxruntime", "export") if target == "tensorrt" else (target, target)  # a kit is emulated
    monkeypatch.setattr(backend, "find_spec", lambda name: None if name == engine else real(name))
    assert f"pip install 'edgeskin[{extra}]'" in (backend.unsupported(recipe) or "")
    with pytest.raises(EdgeskinError, match=rf"pip install 'edgeskin\[{extra}\]'"):
        backend.open(Path("model.onnx"))


def test_an_emulation_does_not_pass_for_an_engine(target, built):
    if target != "tensorrt":
        pytest.skip("runs what the device runs")
    session = backends.get(target).open(built["int8", 2])
    assert session.describe()["backend"] == "emulation of tensorrt"
    with pytest.raises(EdgeskinError, match="no compiled layers: got 'a build kit'; fix: build its engine"):
        session.executed_layers()


def _digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_a_second_build_gives_the_same_bytes(target, built, onnx_models, pairs, tmp_path):
    """In this process, whose counters have moved on, and from another folder."""
    recipe = _recipe(target, "int8")
    source = quantize(onnx_models[2], pairs, recipe, tmp_path / "elsewhere" / "quantized")
    backends.get(target).build(source, tmp_path / "int8", recipe)
    backends.get(target).build(onnx_models[2], tmp_path / "fp32", _recipe(target, "fp32"))
    for precision in ("fp32", "int8"):
        again = _digests(tmp_path / precision)
        assert again == {name: digest for name, digest in _digests(built[precision, 2].parent).items() if name in again}
    for path in (tmp_path / "int8").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()


def test_nothing_stray_and_nothing_printed(target, onnx_models, pairs, tmp_path):
    """A fresh interpreter, so that imports count too: cwd stays empty, the terminal stays ours."""
    np.save(tmp_path / "pairs.npy", np.stack(pairs[:8]))
    (tmp_path / "cwd").mkdir()
    code = f"""
import numpy as np
from pathlib import Path
from edgeskin import backends, catalog, out
from edgeskin.quantize.ptq import quantize
recipe = catalog.recipe("{target}-int8").model_copy(update={{"calibration_pairs": 8}})
frames = list(np.load({str(tmp_path / "pairs.npy")!r}))
with out.progress("calibrating", 8) as step:
    path = quantize(Path({str(onnx_models[2])!r}), frames, recipe, Path({str(tmp_path / "q")!r}), step)
backend = backends.get("{target}")
name = backend.build(path, Path({str(tmp_path / "b")!r}), recipe)[0]
session = backend.open(Path({str(tmp_path / "b")!r}) / name)
assert "{target}" == "tensorrt" or "int8" in session.executed_precisions()
session.run(frames[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "cwd", capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    shown = done.stderr.strip().splitlines()
    assert shown, "no progress was shown"
    assert all(line.startswith("calibrating: ") for line in shown), done.stderr
    assert shown[-1].startswith("calibrating: 8/8")
    assert list((tmp_path / "cwd").iterdir()) == []


_SIGNALS = """
import faulthandler, os, signal, sys
from pathlib import Path
import numpy as np
from edgeskin import backends, catalog
from edgeskin.quantize.ptq import quantize

name, model, onnx, out = sys.argv[1:]
faulthandler.enable()
heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
backend = backends.get(name)
older, younger = backend.open(Path(model)), backend.open(Path(model))
del older
del younger
os.kill(os.getpid(), signal.SIGUSR1)
rng = np.random.default_rng(0)
recipe = catalog.recipe(f"{name}-int8").model_copy(update={"calibration_pairs": 2})
quantize(Path(onnx), list(rng.integers(0, 256, (2, 2, 32, 32, 3), np.uint8)), recipe, Path(out))
os.kill(os.getpid(), signal.SIGUSR1)
print(len(heard))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no such signals")
def test_signals_are_handled_after_sessions_and_quantisation(target, built, onnx_models, tmp_path):
    """Engines may move the thread's stack for signals; what they leave behind must still be a stack."""
    done = subprocess.run(
        [sys.executable, "-c", _SIGNALS, target, str(built["fp32", 2]), str(onnx_models[2]), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "2"), done.stderr
