"""A fleet over a real sshd on loopback: what a run measures, what it keeps when it ends early, and its hosts file."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeskin.benchmark import compare, fleet, fleet_board
from edgeskin.bundle import open_bundle
from edgeskin.errors import EdgeskinError
from edgeskin.spec.hosts import FleetResult, Hosts
from edgeskin.spec.suite import Suite
from tests.benchmark.boards import ROOT, SUITE, TINY, Board, free_port, needs_sshd, only, script, wait_until

pytest.importorskip("onnxruntime")
pytest.importorskip("paramiko", reason="boards over SSH need edgeskin[fleet]")


def hanging(folder: Path, started: Path) -> str:
    """A benchmark that hangs in a process of its own (as a cold start is), after it wrote that one's id."""
    new, final = shlex.quote(f"{started}.new"), shlex.quote(str(started))
    text = f"sleep 300 & echo $! > {new}; mv {new} {final}; wait"
    return script(folder / "hang", f'case "$1" in --version) echo 9.9;; *) {text};; esac')


@needs_sshd
def test_a_fleet_with_every_kind_of_board(
    sshd: Board, entry: Callable[..., str], fleet_of: Callable[..., Hosts], suite_file: str, tmp_path: Path, there: Path
) -> None:
    slow = script(tmp_path / "slow", 'case "$1" in --version) echo 9.9;; *) sleep 300;; esac')
    locked = tmp_path / "a file, no folder"
    locked.write_text("")
    hosts = fleet_of(
        entry("good"),
        entry("lean-one", lean=True),
        entry("dead", port=free_port(), connect_s=5),
        entry("slow", command=slow, timeout_s=2),
        entry("no-edgeskin", command="edgeskin-that-is-nowhere"),
        entry("other-program", command="echo"),
        entry("limited", key_file=str(sshd.home / "user_limited")),
        entry("stranger", key_file=str(sshd.home / "stranger")),
        entry("keyless", key_file=str(tmp_path / "nothing")),
        entry("nowhere", folder=str(locked / "x")),
        entry("nameless", address="no-such-board.invalid"),
    )
    folder = tmp_path / "results"
    found = fleet.run(TINY, hosts, folder, suite=suite_file)
    rows = {row.name: row for row in found.rows}
    assert list(rows) == [host.name for host in hosts.host]
    assert not found.partial

    good = rows["good"]
    assert (good.status, good.fault, good.file, good.threads) == ("measured", None, "good.json", 1)
    assert len(good.lanes) == 4
    result = compare.read(folder / "good.json")
    assert result.bundle_sha256 == open_bundle(TINY).sha256 == found.bundle_sha256
    assert result.suite == SUITE  # with its quotes and umlauts
    assert result.lanes[0].reference is not None
    assert compare.read(folder / "lean-one.json").lanes[0].reference is None

    faults = {name: row.fault for name, row in rows.items() if row.status == "failed"}
    assert faults == {
        "dead": "unreachable",
        "slow": "time limit",
        "no-edgeskin": "no edgeskin",
        "other-program": "no edgeskin",
        "limited": "no space",
        "stranger": "login",
        "keyless": "login",
        "nowhere": "no permission",
        "nameless": "unreachable",
    }
    assert all(rows[name].reason and "\n" not in rows[name].reason for name in faults)
    assert "not found" in rows["no-edgeskin"].reason
    assert rows["slow"].seconds < 30

    assert FleetResult.parse(json.loads((folder / fleet.SUMMARY).read_text()), "summary") == found
    columns, table = fleet.table(found)
    assert [row[0] for row in table] == list(rows)
    assert all(len(row) == len(columns) for row in table)
    assert any(row[-1].startswith("time limit: ") for row in table)
    wait_until(lambda: not list(there.iterdir()))  # the watch of the slow one needs a moment


def at_work(pid: int) -> bool:
    """Whether a process runs; one that ended and whose parent has not asked for its status does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@needs_sshd
def test_done_boards_are_not_asked_again(
    sshd: Board, entry: Callable[..., str], fleet_of: Callable[..., Hosts], suite_file: str, tmp_path: Path
) -> None:
    hosts = fleet_of(entry("one"))
    folder = tmp_path / "results"
    first = only(fleet.run(TINY, hosts, folder, suite=suite_file))
    assert first.status == "measured"
    written = (folder / "one.json").read_bytes()
    dead = fleet_of(entry("one", port=free_port(), connect_s=2))  # it would fail if it were asked
    second = only(fleet.run(TINY, dead, folder, suite=suite_file))
    assert second.status == "done before"
    assert second.lanes == first.lanes
    assert (folder / "one.json").read_bytes() == written
    assert only(fleet.run(TINY, dead, folder, suite=suite_file, again=True)).fault == "unreachable"
    assert only(fleet.run(TINY, fleet_of(entry("one", threads=2, port=1)), folder, suite=suite_file)).status == "failed"
    other = tmp_path / "other.toml"
    other.write_text(fleet_board.suite_toml(SUITE.model_copy(update={"min_queries": 5})), encoding="utf-8")
    assert only(fleet.run(TINY, dead, folder, suite=str(other))).fault == "unreachable"
    (folder / "one.json").write_text('{"format": "edgeskin-bench/1"}')
    assert only(fleet.run(TINY, dead, folder, suite=suite_file)).fault == "unreachable"


@needs_sshd
def test_a_killed_run_leaves_no_board_at_work_and_goes_on_where_it_was(
    sshd: Board, entry: Callable[..., str], fleet_of: Callable[..., Hosts], suite_file: str, tmp_path: Path, there: Path
) -> None:
    started = tmp_path / "started"
    hang = hanging(tmp_path, started)
    folder = tmp_path / "results"
    fleet_of(entry("one"), entry("two", command=hang))
    code = (
        "import sys; from pathlib import Path; from edgeskin.benchmark import fleet; bundle, hosts, out, suite = "
        "sys.argv[1:]; fleet.run(Path(bundle), fleet.read_hosts(Path(hosts)), Path(out), suite=suite)"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(TINY), str(tmp_path / "hosts.toml"), str(folder), suite_file],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    wait_until(started.is_file, 120)
    run.send_signal(signal.SIGKILL)
    run.wait(10)
    board_pid = int(started.read_text())
    wait_until(lambda: not at_work(board_pid))
    wait_until(lambda: not list(there.iterdir()))
    summary = FleetResult.parse(json.loads((folder / fleet.SUMMARY).read_text()), "summary")
    assert summary.partial
    assert [row.name for row in summary.rows] == ["one"]
    measured = (folder / "one.json").read_bytes()
    found = fleet.run(TINY, fleet_of(entry("one"), entry("two")), folder, suite=suite_file)
    assert [(row.name, row.status) for row in found.rows] == [("one", "done before"), ("two", "measured")]
    assert not found.partial
    assert (folder / "one.json").read_bytes() == measured


@needs_sshd
def test_ctrl_c_keeps_what_was_measured(
    sshd: Board, entry: Callable[..., str], fleet_of: Callable[..., Hosts], suite_file: str, tmp_path: Path, there: Path
) -> None:
    started = tmp_path / "started"
    hang = hanging(tmp_path, started)

    pressed = threading.Event()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

    def press() -> None:
        wait_until(started.is_file, 120)
        os.kill(os.getpid(), signal.SIGINT)
        pressed.set()

    presser = threading.Thread(target=press)
    presser.start()
    hosts = fleet_of(entry("one"), entry("two", command=hang), entry("three"))
    try:
        found = fleet.run(TINY, hosts, tmp_path / "results", suite=suite_file)
    finally:
        signal.signal(signal.SIGINT, before)
    presser.join()
    assert pressed.is_set(), "the board that hangs was never asked"
    assert found.partial
    assert [(row.status, row.fault) for row in found.rows] == [
        ("measured", None), ("failed", "interrupted"), ("failed", "interrupted"),
    ]  # fmt: skip
    wait_until(lambda: not list(there.iterdir()))


HOST = '[[host]]\nname = "a"\naddress = "b"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HOST + 'pasword = "x"\n', "pasword"),
        (HOST + 'password = "x"\n', "password"),
        ('know_hosts = "x"\n' + HOST, "did you mean 'known_hosts'"),
        (HOST + HOST, "share the name 'a'"),
        (HOST.replace('"a"', '"fleet"'), "fleet.json"),
        (HOST.replace('"a"', '"../a"'), "host.0.name"),
        (HOST.replace('"b"', '"user@b"'), "host.0.address"),
        (HOST + "port = 70000\n", "host.0.port"),
        (HOST + "timeout_s = 0\n", "timeout_s"),
        (HOST + 'command = "\'x"\n', "quotation"),
        (HOST + 'command = " "\n', "no command"),
        (HOST + 'suite = "quik"\n', "quick"),
        (HOST + 'suite = "./nothing.toml"\n', "no such suite"),
        ('known_hosts = "nothing"\n' + HOST, "no such known_hosts"),
        ("host = []\n", "host"),
        ("[[host]\n", "TOML"),
    ],
)
def test_a_hosts_file_with_a_fault_names_it(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "hosts.toml"
    path.write_text(text)
    with pytest.raises(EdgeskinError, match=re.escape(said)):
        fleet.read_hosts(path)


def test_paths_of_a_hosts_file(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("")
    (tmp_path / "s.toml").write_text('name = "s"\n')
    path = tmp_path / "hosts.toml"
    path.write_text('known_hosts = "keys"\n' + HOST + 'key_file = "~/k"\nsuite = "./s.toml"\n')
    found = fleet.read_hosts(path)
    assert found.known_hosts == str(tmp_path / "keys")
    assert found.host[0].key_file == str(Path.home() / "k")
    assert Path(found.host[0].suite) == tmp_path / "s.toml"
    with pytest.raises(EdgeskinError, match="no such file"):
        fleet.read_hosts(tmp_path / "nothing.toml")


def test_a_suite_goes_through_toml(tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(fleet_board.suite_toml(SUITE), encoding="utf-8")
    assert Suite.from_toml(path) == SUITE
