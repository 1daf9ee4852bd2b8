"""One board over SSH: log in, run a POSIX shell script, feed it, read it, always within a time limit.

Files travel through `cat`, not SFTP: small boards often have no SFTP server, and `cat` says why a write failed.
"""

import contextlib
import logging
import re
import shlex
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskin.errors import EdgeskinError, missing_extra
from edgeskin.spec.hosts import Fault, Host

if TYPE_CHECKING:
    import paramiko

CHUNK = 1 << 15
MOST_BYTES = 64 << 20  # of output; a result is some 100 kB
POLL_S = 0.02
LAST_S = 10.0  # for cleaning up
SETTLE_S = 2.0  # after the exit status, for output that is still on its way
_FULL = re.compile(r"no space left|disk is full|quota exceeded|file too large|file size limit", re.IGNORECASE)
_FORBIDDEN = re.compile(r"permission denied|read-only file system|not permitted|no permission to write", re.IGNORECASE)
_FILE_SIZE_SIGNAL = 128 + 25  # SIGXFSZ, as a shell reports it


class BoardError(EdgeskinError):
    """Why a board gives no result. It becomes a row of the table, never the end of the run."""

    def __init__(self, fault: Fault, what: str, *, got: object = None, fix: str | None = None) -> None:
        super().__init__(what, got=got, fix=fix)
        self.fault: Fault = fault


@dataclass(frozen=True, slots=True)
class Done:
    """How a script ended; `status` is -1 where a signal ended it."""

    status: int
    stdout: bytes
    stderr: bytes

    def said(self) -> str:
        """The line that tells most: our own error line, else the last one."""
        lines = [line.strip() for line in self.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        own = [line.removeprefix("edgeskin: ") for line in lines if line.startswith("edgeskin: ")]
        return (own or lines or [f"exit status {self.status}, and not a word"])[-1][:500]


def quoted(word: str) -> str:
    """A word for a POSIX shell, as it is, but for a leading `~/`, which is the home folder.

    >>> quoted("a b"), quoted("~/my board"), quoted("$(x)")
    ("'a b'", '"$HOME"/\\'my board\\'', "'$(x)'")
    """
    return '"$HOME"/' + shlex.quote(word[2:]) if word.startswith("~/") else shlex.quote(word)


def writing_fault(text: str) -> Fault | None:
    """The fault that a refusal to write stands for, if it is one.

    >>> writing_fault("cat: write error: No space left on device"), writing_fault("mkdir: x: Permission denied")
    ('no space', 'no permission')
    """
    return "no space" if _FULL.search(text) else "no permission" if _FORBIDDEN.search(text) else None


def upload_script(path: str, size_bytes: int, undo: str = "") -> str:
    """A script that writes its standard input to a file; status 74 after `undo` where it was not `size_bytes`."""
    file = quoted(path)
    whole = f'[ "$status" = 0 ] && {{ [ "$(wc -c < {file})" -eq {size_bytes} ] || status=74; }}'
    return f'cat > {file}; status=$?; {whole}; [ "$status" = 0 ] || {{ {undo or ":"}; }}; exit "$status"'


class Connection:
    """A board that was logged into. Every call ends by `deadline` (time.monotonic()) or when `stop` is set."""

    def __init__(self, client: "paramiko.SSHClient", deadline: float, stop: threading.Event) -> None:
        self._client, self._deadline, self._stop = client, deadline, stop

    def run(self, script: str, *, feed: Path | bytes | None = None, watched: bool = False) -> Done:
        """Run a shell script on the board, with a file or bytes for its standard input.

        Args:
            watched: keep the standard input open: it ends when the connection does, however that comes about.

        Raises:
            BoardError: the time is up, the connection broke, the run was interrupted.
        """
        import paramiko

        try:
            transport = self._client.get_transport()
            if transport is None:
                raise BoardError("unreachable", "the connection broke")
            channel = transport.open_session(timeout=max(1.0, self._left()))
            with contextlib.closing(channel):
                channel.exec_command("exec sh -c " + shlex.quote(script))
                if feed is not None:
                    self._send(channel, feed)
                if not watched:
                    with contextlib.suppress(OSError):  # a script that ended early has closed it
                        channel.shutdown_write()
                done = self._collect(channel)
            if done.status == -1 and not transport.is_active():
                raise BoardError("unreachable", "the connection broke", got=done.said())
        except (paramiko.SSHException, EOFError, OSError) as error:
            self._check()
            raise BoardError("unreachable", "the connection broke", got=str(error) or type(error).__name__) from error
        return done

    def write(self, path: str, content: Path | bytes, *, undo: str = "") -> None:
        """Put a file onto the board; the board runs `undo` where not all of it arrives.

        Raises:
            BoardError: with the board's own words, where it cannot be written.
        """
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        done = self.run(upload_script(path, size, undo), feed=content)
        if done.status == 0:
            return
        if done.status in (-1, _FILE_SIZE_SIGNAL):
            raise BoardError("no space", "the board broke the upload off", got="a limit on the size of files")
        fault = writing_fault(done.said())
        raise BoardError(fault or "bench failed", "the upload failed", got=done.said(), fix=fix_of(fault))

    def last(self, script: str) -> None:
        """Clean up, even where the time is up or the run interrupted; a board that is gone is left as it is."""
        patient = Connection(self._client, time.monotonic() + LAST_S, threading.Event())
        with contextlib.suppress(BoardError):
            patient.run(script)

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    def _check(self) -> None:
        if self._stop.is_set():
            raise BoardError("interrupted", "interrupted", fix="run the same command again")
        if self._left() <= 0:
            raise BoardError("time limit", "the time limit is over", fix="raise timeout_s, or take a shorter suite")

    def _send(self, channel: "paramiko.Channel", feed: Path | bytes) -> None:
        for block in _blocks(feed):
            rest = memoryview(block)
            while rest:
                self._check()
                channel.settimeout(min(1.0, max(POLL_S, self._left())))
                try:
                    rest = rest[channel.send(rest.tobytes()) :]
                except TimeoutError:
                    continue
                except OSError:  # the script ended before it had read all; its own words say why
                    return

    def _collect(self, channel: "paramiko.Channel") -> Done:
        out, err = bytearray(), bytearray()
        ended: float | None = None
        while True:
            while channel.recv_ready():
                out += channel.recv(CHUNK)
            while channel.recv_stderr_ready():
                err += channel.recv_stderr(CHUNK)
            if len(out) + len(err) > MOST_BYTES:
                raise BoardError("wrong result", "the board says too much", got=f"more than {MOST_BYTES >> 20} MiB")
            if ended is None and channel.exit_status_ready():
                ended = time.monotonic()
            if ended is not None:
                drained = not channel.recv_ready() and not channel.recv_stderr_ready()
                if drained and (channel.eof_received or channel.closed or time.monotonic() - ended > SETTLE_S):
                    return Done(channel.exit_status, bytes(out), bytes(err))
            else:
                self._check()
            time.sleep(POLL_S)


def _blocks(feed: Path | bytes) -> Iterator[bytes]:
    if isinstance(feed, bytes):
        yield from (feed[start : start + CHUNK] for start in range(0, len(feed), CHUNK))
        return
    with feed.open("rb") as handle:
        while block := handle.read(CHUNK):
            yield block


def fix_of(fault: Fault | None) -> str | None:
    """What to do about a refusal to write."""
    cures = {"no space": "free space there, set `folder` to a larger disk, or `lean = true`"}
    return {**cures, "no permission": "set `folder` to one the user may write to"}.get(fault or "")


@contextlib.contextmanager
def connect(host: Host, known_hosts: Path, deadline: float, stop: threading.Event) -> Iterator[Connection]:
    """Log into a board whose key is known; by its key file, else by the agent and the keys of ~/.ssh.

    Raises:
        EdgeskinError: paramiko is not installed.
        BoardError: nobody answers, the host key is unknown or another one, the login is refused.
    """
    try:
        import paramiko
    except ImportError:
        raise missing_extra("paramiko", "fleet") from None
    logging.getLogger("paramiko").addHandler(logging.NullHandler())  # what it logs is in the row's reason
    client = paramiko.SSHClient()
    try:
        _log_in(client, host, known_hosts, min(host.connect_s, max(1.0, deadline - time.monotonic())))
        yield Connection(client, deadline, stop)
    finally:
        client.close()


def _log_in(client: "paramiko.SSHClient", host: Host, known_hosts: Path, limit_s: float) -> None:
    import paramiko

    class Refuse(paramiko.MissingHostKeyPolicy):
        """A board that nobody vouched for is not talked to."""

        def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
            raise BoardError(
                "host key",
                "the host key is not known",
                got=f"{key.get_name()} {key.fingerprint}",
                fix=f"compare it with the board's own, then add it to {known_hosts.name}",
            )

    where = f"{host.address} port {host.port}"
    client.set_missing_host_key_policy(Refuse())
    try:
        if known_hosts.is_file():
            client.load_host_keys(str(known_hosts))
        client.connect(
            host.address,
            port=host.port,
            username=host.user or None,
            key_filename=host.key_file or None,
            look_for_keys=not host.key_file,
            timeout=limit_s,
            banner_timeout=limit_s,
            auth_timeout=limit_s,
            channel_timeout=limit_s,
        )
    except paramiko.BadHostKeyException as error:
        raise BoardError(
            "host key",
            "the host key is not the known one",
            got=f"{error.key.get_name()} {error.key.fingerprint}",
            fix="find out why it changed before you trust it",
        ) from error
    except paramiko.PasswordRequiredException as error:
        raise BoardError("login", "the key is locked", got=host.key_file, fix="unlock it with ssh-add") from error
    except paramiko.AuthenticationException as error:
        raise BoardError(
            "login", "the login was refused", got=f"user {host.user or '(yours)'}", fix="set `user` and `key_file`"
        ) from error
    except FileNotFoundError as error:
        raise BoardError("login", "no such key file", got=host.key_file, fix="correct `key_file`") from error
    except socket.gaierror as error:
        raise BoardError("unreachable", "no such address", got=host.address, fix="correct `address`") from error
    except TimeoutError as error:
        raise BoardError("unreachable", "no answer", got=f"{where} within {limit_s:.0f} s") from error
    except (paramiko.SSHException, EOFError) as error:
        raise BoardError("unreachable", "no SSH there", got=f"{where}: {error or type(error).__name__}") from error
    except OSError as error:
        raise BoardError("unreachable", "no connection", got=f"{where}: {error.strerror or error}") from error
