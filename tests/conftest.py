"""What all tests share: property tests without a clock, caches of their own."""

import json
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

TINY = Path(__file__).resolve().parent / "golden" / "tiny-onnxruntime"

settings.register_profile("edgeskin", deadline=None)
settings.load_profile("edgeskin")

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test waits for a network

# TensorRT for RTX out of `make .venv/.bindings`, where it is not installed itself. For all tests from the start, since
# what a kit says of it must not hang on which tests a process ran before.
if find_spec("tensorrt_rtx") is None and (_beside := Path(sys.prefix) / "tensorrt-rtx").is_dir():
    sys.path.append(str(_beside))


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Caches go to the tests' own folder, also for the processes that tests start."""
    folder: Path = tmp_path_factory.mktemp("cache")
    os.environ["EDGESKIN_CACHE"] = str(folder)


@pytest.fixture
def tiny(tmp_path) -> Path:
    """A copy of the committed tiny bundle, to change as one likes."""
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of seconds on drawn pairs, with a control role that holds melanomas."""
    pytest.importorskip("timm", reason="needs the extra train")
    from edgeskin import chain
    from edgeskin.data.phantom import write_phantom
    from edgeskin.spec.roles import RoleSpec
    from edgeskin.spec.train import DataSpec, NetworkSpec, TrainSpec

    folder = tmp_path_factory.mktemp("tiny")
    write_phantom(folder / "phantom", 160, 5, 64)
    data = DataSpec(
        name="derm7pt", root=str(folder / "phantom"), roles=RoleSpec(calibration=0.1, control=0.4, test=0.2)
    )
    spec = TrainSpec(epochs=2, batch_pairs=8, size=64, train_size=64, start_size=64, workers=0, accelerator="cpu")
    chain.train(data, NetworkSpec(backbone="test_efficientnet"), spec, "scratch", folder / "run")
    return folder / "run"


@pytest.fixture(scope="session")
def kit_recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The recipe tensorrt-int8 with a gate that a network of seconds can hold."""
    from edgeskin import catalog

    plain = catalog.recipe("tensorrt-int8").to_json() | {"gate": None, "calibration_pairs": 8}
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items() if value is not None]
    gate = '[gate]\nbootstrap = 200\n[gate.margins.auc]\nvalue = 1.0\nreason = "a network trained for seconds"\n'
    path = tmp_path_factory.mktemp("recipe") / "tiny-kit.toml"
    path.write_text("\n".join([*lines, gate]))
    return str(path)


@pytest.fixture(scope="session")
def tiny_kit(tiny_run: Path, kit_recipe: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole build kit of the tiny run for a Jetson Orin Nano. Read it only."""
    from edgeskin import chain

    kit = tmp_path_factory.mktemp("kits") / "kit"
    chain.export(tiny_run, "tensorrt", kit, recipe=kit_recipe, device="jetson-orin-nano", jetpack="6.2")
    return kit
