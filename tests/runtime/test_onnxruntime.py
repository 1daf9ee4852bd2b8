"""ONNX Runtime behind the runtime in C: its tests against the library of the Python package, and the same logits."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "devices" / "runtime"
TINY = ROOT / "tests" / "golden" / "tiny-onnxruntime"
HEADERS = (
    ROOT / "build" / "onnxruntime" / "include",  # as devices/runtime/cmake/onnxruntime-headers.sh leaves it
    Path("/usr/include/onnxruntime"),
    Path("/usr/include/onnxruntime/core/session"),
)


@pytest.fixture(scope="module")
def library() -> Path:
    """The folder with libonnxruntime.so, found without importing the package."""
    found = importlib.util.find_spec("onnxruntime")
    if found is None or found.origin is None:
        pytest.skip("needs the package onnxruntime")
    folder = Path(found.origin).parent / "capi"
    if not any(folder.glob("libonnxruntime.so*")):
        pytest.skip("this package onnxruntime has no libonnxruntime.so of its own")
    return folder


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """devices/runtime/tests/test_onnxruntime.cpp with the backend, and nothing else of the library."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++; apt-get install g++")
    if not Path("/usr/include/gtest/gtest.h").is_file():
        pytest.skip("needs GoogleTest; apt-get install libgtest-dev")
    headers = next((folder for folder in HEADERS if (folder / "onnxruntime_c_api.h").is_file()), None)
    if headers is None:
        pytest.skip("needs onnxruntime_c_api.h; devices/runtime/cmake/onnxruntime-headers.sh fetches it")
    made = tmp_path_factory.mktemp("onnxruntime") / "tests"
    parts = [SOURCE / "src" / f"{name}.cpp" for name in ("onnxruntime", "backend", "npz", "text")]
    define = (f'-DEDGESKIN_TEST_BUNDLE="{TINY}"', "-DEDGESKIN_WITH_ONNXRUNTIME")
    include = ("-I", SOURCE / "include", "-I", SOURCE / "src", "-isystem", headers)
    libraries = ("-lgtest", "-lgtest_main", "-ldl", "-pthread")
    words = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", *define, *include]
    words += [SOURCE / "tests" / "test_onnxruntime.cpp", *parts, *libraries, "-o", made]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return made


def python_logits(folder: Path) -> None:
    """The golden frames and drawn noise, with the logits that Python gives for them here."""
    from edgeskin.backends import onnxruntime

    rng = np.random.default_rng(6)
    for mode in ("pair", "dermoscopic"):
        session = onnxruntime.open(TINY / "model" / f"{mode}.onnx", threads=2)
        shape = (session.images, session.height, session.width, 3)
        cases = {path.stem: np.load(path)["frames"] for path in (TINY / "golden").glob(f"{mode}-*.npz")}
        assert len(cases) == 2
        cases |= {f"{mode}-noise-{n}": rng.integers(0, 256, shape, np.uint8) for n in range(20)}
        for name, frames in cases.items():
            np.savez(folder / f"{name}.npz", frames=frames, logits=session.run(frames))


def kept_graph(folder: Path) -> None:
    """A convolution whose weights stay in FP32 between INT8 neighbours, and Python's logits of it.

    It is what one of ONNX Runtime's optimisers would round, which both sides switch off: the logits tell.
    """
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    from edgeskin.backends import onnxruntime as ours

    rng = np.random.default_rng(7)
    constants = {
        "scale": np.array(1 / 127, np.float32),
        "zero": np.array(0, np.int8),
        "weights": rng.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32),
        "bias": rng.normal(0, 0.3, 4).astype(np.float32),
        "wide": np.array(0.05, np.float32),
        "shift": np.array(128, np.float32),
        "out": np.array([1, 4], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["frames"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["float", "shift"], ["even"]),
        helper.make_node("Mul", ["even", "scale"], ["small"]),
        helper.make_node("Transpose", ["small"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("QuantizeLinear", ["planes", "scale", "zero"], ["q1"]),
        helper.make_node("DequantizeLinear", ["q1", "scale", "zero"], ["d1"]),
        helper.make_node("Conv", ["d1", "weights", "bias"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("QuantizeLinear", ["c", "wide", "zero"], ["q2"]),
        helper.make_node("DequantizeLinear", ["q2", "wide", "zero"], ["d2"]),
        helper.make_node("GlobalAveragePool", ["d2"], ["mean"]),
        helper.make_node("Reshape", ["mean", "out"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "kept",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, [1, 32, 32, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    path = folder / "kept.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    frames = rng.integers(0, 256, (1, 32, 32, 3), np.uint8)
    logits = ours.open(path, threads=2).run(frames)
    plain = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"frames": frames})[0]
    assert not np.array_equal(logits, plain)  # else this graph shows nothing
    np.savez(folder / "kept.npz", frames=frames, logits=logits)


def slow_graph(path: Path) -> None:
    """[1, 32, 32, 3] -> [1, 4] through many products of large matrices: a deadline falls between two of them."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    size, products = 768, 60
    weights = np.random.default_rng(0).normal(0, 1 / np.sqrt(size), (size, size)).astype(np.float32)
    constants = {
        "weights": weights,
        "flat": np.array([4, size], np.int64),
        "wide": np.array([size // 4, 4, size], np.int64),
        "square": np.array([size, size], np.int64),
        "last": np.array([-1], np.int64),
        "out": np.array([1, 4], np.int64),
        "begin": np.array([0], np.int64),
        "end": np.array([4], np.int64),
        "axis": np.array([0], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["frames"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "flat"], ["rows"]),
        helper.make_node("Expand", ["rows", "wide"], ["many"]),
        helper.make_node("Reshape", ["many", "square"], ["x0"]),
        *(helper.make_node("MatMul", [f"x{n}", "weights"], [f"x{n + 1}"]) for n in range(products)),
        helper.make_node("ReduceMean", [f"x{products}", "last"], ["means"], keepdims=0),
        helper.make_node("Slice", ["means", "begin", "end", "axis"], ["four"]),
        helper.make_node("Reshape", ["four", "out"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, [1, 32, 32, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def test_the_backend_with_the_library_of_the_python_package(program: Path, library: Path, tmp_path: Path) -> None:
    logits = tmp_path / "logits"
    logits.mkdir()
    python_logits(logits)
    kept_graph(logits)
    slow_graph(tmp_path / "slow.onnx")
    there = {"EDGESKIN_ORT_PATH": library, "EDGESKIN_ORT_LOGITS": logits, "EDGESKIN_ORT_SLOW": tmp_path / "slow.onnx"}
    environment = os.environ | {name: str(path) for name, path in there.items()}
    done = subprocess.run([program], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[  PASSED  ] 9 tests." in done.stdout
    assert "SKIPPED" not in done.stdout
