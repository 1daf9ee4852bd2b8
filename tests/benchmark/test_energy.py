"""Energy against recorded trees: which rails count, sums, wraps, rest, and reasons where there is nothing."""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeskin.benchmark import energy

Tree = Callable[[str], Path]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rails are read each 2 ms and two readings do, so that a test need not last a second."""
    monkeypatch.setattr(energy, "MIN_SAMPLES", 2)
    init = energy.Meter.__init__
    monkeypatch.setattr(energy.Meter, "__init__", lambda self, *a, **k: init(self, *a, **{**k, "period_s": 0.002}))


def spend(meter: energy.Meter, seconds: float = 0.1) -> energy.Work:
    with meter.measure() as work:
        time.sleep(seconds)
    return work


@pytest.mark.parametrize(
    ("board", "source", "covers", "watts"),
    [
        ("jetson-orin-nano", "ina3221", "the module", 4.984 * 1.856),
        (
            "jetson-agx-orin",
            "ina3221",
            "the module, sum of its supplies",
            (19952 * 320 + 19952 * 120 + 4968 * 953) / 1e6,
        ),
        ("jetson-thor", "ina238", "the board with its carrier", 40.0),
    ],
)
def test_steady_rails_give_power_times_time(
    sysfs: Tree, quick: None, board: str, source: str, covers: str, watts: float
) -> None:
    meter = energy.find(sysfs(board))
    assert (meter.source, meter.covers, meter.reason) == (source, covers, "")
    work = spend(meter)
    found, reason = meter.record(work, examinations=10, idle_w=watts / 2)
    assert reason == ""
    assert found is not None
    assert found.joules == pytest.approx(watts * work.seconds)
    assert found.per_examination_mj == pytest.approx(1000 * watts / 2 * work.seconds / 10)
    assert found.samples >= 2
    assert found.absent == {}
    assert not any("shunt" in name or name == "NC" for name in found.rails_j)


def test_thor_without_its_carriers_monitor_sums_the_modules_rails(sysfs: Tree, quick: None) -> None:
    root = sysfs("jetson-thor")
    shutil.rmtree(root / "sys/class/hwmon/hwmon6")
    meter = energy.find(root)
    assert meter.source == "ina3221"
    work = spend(meter)
    found, _ = meter.record(work, examinations=1, idle_w=0.0)
    assert found is not None
    assert found.joules / work.seconds == pytest.approx((12040 * 640 + 12040 * 960 + 5088 * 1740) / 1e6)


def test_idle_power_and_rest_that_takes_more_than_work(sysfs: Tree, quick: None) -> None:
    meter = energy.find(sysfs("jetson-thor"))
    idle = meter.idle_w(0.05)
    assert idle == pytest.approx(40.0)
    found, _ = meter.record(spend(meter, 0.05), examinations=5, idle_w=41.0)
    assert found is not None
    assert found.per_examination_mj is None
    assert "no more than rest" in found.absent["per_examination_mj"]
    found, _ = meter.record(spend(meter, 0.05), examinations=5, idle_w=None)
    assert found is not None
    assert found.joules > 0
    assert set(found.absent) == {"idle_w", "per_examination_mj"}
    found, _ = meter.record(spend(meter, 0.05), examinations=0, idle_w=1.0)
    assert found is not None
    assert found.absent["per_examination_mj"] == "no examination was made"


def test_too_few_readings_give_a_reason_not_a_figure(sysfs: Tree) -> None:
    meter = energy.find(sysfs("jetson-thor"))
    found, reason = meter.record(spend(meter, 0.01), examinations=1, idle_w=1.0)
    assert found is None
    assert reason.endswith("readings of ina238; 10 are needed, 0.1 s apart")
    assert meter.idle_w(0.01) is None


def test_a_rail_that_falls_silent_is_told(sysfs: Tree, quick: None) -> None:
    root = sysfs("jetson-thor")
    meter = energy.find(root)
    with meter.measure() as work:
        (root / "sys/class/hwmon/hwmon6/power1_input").write_text("N/A\n")
        time.sleep(0.05)
    found, reason = meter.record(work, examinations=1, idle_w=1.0)
    assert found is None
    assert "without an answer" in reason


def test_the_thread_ends_with_the_block_even_after_an_error(sysfs: Tree, quick: None) -> None:
    meter = energy.find(sysfs("jetson-thor"))
    with pytest.raises(KeyboardInterrupt), meter.measure():
        raise KeyboardInterrupt
    assert not [thread for thread in threading.enumerate() if thread.name == "energy"]


def test_rapl_counts_package_and_memory_through_the_wrap(sysfs: Tree) -> None:
    root = sysfs("intel-laptop")
    meter = energy.find(root)
    assert (meter.source, meter.covers) == ("rapl", "the processor and its memory")
    with meter.measure() as work:
        (root / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("1671150\n")  # wrapped: 2 J further
        (root / "sys/class/powercap/intel-rapl:0:1/energy_uj").write_text("5500000\n")
        (root / "sys/class/powercap/intel-rapl:1/energy_uj").write_text("19000000\n")
    found, reason = meter.record(work, examinations=2, idle_w=0.0)
    assert reason == ""
    assert found is not None
    assert found.joules == pytest.approx(2.0 + 0.5), "psys feeds more than the processor, core is within its package"
    assert found.rails_j == pytest.approx(
        {"package-0": 2.0, "package-0/core": 0.0, "package-0/dram": 0.5, "psys": 10.0}
    )
    assert found.per_examination_mj == pytest.approx(1250.0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that another user may enter, as pytest's own may not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_rapl_for_root_alone_names_the_cure(sysfs: Tree, open_folder: Path) -> None:
    root = open_folder / "laptop"
    shutil.copytree(sysfs("intel-laptop"), root)
    for counter in root.glob("sys/class/powercap/*/energy_uj"):
        counter.chmod(0o400)
        if os.geteuid() != 0:
            counter.chmod(0o000)
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            meter = energy.find(root)
        finally:
            os.seteuid(0)
    else:
        meter = energy.find(root)
    assert meter.source == ""
    assert meter.reason.startswith("RAPL: readable by root only; fix: sudo chmod a+r /sys/class/powercap/")


@pytest.mark.parametrize("board", ["raspberry-pi-5"])
def test_nothing_to_read_is_a_reason_and_measures_nothing(sysfs: Tree, board: str) -> None:
    meter = energy.find(sysfs(board))
    assert meter.reason == "no INA3221 or INA238 in /sys/class/hwmon, no RAPL in /sys/class/powercap"
    with meter.measure() as work:
        pass
    assert meter.record(work, examinations=1, idle_w=meter.idle_w()) == (None, meter.reason)


def test_rails_of_an_unknown_board_are_not_guessed_at(sysfs: Tree) -> None:
    root = sysfs("jetson-orin-nano")
    (root / "sys/class/hwmon/hwmon1/in1_label").write_text("SOMETHING\n")
    meter = energy.find(root)
    assert meter.reason.startswith("rails SOMETHING, VDD_CPU_GPU_CV, VDD_SOC: which of them")


@given(st.lists(st.tuples(st.floats(0.001, 10), st.floats(0, 200)), min_size=2, max_size=30))
def test_the_sum_lies_between_least_and_most_power(steps: list[tuple[float, float]]) -> None:
    at = [sum(step for step, _ in steps[: n + 1]) for n in range(len(steps))]
    watts = [power for _, power in steps]
    span = at[-1] - at[0]
    joules = energy.trapezoid_j(at, watts)
    assert min(watts) * span - 1e-6 <= joules <= max(watts) * span + 1e-6


@given(st.integers(1, 10**12), st.data())
def test_a_counter_never_runs_backwards(range_uj: int, data: st.DataObject) -> None:
    before, after = (data.draw(st.integers(0, range_uj)) for _ in range(2))
    joules = energy.counter_j(before, after, range_uj)
    assert 0 <= joules <= range_uj / 1e6
    assert round((before + joules * 1e6) % range_uj - after) % range_uj == 0
