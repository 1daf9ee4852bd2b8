"""Boards that misbehave, over a real sshd on loopback: each fault has its name, and nothing is left behind."""

import json
import os
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeskin.benchmark import fleet, fleet_ssh
from edgeskin.spec.bench import BenchResult
from edgeskin.spec.hosts import Host, Hosts
from tests.benchmark.boards import SUITE, TINY, Board, needs_sshd, only, script

pytest.importorskip("onnxruntime")
pytest.importorskip("paramiko", reason="boards over SSH need edgeskin[fleet]")


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
