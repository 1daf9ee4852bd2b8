"""What the machine says of itself while it works: memory, clocks, temperatures, load. Absent comes with its reason."""

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgeskin.spec.machine import Sensors

ROOT = Path("/")


def read_text(path: Path) -> tuple[str | None, str]:
    """The stripped text of a small kernel file, or None and the reason it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace").strip("\x00 \n\t")
    except FileNotFoundError:
        return None, "no such file"
    except OSError as error:  # a zone that is powered down answers EAGAIN or EINVAL
        return None, errno.errorcode.get(error.errno or 0, str(error.errno))
    return (text, "") if text else (None, "empty")


def peak_rss_bytes(root: Path = ROOT) -> int | None:
    """The most memory this process ever held in RAM (VmHWM), in bytes.

    >>> (peak_rss_bytes() or 0) > 1_000_000
    True
    """
    text, _ = read_text(root / "proc/self/status")
    for line in (text or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _numbered(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: int("".join(filter(str.isdigit, path.name)) or 0))


def cpu_mhz(root: Path = ROOT) -> tuple[tuple[float, ...], str]:
    """The current clock of each core in MHz, from cpufreq, else /proc/cpuinfo; or () and the reason."""
    found = []
    for core in _numbered((root / "sys/devices/system/cpu").glob("cpu[0-9]*")):
        text, _ = read_text(core / "cpufreq/scaling_cur_freq")
        if text and text.isdigit():
            found.append(int(text) / 1000)
    if found:
        return tuple(found), ""
    text, _ = read_text(root / "proc/cpuinfo")
    listed = [line.partition(":")[2] for line in (text or "").splitlines() if line.startswith("cpu MHz")]
    if listed:
        return tuple(float(value) for value in listed), ""
    return (), "neither cpufreq in /sys nor 'cpu MHz' in /proc/cpuinfo"


def thermal_c(root: Path = ROOT) -> tuple[dict[str, float], str]:
    """Temperature of each thermal zone in degrees Celsius; and which zones gave none, or why there is none."""
    found, silent = {}, []
    for zone in _numbered((root / "sys/class/thermal").glob("thermal_zone*")):
        name = read_text(zone / "type")[0] or zone.name
        text, reason = read_text(zone / "temp")
        try:
            if text is None:
                silent.append(f"{name} ({reason})")
            else:
                found[name if name not in found else f"{name}/{zone.name}"] = int(text) / 1000
        except ValueError:
            silent.append(f"{name} (not a number)")
    if not found and not silent:
        return {}, "no thermal zone in /sys/class/thermal"
    return found, f"no reading from {', '.join(silent)}" if silent else ""


def read(root: Path = ROOT) -> Sensors:
    """One reading of everything, each absence with its reason."""
    absent = {}
    clocks, reason = cpu_mhz(root)
    if reason:
        absent["cpu_mhz"] = reason
    zones, reason = thermal_c(root)
    if reason:
        absent["thermal_c"] = reason
    memory = peak_rss_bytes(root)
    if memory is None:
        absent["peak_rss_bytes"] = "no VmHWM in /proc/self/status"
    load, reason = read_text(root / "proc/loadavg")
    if load is None:
        absent["load_1min"] = f"/proc/loadavg: {reason}"
    return Sensors(
        peak_rss_bytes=memory,
        cpu_mhz=clocks,
        thermal_c=zones,
        load_1min=float(load.split()[0]) if load else None,
        absent=absent,
    )


@dataclass(frozen=True, slots=True)
class Ticks:
    """Processor time so far in seconds: of all cores together, of that busy, and of this process."""

    total: float
    busy: float
    own: float


def ticks(root: Path = ROOT) -> Ticks | None:
    """Read /proc/stat and this process's own times; None where there is no /proc/stat."""
    text, _ = read_text(root / "proc/stat")
    if not text or not text.startswith("cpu "):
        return None
    fields = [int(value) for value in text.splitlines()[0].split()[1:9]]  # user .. steal; guest is within user
    scale = os.sysconf("SC_CLK_TCK")
    idle = fields[3] + (fields[4] if len(fields) > 4 else 0)
    own = os.times()
    return Ticks(sum(fields) / scale, (sum(fields) - idle) / scale, own.user + own.system)


def others_share(before: Ticks | None, after: Ticks | None) -> float | None:
    """Share of all cores' time between two readings that other processes used.

    >>> others_share(Ticks(0, 0, 0), Ticks(total=20, busy=15, own=10))
    0.25
    """
    if before is None or after is None or after.total <= before.total:
        return None
    others = (after.busy - before.busy) - (after.own - before.own)
    return max(0.0, others) / (after.total - before.total)
