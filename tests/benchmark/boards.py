"""Boards of a fleet: a real sshd on loopback, and programs that stand in for the command on a board."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeskin.spec.hosts import FleetResult, FleetRow
from edgeskin.spec.suite import Suite

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


def script(path: Path, text: str) -> str:
    """A stand-in for the command on a board that misbehaves: a real program, run by a real shell over a real sshd."""
    path.write_text("#!/bin/sh\n" + textwrap.dedent(text))
    path.chmod(0o755)
    return shlex.quote(str(path))


def only(found: FleetResult) -> FleetRow:
    assert len(found.rows) == 1
    return found.rows[0]


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.1)
