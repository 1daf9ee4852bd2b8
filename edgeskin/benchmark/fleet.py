"""A bundle on many boards over SSH: upload, run, fetch; a board that fails is a row with its reason.

# hosts.toml
known_hosts = "~/.ssh/known_hosts"   # as ssh writes it; a board that is not in it is refused
parallel = 8

[[host]]
name = "orin-nano"
address = "192.168.1.20"
user = "nvidia"
key_file = "~/.ssh/id_ed25519"       # or the agent; a password has no place here
command = "~/venv/bin/edgeskin"      # each word is quoted; `env NAME=value edgeskin` sets a variable
folder = "/mnt/nvme"                 # a folder in it is made, and removed
threads = 4
timeout_s = 1800
suite = "standard"
"""

import queue
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from edgeskin import catalog, out
from edgeskin.benchmark import compare, conditions
from edgeskin.benchmark.fleet_board import Task, measure, unlike
from edgeskin.benchmark.fleet_ssh import BoardError
from edgeskin.bundle import open_bundle, pack
from edgeskin.errors import EdgeskinError, missing_extra
from edgeskin.files import pretty_json, write_atomic
from edgeskin.spec.bench import BenchResult
from edgeskin.spec.hosts import FleetLane, FleetResult, FleetRow, Host, Hosts

SUMMARY = "fleet.json"


def read_hosts(path: Path) -> Hosts:
    """Boards of a hosts.toml; `~` is the home folder, relative paths are relative to the file.

    Raises:
        EdgeskinError: no such file, no TOML, an unknown key, two hosts of one name, no such known_hosts or suite.
    """
    hosts = Hosts.from_toml(path)

    def local(name: str) -> str:
        return str(path.parent / Path(name).expanduser()) if name else ""

    known = local(hosts.known_hosts)
    if "known_hosts" in hosts.model_fields_set and not Path(known).is_file():
        raise EdgeskinError("no such known_hosts", got=known, fix=f"correct known_hosts in {path}")
    listed = []
    for host in hosts.host:
        suite = local(host.suite) if host.suite.endswith(".toml") or "/" in host.suite else host.suite
        if suite:
            catalog.suite(suite)
        listed.append(host.model_copy(update={"key_file": local(host.key_file), "suite": suite}))
    return hosts.model_copy(update={"known_hosts": known, "host": tuple(listed)})


def run(
    bundle: Path, hosts: Hosts, folder: Path, *, suite: str = "standard", threads: int = 0, again: bool = False
) -> FleetResult:
    """Measure a bundle on every board, boards in parallel; each result goes to `folder`/<name>.json as it comes.

    A board whose result is there already (same bundle, suite, threads) is not asked again. Two entries with one
    address take turns. Ctrl-C keeps what was measured: the rest are rows too, and the result is partial.

    Args:
        hosts: of `read_hosts`.
        suite, threads: for the boards that name none of their own.
        again: ask the boards that are done too.

    Raises:
        EdgeskinError: the bundle does not verify, an unknown suite, paramiko is not installed.
    """
    begun = time.monotonic()
    _require_paramiko()
    opened = open_bundle(bundle)
    catalog.suite(suite)
    rows: dict[str, FleetRow] = {}

    def finish(row: FleetRow) -> None:
        rows[row.name] = row
        write_atomic(folder / SUMMARY, pretty_json(gather().to_json()))

    def gather(partial: bool = False) -> FleetResult:
        return FleetResult(
            bundle=opened.manifest.name,
            bundle_sha256=opened.sha256,
            rows=tuple(rows[host.name] for host in hosts.host if host.name in rows),
            partial=partial or len(rows) < len(hosts.host),
            seconds=round(time.monotonic() - begun, 3),
        )

    with tempfile.TemporaryDirectory(prefix="edgeskin-fleet-") as scratch:
        packed = {lean: Path(scratch) / ("lean.zip" if lean else "whole.zip") for lean in {h.lean for h in hosts.host}}
        for lean, archive in packed.items():
            pack(opened.root, archive, lean=lean)
        tasks: dict[tuple[str, int], list[Task]] = {}
        for host in hosts.host:
            plan = catalog.suite(host.suite or suite)
            referenced = not (host.lean or opened.lean)
            task = Task(
                host, plan, host.threads or threads or plan.threads, packed[host.lean], opened.sha256, referenced
            )
            if not again and (done := _done(folder, task)):
                finish(_row(host, done, "done before"))
            else:
                tasks.setdefault((host.address, host.port), []).append(task)
        partial = _in_parallel(list(tasks.values()), hosts, folder, finish)
    found = gather(partial)
    write_atomic(folder / SUMMARY, pretty_json(found.to_json()))
    return found


def _require_paramiko() -> None:
    """Told before anything is packed."""
    if find_spec("paramiko") is None:
        raise missing_extra("paramiko", "fleet")


def _in_parallel(
    groups: Sequence[Sequence[Task]], hosts: Hosts, folder: Path, finish: Callable[[FleetRow], None]
) -> bool:
    """Work off the groups, a thread each; whether Ctrl-C ended it early."""
    stop, known, partial = threading.Event(), Path(hosts.known_hosts), False
    ready: queue.SimpleQueue[FleetRow] = queue.SimpleQueue()
    left = {task.host.name for group in groups for task in group}
    with out.progress("boards", len(left)) as step, ThreadPoolExecutor(hosts.parallel, "board") as pool:

        def tell(name: str, what: str) -> None:
            step(0, text=f"boards: {name} {what}")

        def work(group: Sequence[Task]) -> None:
            for task in group:
                ready.put(_ask(task, known, folder, stop, tell))

        jobs = [pool.submit(work, group) for group in groups]
        try:
            while left:
                try:  # Ctrl-C may come at any of these lines, and more than once
                    try:
                        row = ready.get(timeout=0.5)
                    except queue.Empty:
                        if all(job.done() for job in jobs) and ready.empty():
                            break  # a fault of ours ended a thread; told below
                        continue
                    left.discard(row.name)
                    finish(row)
                    step(1, text=f"boards: {row.name} {row.status}")
                    out.note(f"{row.name}: {row.status}" + (f": {row.fault}: {row.reason}" if row.reason else ""))
                except KeyboardInterrupt:
                    partial = True
                    stop.set()
        finally:
            stop.set()  # whatever ended this: no thread works on for nobody
    for job in jobs:
        job.result()
    return partial


def _ask(task: Task, known: Path, folder: Path, stop: threading.Event, tell: Callable[[str, str], None]) -> FleetRow:
    """The row of one board, whatever becomes of it."""
    begun = time.monotonic()
    name = task.host.name
    try:
        found, version = measure(task, known, stop, lambda what: tell(name, what))
        write_atomic(folder / f"{name}.json", pretty_json(found.to_json()))
    except EdgeskinError as error:
        fault = error.fault if isinstance(error, BoardError) else "failed here"
        spent = round(time.monotonic() - begun, 3)
        return FleetRow(name=name, status="failed", fault=fault, reason=error.line(), seconds=spent)
    row = _row(task.host, found, "measured")
    return row.model_copy(update={"seconds": round(time.monotonic() - begun, 3), "edgeskin": version})


def _done(folder: Path, task: Task) -> BenchResult | None:
    """The result of an earlier run, if it is of what is asked now."""
    file = folder / f"{task.host.name}.json"
    if not file.is_file():
        return None
    try:
        found = compare.read(file)
    except EdgeskinError as error:
        out.note(f"{task.host.name}: its earlier result is of no use: {error.line()}")
        return None
    return None if unlike(found, task) else found


def _row(host: Host, found: BenchResult, status: Literal["measured", "done before"]) -> FleetRow:
    return FleetRow(
        name=host.name,
        status=status,
        file=f"{host.name}.json",
        edgeskin=found.environment.versions.get("edgeskin"),
        machine=conditions.machine(found),
        threads=found.environment.threads,
        measured=found.environment.measured,
        lanes=tuple(
            FleetLane(
                scenario=lane.scenario,
                mode=lane.mode,
                route=lane.route,
                p50_ms=lane.core.p50_ms,
                p99_ms=lane.core.p99_ms,
                ratio=lane.ratio.value if lane.ratio else None,
            )
            for lane in found.lanes
        ),
        cold_start_ms=found.cold_start.process_ms if found.cold_start else None,
        peak_rss_bytes=found.cold_start.peak_rss_bytes if found.cold_start else found.sensors_after.peak_rss_bytes,
        valid=found.validity.valid,
        invalid_because=found.validity.reasons,
    )


def table(found: FleetResult) -> tuple[list[str], list[tuple[str, ...]]]:
    """Columns and rows for people: a board each, with its figures or its reason."""
    columns = ["board", "machine", "threads", "pair p50 ms", "p99", "network p50", "INT8/FP32", "cold start", "remark"]
    rows = []
    for row in found.rows:
        lanes = {(lane.scenario, lane.mode, lane.route): lane for lane in row.lanes}
        decision, network = lanes.get(("single", "pair", "decision")), lanes.get(("single", "pair", "network"))
        if row.status == "failed":
            remark = f"{row.fault}: {row.reason}"
        else:
            remarks = [f"done before ({(row.measured or '')[:10]})"] if row.status == "done before" else []
            remark = "; ".join([*remarks, *(f"not valid: {why}" for why in row.invalid_because[:1])]) or "valid"
        rows.append(
            (
                row.name,
                row.machine or "-",
                str(row.threads or "-"),
                *(f"{value:.2f}" if value is not None else "-" for value in _figures(decision, network)),
                f"{row.cold_start_ms:.0f}" if row.cold_start_ms is not None else "-",
                remark,
            )
        )
    return columns, rows


def _figures(decision: FleetLane | None, network: FleetLane | None) -> tuple[float | None, ...]:
    return (
        decision.p50_ms if decision else None,
        decision.p99_ms if decision else None,
        network.p50_ms if network else None,
        network.ratio if network else None,
    )
