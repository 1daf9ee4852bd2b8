"""What the machine says of itself while it works: memory, clocks, temperatures, throttling, load.

Absent comes with its reason. Every reader takes the root of the file system, so that recorded trees can stand in.
"""

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgeskin.spec.machine import Sensors

ROOT = Path("/")
# The firmware's word of the Raspberry Pi: low bits are now, the same bits 16 higher are since the start.
_PI_BITS = {0: "under_voltage", 1: "frequency_capped", 2: "throttled", 3: "soft_temperature_limit"}
_PI_WORDS = (  # up to the Pi 4, and the Pi 5 (driver raspberrypi-firmware)
    "sys/devices/platform/soc/soc:firmware/get_throttled",
    "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled",
)
# Cooling devices that hold clocks back, by the beginning or end of their type; a fan does not.
_COOLING_STARTS = ("cpufreq-", "thermal-cpufreq-", "devfreq-", "thermal-devfreq-", "Processor")
_COOLING_ENDS = ("-throttle-alert", "hot-surface-alert")  # Jetson: driver thermal-trip-event
_GPU_NAMES = ("gpu", "ga10b", "gv11b", "gp10b")


def read_text(path: Path) -> tuple[str | None, str]:
    """The stripped text of a small kernel file, or None and the reason it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace").strip("\x00 \n\t")
    except FileNotFoundError:
        return None, "no such file"
    except OSError as error:  # a zone that is powered down answers EAGAIN or EINVAL
        return None, errno.errorcode.get(error.errno or 0, str(error.errno))
    return (text, "") if text else (None, "empty")


def read_int(path: Path) -> tuple[int | None, str]:
    """The whole number in a small kernel file, or None and the reason."""
    text, reason = read_text(path)
    try:
        return (None, reason) if text is None else (int(text), "")
    except ValueError:
        return None, "not a number"


def numbered(paths: Iterable[Path]) -> list[Path]:
    """Paths in the order of the number in their names: hwmon10 after hwmon2."""
    return sorted(paths, key=lambda path: int("".join(filter(str.isdigit, path.name)) or 0))


def _status_bytes(root: Path, field: str) -> int | None:
    text, _ = read_text(root / "proc/self/status")
    for line in (text or "").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def peak_rss_bytes(root: Path = ROOT) -> int | None:
    """The most memory this process ever held in RAM (VmHWM), in bytes.

    >>> (peak_rss_bytes() or 0) > 1_000_000
    True
    """
    return _status_bytes(root, "VmHWM")


def cpu_mhz(root: Path = ROOT) -> tuple[tuple[float, ...], str]:
    """The current clock of each core in MHz, from cpufreq, else /proc/cpuinfo; or () and the reason."""
    found = []
    for core in numbered((root / "sys/devices/system/cpu").glob("cpu[0-9]*")):
        khz, _ = read_int(core / "cpufreq/scaling_cur_freq")
        if khz is not None:
            found.append(khz / 1000)
    if found:
        return tuple(found), ""
    text, _ = read_text(root / "proc/cpuinfo")
    listed = [line.partition(":")[2] for line in (text or "").splitlines() if line.startswith("cpu MHz")]
    if listed:
        return tuple(float(value) for value in listed), ""
    return (), "neither cpufreq in /sys nor 'cpu MHz' in /proc/cpuinfo"


def thermal_c(root: Path = ROOT) -> tuple[dict[str, float], str]:
    """Temperature of each thermal zone in degrees Celsius; and which zones gave none, or why there is none.

    Without a zone the sensors of the processor itself are taken (hwmon driver coretemp or k10temp).
    """
    found: dict[str, float] = {}
    silent = []
    for zone in numbered((root / "sys/class/thermal").glob("thermal_zone*")):
        name = read_text(zone / "type")[0] or zone.name
        milli, reason = read_int(zone / "temp")
        if milli is None:
            silent.append(f"{name} ({reason})")
        else:
            found[name if name not in found else f"{name}/{zone.name}"] = milli / 1000
    for chip in hwmon(root, "coretemp", "k10temp"):
        for label in sorted(chip.glob("temp*_label")):
            name = read_text(label)[0] or label.name
            milli, _ = read_int(label.with_name(label.name.replace("_label", "_input")))
            if milli is not None and name.startswith(("Package", "Tctl", "Tdie")):
                found[name] = milli / 1000
    if not found and not silent:
        return {}, "no thermal zone in /sys/class/thermal"
    return found, f"no reading from {', '.join(silent)}" if silent else ""


def hwmon(root: Path, *names: str) -> list[Path]:
    """Folders of the hardware monitors with one of these driver names. Their numbers differ from boot to boot."""
    folders = numbered((root / "sys/class/hwmon").glob("hwmon*"))
    if not folders:  # containers often hide the class and show the bus
        folders = sorted((root / "sys/bus/i2c/devices").glob("*/hwmon/hwmon*"))
    return [folder for folder in folders if read_text(folder / "name")[0] in names]


def gpu(root: Path = ROOT) -> tuple[dict[str, float], float | None, str]:
    """Clocks in MHz and load (0 to 1) of a Jetson's GPU from devfreq; or {} and None with the reason.

    The load stands beside the GPU's own device (driver nvgpu), in thousandths; Thor's driver gives none in /sys.
    """
    clocks: dict[str, float] = {}
    load = None
    for device in sorted((root / "sys/class/devfreq").glob("*")):
        if not any(name in device.name for name in _GPU_NAMES):
            continue
        hertz, _ = read_int(device / "cur_freq")
        if hertz is not None:
            clocks[device.name] = hertz / 1e6
        milli, _ = read_int(device / "device/load")
        if milli is not None:
            load = milli / 1000
    if not clocks and load is None:
        return {}, None, "no GPU in /sys/class/devfreq"
    return clocks, load, "" if load is not None else "the GPU's driver gives no load in /sys"


def throttle(root: Path = ROOT) -> tuple[dict[str, int], str]:
    """Flags and counters of clocks held back, or {} and the reason.

    x86: events since the start (thermal_throttle, driver therm_throt). Raspberry Pi: the firmware's bits, and the alarm
    of driver rpi_volt. Jetson: trip alerts, and over-current events (driver soctherm_oc). Any board: cooling devices
    that lower a clock, by their state.
    """
    found: dict[str, int] = {}
    for core in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle"):
        for kind in ("core", "package"):
            events, _ = read_int(core / f"{kind}_throttle_count")
            if events is not None:  # each core of a package shows the package's own count
                name = f"{kind}_throttle_events"
                found[name] = max(found.get(name, 0), events) if kind == "package" else found.get(name, 0) + events
    for place in _PI_WORDS:
        text, _ = read_text(root / place)
        if text and all(digit in "0123456789abcdefABCDEF" for digit in text):  # hexadecimal without a prefix
            word = int(text, 16)
            found |= {name: word >> bit & 1 for bit, name in _PI_BITS.items()}
            found |= {f"{name}_since_start": word >> (bit + 16) & 1 for bit, name in _PI_BITS.items()}
    for chip in hwmon(root, "rpi_volt"):
        alarm, _ = read_int(chip / "in0_lcrit_alarm")
        if alarm is not None:
            found["under_voltage_since_start"] = max(alarm, found.get("under_voltage_since_start", 0))
    for chip in hwmon(root, "soctherm_oc"):
        for path in sorted(chip.glob("oc*_event_cnt")):
            events, _ = read_int(path)
            if events is not None:
                found[f"over_current_events_{path.name.partition('_')[0]}"] = events
    for device in numbered((root / "sys/class/thermal").glob("cooling_device*")):
        name = read_text(device / "type")[0] or ""
        state, _ = read_int(device / "cur_state")
        if state is not None and (name.startswith(_COOLING_STARTS) or name.endswith(_COOLING_ENDS)):
            found[name] = max(state, found.get(name, 0))
    return found, "" if found else "no counter, flag or cooling device of throttling in /sys"


def throttled(before: Sensors, after: Sensors) -> tuple[str, ...]:
    """What held clocks back between two readings, in words; () where nothing did, or nothing can tell.

    >>> empty = dict(peak_rss_bytes=None, cpu_mhz=(), thermal_c={}, load_1min=None, absent={})
    >>> throttled(Sensors(**empty, throttle={"core_throttle_events": 4}), Sensors(**empty))
    ()
    >>> throttled(Sensors(**empty, throttle={"core_throttle_events": 4}),
    ...           Sensors(**empty, throttle={"core_throttle_events": 9}))
    ('core_throttle_events rose by 5',)
    """
    reasons = []
    for name, value in after.throttle.items():
        earlier = before.throttle.get(name)
        if "_events" in name or name.endswith("_since_start"):  # says nothing but by its change
            if earlier is not None and value > earlier:
                reasons.append(f"{name} rose by {value - earlier}")
        elif seen := max(value, earlier or 0):  # a state: it counts wherever it was seen
            reasons.append(f"{name}: {seen}")
    return tuple(reasons)


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
    held = _status_bytes(root, "VmRSS")
    if held is None:
        absent["rss_bytes"] = "no VmRSS in /proc/self/status"
    load, reason = read_text(root / "proc/loadavg")
    if load is None:
        absent["load_1min"] = f"/proc/loadavg: {reason}"
    gpu_mhz, gpu_load, reason = gpu(root)
    if reason:
        absent["gpu_load"] = reason
        if not gpu_mhz:
            absent["gpu_mhz"] = reason
    flags, reason = throttle(root)
    if reason:
        absent["throttle"] = reason
    return Sensors(
        peak_rss_bytes=memory,
        cpu_mhz=clocks,
        thermal_c=zones,
        load_1min=float(load.split()[0]) if load else None,
        absent=absent,
        rss_bytes=held,
        gpu_mhz=gpu_mhz,
        gpu_load=gpu_load,
        throttle=flags,
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
