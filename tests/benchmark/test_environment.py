"""The environment record against trees of /proc and /sys, and against this machine."""

import json
import re
import socket
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from edgeskin.benchmark import environment
from edgeskin.spec.machine import Environment

SYSFS = Path(__file__).parent / "sysfs"
Tree = Callable[[str], Path]


def test_environment_of_the_vm() -> None:
    found = environment.record(threads=2, root=SYSFS / "vm")
    assert found.cpu_model == "AMD EPYC"
    assert found.cpu_features == (
        "avx2",
        "fma",
        "f16c",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512_vnni",
        "avx512_bf16",
    )
    assert found.memory_bytes == 24684084 * 1024
    assert found.os == "Debian GNU/Linux 12 (bookworm)"
    assert found.board is None
    assert found.governor is None
    assert found.cpu_quota_cores is None
    assert {"board", "governor", "cpu_quota_cores", "memory_limit_bytes"} <= set(found.absent)


def test_environment_of_the_board() -> None:
    found = environment.record(threads=4, backend={"engine": "x"}, root=SYSFS / "board")
    assert found.cpu_model == "CPU implementer 0x41 part 0xd0b"
    assert found.board == "Example Board Rev 1.0"
    assert found.cpu_features == ("asimd", "asimdhp", "asimddp")
    assert found.governor == "ondemand"
    assert found.cpu_quota_cores == 1.5
    assert found.memory_limit_bytes == 4 << 30
    assert found.backend == {"engine": "x"}


def test_unlimited_control_group_is_a_reason_not_a_number(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text("max 100000\n")
    (group / "memory.max").write_text("max\n")
    found = environment.record(threads=1, root=tmp_path)
    assert found.cpu_quota_cores is None
    assert found.memory_limit_bytes is None
    assert found.absent["cpu_quota_cores"] == found.absent["memory_limit_bytes"] == "no limit set"


def test_every_null_of_this_machine_has_its_reason_and_nothing_names_host_or_user() -> None:
    found = environment.record(threads=0)
    plain = found.to_json()
    optional = {
        "cpu_model",
        "board",
        "cpu_quota_cores",
        "governor",
        "memory_bytes",
        "memory_limit_bytes",
        "os",
        "git_revision",
        "power_mode",
        "l4t",
        "jetpack",
        "cuda",
        "tensorrt",
        "smt",
        "turbo",
        "numa_nodes",
    }
    assert {name for name in optional if plain[name] is None} == set(plain["absent"])
    text = json.dumps(plain)
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text
    if len(socket.gethostname()) > 3:
        assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)


def test_versions_are_read_without_importing() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from edgeskin.benchmark import environment; found = environment.versions(); "
        "assert found['numpy'] and found['edgeskin']; "
        "print(sorted({'torch', 'openvino', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_opencv_is_whichever_of_its_packages_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name != "opencv-python":
            raise metadata.PackageNotFoundError(name)
        return "4.13.0.92"

    monkeypatch.setattr(environment.metadata, "version", version)
    assert environment.versions()["opencv"] == "4.13.0.92"
    assert environment.versions()["numpy"] is None


def test_git_revision_of_a_plain_folder_is_absent_with_its_reason(tmp_path: Path) -> None:
    assert environment.git_revision(tmp_path) == (None, "not a git checkout")


def no_python_package(name: str) -> str:
    raise metadata.PackageNotFoundError(name)


def test_a_jetson_names_its_power_mode_and_software(sysfs: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", no_python_package)
    found = environment.record(threads=6, root=sysfs("jetson-orin-nano"))
    assert found.power_mode == "MAXN_SUPER"
    assert (found.l4t, found.jetpack) == ("36.4.3", "6.2")
    assert (found.cuda, found.tensorrt) == ("12.6.11", "10.3.0.30")
    assert found.board == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert found.turbo is False
    assert found.numa_nodes == 1
    assert set(found.absent) >= {"smt"}
    assert not {"power_mode", "l4t", "jetpack", "cuda", "tensorrt"} & set(found.absent)


def test_without_its_package_jetpack_is_the_range_of_the_profiles(sysfs: Tree) -> None:
    root = sysfs("jetson-thor")
    found = environment.record(threads=14, root=root)
    assert (found.l4t, found.jetpack, found.power_mode) == ("38.4.0", "7.1", "120W")
    (root / "etc/nv_tegra_release").write_text("# R99 (release), REVISION: 1.0, GCID: 1\n")
    (root / "var/lib/nvpmodel/status").write_text("pmode:0007\n")
    found = environment.record(threads=14, root=root)
    assert found.jetpack is None
    assert found.absent["jetpack"] == "no release of L4T 99.1.0 in the device profiles"
    assert found.power_mode == "mode 7", "a mode without a name keeps its number"
    (root / "var/lib/nvpmodel/status").unlink()
    assert environment.record(threads=1, root=root).absent["power_mode"].endswith("no such file")


def test_a_pc_says_that_it_is_no_jetson_and_how_its_clocks_are_set(sysfs: Tree) -> None:
    found = environment.record(threads=4, root=sysfs("intel-laptop"))
    assert found.absent["power_mode"] == found.absent["l4t"] == "not a Jetson: no /etc/nv_tegra_release"
    assert (found.smt, found.turbo, found.numa_nodes) == (True, True, 2)
    assert found.governor == "powersave"


@pytest.mark.parametrize("text", ["{", "[]", '{"cuda": 12}', '{"other": {}}'])
def test_a_cuda_file_of_another_form_is_a_reason(tmp_path: Path, text: str) -> None:
    (tmp_path / "usr/local/cuda").mkdir(parents=True)
    (tmp_path / "usr/local/cuda/version.json").write_text(text)
    found = environment.record(threads=1, root=tmp_path)
    assert found.cuda is None
    assert found.absent["cuda"] == "/usr/local/cuda/version.json of another form"


def test_a_record_of_before_these_fields_still_parses() -> None:
    plain = environment.record(threads=1).to_json()
    for name in ("power_mode", "l4t", "jetpack", "cuda", "tensorrt", "smt", "turbo", "numa_nodes"):
        del plain[name]
    assert Environment.parse(plain, "old").jetpack is None
