"""What the doctor says of sensors and of a Jetson's software, on recorded trees."""

import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from edgeskin import doctor
from edgeskin.benchmark import survey
from edgeskin.doctor import Check

Tree = Callable[[str], Path]


def look(root: Path) -> dict[str, Check]:
    return {check.name: check for check in survey.checks(root)}


def test_an_orin_nano_has_everything(sysfs: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(metadata, "version", absent)
    found = look(sysfs("jetson-orin-nano"))
    assert {check.status for check in found.values()} == {"ok"}
    assert found["energy sensor"].found == "ina3221: the module"
    assert found["clock sensor"].found == "6 cores, 1728 to 1728 MHz; GPU 1020 MHz"
    assert found["temperature sensor"].found == "4 zones, at most 51.2 °C"
    assert found["throttle sensor"].found.endswith("nothing held back now")
    assert found["system software"].found == (
        "l4t 36.4.3, jetpack 6.2, cuda 12.6.11, tensorrt 10.3.0.30, power_mode MAXN_SUPER"
    )


def test_a_release_that_nobody_names_for_the_board_is_told(sysfs: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    root = sysfs("jetson-orin-nano")
    (root / "etc/nv_tegra_release").write_text("# R40 (release), REVISION: 1.0, GCID: 1\n")
    check = look(root)["system software"]
    assert check.status == "absent"
    assert "no release that the profile jetson-orin-nano lists" in check.found


def test_thor_is_held_back_now(sysfs: Tree) -> None:
    found = look(sysfs("jetson-thor"))["throttle sensor"].found
    assert found.startswith("4 flags and counters; now: ")
    assert "gpu-throttle-alert: 1" in found
    assert "devfreq-gpu-gpc-0: 18" in found


def test_a_vm_has_reasons_and_no_jetpack() -> None:
    found = look(Path(__file__).parent / "sysfs" / "vm")
    assert "system software" not in found
    for name in ("energy sensor", "temperature sensor", "throttle sensor"):
        assert found[name].status == "absent"
        assert found[name].found
        assert found[name].enables
    assert found["clock sensor"].status == "ok"


def test_the_cure_of_an_unreadable_counter_stands_apart() -> None:
    check = survey._check("energy sensor", "", "RAPL: readable by root only; fix: sudo chmod a+r X", "millijoules")
    assert (check.found, check.fix) == ("RAPL: readable by root only", "sudo chmod a+r X")


def test_this_machine_goes_through_the_doctor() -> None:
    checks = doctor.doctor(sensors=survey.checks())
    assert doctor.exit_code(checks) == 0
    assert len({check.name for check in checks}) == len(checks)
