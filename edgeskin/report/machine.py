"""Bench record -> tables of text: the machine with its memory, energy, temperatures and clocks, and its environment."""

from collections.abc import Sequence

from edgeskin.report.text import (
    MODE_TITLES,
    NONE,
    ROUTE_TITLES,
    SCENARIO_TITLES,
    Table,
    ms,
    parameters,
    size_text,
)
from edgeskin.spec.bench import BenchResult, Lane


def device(bench: BenchResult) -> Table:
    """What was put to the machine, and where the time of a decision goes."""
    decision = bench.lane("pair", "decision")
    parts = decision.parts_ms.get("core", {}) if decision else {}
    steps = ("prepare", "quality", "infer", "decide")
    rows = [(f"a decision: {name}", f"{ms(parts[name])} ms") for name in steps if name in parts]
    rows.append(("network input", f"{bench.input_height} x {bench.input_width}, {parameters(bench.parameters)}"))
    rows.append(("camera frame", f"{bench.suite.frame_height} x {bench.suite.frame_width}"))
    same = [lane.same_outputs for lane in bench.lanes if lane.same_outputs]
    if same:
        equal, compared = sum(one.identical for one in same), sum(one.compared for one in same)
        rows.append(("outputs kept in the timed run that equal a plain run bit by bit", f"{equal} of {compared}"))
    return Table("On this machine", ("", ""), tuple(rows))


def memory(bench: BenchResult) -> Table:
    """Sizes of the graphs on disk, and memory of the processes that ran them."""
    rows = [
        (
            f"graph for {MODE_TITLES[mode]}, bundle / FP32",
            f"{size_text(bench.core_bytes[mode])} / {size_text(bench.reference_bytes.get(mode))}",
        )
        for mode in MODE_TITLES
        if mode in bench.core_bytes
    ]
    cold = bench.cold_start
    rows += [
        (
            "peak of a new process that decides once with the bundle alone",
            size_text(cold.peak_rss_bytes if cold else None),
        ),
        ("peak of the benchmark's own process, both graphs loaded", size_text(bench.sensors_after.peak_rss_bytes)),
        (
            "held by it before / after",
            " / ".join(size_text(s.rss_bytes) for s in (bench.sensors_before, bench.sensors_after)),
        ),
    ]
    return Table("Memory", ("", ""), tuple(rows))


def energy(bench: BenchResult) -> tuple[Table | None, tuple[str, ...]]:
    """Energy of every lane that has it; and the reasons why others have none."""
    rows, missing = [], []
    for lane in bench.lanes:
        if lane.energy is None:
            missing.append(lane)
            continue
        found = lane.energy
        rails = ", ".join(f"{name} {joules:.3g} J" for name, joules in found.rails_j.items())
        each = "–" if found.per_examination_mj is None else f"{found.per_examination_mj:.4g}"
        idle = "–" if found.idle_w is None else f"{found.idle_w:.3g}"
        power = f"{found.joules / found.seconds:.3g}" if found.seconds else NONE
        rows.append(
            (
                lane_title(lane),
                each,
                power,
                idle,
                f"{found.joules:.4g}",
                f"{found.seconds:.3g}",
                f"{found.source}: {rails}",
            )
        )
    notes = [f"{lane_title(lane)}: {why}" for lane in bench.lanes if lane.energy for why in lane.energy.absent.values()]
    if missing:
        which = "Not measured"
        if rows:
            which += f" for {', '.join(dict.fromkeys(lane.scenario for lane in missing))}"
        notes.append(f"{which}: {_reason(bench, 'energy')}.")
    if not rows:
        return None, tuple(notes)
    covers = {lane.energy.covers for lane in bench.lanes if lane.energy and lane.energy.covers}
    note = "Per examination: less what idling for as long would have taken."
    if covers:
        note += f" The joules are of {', '.join(sorted(covers))}."
    columns = ("Energy", "mJ an examination", "power, W", "idle, W", "J", "s", "source and rails")
    return Table("Energy", columns, tuple(rows), note, key="energy"), tuple(notes)


def _reason(bench: BenchResult, name: str) -> str:
    """Why a quantity is not in the record, from wherever the record says so."""
    places = (bench.sensors_after.absent, bench.sensors_before.absent, bench.environment.absent)
    return next((found[name] for found in places if name in found), "the record gives no reason")


def lane_title(lane: Lane) -> str:
    """A lane in words."""
    title = f"{MODE_TITLES[lane.mode]}, {ROUTE_TITLES[lane.route]}"
    return title if lane.scenario == "single" else f"{SCENARIO_TITLES[lane.scenario]}: {title}"


def thermals(bench: BenchResult) -> tuple[Table | None, tuple[str, ...]]:
    """Temperatures, clocks, throttling and load before and after the run; and what has no reading, with its reason."""
    before, after = bench.sensors_before, bench.sensors_after
    rows = [
        (name, *_change(before.thermal_c.get(name), after.thermal_c.get(name), "°C"))
        for name in dict.fromkeys([*before.thermal_c, *after.thermal_c])
    ]
    if before.cpu_mhz or after.cpu_mhz:
        count = len(after.cpu_mhz or before.cpu_mhz)
        rows.append(
            (f"processor clock, mean of {count} cores", *_change(_mean(before.cpu_mhz), _mean(after.cpu_mhz), "MHz"))
        )
        rows.append(("processor clock, slowest to fastest core", _range(before.cpu_mhz), _range(after.cpu_mhz), NONE))
    rows += [
        (f"clock of {name}", *_change(before.gpu_mhz.get(name), after.gpu_mhz.get(name), "MHz"))
        for name in dict.fromkeys([*before.gpu_mhz, *after.gpu_mhz])
    ]
    rows += [
        (f"throttling: {name.replace('_', ' ')}", *_change(before.throttle.get(name), after.throttle.get(name), ""))
        for name in dict.fromkeys([*before.throttle, *after.throttle])
    ]
    if before.load_1min is not None or after.load_1min is not None:
        rows.append(("load, 1 min", *_change(before.load_1min, after.load_1min, "")))
    for lane in bench.lanes:
        if lane.clock_mhz is not None:
            rows.append((f"working cores, {lane_title(lane)}", *_change(*lane.clock_mhz, "MHz")))
    titles = {
        "thermal_c": "Temperature",
        "cpu_mhz": "Processor clock",
        "throttle": "Throttling",
        "gpu_mhz": "GPU clock",
    }
    reasons = {title: after.absent.get(name) or before.absent.get(name) for name, title in titles.items()}
    notes = tuple(f"{title}: {reason}." for title, reason in reasons.items() if reason)
    table = Table("Temperatures and clocks", ("Sensor", "before", "after", "change"), tuple(rows)) if rows else None
    return table, notes


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.4g} to {max(values):.4g} MHz" if values else NONE


def _change(before: float | None, after: float | None, unit: str) -> tuple[str, str, str]:
    """Two readings and their difference.

    >>> _change(41.0, 47.5, "°C"), _change(None, 1200, "MHz")
    (('41 °C', '47.5 °C', '+6.5 °C'), ('–', '1200 MHz', '–'))
    """
    shown = tuple(NONE if value is None else f"{value:.4g} {unit}".strip() for value in (before, after))
    change = NONE if before is None or after is None else f"{after - before:+.3g} {unit}".strip()
    return shown[0], shown[1], change


def environment(bench: BenchResult) -> Table:
    """What it was measured on."""
    found = bench.environment
    absent = found.absent
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items() if version)
    missing = ", ".join(name for name, version in found.versions.items() if not version)
    held = size_text(found.memory_bytes)
    if found.memory_limit_bytes is not None:
        held += f", limit {size_text(found.memory_limit_bytes)}"
    rows = [
        ("processor", _or(found.cpu_model, absent, "cpu_model")),
        ("features", ", ".join(found.cpu_features) or NONE),
        ("board", _or(found.board, absent, "board")),
        ("cores usable / online; threads", f"{found.cores_usable} / {found.cores_online}; {found.threads}"),
        ("processor quota", _or(found.cpu_quota_cores, absent, "cpu_quota_cores")),
        ("frequency governor", _or(found.governor, absent, "governor")),
        ("memory", held),
        *[(title, value) for title, value in _board(bench) if value],
        ("system", f"{found.os or NONE}, kernel {found.kernel}, {found.arch}"),
        ("python", found.python),
        ("packages", versions + (f"; not installed: {missing}" if missing else "")),
        ("engine", ", ".join(f"{name} {value}" for name, value in found.backend.items()) or NONE),
        ("revision", _or(found.git_revision, absent, "git_revision")),
        ("load by other processes", NONE if bench.others_cpu_share is None else f"{bench.others_cpu_share:.0%}"),
        ("suite", f"{bench.suite.name}: {bench.suite.note}" if bench.suite.note else bench.suite.name),
        ("measured", found.measured),
    ]
    return Table("Environment", ("", ""), tuple(rows))


def _or(value: object, absent: dict[str, str], name: str) -> str:
    reason = absent.get(name, "no reason recorded")
    return str(value) if value is not None else "no limit" if reason == "no limit set" else f"not known ({reason})"


def _board(bench: BenchResult) -> list[tuple[str, str]]:
    """What only some machines have; "" where this one has none."""
    found = bench.environment
    on = {None: "", True: "on", False: "off"}
    return [
        ("power mode", found.power_mode or ""),
        ("L4T, JetPack", ", ".join(text for text in (found.l4t, found.jetpack) if text)),
        ("CUDA, TensorRT", ", ".join(text for text in (found.cuda, found.tensorrt) if text)),
        ("two threads a core (SMT)", on[found.smt]),
        ("clocks above the nominal one", on[found.turbo]),
        ("memory nodes", "" if found.numa_nodes is None else str(found.numa_nodes)),
    ]
