"""What `edgeskin doctor` says of a machine's sensors and, on a Jetson, of its system software."""

from pathlib import Path

from edgeskin import catalog
from edgeskin.benchmark import energy, environment, sensors
from edgeskin.doctor import Check, match_device, read_machine

_JETSON = ("l4t", "jetpack", "cuda", "tensorrt", "power_mode")


def checks(root: Path = sensors.ROOT) -> list[Check]:
    """A finding for each sensor that a benchmark uses, and one for a Jetson's software. None is ever "broken"."""
    read, meter = sensors.read(root), energy.find(root)
    clocks = (
        f"{len(read.cpu_mhz)} cores, {min(read.cpu_mhz):.0f} to {max(read.cpu_mhz):.0f} MHz" if read.cpu_mhz else ""
    )
    if read.gpu_mhz:
        clocks += f"; GPU {max(read.gpu_mhz.values()):.0f} MHz"
    zones = f"{len(read.thermal_c)} zones, at most {max(read.thermal_c.values()):.1f} °C" if read.thermal_c else ""
    held = sensors.throttled(read, read)  # states that stand now; counters say nothing by themselves
    flags = f"{len(read.throttle)} flags and counters; " + (
        f"now: {', '.join(held)}" if held else "nothing held back now"
    )
    watched = f"{meter.source}: {meter.covers}" if meter.source else ""
    found = [
        _check("energy sensor", watched, meter.reason, "millijoules an examination"),
        _check("clock sensor", clocks, read.absent.get("cpu_mhz", ""), "the clocks that a latency belongs to"),
        _check("temperature sensor", zones, read.absent.get("thermal_c", ""), "the heat that a latency belongs to"),
        _check(
            "throttle sensor", flags if read.throttle else "", read.absent.get("throttle", ""), "runs held back by heat"
        ),
    ]
    return [*found, *_software(root)]


def _check(name: str, found: str, reason: str, enables: str) -> Check:
    if found:
        return Check(name, "ok", found, enables)
    why, _, fix = reason.partition("; fix: ")
    return Check(name, "absent", why, enables, fix)


def _software(root: Path) -> list[Check]:
    """The JetPack of a Jetson, held against its board's profile; nothing on any other machine."""
    record = environment.record(threads=0, root=root)
    if record.l4t is None:
        return []
    versions = ", ".join(f"{name} {getattr(record, name)}" for name in _JETSON if getattr(record, name))
    name, exact = match_device(read_machine(root))
    if not exact:
        return [Check("system software", "ok", versions)]
    listed = [number for release in catalog.device(name).software for number in release.l4t]
    if any(record.l4t == number or record.l4t.startswith(f"{number}.") for number in listed):
        return [Check("system software", "ok", versions)]
    remark = f"{versions}; no release that the profile {name} lists"
    return [Check("system software", "absent", remark, "what others have tried", "run `edgeskin verify` on this board")]
