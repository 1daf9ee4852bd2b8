"""Energy of a stretch of work, from the machine's own sensors: rails of a Jetson, RAPL of an x86 processor.

Rails say watts: a thread samples them and the trapezoid rule sums them up. RAPL counts joules: the counter's difference
is the energy, its wrap undone. Energy is never estimated from a data sheet: without a sensor there is a reason.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgeskin.benchmark.sensors import ROOT, hwmon, numbered, read_int, read_text
from edgeskin.spec.machine import Energy

RAIL_PERIOD_S = 0.1  # an INA3221 answers over I2C: half a millisecond a register, some 3 % of one core at this rate
COUNTER_PERIOD_S = 10.0  # only so that no counter wraps twice unseen: 262 kJ last 17 minutes at 250 W
MIN_SAMPLES = 10  # fewer readings of a rail say little about a mean
# Which rails together feed everything, by the labels of the board's device tree; the first rule that fits counts.
# AGX Orin has a fourth rail, VDDQ_VDD2_1V8AO, which hangs on VIN_SYS_5V0: to add it would count the memory twice.
_TOTALS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("VIN",), "the board with its carrier"),  # INA238 of AGX Thor
    (("VDD_IN",), "the module"),  # Orin Nano, Orin NX, Xavier NX
    (("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), "the module, sum of its supplies"),  # AGX Orin
    (("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"), "the module, sum of its supplies"),  # Thor without the INA238
)


def trapezoid_j(at_s: Sequence[float], watts: Sequence[float]) -> float:
    """Joules of power samples in watts, taken at these seconds, by the trapezoid rule.

    >>> trapezoid_j([0.0, 1.0, 3.0], [4.0, 6.0, 6.0])  # 1 s at 5 W on average, 2 s at 6 W
    17.0
    """
    steps = zip(at_s, at_s[1:], watts, watts[1:], strict=False)
    return sum((later - earlier) * (low + high) / 2 for earlier, later, low, high in steps)


def counter_j(before_uj: int, after_uj: int, range_uj: int) -> float:
    """Joules between two readings of a counter in microjoules that starts anew after `range_uj`.

    >>> counter_j(1_000_000, 3_500_000, 262_143_328_850)
    2.5
    >>> counter_j(262_143_000_000, 671_150, 262_143_328_850)  # it wrapped: 0.32885 J before, 0.67115 J after
    1.0
    """
    return (after_uj - before_uj + (range_uj if after_uj < before_uj else 0)) / 1e6


def per_examination_mj(joules: float, seconds: float, idle_w: float, examinations: int) -> float:
    """Millijoules an examination takes beyond what the machine would have taken at rest: (E - P_idle t) / n.

    >>> per_examination_mj(joules=12.0, seconds=2.0, idle_w=4.0, examinations=100)  # 12 J less 8 J, over 100
    40.0
    """
    return 1000 * (joules - idle_w * seconds) / examinations


@dataclass(frozen=True, slots=True)
class Rail:
    """A supply of the board: its power in microwatts, or its voltage in mV and current in mA."""

    label: str
    microwatts: Path | None = None
    millivolts: Path | None = None
    milliamperes: Path | None = None

    def watts(self) -> float | None:
        """Power now, or None if the chip does not answer."""
        if self.microwatts is not None:
            power = read_int(self.microwatts)[0]
            return None if power is None else power / 1e6
        assert self.millivolts is not None
        assert self.milliamperes is not None
        voltage, current = read_int(self.millivolts)[0], read_int(self.milliamperes)[0]
        return None if voltage is None or current is None else voltage * current / 1e6


@dataclass(frozen=True, slots=True)
class Domain:
    """A part of the processor that RAPL counts: where its counter is and where that starts anew."""

    label: str
    energy_uj: Path
    range_uj: int


class Tally(Protocol):
    """Sums readings up into joules."""

    samples: int
    missed: int

    def add(self, at_s: float) -> None:
        """Read the source once, at this time."""

    def joules(self) -> dict[str, float]:
        """Energy of each rail or domain since the first reading."""


class RailTally:
    """Samples of rails; a moment at which one of them does not answer is left out for all."""

    def __init__(self, rails: Sequence[Rail]) -> None:
        self._rails, self._at = rails, list[float]()
        self._watts: dict[str, list[float]] = {rail.label: [] for rail in rails}
        self.samples = self.missed = 0

    def add(self, at_s: float) -> None:
        read = {rail.label: rail.watts() for rail in self._rails}
        known = {label: watts for label, watts in read.items() if watts is not None}
        if len(known) < len(read):
            self.missed += 1
            return
        self._at.append(at_s)
        for label, watts in known.items():
            self._watts[label].append(watts)
        self.samples += 1

    def joules(self) -> dict[str, float]:
        return {label: trapezoid_j(self._at, watts) for label, watts in self._watts.items()}


class CounterTally:
    """Differences of counters, from reading to reading so that each wrap is seen."""

    def __init__(self, domains: Sequence[Domain]) -> None:
        self._domains = domains
        self._last: dict[str, int] = {}
        self._joules: dict[str, float] = {domain.label: 0.0 for domain in domains}
        self.samples = self.missed = 0

    def add(self, at_s: float) -> None:
        read = {domain.label: read_int(domain.energy_uj)[0] for domain in self._domains}
        if None in read.values():
            self.missed += 1
            return
        for domain in self._domains:
            now = read[domain.label]
            assert now is not None
            if domain.label in self._last:
                self._joules[domain.label] += counter_j(self._last[domain.label], now, domain.range_uj)
            self._last[domain.label] = now
        self.samples += 1

    def joules(self) -> dict[str, float]:
        return dict(self._joules)


@dataclass(slots=True)
class Work:
    """What a meter saw of a stretch of work; filled when the stretch ends."""

    seconds: float = 0.0
    joules: dict[str, float] = field(default_factory=dict)
    samples: int = 0
    missed: int = 0


class Meter:
    """A source of energy readings; one without a source measures nothing and says why in `reason`."""

    def __init__(
        self,
        source: str = "",
        *,
        reason: str = "",
        covers: str = "",
        total: Sequence[str] = (),
        period_s: float = RAIL_PERIOD_S,
        tally: Callable[[], Tally] | None = None,
    ) -> None:
        self.source, self.reason, self.covers, self.total = source, reason, covers, tuple(total)
        self.period_s, self._tally = period_s, tally

    @contextmanager
    def measure(self) -> Iterator[Work]:
        """Read the source from here to the end of the block; the `Work` is complete when the block has ended."""
        work = Work()
        if self._tally is None:
            yield work
            return
        tally, stop = self._tally(), threading.Event()

        def sample() -> None:
            while not stop.wait(self.period_s):
                tally.add(time.monotonic())

        started = time.monotonic()
        tally.add(started)
        thread = threading.Thread(target=sample, name="energy", daemon=True)
        thread.start()
        try:
            yield work
        finally:
            stop.set()
            thread.join()
            ended = time.monotonic()
            tally.add(ended)
            work.seconds, work.joules = ended - started, tally.joules()
            work.samples, work.missed = tally.samples, tally.missed

    def idle_w(self, seconds: float = 3.0) -> float | None:
        """Watts of this machine at rest: call it before the work, with nothing else running."""
        with self.measure() as rest:
            if self._tally is not None:
                time.sleep(seconds)
        return None if self._trouble(rest) else self._sum(rest.joules) / rest.seconds

    def record(self, work: Work, *, examinations: int, idle_w: float | None) -> tuple[Energy | None, str]:
        """What the work took, an examination too; or None and the reason."""
        if trouble := self._trouble(work):
            return None, trouble
        joules = self._sum(work.joules)
        absent, each = {}, None
        if idle_w is None:
            absent["idle_w"] = absent["per_examination_mj"] = "power at rest was not measured before the work"
        elif examinations < 1:
            absent["per_examination_mj"] = "no examination was made"
        elif (each := per_examination_mj(joules, work.seconds, idle_w, examinations)) <= 0:
            absent["per_examination_mj"] = "the work took no more than rest: below what this source resolves"
            each = None
        if work.missed:
            absent["samples"] = f"{work.missed} readings gave no answer and were left out"
        return Energy(
            source=self.source,
            seconds=work.seconds,
            joules=joules,
            idle_w=idle_w,
            per_examination_mj=each,
            rails_j=work.joules,
            absent=absent,
            covers=self.covers,
            examinations=examinations,
            samples=work.samples,
            period_s=self.period_s,
        ), ""

    def _sum(self, joules: Mapping[str, float]) -> float:
        return sum(joules[name] for name in self.total)

    def _trouble(self, work: Work) -> str:
        """Why a stretch of work gives no figure, or ""."""
        if self._tally is None:
            return self.reason
        needed = 2 if self.source == "rapl" else MIN_SAMPLES
        if work.samples >= needed and work.missed <= work.samples // 10:
            return ""
        missed = f", {work.missed} without an answer" if work.missed else ""
        return f"{work.samples} readings of {self.source}{missed}; {needed} are needed, {self.period_s:g} s apart"


def find(root: Path = ROOT) -> Meter:
    """The meter of this machine; of several sources the one that covers most. Its `reason` says why there is none."""
    if rails := _rails(root):
        labels = {rail.label for rail in rails}
        for names, covers in _TOTALS:
            if labels.issuperset(names):
                source = "ina238" if names == ("VIN",) else "ina3221"
                return Meter(source, covers=covers, total=names, tally=lambda: RailTally(rails))
        return Meter(reason=f"rails {', '.join(sorted(labels))}: which of them feed the whole board is not known to us")
    domains, reason = _domains(root)
    if not domains:
        return Meter(reason=reason or "no INA3221 or INA238 in /sys/class/hwmon, no RAPL in /sys/class/powercap")
    packages = [domain.label for domain in domains if domain.label.startswith("package-")]  # "psys" is left out of it
    total = [name for name in packages if "/" not in name or name.endswith("/dram")]  # cores are within their package
    covers = "the processor and its memory" if any("/" in name for name in total) else "the processor"
    return Meter("rapl", covers=covers, total=total, period_s=COUNTER_PERIOD_S, tally=lambda: CounterTally(domains))


def _rails(root: Path) -> list[Rail]:
    """Rails of the kernel drivers ina3221 (channels in1 to in3, labelled) and ina238 (one, power in microwatts)."""
    found = []
    for chip in hwmon(root, "ina3221"):
        for channel in (1, 2, 3):  # in4 to in6 are shunt voltages, in7 is their sum: no rails
            label = read_text(chip / f"in{channel}_label")[0]
            volts, amperes = chip / f"in{channel}_input", chip / f"curr{channel}_input"
            if label and label != "NC" and read_int(volts)[0] is not None and read_int(amperes)[0] is not None:
                found.append(Rail(label, millivolts=volts, milliamperes=amperes))
    for chip in hwmon(root, "ina238"):
        if read_int(chip / "power1_input")[0] is not None:
            label = read_text(chip / "label")[0] or read_text(chip / "in1_label")[0] or "VIN"
            found.append(Rail(label, microwatts=chip / "power1_input"))
    return found


def _domains(root: Path) -> tuple[list[Domain], str]:
    """Domains of the kernel driver intel_rapl, which AMD's processors have too; or [] and the reason."""
    found, reason = [], ""
    for folder in numbered((root / "sys/class/powercap").glob("intel-rapl:*")):
        name = read_text(folder / "name")[0]
        uj, why = read_int(folder / "energy_uj")
        limit = read_int(folder / "max_energy_range_uj")[0]
        if uj is None or not limit or not name:
            if why == "EACCES":
                why = "readable by root only; fix: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
            reason = reason or f"RAPL: {why or 'incomplete'}"
            continue
        parent = read_text(folder.with_name(folder.name.rpartition(":")[0]) / "name")[0]
        found.append(Domain(f"{parent}/{name}" if folder.name.count(":") > 1 else name, folder / "energy_uj", limit))
    if not any(domain.label.startswith("package-") for domain in found):
        return [], reason
    return found, ""
