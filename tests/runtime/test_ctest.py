"""The runtime's own tests in C++, on a bundle that OpenVINO opens, and what a classification costs in memory."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.runtime.conftest import ROOT, locked

LIMIT = 1_500_000  # bytes of the stripped library: a tenth of the smallest network that it carries would be too much


@pytest.fixture(scope="module")
def built(runtime_build: Path) -> Path:
    """The build folder with the tests in it."""
    with locked(runtime_build.parent / f".{runtime_build.name}.lock"):
        done = _run("cmake", "-DEDGESKIN_TESTS=ON", runtime_build)
        if done.returncode:
            _run("cmake", "-DEDGESKIN_TESTS=OFF", runtime_build)
            if "GTest" in done.stderr:
                pytest.skip("needs GoogleTest; apt-get install libgtest-dev")
        assert done.returncode == 0, done.stderr
        done = _run("cmake", "--build", runtime_build, "--parallel", "2")
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    return runtime_build


def _run(*words: object, **variables: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
    command = [str(word) for word in words]
    return subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False, env=environment)


def test_the_tests_in_c_pass(built: Path, backend_path: Path) -> None:
    words = ("ctest", "--test-dir", built, "--output-on-failure", "--parallel", "2")
    done = _run(*words, EDGESKIN_TEST_OPENVINO_LIBRARIES=backend_path)
    assert done.returncode == 0, done.stdout[-8000:]
    assert "100% tests passed" in done.stdout
    skipped = [line for line in done.stdout.splitlines() if "Skipped" in line]
    assert not [line for line in skipped if "Opened." in line], skipped


def test_classifying_allocates_nothing_of_ours(built: Path, tiny_openvino: Path, backend_path: Path) -> None:
    done = _run(built / "tests" / "soak", tiny_openvino, backend_path, 1000)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["classifications"] == 1000
    assert found["allocations"] == 0
    assert found["engine_allocations"] > 0  # so the count does count


def test_eight_threads_with_their_own_models(built: Path, tiny_openvino: Path, backend_path: Path) -> None:
    done = _run(built / "tests" / "soak", tiny_openvino, backend_path, 200, 8)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["classifications"], found["allocations"]) == (1600, 0)


def test_the_library_stays_small_and_shows_its_interface_alone(runtime_library: Path, tmp_path: Path) -> None:
    if shutil.which("strip") is None:
        pytest.skip("needs strip; apt-get install binutils")
    stripped = tmp_path / "stripped.so"
    assert _run("strip", "-o", stripped, runtime_library.resolve()).returncode == 0
    assert stripped.stat().st_size <= LIMIT
    shown = _run("nm", "-D", "--defined-only", runtime_library).stdout
    names = {line.split()[-1].split("@")[0] for line in shown.splitlines() if " T " in line}
    header = (ROOT / "devices" / "runtime" / "include" / "edgeskin.h").read_text(encoding="utf-8")
    assert names
    assert {name for name in names if f"{name}(" not in header} == set()
    assert {"es_open", "es_selftest", "es_classify", "es_info", "es_close", "es_strerror", "es_abi_version"} <= names
    assert len(header.splitlines()) < 300
