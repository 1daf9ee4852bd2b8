"""A peer's processes as the run sees them: build, serve, cold start. Every failure becomes a reason."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

WORKER = Path(__file__).resolve().parent / "worker.py"
BUILD_S, ANSWER_S = 1800.0, 300.0


class PeerError(Exception):
    """A peer did not do what it was asked: the reason, in one line."""


@dataclass
class Program:
    """How to start a peer's processes."""

    name: str
    python: Path
    script: Path
    task: Path
    work: Path
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, verb: str) -> list[str]:
        """The command line of a verb."""
        return [str(part) for part in (self.python, WORKER, verb, self.script, self.task, self.work)]

    def variables(self) -> dict[str, str]:
        """The environment of its processes."""
        return {**os.environ, **self.environment}

    def once(self, verb: str, limit_s: float) -> dict[str, Any]:
        """Run `build` or `cold` to its end.

        Raises:
            PeerError: it failed, died or took too long.
        """
        log = self.work / f"{verb}.log"
        with log.open("w", encoding="utf-8") as stderr:
            process = subprocess.Popen(
                self.command(verb), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True,
                env=self.variables(), start_new_session=True,
            )  # fmt: skip
            try:
                said, _ = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired:
                raise PeerError(f"{verb} did not end within {limit_s:.0f} s") from None
            finally:
                _end(process)
        return _parsed(said.splitlines()[-1] if said.strip() else "", verb, process.returncode, log)


def _end(process: "subprocess.Popen[Any]") -> None:
    """Kill a process that still runs, and what it has started: it leads a session of its own."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _parsed(line: str, verb: str, code: int | None, log: Path) -> dict[str, Any]:
    try:
        found: Any = json.loads(line)
    except json.JSONDecodeError:
        last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        ended = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        raise PeerError(f"{verb} ended without an answer ({ended}): {last[:200]}") from None
    if not isinstance(found, dict):
        raise PeerError(f"{verb} answered {line[:80]!r}")
    if "error" in found:
        raise PeerError(f"{verb}: {found['error']}")
    return found


class Worker:
    """A long-lived process that answers one request at a time."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._log = program.work / "serve.log"
        self._stderr = self._log.open("w", encoding="utf-8")
        # A session of its own: Ctrl-C is for the run, which then ends its workers itself.
        self._process = subprocess.Popen(
            program.command("serve"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr,
            env=program.variables(), start_new_session=True,
        )  # fmt: skip
        self._rest = b""
        self._idle_since: tuple[float, float] | None = None  # clock, processor time
        self._idle_wall = self._idle_cpu = 0.0
        try:
            self.versions: dict[str, str] = self._answer(ANSWER_S)["versions"]
        except BaseException:
            self.close()
            raise
        self._rests()

    def ask(
        self, route: str, numbers: list[int], limit_s: float = ANSWER_S, *, source: str = "frames"
    ) -> dict[str, Any]:
        """Put queries to it, one after the other, on pairs of a file that its task names.

        Raises:
            PeerError: it answered with an error, died, or gave no answer in time.
        """
        self._wakes()
        request = json.dumps({"route": route, "source": source, "numbers": numbers}) + "\n"
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request.encode())
            self._process.stdin.flush()
        except BrokenPipeError:  # it is gone: _answer finds its exit code
            pass
        found = self._answer(limit_s)
        self._rests()
        return found

    @property
    def idle_cpu_share(self) -> float | None:
        """Processor time it took while it had nothing to do, as a share of one core; None before it has rested."""
        return self._idle_cpu / self._idle_wall if self._idle_wall > 1 else None

    def cpu_seconds(self) -> float:
        """Processor time it has taken so far, its ended children included."""
        try:
            spent = psutil.Process(self._process.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return float(spent.user + spent.system + spent.children_user + spent.children_system)

    def _rests(self) -> None:
        self._idle_since = (time.monotonic(), self.cpu_seconds())

    def _wakes(self) -> None:
        if self._idle_since is not None:
            clock, spent = self._idle_since
            self._idle_wall += time.monotonic() - clock
            self._idle_cpu += self.cpu_seconds() - spent
            self._idle_since = None

    def _answer(self, limit_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        end = time.monotonic() + limit_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                left = end - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise PeerError(f"no answer within {limit_s:.0f} s")
                block = os.read(self._process.stdout.fileno(), 1 << 16)
                if not block:
                    break
                self._rest += block
        line, _, self._rest = self._rest.partition(b"\n")
        code = None
        if not line:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(timeout=10)
        return _parsed(line.decode(errors="replace"), "serve", code, self._log)

    def close(self, patience_s: float = 5.0) -> None:
        """End it: it leaves when its input ends, and is killed if it does not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(subprocess.TimeoutExpired, BrokenPipeError):
            self._process.stdin.close()
            self._process.wait(timeout=patience_s)
        _end(self._process)
        self._process.stdout.close()
        self._stderr.close()
