"""Sensors against trees of /proc and /sys."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeskin.benchmark import sensors

SYSFS = Path(__file__).parent / "sysfs"
Tree = Callable[[str], Path]


def test_vm_reads_what_is_there_and_says_why_the_rest_is_not() -> None:
    found = sensors.read(SYSFS / "vm")
    assert found.peak_rss_bytes == 36828 * 1024
    assert found.cpu_mhz == (2596.13, 2596.13)
    assert found.thermal_c == {}
    assert found.load_1min == 1.12
    assert found.rss_bytes == 30000 * 1024
    assert found.absent == {
        "thermal_c": "no thermal zone in /sys/class/thermal",
        "gpu_mhz": "no GPU in /sys/class/devfreq",
        "gpu_load": "no GPU in /sys/class/devfreq",
        "throttle": "no counter, flag or cooling device of throttling in /sys",
    }


def test_board_reads_clocks_and_zones_and_names_the_silent_one() -> None:
    found = sensors.read(SYSFS / "board")
    assert found.cpu_mhz == (2400.0, 2400.0, 1500.0, 2400.0)
    assert found.thermal_c == {"cpu-thermal": 53.45, "cpu-thermal/thermal_zone2": 51.0}
    assert found.absent["thermal_c"] == "no reading from gpu-thermal (empty)"


def test_an_empty_tree_gives_only_reasons(tmp_path: Path) -> None:
    found = sensors.read(tmp_path)
    assert found.peak_rss_bytes is None
    assert found.cpu_mhz == ()
    assert found.load_1min is None
    assert found.throttle == found.gpu_mhz == {}
    assert set(found.absent) == {
        "peak_rss_bytes", "rss_bytes", "cpu_mhz", "thermal_c", "load_1min", "gpu_mhz", "gpu_load", "throttle"
    }  # fmt: skip
    assert sensors.ticks(tmp_path) is None


def test_a_zone_that_is_no_number_is_silent(tmp_path: Path) -> None:
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("N/A\n")
    assert sensors.thermal_c(tmp_path) == ({}, "no reading from thermal_zone0 (not a number)")


def test_orin_nano_tells_clocks_load_and_alerts_of_its_gpu(sysfs: Tree) -> None:
    found = sensors.read(sysfs("jetson-orin-nano"))
    assert found.gpu_mhz == {"17000000.gpu": 1020.0}
    assert found.gpu_load == 0.312
    assert found.thermal_c["tj-thermal"] == 51.218
    assert found.absent["thermal_c"] == "no reading from cv0-thermal (empty)"
    assert "pwm-fan" not in found.throttle, "a fan that turns holds no clock back"
    assert found.throttle["cpu-throttle-alert"] == found.throttle["devfreq-17000000.gpu"] == 0
    assert found.throttle["over_current_events_oc3"] == 2
    assert sensors.throttled(found, found) == (), "events of before the run are not the run's"


def test_thor_has_two_gpu_clocks_no_load_and_is_held_back(sysfs: Tree) -> None:
    found = sensors.read(sysfs("jetson-thor"))
    assert found.gpu_mhz == {"gpu-gpc-0": 1575.0, "gpu-nvd-0": 1692.0}
    assert found.gpu_load is None
    assert found.absent["gpu_load"] == "the GPU's driver gives no load in /sys"
    assert set(sensors.throttled(found, found)) == {"gpu-throttle-alert: 1", "devfreq-gpu-gpc-0: 18"}


def test_raspberry_pi_tells_now_from_since_the_start(sysfs: Tree) -> None:
    root = sysfs("raspberry-pi-5")
    before = sensors.read(root)
    assert before.throttle["under_voltage"] == before.throttle["throttled"] == 0
    assert before.throttle["under_voltage_since_start"] == before.throttle["throttled_since_start"] == 1
    assert before.throttle["frequency_capped_since_start"] == 0
    assert sensors.throttled(before, before) == ()
    word = root / "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"
    word.write_text("d0008\n")  # the soft temperature limit, now and since the start
    assert set(sensors.throttled(before, sensors.read(root))) == {
        "soft_temperature_limit: 1",
        "soft_temperature_limit_since_start rose by 1",
    }
    word.write_text("garbage\n")
    assert "throttled" not in sensors.throttle(root)[0]


def test_mainline_raspberry_pi_has_the_alarm_alone(sysfs: Tree) -> None:
    root = sysfs("raspberry-pi-5")
    (root / "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled").unlink()
    (root / "sys/class/hwmon/hwmon3/in0_lcrit_alarm").write_text("1\n")
    assert sensors.throttle(root)[0] == {"under_voltage_since_start": 1, "cpufreq-cpu0": 0}


def test_intel_laptop_counts_events_and_ignores_the_powerclamp(sysfs: Tree) -> None:
    root = sysfs("intel-laptop")
    before = sensors.read(root)
    assert before.throttle == {"core_throttle_events": 12, "package_throttle_events": 7, "Processor": 0}
    assert before.thermal_c == {"acpitz": 45.0, "x86_pkg_temp": 61.0, "Package id 0": 62.0}
    (root / "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count").write_text("8\n")
    assert sensors.throttled(before, sensors.read(root)) == ("core_throttle_events rose by 5",)


@settings(max_examples=60)
@given(word=st.integers(0, (1 << 20) - 1))
def test_every_bit_of_the_firmwares_word_keeps_its_place(word: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "sys/devices/platform/soc/soc:firmware/get_throttled"
        place.parent.mkdir(parents=True)
        place.write_text(f"{word:x}\n")
        found, _ = sensors.throttle(Path(folder))
    names = ("under_voltage", "frequency_capped", "throttled", "soft_temperature_limit")
    rebuilt = sum(found[name] << bit | found[f"{name}_since_start"] << bit + 16 for bit, name in enumerate(names))
    assert rebuilt == word & 0xF000F


def test_ticks_count_all_but_idle_and_waiting() -> None:
    found = sensors.ticks(SYSFS / "vm")
    assert found is not None
    assert found.busy / found.total == pytest.approx(150 / 1000)


def test_own_work_is_not_blamed_on_others() -> None:
    before, after = sensors.Ticks(100, 50, 10), sensors.Ticks(120, 66, 20)
    assert sensors.others_share(before, after) == pytest.approx(6 / 20)
    assert sensors.others_share(before, before) is None
    assert sensors.others_share(None, after) is None
