"""Sensors and environment record against trees of /proc and /sys, and against this machine."""

import json
import re
import socket
from pathlib import Path

import pytest

from edgeskin.benchmark import environment, sensors

SYSFS = Path(__file__).parent / "sysfs"


def test_vm_reads_what_is_there_and_says_why_the_rest_is_not() -> None:
    found = sensors.read(SYSFS / "vm")
    assert found.peak_rss_bytes == 36828 * 1024
    assert found.cpu_mhz == (2596.13, 2596.13)
    assert found.thermal_c == {}
    assert found.load_1min == 1.12
    assert found.absent == {"thermal_c": "no thermal zone in /sys/class/thermal"}


def test_board_reads_clocks_and_zones_and_names_the_silent_one() -> None:
    found = sensors.read(SYSFS / "board")
    assert found.cpu_mhz == (2400.0, 2400.0, 1500.0, 2400.0)
    assert found.thermal_c == {"cpu-thermal": 53.45, "cpu-thermal/thermal_zone2": 51.0}
    assert found.absent == {"thermal_c": "no reading from gpu-thermal (empty)"}


def test_an_empty_tree_gives_only_reasons(tmp_path: Path) -> None:
    found = sensors.read(tmp_path)
    assert found.peak_rss_bytes is None
    assert found.cpu_mhz == ()
    assert found.load_1min is None
    assert set(found.absent) == {"peak_rss_bytes", "cpu_mhz", "thermal_c", "load_1min"}
    assert sensors.ticks(tmp_path) is None


def test_a_zone_that_is_no_number_is_silent(tmp_path: Path) -> None:
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("N/A\n")
    assert sensors.thermal_c(tmp_path) == ({}, "no reading from thermal_zone0 (not a number)")


def test_ticks_count_all_but_idle_and_waiting() -> None:
    found = sensors.ticks(SYSFS / "vm")
    assert found is not None
    assert found.busy / found.total == pytest.approx(150 / 1000)


def test_own_work_is_not_blamed_on_others() -> None:
    before, after = sensors.Ticks(100, 50, 10), sensors.Ticks(120, 66, 20)
    assert sensors.others_share(before, after) == pytest.approx(6 / 20)
    assert sensors.others_share(before, before) is None
    assert sensors.others_share(None, after) is None


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


def test_git_revision_of_a_plain_folder_is_absent_with_its_reason(tmp_path: Path) -> None:
    assert environment.git_revision(tmp_path) == (None, "not a git checkout")
