"""Runs of a sweep in processes of their own: in turn without Ray, and on Ray, where a killed sweep resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from edgeskin.data.registry import load_pairs
from edgeskin.data.roles import assign
from edgeskin.errors import EdgeskinError
from edgeskin.spec.sweep_result import SweepResult
from edgeskin.sweeping.answers import read
from edgeskin.sweeping.runners import run_all
from tests.sweeping.conftest import QUESTION, THREE, write_toml

pytestmark = pytest.mark.skipif(not find_spec("lightning"), reason="needs the extra train")
needs_ray = pytest.mark.skipif(not find_spec("ray"), reason="needs the extra sweep")


@pytest.fixture
def planned(drawn, suite_of, tmp_path):
    """A good run and one that fails, which have not begun."""
    from edgeskin.sweeping.plan import jobs

    suite = suite_of({"broken": THREE["broken"], "base": {}}, seeds=[0])
    data = suite.base.data.at(str(drawn))
    pairset = load_pairs("derm7pt", drawn)
    return jobs(suite, data, assign(pairset, data.roles), pairset.schema, tmp_path / "out")


@pytest.fixture
def _no_ray(monkeypatch):
    from edgeskin.sweeping import runners

    monkeypatch.setattr(runners, "find_spec", lambda name: None)


@pytest.mark.usefixtures("_no_ray")
def test_without_ray_side_by_side_is_refused(planned):
    for at_once, address in ((2, ""), (1, "10.0.0.1:6379")):
        with pytest.raises(EdgeskinError, match=r"'ray' is not installed.*edgeskin\[sweep\]"):
            list(run_all(planned, at_once, address))


@pytest.mark.slow
@pytest.mark.usefixtures("_no_ray")
def test_without_ray_each_run_has_a_process_of_its_own_after_the_other(planned):
    found = {job.name: reason for job, reason in run_all(planned, 0)}
    assert list(found) == ["broken-s0", "base-s0"]
    assert "unknown backbone" in found["broken-s0"]
    assert found["base-s0"] == ""
    assert "resnet_of_nobody" in (planned[0].folder / "log.txt").read_text()
    assert read(planned[1].answers).key == planned[1].key


@pytest.mark.skipif(sys.platform == "win32", reason="asks /proc or ps by psutil, and kills as Unix does")
def test_without_ray_a_run_ends_with_its_sweep_even_if_that_is_killed(planned):
    job = planned[1]
    text = (
        "import json, sys; from edgeskin.sweeping import runners; from edgeskin.sweeping.plan import Job; "
        "runners.find_spec = lambda name: None; list(runners.run_all([Job.parse(json.loads(sys.argv[1]))], 1))"
    )
    parent = subprocess.Popen([sys.executable, "-c", text, json.dumps(job.to_json())])
    waited = time.monotonic()
    while not (job.folder / "log.txt").is_file():
        assert parent.poll() is None
        assert time.monotonic() - waited < 120
        time.sleep(0.02)
    children = psutil.Process(parent.pid).children(recursive=True)
    assert children
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=120)
    assert not alive
    assert not job.answers.exists()  # it ended; it did not finish


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "the Ray cluster does not answer: got '127.0.0.1:1: .*ray start --head"),
        ("ray://127.0.0.1:1", "does not answer"),
        ("127.0.0.1:99999", "does not answer"),
        ("nowhere", "not the address of a Ray cluster: got 'nowhere'"),
        ("host:port", "not the address"),
    ],
)
@needs_ray
def test_a_cluster_that_is_not_there_is_one_line_at_once(planned, address, words):
    with pytest.raises(EdgeskinError, match=words):
        list(run_all(planned, 1, address))


def command(drawn: Path, toml: Path, folder: Path) -> list[str]:
    return [sys.executable, "-m", "edgeskin.cli", "sweep", str(toml), "--root", str(drawn), "--out", str(folder),
            "--jobs", "2", "--json"]  # fmt: skip


@pytest.fixture
def toml(suite_of, tmp_path) -> Path:
    """A sweep as a file: two good variants and one that fails."""
    return write_toml(suite_of(THREE, comparison=[QUESTION]), tmp_path)


@needs_ray
@pytest.mark.slow
def test_on_ray_a_killed_sweep_resumes_to_the_same_figures(drawn, toml, tmp_path):
    whole = subprocess.run(command(drawn, toml, tmp_path / "whole"), capture_output=True, text=True, timeout=600)
    assert whole.returncode == 0, whole.stderr
    assert "broken-s0 failed: unknown backbone" in whole.stderr
    expected = SweepResult.parse(json.loads(whole.stdout), "stdout")
    assert [v.seeds for v in expected.variants] == [(0, 1), (0, 1), ()]

    for how in (signal.SIGINT, signal.SIGKILL):
        folder = tmp_path / how.name
        started = subprocess.Popen(
            command(drawn, toml, folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        waited = time.monotonic()
        while not list(folder.glob("*/test.npz")):
            assert started.poll() is None, started.communicate()
            assert time.monotonic() - waited < 300
            time.sleep(0.2)
        children = psutil.Process(started.pid).children(recursive=True)
        os.kill(started.pid, how)
        started.communicate(timeout=120)
        assert started.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
        _, alive = psutil.wait_procs(children, timeout=300)  # agents of Ray look for it now and then only
        assert not alive, [p.cmdline() for p in alive]
        assert not list(folder.glob("*/.test.npz*"))  # nothing half-written
        kept = {p: p.stat().st_mtime_ns for p in folder.glob("*/test.npz")}
        again = subprocess.run(command(drawn, toml, folder), capture_output=True, text=True, timeout=600)
        assert again.returncode == 0, again.stderr
        assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
        found = SweepResult.parse(json.loads(again.stdout), "stdout")
        for one, other in zip(found.variants, expected.variants, strict=True):
            assert one.readings == other.readings, one.name
        assert found.answers == expected.answers
