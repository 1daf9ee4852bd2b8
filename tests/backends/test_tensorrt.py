"""The backend for engines on a machine that has none of TensorRT, driver and GPU, and where each of them fails."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeskin import backends, catalog, runtime
from edgeskin import tensorrt_here as here
from edgeskin.backends import _cuda, tensorrt
from edgeskin.errors import EdgeskinError
from edgeskin.opening import Bundle
from edgeskin.spec.manifest import Compatibility

BOARD = Compatibility(
    device="jetson-orin-nano", arch="aarch64", sm="8.7", tensorrt="10.3.0", cuda="12.6", jetpack="6.1 to 6.2.2",
    gpu="Orin", driver="12.6",
)  # fmt: skip


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "pair.plan"
    path.write_bytes(b"ftrt, or what an engine begins with" * 100)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(EdgeskinError) as caught:
        tensorrt.open(path)
    assert "\n" not in caught.value.line()
    return caught.value.line()


def test_without_the_package_an_engine_does_not_open(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "find_spec", lambda name: None)
    line = refusal(plan)
    assert "the package 'tensorrt' is not installed" in line
    assert "--system-site-packages" in line


def test_without_a_driver_the_package_is_not_even_imported(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some versions end the process if they are used without one."""
    monkeypatch.setattr(tensorrt, "find_spec", lambda name: object())
    monkeypatch.setattr(_cuda, "unsupported", lambda: "no NVIDIA driver on this machine")
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # an import of it raises
    assert "no NVIDIA driver on this machine" in refusal(plan)


@pytest.mark.parametrize("suffix", [".plan", ".onnx"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, suffix: str) -> None:
    assert f"gone{suffix}" in refusal(tmp_path / f"gone{suffix}")


def test_other_files_and_hints_are_refused(plan: Path) -> None:
    assert "not a model file of this target" in refusal(plan.with_suffix(".engine"))
    with pytest.raises(EdgeskinError, match="unknown precision hint"):
        tensorrt.open(plan, precision_hint="bf16")


def test_a_process_without_gpu_ends_with_one_line_and_no_crash(plan: Path) -> None:
    code = "\n".join(
        [
            "import sys",
            "from pathlib import Path",
            "from edgeskin.backends import tensorrt",
            "from edgeskin.errors import EdgeskinError",
            "try:",
            f"    tensorrt.open(Path({str(plan)!r}))",
            "except EdgeskinError as error:",
            "    sys.exit(error.line())",
        ]
    )
    hidden = dict(os.environ, CUDA_VISIBLE_DEVICES="")  # also where there is a GPU
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=hidden, check=False)
    assert done.returncode == 1, "an error, not a signal"
    (line,) = done.stderr.strip().splitlines()
    assert "tensorrt" in line.lower()


class Buffer:
    """Stands for memory of a GPU."""

    def __init__(self, shape: Any, dtype: Any = np.uint8) -> None:
        self.array, self.pointer = np.zeros(shape, dtype), 4096


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What a module `tensorrt` does, each step of which a test lets fail. No result comes of it."""
    engine = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda place: ("frames", "logits")[place],
        get_tensor_mode=lambda name: name,
        get_tensor_dtype=lambda name: np.uint8 if name == "frames" else np.float32,
        get_tensor_shape=lambda name: (2, 8, 8, 3) if name == "frames" else (2, 5),
    )
    context = SimpleNamespace(set_tensor_address=lambda *_: True, execute_async_v3=lambda _: True)
    engine.create_execution_context = lambda: context
    steps = SimpleNamespace(engine=engine, context=context, said=["Error Code 9: what TensorRT says"], made=engine)

    class Runtime:
        def __init__(self, log: Any) -> None:
            for line in steps.said:
                log.log(1, line)

        def deserialize_cuda_engine(self, data: bytes) -> Any:
            return steps.made

    module = ModuleType("tensorrt")
    module.__version__ = "10.3.0"
    module.ILogger = type(
        "ILogger", (), {"Severity": SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3, VERBOSE=4)}
    )
    module.Runtime = Runtime
    module.TensorIOMode = SimpleNamespace(INPUT="frames", OUTPUT="logits")
    module.nptype = lambda kind: kind
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(tensorrt, "find_spec", lambda name: object())
    monkeypatch.setattr(_cuda, "unsupported", lambda: None)
    monkeypatch.setattr(_cuda, "gpu", lambda: SimpleNamespace(name="Orin"))
    monkeypatch.setattr(_cuda, "PinnedArray", Buffer)
    monkeypatch.setattr(_cuda, "DeviceArray", Buffer)
    stream = SimpleNamespace(pointer=1, copy_in=lambda *_: None, copy_out=lambda *_: None, synchronize=lambda: None)
    monkeypatch.setattr(_cuda, "Stream", lambda: stream)
    monkeypatch.setattr(_cuda, "capture", lambda stream, enqueue: "not here")
    return steps


def test_an_engine_that_tensorrt_refuses(fake: SimpleNamespace, plan: Path) -> None:
    fake.made = None
    line = refusal(plan)
    assert "TensorRT refuses this engine" in line
    assert "pair.plan: Error Code 9: what TensorRT says" in line
    assert "edgeskin build KIT" in line


def test_an_engine_of_something_else(fake: SimpleNamespace, plan: Path) -> None:
    fake.engine.get_tensor_shape = lambda name: (4, 8, 8, 3)
    assert "pair.plan is not a model of ours" in refusal(plan)


def test_a_gpu_without_room(fake: SimpleNamespace, plan: Path) -> None:
    fake.engine.create_execution_context = lambda: None
    line = refusal(plan)
    assert "cannot make room for this engine" in line
    assert "close what else uses the GPU" in line


def test_a_buffer_that_is_refused_is_named(fake: SimpleNamespace, plan: Path) -> None:
    fake.context.set_tensor_address = lambda name, _: name == "frames"
    assert "TensorRT refuses a buffer: got 'logits: " in refusal(plan)


def test_a_run_that_fails(fake: SimpleNamespace, plan: Path) -> None:
    fake.context.execute_async_v3 = lambda _: False
    assert "TensorRT failed to run" in refusal(plan)
    fake.context.execute_async_v3 = lambda _: True
    session = tensorrt.open(plan)
    fake.context.execute_async_v3 = lambda _: False
    with pytest.raises(EdgeskinError, match="TensorRT failed to run"):
        session.run(np.zeros((2, 8, 8, 3), np.uint8))
    assert session.describe()["cuda_graph"] == "no: not here"


def sealed(tiny_kit: Path) -> Bundle:
    """A bundle as `edgeskin build` seals it, as far as what is asked before TensorRT is."""
    from edgeskin.opening import open_bundle

    kit = open_bundle(tiny_kit)
    manifest = kit.manifest.model_copy(update={"stage": "ready", "compatibility": BOARD})
    return Bundle(kit.root, manifest, kit.sha256, lean=False)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tensorrt": "10.16.2"}, ["the engine is of another TensorRT", "10.16.2 here", "10.3.0"]),
        ({"sm": "7.2"}, ["the engine is for another GPU architecture", "SM 7.2", "SM 8.7"]),
        ({"arch": "x86_64"}, ["the engine is for another architecture", "x86_64 here"]),
        ({"device": "jetson-agx-orin"}, ["the engine is of another board", "jetson-agx-orin here", "jetson-orin-nano"]),
    ],
)
def test_an_engine_of_another_machine_is_refused_before_it_is_opened(
    tiny_kit: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], told: list[str]
) -> None:
    bundle = sealed(tiny_kit)
    monkeypatch.setattr(tensorrt, "open", lambda *_, **__: pytest.fail("TensorRT was asked"))
    monkeypatch.setattr(here, "here", lambda: BOARD.model_copy(update=change))
    with pytest.raises(EdgeskinError) as caught:
        runtime.load(bundle)
    line = caught.value.line()
    assert all(word in line for word in told)
    assert "edgeskin build KIT" in line
    assert "\n" not in line
    monkeypatch.setattr(here, "here", lambda: BOARD)
    assert runtime.load(bundle).manifest.compatibility == BOARD


def test_an_engine_without_a_gpu_is_refused(tiny_kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = sealed(tiny_kit)
    monkeypatch.setattr(_cuda, "unsupported", lambda: "no NVIDIA driver on this machine")
    with pytest.raises(EdgeskinError, match="this TensorRT engine does not run here: got 'no NVIDIA driver"):
        runtime.load(bundle)


def test_what_the_backend_is_for() -> None:
    assert backends.get("tensorrt") is not None
    assert "not tensorrt" in str(tensorrt.unsupported(device=catalog.device("raspberry-pi-5")))
    assert "for target openvino" in str(tensorrt.unsupported(catalog.recipe("openvino-int8")))
    assert tensorrt.unsupported(catalog.recipe("tensorrt-int8"), catalog.device("jetson-orin-nano")) is None
