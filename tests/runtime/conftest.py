"""The runtime in C, built once for all test processes, and tiny bundles and photographs that it opens."""

import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image as Photo

from edgeskin.files import pretty_json, sha256_bytes
from tests.runtime.examples import photo

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "devices" / "runtime"
TINY = ROOT / "tests" / "golden" / "tiny-onnxruntime"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time, also among those of pytest-xdist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(*command: object, seconds: float = 1200) -> subprocess.CompletedProcess[str]:
    """A program that is to end by itself; its output as text."""
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)


def openvino_package() -> Path | None:
    """The folder of the installed package openvino, found without importing it."""
    found = importlib.util.find_spec("openvino")
    return Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else None


@pytest.fixture(scope="session")
def backend_path() -> Path:
    """The folder of OpenVINO's shared libraries: what es_options.backend_path wants."""
    package = openvino_package()
    if package is None:
        pytest.skip("needs the package openvino")
    return package / "libs"


@pytest.fixture(scope="session")
def runtime_build() -> Path:
    """The build folder of devices/runtime, with the library and the examples in it.

    It is kept from run to run, so that only what changed is compiled: EDGESKIN_RUNTIME_BUILD, else build/runtime.
    """
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}; apt-get install cmake g++")
    package = openvino_package()
    if package is None:
        pytest.skip("needs the package openvino, for its headers")
    folder = Path(os.environ.get("EDGESKIN_RUNTIME_BUILD") or ROOT / "build" / "runtime")
    with locked(folder.parent / f".{folder.name}.lock"):
        fresh = not (folder / "CMakeCache.txt").is_file()
        generator = ["-G", "Ninja"] if fresh and shutil.which("ninja") else []
        onnxruntime = ROOT / "build" / "onnxruntime" / "include"  # of devices/runtime/cmake/onnxruntime-headers.sh
        engines = [f"-DOpenVINO_DIR={package / 'cmake'}"]
        engines += [f"-DONNXRUNTIME_INCLUDE_DIR={onnxruntime}"] if onnxruntime.is_dir() else []
        done = run("cmake", "-S", SOURCE, "-B", folder, *generator, *engines)
        if done.returncode and "fix: apt-get install" in done.stderr:
            pytest.skip(next(line for line in done.stderr.splitlines() if "fix: apt-get install" in line).strip())
        assert done.returncode == 0, done.stdout + done.stderr
        names = sorted(path.stem for path in (SOURCE / "examples").glob("*.c"))
        done = run("cmake", "--build", folder, "--parallel", "2", "--target", "edgeskin", *names)
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    return folder


@pytest.fixture(scope="session")
def runtime_library(runtime_build: Path) -> Path:
    """libedgeskin.so, built of the sources as they are."""
    return runtime_build / "libedgeskin.so"


def seal(bundle: Path, **changes: object) -> None:
    """Change fields of a bundle's manifest, None to drop one, and seal it anew."""
    plain = json.loads((bundle / "manifest.json").read_text()) | changes
    text = pretty_json({name: value for name, value in plain.items() if value is not None})
    (bundle / "manifest.json").write_text(text)
    (bundle / "manifest.sha256").write_text(f"{sha256_bytes(text.encode())}  manifest.json\n")


@pytest.fixture(scope="session")
def tiny_openvino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed tiny bundle as one for OpenVINO, which reads its ONNX graphs. Read it only."""
    folder = Path(shutil.copytree(TINY, tmp_path_factory.mktemp("bundle") / "tiny"))
    recipe = json.loads((folder / "manifest.json").read_text())["recipe"]
    seal(folder, target="openvino", recipe={**recipe, "target": "openvino"})
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dermoscopic and a clinical image as PPM."""
    folder = tmp_path_factory.mktemp("photos")
    Photo.fromarray(photo(640, 480)).save(folder / "dermoscopic.ppm")
    Photo.fromarray(photo(801, 601, seed=1, mole=0.1)).save(folder / "clinical.ppm")
    return folder / "dermoscopic.ppm", folder / "clinical.ppm"


@pytest.fixture(scope="session")
def binding() -> ModuleType:
    """examples/classify.py as a module."""
    spec = importlib.util.spec_from_file_location("edgeskin_ctypes", SOURCE / "examples" / "classify.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
