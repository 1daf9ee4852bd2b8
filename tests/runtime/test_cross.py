"""Toolchain files and the sysroot for 64-bit ARM: what they do on a board, and what they say where something lacks."""

import os
import platform
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = ROOT / "devices" / "runtime"
SCRIPT = RUNTIME / "cross" / "sysroot.sh"
TOOLCHAINS = {
    "aarch64-linux-gnu": "-march=armv8-a",
    "jetson": "-march=armv8.2-a -mtune=cortex-a78ae",
    "raspberry-pi": "-march=armv8-a -mtune=cortex-a76",
}


def run(*command: object, **env: str) -> tuple[int, str]:
    """Exit status of a program, and what it said on standard error."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, env=os.environ | env)
    return done.returncode, done.stderr


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
@pytest.mark.parametrize("name", TOOLCHAINS)
def test_on_a_board_a_toolchain_sets_the_flags_alone(name: str, tmp_path: Path) -> None:
    script = tmp_path / "print.cmake"
    script.write_text(
        f'set(CMAKE_HOST_SYSTEM_PROCESSOR aarch64)\ninclude("{RUNTIME}/cmake/{name}.cmake")\n'
        'message("${CMAKE_CXX_FLAGS_INIT}|${CMAKE_SYSTEM_NAME}|${CMAKE_CXX_COMPILER}|${CMAKE_SYSROOT}")\n'
    )
    assert run("cmake", "-P", script) == (0, f"{TOOLCHAINS[name]}|||\n")


@pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("aarch64-linux-gnu-g++") is None or platform.machine() == "aarch64",
    reason="needs cmake and g++-aarch64-linux-gnu on another processor",
)
@pytest.mark.parametrize("name", TOOLCHAINS)
def test_a_missing_sysroot_is_said_with_its_cure(name: str, tmp_path: Path) -> None:
    toolchain = RUNTIME / "cmake" / f"{name}.cmake"
    status, said = run(
        "cmake", "-S", RUNTIME, "-B", tmp_path, f"-DCMAKE_TOOLCHAIN_FILE={toolchain}", "-DEDGESKIN_SYSROOT=/nowhere"
    )
    said = " ".join(said.split())
    assert status != 0
    assert "EDGESKIN_SYSROOT is no sysroot; got: /nowhere" in said
    assert "fix: run cross/sysroot.sh" in said


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt")
def test_a_mirror_out_of_reach_is_one_line_with_a_fix(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("deb [trusted=yes] http://127.0.0.1:9/debian bookworm main\n")
    status, said = run(SCRIPT, tmp_path / "made", APT_SOURCES=str(tmp_path / "list"))
    assert status == 1
    assert re.fullmatch(r"sysroot\.sh: the lists of arm64 packages cannot be fetched; got: .+; fix: .+\n", said)
    assert [path.name for path in (tmp_path / "made").iterdir()] == [".lock"]


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt")
def test_an_openvino_of_another_hash_is_refused(tmp_path: Path) -> None:
    version = re.search(r"(?m)^openvino==(\S+)", (ROOT / "requirements" / "dev.txt").read_text())
    packages = re.search(r"(?m)^packages=\((.*)\)$", SCRIPT.read_text())
    assert version
    assert packages
    (tmp_path / "made" / "sysroot").mkdir(parents=True)
    (tmp_path / "made" / "sysroot" / ".complete").write_text(packages[1] + "\n")
    false = tmp_path / f"openvino-{version[1]}-1-cp311-cp311-manylinux_2_35_aarch64.whl"
    with zipfile.ZipFile(false, "w") as wheel:
        wheel.writestr(f"openvino-{version[1]}.dist-info/METADATA", f"Name: openvino\nVersion: {version[1]}\n")
    status, said = run(SCRIPT, tmp_path / "made", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert status == 1
    assert "HASH" in said.upper()
    assert not (tmp_path / "made" / "openvino").exists()
