"""Which engine the runtime in C opens a bundle by: the target's, or a fall-back that the manifest names."""

import ctypes
import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import edgeskin
from edgeskin import fallback
from tests.runtime.conftest import TINY


@pytest.fixture(scope="module")
def onnxruntime_path() -> Path:
    """The folder of ONNX Runtime's shared library."""
    found = importlib.util.find_spec("onnxruntime")
    if (
        found is None
        or found.origin is None
        or not any((Path(found.origin).parent / "capi").glob("libonnxruntime.so*"))
    ):
        pytest.skip("this package onnxruntime has no libonnxruntime.so of its own")
    return Path(found.origin).parent / "capi"


def photo(seed: int, radius: int = 60) -> np.ndarray:
    """Skin with a dark, textured lesion: uint8 [240, 320, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-120:120, -160:160]
    inside = np.hypot(x, y) < radius + 8 * np.sin(5 * np.arctan2(y, x) + seed)
    colour = np.where(inside[..., None], (105, 70, 60), (205, 165, 145))
    return (colour + rng.integers(-14, 15, (240, 320, 1)) + 6 * ((x // 6 + y // 6) % 2)[..., None]).astype(np.uint8)


def test_onnxruntime_gives_pythons_decisions(
    binding: ModuleType, runtime_library: Path, onnxruntime_path: Path
) -> None:
    library = binding.load_library(runtime_library)
    library.es_supports.restype = ctypes.c_char_p
    if told := library.es_supports(b"onnxruntime", str(onnxruntime_path).encode()):
        assert b"built without it" in told
        pytest.skip("the library was built without ONNX Runtime's header; devices/runtime/cmake/onnxruntime-headers.sh")
    classifier = edgeskin.load(TINY)
    with binding.EdgeSkin(TINY, library, backend_path=onnxruntime_path) as small:
        assert small.info()["backend"].startswith("onnxruntime 1.")
        assert small.info()["fallback"] == ""
        assert small.selftest()["failed"] == 0
        for seed in range(20):
            clinical = photo(seed + 100, 25) if seed % 2 else None
            ours = small.classify(photo(seed), clinical)
            theirs = classifier.classify(dermoscopic=photo(seed), clinical=clinical)
            assert theirs.decision is not None
            assert ours["predicted"] == theirs.predicted
            assert ours["decision"]["refer"] == theirs.decision.refer
            for task, classes in theirs.probabilities.items():
                assert ours["probabilities"][task] == pytest.approx(classes, abs=1e-6)


def test_a_bundle_falls_back_as_its_manifest_says(
    binding: ModuleType, runtime_library: Path, backend_path: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(TINY, tmp_path / "tiny"))
    with pytest.raises(binding.EdgeSkinError, match=r"no engine that bundle .* may use works here"):
        binding.EdgeSkin(bundle, runtime_library, backend_path=tmp_path, no_fallback=1)
    fallback.add(bundle, "openvino")
    told: list[str] = []
    options = {"backend_path": backend_path, "log": lambda _, line: told.append(line)}
    with binding.EdgeSkin(bundle, runtime_library, backend="openvino", **options) as small:
        assert small.info()["backend"].startswith("openvino 20")
        assert small.selftest()["failed"] == 0
        assert small.classify(photo(1), photo(2, 25))["assessable"]
    assert any("loaded by openvino" in line for line in told)
