"""A fleet over a real sshd on loopback: boards that work, and every way in which one does not."""

import getpass
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeskin.benchmark import compare, fleet, fleet_board, fleet_ssh
from edgeskin.bundle import open_bundle
from edgeskin.errors import EdgeskinError
from edgeskin.spec.bench import BenchResult
from edgeskin.spec.hosts import FleetResult, FleetRow, Host, Hosts
from edgeskin.spec.suite import Suite

pytest.importorskip("onnxruntime")
pytest.importorskip("paramiko", reason="boards over SSH need edgeskin[fleet]")

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "golden" / "tiny-onnxruntime"
SSHD = shutil.which("sshd", path=os.defpath + ":/usr/sbin:/usr/local/sbin")
EDGESKIN = shlex.join(["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "edgeskin.cli"])
SUITE = Suite(
    name='tiny "quoted" \\ ü', min_warmup=10, max_warmup=10, min_queries=4, min_seconds=0, max_seconds=60,
    frame_height=64, frame_width=64, cold_starts=0, bootstrap=100,
)  # fmt: skip

needs_sshd = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh-keygen") is None, reason="no sshd here; Debian: apt-get install openssh-server"
)


class Board:
    """A real sshd for the user who runs the tests, and what is needed to write its hosts.toml."""

    def __init__(self, home: Path) -> None:
        assert SSHD is not None
        self.home = home
        for name in ("host", "user", "user_limited", "stranger"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name)]
            subprocess.run(command, check=True, timeout=30)
        limited = 'command="ulimit -f 8; eval \\"$SSH_ORIGINAL_COMMAND\\"" ' + (home / "user_limited.pub").read_text()
        (home / "authorized").write_text((home / "user.pub").read_text() + limited)
        self.port = free_port()
        # SHLVL: bash then leaves the user's .bashrc out, which may take as long as a whole test
        (home / "config").write_text(
            textwrap.dedent(f"""\
            Port {self.port}
            ListenAddress 127.0.0.1
            HostKey {home / "host"}
            AuthorizedKeysFile {home / "authorized"}
            PidFile none
            UsePAM no
            StrictModes no
            PasswordAuthentication no
            KbdInteractiveAuthentication no
            PermitRootLogin prohibit-password
            SetEnv SHLVL=5
            """)
        )
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's own folder for its unprivileged half
        self.known_hosts = home / "known_hosts"
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {(home / 'host.pub').read_text()}")
        self.log = home / "log"
        self.process = subprocess.Popen(
            [SSHD, "-D", "-f", str(home / "config"), "-E", str(self.log)], stdin=subprocess.DEVNULL
        )
        until = time.monotonic() + 20
        while not listening(self.port):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.05)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    board = Board(tmp_path_factory.mktemp("sshd"))
    yield board
    board.close()


@pytest.fixture
def suite_file(tmp_path: Path) -> str:
    path = tmp_path / "tiny.toml"
    path.write_text(fleet_board.suite_toml(SUITE), encoding="utf-8")
    return str(path)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The folder that the boards use; what a run leaves in it is a fault."""
    folder = tmp_path / "on the board"
    folder.mkdir()
    return folder


@pytest.fixture
def entry(sshd: Board, there: Path) -> Callable[..., str]:
    def write(name: str, **changes: Any) -> str:
        fields: dict[str, Any] = dict(
            name=name, address="127.0.0.1", port=sshd.port, user=getpass.getuser(), key_file=str(sshd.home / "user"),
            command=EDGESKIN, folder=str(there), threads=1, timeout_s=120,
        )  # fmt: skip
        fields |= changes
        return "[[host]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items())

    return write


@pytest.fixture
def fleet_of(sshd: Board, tmp_path: Path) -> Callable[..., Hosts]:
    def read(*entries: str, known_hosts: Path | None = None) -> Hosts:
        path = tmp_path / "hosts.toml"
        path.write_text(f"known_hosts = {json.dumps(str(known_hosts or sshd.known_hosts))}\n" + "\n".join(entries))
        return fleet.read_hosts(path)

    return read


def script(path: Path, text: str) -> str:
    """A stand-in for the command on a board that misbehaves: a real program, run by a real shell over a real sshd."""
    path.write_text("#!/bin/sh\n" + textwrap.dedent(text))
    path.chmod(0o755)
    return shlex.quote(str(path))


def hanging(folder: Path, started: Path) -> str:
    """A benchmark that hangs in a process of its own (as a cold start is), after it wrote that one's id."""
    new, final = shlex.quote(f"{started}.new"), shlex.quote(str(started))
    text = f"sleep 300 & echo $! > {new}; mv {new} {final}; wait"
    return script(folder / "hang", f'case "$1" in --version) echo 9.9;; *) {text};; esac')


def only(found: FleetResult) -> FleetRow:
    assert len(found.rows) == 1
    return found.rows[0]


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


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.1)


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


@needs_sshd
@pytest.mark.parametrize("known", ["nothing", "another key", "another port"])
def test_a_board_that_nobody_vouched_for_is_refused(
    sshd: Board, entry: Callable[..., str], fleet_of: Callable[..., Hosts], suite_file: str, tmp_path: Path, known: str
) -> None:
    file = tmp_path / "known"
    public = (sshd.home / "stranger.pub").read_text()
    right = (sshd.home / "host.pub").read_text()
    lines = {"nothing": "", "another key": f"[127.0.0.1]:{sshd.port} {public}", "another port": f"127.0.0.1 {right}"}
    file.write_text(lines[known])
    logged = sshd.log.read_text().count("Accepted")
    row = only(fleet.run(TINY, fleet_of(entry("one"), known_hosts=file), tmp_path / "results", suite=suite_file))
    assert row.fault == "host key"
    assert "SHA256:" in row.reason
    assert file.read_text() == lines[known]  # nothing was added
    assert sshd.log.read_text().count("Accepted") == logged  # no key was shown to it


@needs_sshd
def test_a_full_disk(
    sshd: Board, entry: Callable[..., str], fleet_of: Callable[..., Hosts], suite_file: str, tmp_path: Path, there: Path
) -> None:
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(there)]).returncode:
        pytest.skip("no right to mount a small file system here")
    try:
        hosts = fleet_of(entry("full"))
        row = only(fleet.run(TINY, hosts, tmp_path / "results", suite=suite_file))
        assert row.fault == "no space"
        assert "1.0 MiB free" in row.reason
        assert not list(there.iterdir())
        (there / "filler").write_bytes(bytes(1 << 20))  # not even a folder has room, or the upload breaks off
        host = hosts.host[0]
        with fleet_ssh.connect(host, sshd.known_hosts, time.monotonic() + 30, threading.Event()) as board:
            with pytest.raises(fleet_ssh.BoardError, match="No space left") as refused:
                board.write(f"{there}/upload", bytes(1 << 20))
            assert refused.value.fault == "no space"
    finally:
        subprocess.run(["umount", str(there)], check=True)


@needs_sshd
@pytest.mark.parametrize(
    ("writes", "fault", "said"),
    [
        ("echo '{}' > result.json", "wrong result", "no result of"),
        ("echo oops > result.json", "wrong result", "no JSON"),
        ("true", "wrong result", "No such file"),
        ('echo \'{"format": "edgeskin-bench/1"}\' > result.json', "wrong result", "schema version"),
        ("cp {other} result.json", "wrong result", "bundle 000000000000 instead of"),
        ("echo 'edgeskin: it broke: got 7' >&2; exit 2", "bench failed", "it broke: got 7"),
        ("echo 'edgeskin: the disk is full: got x' >&2; exit 2", "no space", "the disk is full"),
        ("kill -9 $$", "bench failed", "want of memory"),
        ("dd if=/dev/zero of=result.json bs=1M count=70 2>/dev/null", "wrong result", "too much"),
    ],
)
def test_a_board_that_answers_wrongly(
    sshd: Board, entry: Callable[..., str], fleet_of: Callable[..., Hosts], suite_file: str, tmp_path: Path,
    result: BenchResult, writes: str, fault: str, said: str,
) -> None:  # fmt: skip
    other = tmp_path / "other.json"
    other.write_text(json.dumps(result.model_copy(update={"bundle_sha256": "0" * 64}).to_json()))
    body = writes.replace("{other}", shlex.quote(str(other)))
    command = script(tmp_path / "wrong", f'case "$1" in --version) echo 9.9;; *) {body};; esac')
    row = only(fleet.run(TINY, fleet_of(entry("one", command=command)), tmp_path / "results", suite=suite_file))
    assert row.fault == fault
    assert said in row.reason
    assert not (tmp_path / "results" / "one.json").exists()


@pytest.fixture(scope="module")
def result() -> BenchResult:
    from edgeskin.benchmark import scenarios

    return scenarios.run(TINY, SUITE, threads=1)


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_port_that_is_no_ssh(greeting: bytes, suite_file: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            accepted, _ = server.accept()
            with accepted:
                accepted.sendall(greeting)
                time.sleep(4)

        thread = threading.Thread(target=answer)
        thread.start()
        host = Host(name="odd", address="127.0.0.1", port=server.getsockname()[1], connect_s=2)
        hosts = Hosts(known_hosts=str(tmp_path / "none"), host=(host,))
        row = only(fleet.run(TINY, hosts, tmp_path / "results", suite=suite_file))
        thread.join()
    assert row.fault == "unreachable"
    assert row.seconds < 15


@needs_sshd
def test_an_upload_that_breaks_off_leaves_nothing(
    sshd: Board, entry: Callable[..., str], fleet_of: Callable[..., Hosts], there: Path
) -> None:
    host, folder = fleet_of(entry("one")).host[0], there / "run"
    folder.mkdir()
    file, undo = str(folder / "it's.zip"), f"rm -rf {shlex.quote(str(folder))}"
    with fleet_ssh.connect(host, sshd.known_hosts, time.monotonic() + 30, threading.Event()) as board:
        board.write(file, b"x" * 100_000, undo=undo)
        assert Path(file).read_bytes() == b"x" * 100_000
        assert board.run(fleet_ssh.upload_script(file, 100_000, undo), feed=b"x" * 99_999).status == 74
    assert not folder.exists()


@needs_sshd
def test_what_a_profile_prints_is_no_result(
    sshd: Board, entry: Callable[..., str], fleet_of: Callable[..., Hosts], suite_file: str, tmp_path: Path,
    result: BenchResult,
) -> None:  # fmt: skip
    other = tmp_path / "other.json"
    other.write_text(json.dumps(result.to_json()))
    chatty = 'command="echo welcome {}; eval \\"$SSH_ORIGINAL_COMMAND\\"" '
    key = sshd.home / "chatty"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, timeout=30)
    with (sshd.home / "authorized").open("a") as keys:
        keys.write(chatty + key.with_suffix(".pub").read_text())
    text = f'case "$1" in --version) echo 9.9;; *) cp {shlex.quote(str(other))} result.json;; esac'
    hosts = fleet_of(entry("one", key_file=str(key), command=script(tmp_path / "copy", text)))
    row = only(fleet.run(TINY, hosts, tmp_path / "results", suite=suite_file))
    assert (row.status, row.reason) == ("measured", "")


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
