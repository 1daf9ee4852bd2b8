"""Where runs happen: as tasks of Ray, on this machine or a cluster; or one process after another."""

import contextlib
import json
import logging
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgeskin import env, out
from edgeskin.backends import usable_cores
from edgeskin.errors import EdgeskinError, missing_extra
from edgeskin.sweeping.plan import Job

Outcome = tuple[Job, str]  # a run that ended, and why it failed; "" if it did not
_SOCKET_LENGTH = 70  # what Ray appends to its folder; the system takes 107 bytes for the name of a socket
_STORE_BYTES = 80_000_000  # Ray's shared memory, of which a sweep needs next to nothing


def run_all(jobs: Sequence[Job], at_once: int, address: str = "") -> Generator[Outcome, None, None]:
    """Do all jobs, as many at once as told, and say of each how it ended, in the order in which they end.

    Leaving the iterator early ends what runs; each run then resumes after its last finished epoch.

    Args:
        at_once: 0: as many as there are cores for, each with the job's threads.
        address: of a Ray cluster; "": this machine.

    Raises:
        EdgeskinError: Ray is not installed and cannot be done without, or the cluster does not answer.
    """
    if not jobs:
        return
    if find_spec("ray"):
        yield from _with_ray(jobs, at_once, address)
        return
    if address or at_once > 1:
        raise missing_extra("ray", "sweep")
    out.note("Ray is not installed: one run after another; pip install 'edgeskin[sweep]' runs them side by side")
    yield from _in_turn(jobs)


def _in_turn(jobs: Sequence[Job]) -> Iterator[Outcome]:
    for job in jobs:
        yield job, _alone(job)


def _alone(job: Job) -> str:
    """The job in a process of its own. It ends with this one: its stdin, which stays open until then, ends."""
    threads = str(job.threads)
    child = subprocess.Popen(
        [sys.executable, "-m", "edgeskin.sweeping.work"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env.for_child(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads),
    )
    assert child.stdin
    assert child.stdout
    try:
        with contextlib.suppress(BrokenPipeError):  # it died at once: its exit code tells
            child.stdin.write(f"{json.dumps(job.to_json())}\n")
            child.stdin.flush()
        told = child.stdout.read()
        child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise
    finally:
        child.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
    if child.returncode in (0, 1):
        return told.strip()
    return f"its process ended with {child.returncode}; see {job.folder}/log.txt"


def _with_ray(jobs: Sequence[Job], at_once: int, address: str) -> Iterator[Outcome]:
    threads = jobs[0].threads
    with _ray(address, (at_once or max(1, usable_cores() // threads)) * threads) as ray:
        gpus = ray.cluster_resources().get("GPU", 0)
        room = int(ray.cluster_resources().get("CPU", threads)) // threads
        if room < 1:
            raise EdgeskinError(
                "no room for a run", got=f"{threads} threads a run", possible="1", fix="pass --threads 1"
            )
        window = min(at_once or room, room)
        # Ray hides every GPU from a task that asks for none.
        wanted = 0.0 if not gpus or jobs[0].train.accelerator == "cpu" else min(1.0, int(gpus / window * 1e3) / 1e3)
        # A process for each run: torch's memory and threads end with it. A run that fails is told, not tried again.
        task: Any = ray.remote(num_cpus=threads, num_gpus=wanted, max_calls=1, max_retries=0)(_task)
        waiting, running = list(jobs), dict[Any, Job]()
        try:
            while waiting or running:
                while waiting and len(running) < window:
                    job = waiting.pop(0)
                    running[task.remote(job.to_json(), str(Path.cwd()))] = job
                ended, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
                for reference in ended:
                    yield running.pop(reference), _outcome(ray, reference)
        finally:
            for reference in running:
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.cancel(reference, force=True)


def _task(given: dict[str, Any], folder: str) -> str:
    from edgeskin.sweeping.work import attempt

    return attempt(given, folder)


def _outcome(ray: Any, reference: Any) -> str:
    try:
        return str(ray.get(reference))
    except ray.exceptions.RayError as error:  # its process died: out of memory, a crash, a lost node
        return " ".join(f"{type(error).__name__}: {error}".split())[:300]


@contextlib.contextmanager
def _ray(address: str, cores: int) -> Iterator[Any]:
    """Ray on this machine, or a cluster's; silent, without dashboard, and gone at the end."""
    # It would otherwise send figures of use to its makers, warn of its own future, and put itself behind all others.
    env.preset(RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0", RAY_worker_niceness="0")
    if address:
        _knock(address)
    else:  # a secret of this sweep alone; Ray would keep one of its own in the user's home
        env.preset(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    import ray

    folder = tempfile.mkdtemp(prefix="edgeskin-ray-")
    own: dict[str, Any] = {"num_cpus": cores, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    if len(folder) + _SOCKET_LENGTH < 107:  # else in Ray's own place
        own["_temp_dir"] = folder
    try:
        _start(ray, address, own)
        yield ray
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _knock(address: str) -> None:
    """Whether anything answers at HOST:PORT or ray://HOST:PORT; Ray itself would try for many minutes.

    Raises:
        EdgeskinError: nothing does, or the address is none.
    """
    if address == "auto":  # the cluster that runs on this machine, as Ray knows it
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (host and colon and port.isdecimal()):
        raise EdgeskinError(
            "not the address of a Ray cluster", got=address, possible="HOST:PORT, ray://HOST:PORT, auto"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise EdgeskinError(
            "the Ray cluster does not answer", got=f"{address}: {error}", fix="start it with `ray start --head` there"
        ) from error


def _start(ray: Any, address: str, own: dict[str, Any]) -> None:
    """Start Ray here with these options, or connect to a cluster.

    Raises:
        EdgeskinError: neither came about.
    """
    told = {} if address else own
    for left in reversed(range(1 if address else 3)):  # Ray gives itself 30 s, too few on a busy machine
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **told)
            return
        except Exception as error:  # that is what Ray raises when it has waited long enough
            ray.shutdown()
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            if left:
                out.note(f"Ray does not start: {first} Once more")
                continue
            raise EdgeskinError(
                "the Ray cluster does not answer" if address else "Ray does not start",
                got=f"{address}: {first}".removeprefix(": "),
                fix="check --ray, and Ray's own RAY_AUTH_MODE and RAY_AUTH_TOKEN"
                if address
                else "stop other work first",
            ) from error
