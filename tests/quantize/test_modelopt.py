"""Model Optimizer as a quantiser: what is refused before it starts, and what its process may do to us."""

import io
import signal
from importlib import util
from pathlib import Path

import numpy as np
import pytest

from edgeskin import catalog
from edgeskin.errors import EdgeskinError
from edgeskin.quantize import modelopt, ptq
from edgeskin.quantize._modelopt_process import Frames
from edgeskin.quantize.calibration import CalibrationFrames, calibration_frames
from edgeskin.spec.recipe import Recipe

PLAIN = {"name": "r", "target": "tensorrt", "precision": "int8", "quantizer": "modelopt", "calibration_pairs": 4}


def _pairs(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(i).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8) for i in range(count)]


@pytest.mark.parametrize("calibrator", ["minmax", "entropy"])
def test_a_recipe_may_ask_for_it(calibrator):
    recipe = Recipe(**PLAIN, activations="int8", calibrator=calibrator)
    assert Recipe.model_validate(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "openvino"}, "quantizer 'modelopt' is for target tensorrt"),
        ({"target": "onnxruntime", "activations": "int8"}, "quantizer 'modelopt' is for target tensorrt"),
        ({"activations": "uint8"}, "tensorrt takes activations 'int8' alone"),
        ({"activations": "int8", "calibrator": "percentile"}, "'modelopt' takes calibrator minmax or entropy"),
        ({"activations": "int8", "smooth_quant": True}, "smooth_quant are choices of quantizer 'nncf'"),
        ({"activations": "int8", "calibration_pairs": 0}, "needs calibration_pairs >= 1"),
    ],
)
def test_a_recipe_that_it_cannot_follow_is_refused(changes, message):
    with pytest.raises(EdgeskinError, match=message):
        Recipe.parse({**PLAIN, **changes}, "here.toml")


def test_the_shipped_recipe_differs_in_the_quantiser_alone():
    ours, other = catalog.recipe("tensorrt-int8"), catalog.recipe("tensorrt-int8-modelopt")
    differ = {key for key, value in ours.to_json().items() if other.to_json()[key] != value}
    assert differ <= {"name", "note", "quantizer", "calibrator", "bias_correction"}
    assert other.quantizer == "modelopt"


@pytest.mark.parametrize("package", modelopt.PACKAGES)
def test_a_missing_package_names_the_extra(package, monkeypatch, tmp_path):
    monkeypatch.setattr(ptq, "find_spec", lambda name: None if name == package else True)
    with pytest.raises(EdgeskinError) as caught:
        ptq.quantize(tmp_path / "none.onnx", [], Recipe(**PLAIN, activations="int8"), tmp_path)
    assert str(caught.value) == f"the package {package!r} is not installed; fix: pip install 'edgeskin[modelopt]'"


def test_without_frames_nothing_starts(tmp_path):
    """It would quantise with random numbers, without a word."""
    none = CalibrationFrames([], 0, 2, frozenset())
    recipe = Recipe(**PLAIN, activations="int8")
    with pytest.raises(EdgeskinError, match=r"needs calibration pairs: got 'none'; .*random scales"):
        modelopt.quantize_modelopt(tmp_path / "m.onnx", none, recipe, set(), tmp_path, tmp_path / "s", print)
    assert not list(tmp_path.iterdir())


def test_the_process_reads_whole_frames_in_order():
    pairs = _pairs(3)
    order = [0, 0, 1, 0, 1, 2]
    asked, given = io.BytesIO(), io.BytesIO(b"".join(pairs[i].tobytes() for i in order))
    frames = Frames(asked, given, 3, (2, 8, 8, 3), "frames")
    found = [frames.get_first(), frames.get_next(), frames.get_next()]
    frames.rewind()
    found += [frames.get_next(), frames.get_next(), frames.get_next()]
    assert frames.get_next() is None
    for one, place in zip(found, order, strict=True):
        np.testing.assert_array_equal(one["frames"], pairs[place])
    assert np.frombuffer(asked.getvalue(), "<u4").tolist() == order
    frames.rewind()
    with pytest.raises(EOFError):
        frames.get_next()  # nobody gives any more


# What stands in for the package here: it takes the frames as told and writes what it saw, or goes wrong.
STAND_IN = """
import os, signal, sys, tempfile
import numpy as np
def quantize(model, calibration_data_reader, output_path, **options):
    print("a line that nobody asked for")
    os.write(1, b"and one past the library")
    open("stray.txt", "w").write("stray")
    tempfile.mkdtemp()
    seen = [calibration_data_reader.get_first()["frames"]]
    {does}
    np.save(open(output_path, "wb"), np.stack(seen))
"""
ALL = "seen += [one['frames'] for one in iter(calibration_data_reader.get_next, None)]"


def _stand_in(does: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CalibrationFrames:
    package = tmp_path / "packages" / "modelopt" / "onnx"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "quantization.py").write_text(STAND_IN.format(does=does), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(package.parents[1]))
    recipe = Recipe(**PLAIN, activations="int8", blank_clinical=0.25)
    return calibration_frames(_pairs(4), recipe)


def _run(frames: CalibrationFrames, room: Path, steps: list[int]) -> list[int]:
    room.mkdir()
    told = {
        "model": str(room / "given.onnx"),
        "out": str(room / "made.onnx"),
        "method": "max",
        "exclude": [],
        "count": len(frames),
        "shape": frames.shape,
    }
    return modelopt._run(told, frames, room, steps.append)


needs_runtime = pytest.mark.skipif(util.find_spec("onnxruntime") is None, reason="needs edgeskin[onnxruntime]")


@needs_runtime
def test_every_pair_arrives_whole_and_in_order(tmp_path, monkeypatch, capfd):
    frames = _stand_in(ALL, tmp_path, monkeypatch)
    steps: list[int] = []
    assert _run(frames, tmp_path / "room", steps) == [0, 0, 1, 2, 3, 4]
    with (tmp_path / "room" / "made.onnx").open("rb") as file:
        seen = np.load(file)
    np.testing.assert_array_equal(seen[1:], np.stack([frames[i] for i in range(5)]))
    assert seen[-1][0].max() == 0  # the last comes once more with a black clinical frame
    assert sum(steps) == 4  # pairs, not inputs
    assert capfd.readouterr() == ("", "")
    assert not Path("stray.txt").exists()
    assert (tmp_path / "room" / "stray.txt").exists()  # where it goes with the folder


@needs_runtime
@pytest.mark.parametrize(
    ("does", "message"),
    [
        ("raise RuntimeError('no kernel for node7')", "refuses the model: got 'RuntimeError: no kernel for node7'"),
        ("raise MemoryError", "refuses the model: got 'MemoryError'"),
        (f"os.kill(os.getpid(), {int(signal.SIGKILL)})", "was stopped: got 'signal 9'; fix: free memory"),
    ],
)
def test_what_goes_wrong_in_it_is_one_line(does, message, tmp_path, monkeypatch):
    frames = _stand_in(does, tmp_path, monkeypatch)
    with pytest.raises(EdgeskinError, match=message) as caught:
        _run(frames, tmp_path / "room", [])
    assert "\n" not in str(caught.value)


@needs_runtime
@pytest.mark.parametrize("does", ["pass", "seen.append(calibration_data_reader.get_next()['frames'])"])
def test_ranges_of_less_than_all_pairs_are_refused(does, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx", reason="needs edgeskin[export]")
    frames = _stand_in(does, tmp_path, monkeypatch)
    empty = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
    with pytest.raises(EdgeskinError, match="did not take every calibration pair: got '1 of 5 inputs'"):
        modelopt._quantised(empty, frames, "max", [], tmp_path / "room", lambda _: None)
    assert not (tmp_path / "room").exists()
