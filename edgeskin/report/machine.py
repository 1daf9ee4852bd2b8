"""Bench record -> tables of text: latencies, the machine, its environment."""

from edgeskin.report.text import MODE_TITLES, NONE, ROUTE_TITLES, Table, ms, parameters, ratio, size_text
from edgeskin.spec.bench import BenchResult, Latency


def latencies(bench: BenchResult, own: str) -> Table:
    """Percentiles of every lane, the bundle (called `own`) above its reference."""
    rows: list[tuple[str, ...]] = []
    marked = set()
    for lane in bench.lanes:
        marked.add(len(rows))
        faster = ratio(lane.ratio)
        title = f"{MODE_TITLES[lane.mode]}, {ROUTE_TITLES[lane.route]}"
        rows.append((title if lane.ratio is None else f"{title}: {faster} the speed of FP32", *[""] * 7))
        rows.append(_percentiles(own, lane.core))
        if lane.reference is not None:
            rows.append(_percentiles("FP32", lane.reference))
    columns = ("Milliseconds", "p50", "p90", "p95", "p99", "max", "p99 bound", "queries")
    note = (
        "p99 bound: with 99 % confidence the p99 lies at or below it (early stopping as in MLPerf LoadGen); it needs "
        f"{bench.lanes[0].core.bounds[-1].needs} queries. Speed: ratio of medians, with its 95 % bootstrap interval."
    )
    return Table("Latency", columns, tuple(rows), note, frozenset(marked))


def _percentiles(title: str, found: Latency) -> tuple[str, ...]:
    values = (found.p50_ms, found.p90_ms, found.p95_ms, found.p99_ms, found.max_ms, found.bounds[-1].value_ms)
    return (title, *(ms(value) for value in values), str(found.queries))


def device(bench: BenchResult) -> Table:
    """Cold start, memory, and where the time of a decision goes."""
    rows = []
    if bench.cold_start is not None:
        cold = bench.cold_start
        rows += [
            ("new process: import", f"{ms(cold.import_ms)} ms"),
            ("new process: open and verify the bundle", f"{ms(cold.load_ms)} ms"),
            ("new process: compile and first decision", f"{ms(cold.first_decision_ms)} ms"),
            ("new process: all of it, interpreter included", f"{ms(cold.process_ms)} ms"),
            ("peak memory of that process", size_text(cold.peak_rss_bytes)),
        ]
    decision = bench.lane("pair", "decision")
    parts = decision.parts_ms.get("core", {}) if decision else {}
    rows += [
        (f"a decision: {name}", f"{ms(parts[name])} ms") for name in ("prepare", "infer", "decide") if name in parts
    ]
    rows.append(("network input", f"{bench.input_height} x {bench.input_width}, {parameters(bench.parameters)}"))
    rows.append(("camera frame", f"{bench.suite.frame_height} x {bench.suite.frame_width}"))
    same = [lane.same_outputs for lane in bench.lanes if lane.same_outputs]
    if same:
        equal, compared = sum(one.identical for one in same), sum(one.compared for one in same)
        rows.append(("outputs kept in the timed run that equal a plain run bit by bit", f"{equal} of {compared}"))
    return Table("On this machine", ("", ""), tuple(rows))


def environment(bench: BenchResult) -> Table:
    """What it was measured on."""
    found = bench.environment
    absent = found.absent
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items() if version)
    missing = ", ".join(name for name, version in found.versions.items() if not version)
    memory = size_text(found.memory_bytes)
    if found.memory_limit_bytes is not None:
        memory += f", limit {size_text(found.memory_limit_bytes)}"
    rows = [
        ("processor", _or(found.cpu_model, absent, "cpu_model")),
        ("features", ", ".join(found.cpu_features) or NONE),
        ("board", _or(found.board, absent, "board")),
        ("cores usable / online; threads", f"{found.cores_usable} / {found.cores_online}; {found.threads}"),
        ("processor quota", _or(found.cpu_quota_cores, absent, "cpu_quota_cores")),
        ("frequency governor", _or(found.governor, absent, "governor")),
        (
            "memory",
            memory if found.memory_limit_bytes is None else f"{memory}, limit {size_text(found.memory_limit_bytes)}",
        ),
        ("system", f"{found.os or NONE}, kernel {found.kernel}, {found.arch}"),
        ("python", found.python),
        ("packages", versions + (f"; not installed: {missing}" if missing else "")),
        ("engine", ", ".join(f"{name} {value}" for name, value in found.backend.items()) or NONE),
        ("revision", _or(found.git_revision, absent, "git_revision")),
        ("temperature after", _thermal(bench)),
        ("load by other processes", NONE if bench.others_cpu_share is None else f"{bench.others_cpu_share:.0%}"),
        ("suite", f"{bench.suite.name}: {bench.suite.note}" if bench.suite.note else bench.suite.name),
        ("measured", found.measured),
    ]
    return Table("Environment", ("", ""), tuple(rows))


def _or(value: object, absent: dict[str, str], name: str) -> str:
    reason = absent.get(name, "no reason recorded")
    return str(value) if value is not None else "no limit" if reason == "no limit set" else f"not known ({reason})"


def _thermal(bench: BenchResult) -> str:
    zones = bench.sensors_after.thermal_c
    if not zones:
        return f"not known ({bench.sensors_after.absent.get('thermal_c', 'no reason recorded')})"
    return ", ".join(f"{name} {value:.1f} °C" for name, value in zones.items())
