"""TensorRT behind the runtime in C, on machines without TensorRT: it compiles for 10 and 11, and its logic holds.

The declarations in devices/runtime/tests/stubs are for these tests alone. Nothing here shows that TensorRT runs.
"""

import importlib.util
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "devices" / "runtime"
STUBS = SOURCE / "tests" / "stubs"
STRICT = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-pedantic", "-Werror")
VERSIONS = [("10.3.0", 12060), ("10.16.1", 13000), ("11.4.0", 13020)]  # TensorRT and CUDA of JetPack 6, 7 and of a PC


def compiler(*words: object) -> subprocess.CompletedProcess[str]:
    if shutil.which("g++") is None:
        pytest.skip("needs g++; apt-get install g++")
    command = ["g++", "-std=c++17", *(str(word) for word in words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def defines(tensorrt: str, cuda: int | None = None) -> list[str]:
    names = zip(("MAJOR", "MINOR", "PATCH"), tensorrt.split("."), strict=True)
    made = [f"-DNV_TENSORRT_{name}={number}" for name, number in names]
    return made if cuda is None else [*made, f"-DCUDART_VERSION={cuda}"]


def check(*words: object) -> subprocess.CompletedProcess[str]:
    ours = ("-I", SOURCE / "include", "-I", SOURCE / "src")
    return compiler("-fsyntax-only", *STRICT, *ours, *words, SOURCE / "src" / "tensorrt.cpp")


@pytest.mark.parametrize(("tensorrt", "cuda"), VERSIONS)
def test_it_compiles(tensorrt: str, cuda: int) -> None:
    done = check(*defines(tensorrt, cuda), "-isystem", STUBS)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("tensorrt", ["9.3.0", "12.0.0"])
def test_another_major_version_is_refused(tensorrt: str) -> None:
    done = check(*defines(tensorrt, 13000), "-isystem", STUBS)
    assert done.returncode != 0
    assert "TensorRT 10 or 11 is needed" in done.stderr


def test_it_compiles_with_the_real_header_of_cuda(tmp_path: Path) -> None:
    found = importlib.util.find_spec("triton")
    headers = Path(found.origin).parent / "backends" / "nvidia" / "include" if found and found.origin else None
    if headers is None or not (headers / "cuda_runtime_api.h").is_file():
        pytest.skip("needs the headers of CUDA, which the package triton has on x86-64")
    shutil.copy(STUBS / "NvInfer.h", tmp_path)
    done = check(*defines("10.16.1"), "-isystem", tmp_path, "-isystem", headers)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(platform.system() != "Linux", reason="the stand-ins are Linux libraries")
def test_its_logic_holds_against_stand_ins(tmp_path: Path) -> None:
    if not Path("/usr/include/gtest/gtest.h").is_file():
        pytest.skip("needs GoogleTest; apt-get install libgtest-dev")
    tensorrt, cuda = VERSIONS[0]
    runtime, engine = tmp_path / f"libcudart.so.{cuda // 1000}", tmp_path / f"libnvinfer.so.{tensorrt.split('.')[0]}"
    common = (*defines(tensorrt, cuda), "-isystem", STUBS, "-pthread")
    shared = ("-fPIC", "-shared", *common, STUBS / "stand_in.cpp")
    sources = [SOURCE / "src" / f"{name}.cpp" for name in ("tensorrt", "backend", "text")]
    names = ("-DEDGESKIN_WITH_TENSORRT", f'-DVERSION="{tensorrt}"', f'-DLIBCUDART="{runtime.name}"')
    ours = ("-I", SOURCE / "include", "-I", SOURCE / "src", STUBS / "run_tensorrt.cpp", *sources)
    for words in (
        ("-DSTAND_IN_CUDA", *shared, f"-Wl,-soname,{runtime.name}", "-o", runtime),
        (*shared, f"-Wl,-soname,{engine.name}", runtime, "-o", engine),
        (*common, *names, *ours, "-lgtest", "-ldl", "-o", tmp_path / "run"),
    ):
        done = compiler(*words)
        assert done.returncode == 0, done.stderr
    ran = subprocess.run([tmp_path / "run", tmp_path], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "[  PASSED  ] 9 tests." in ran.stdout
    assert ran.stderr == ""
