"""What one board does for a fleet: it gets the bundle and the suite, runs `edgeskin bench`, gives its result back."""

import json
import re
import shlex
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeskin.benchmark import compare
from edgeskin.benchmark.fleet_ssh import BoardError, Connection, connect, fix_of, quoted, writing_fault
from edgeskin.errors import EdgeskinError
from edgeskin.spec.bench import BenchResult
from edgeskin.spec.hosts import Host
from edgeskin.spec.suite import Suite

KILLED = "killed from outside, most often for want of memory"  # status 128 + SIGKILL
MARGIN_BYTES = 4 << 20  # for the result and what an engine caches, beside the bundle packed and unpacked
_MADE = re.compile(r"^dir=(/.*/edgeskin-[A-Za-z0-9]{6})$", re.MULTILINE)
_FREE = re.compile(r"\s\d+\s+\d+\s+(-?\d+)\s+\d+%\s")  # df -P: blocks, used, available, capacity
_VERSION = re.compile(r"^\d+\.\d+\S*$")

RESULT = b"edgeskin-result\n"  # on standard output before the result: a board's profile may print something first
NO_RESULT = 74

# The benchmark in a process group of its own. What watches it reads the script's standard input, which ends with the
# connection, however that comes about; it then ends the group and removes the folder: no board is left at work for
# nobody. `timeout` covers a cable that was pulled, of which the board would hear hours later. The two traps keep each
# half from being ended by the other, or by a pipe that nobody reads, before the folder is gone.
WATCHED = """
cd {folder} || exit 73
exec 3<&0
if command -v setsid >/dev/null 2>&1; then own=-; set -- setsid {command}; else own=; set -- {command}; fi
"$@" </dev/null >/dev/null 3<&- &
job=$!
trap '' PIPE
limit=
if command -v timeout >/dev/null 2>&1; then limit="timeout {seconds}"; fi
( $limit cat <&3; trap '' TERM; kill -TERM "$own$job"; sleep 2; kill -KILL "$own$job"; cd /; rm -rf {folder} ) \\
    >/dev/null 2>&1 &
watch=$!
exec 3<&-
wait "$job"
status=$?
if [ "$status" = 0 ]; then echo edgeskin-result; cat result.json || status=74; fi
cd /
rm -rf {folder}
kill "$watch" 2>/dev/null
exit "$status"
"""


@dataclass(frozen=True, slots=True)
class Task:
    """What one board is to do."""

    host: Host
    suite: Suite
    threads: int
    archive: Path
    bundle_sha256: str
    referenced: bool  # the bundle travels with its FP32 reference


def measure(task: Task, known: Path, stop: threading.Event, tell: Callable[[str], None]) -> tuple[BenchResult, str]:
    """Everything on one board, within its time; its result, and the version of edgeskin there.

    The folder made on the board is removed whatever happens. `tell` hears what is being done.

    Raises:
        BoardError: whatever keeps the board from a result of what was asked.
    """
    host = task.host
    deadline = time.monotonic() + host.timeout_s
    command = " ".join(quoted(word) for word in shlex.split(host.command))
    tell("logging in")
    with connect(host, known, deadline, stop) as board:
        version = _version(board, host, command)
        home = _make_folder(board, host, task.archive.stat().st_size)
        try:
            tell("uploading")
            undo = f"rm -rf {shlex.quote(home)}"
            board.write(f"{home}/bundle.zip", task.archive, undo=undo)
            board.write(f"{home}/suite.toml", suite_toml(task.suite).encode(), undo=undo)
            tell("measuring")
            script = WATCHED.format(
                folder=shlex.quote(home),
                seconds=int(deadline - time.monotonic()) + 60,
                command=f"env EDGESKIN_CACHE={shlex.quote(home + '/cache')} {command} bench bundle.zip "
                f"--suite ./suite.toml --threads {task.threads} --no-accuracy --out result.json",
            )
            done = board.run(script, watched=True)
            if done.status == NO_RESULT:
                raise BoardError("wrong result", "no result there", got=done.said())
            if done.status:
                fault = writing_fault(done.said()) or "bench failed"
                got = KILLED if done.status in (-1, 137) else done.said()
                raise BoardError(fault, "edgeskin bench failed there", got=got, fix=fix_of(fault))
            return _checked(done.stdout.partition(RESULT)[2], task), version
        finally:
            board.last(f"rm -rf {shlex.quote(home)}")


def _version(board: Connection, host: Host, command: str) -> str:
    """Version of edgeskin on the board, as `edgeskin --version` gives it."""
    done = board.run(f"{command} --version")
    said = done.stdout.decode("utf-8", "replace").split()
    if done.status == 0 and said and _VERSION.match(said[-1]):
        return said[-1]
    got = done.said() if done.status else f"{command} --version says {' '.join(said)[-80:]!r}"
    raise BoardError("no edgeskin", "no edgeskin there", got=got, fix="install it there, or set `command`")


def _make_folder(board: Connection, host: Host, archive_bytes: int) -> str:
    """A new folder on the board, with room for the bundle, packed and unpacked."""
    base = quoted(host.folder)
    script = f'umask 077; mkdir -p {base} && cd {base} && d=$(mktemp -d "$PWD/edgeskin-XXXXXX") && echo "dir=$d" && '
    done = board.run(script + "df -Pk .")
    text = done.stdout.decode("utf-8", "replace")
    made = _MADE.search(text)
    if made is None:
        fault = writing_fault(done.said())
        raise BoardError(fault or "no permission", f"no folder in {host.folder}", got=done.said(), fix=fix_of(fault))
    needed, free = 2 * archive_bytes + MARGIN_BYTES, _FREE.search(text)
    if free and int(free[1]) * 1024 < needed:
        board.last(f"rm -rf {shlex.quote(made[1])}")
        got = f"{int(free[1]) / 1024:.1f} MiB free in {host.folder}, {needed / 2**20:.1f} needed"
        raise BoardError("no space", "too little space there", got=got, fix=fix_of("no space"))
    return made[1]


def suite_toml(suite: Suite) -> str:
    """A suite as TOML, for a board whose edgeskin may ship other suites under the same names.

    >>> print(suite_toml(Suite(name="a b")).splitlines()[0])
    name = "a b"
    """

    def text(value: Any) -> str:
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{name} = {text(v)}" for name, v in value.items() if v is not None) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(text, value)) + "]"
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

    return "".join(f"{name} = {text(value)}\n" for name, value in suite.to_json().items() if value is not None)


def _checked(data: bytes, task: Task) -> BenchResult:
    """The board's result, if it is one, and of what was asked."""
    try:
        plain = json.loads(data)
        compare.check_format(plain, compare.FORMAT, "the result")
        found = BenchResult.parse(plain, "the result")
    except EdgeskinError as error:
        raise BoardError("wrong result", error.what, got=error.got, fix="install the same edgeskin there") from error
    except (ValueError, RecursionError) as error:
        raise BoardError("wrong result", "the result is no JSON", got=str(error)) from error
    if reason := unlike(found, task):
        raise BoardError("wrong result", "the result is not of what was asked", got=reason)
    return found


def unlike(found: BenchResult, task: Task) -> str:
    """In what a result differs from what a task asks; "" if in nothing."""
    if found.bundle_sha256 != task.bundle_sha256:
        return f"bundle {found.bundle_sha256[:12]} instead of {task.bundle_sha256[:12]}"
    if found.suite != task.suite:
        return f"suite {found.suite.name} with other values than {task.suite.name} has here"
    if task.threads and found.environment.threads != task.threads:
        return f"{found.environment.threads} threads instead of {task.threads}"
    if any(lane.reference is not None for lane in found.lanes) != task.referenced:
        return "measured " + ("without" if task.referenced else "with") + " the FP32 reference"
    return "a partial result" if found.partial else ""
