"""A new process to its first decision: parts that add up, a cache that is real, an interruption that keeps runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from edgeskin.benchmark import coldchild, coldstart
from edgeskin.errors import EdgeskinError

TINY = Path(__file__).resolve().parents[1] / "golden" / "tiny-onnxruntime"


def measure(runs: int = 1):
    return coldstart.measure(TINY, threads=1, height=64, width=96, runs=runs)


def test_the_parts_add_up_to_the_whole():
    pytest.importorskip("onnxruntime")
    found = measure()
    parts = found.parts
    assert parts is not None
    engine = parts.engine_import_ms + parts.compile_ms
    decision = parts.prepare_ms + parts.inference_ms + parts.decide_ms
    assert engine + decision <= found.first_decision_ms * 1.001
    assert engine + decision >= 0.8 * found.first_decision_ms - 5
    assert parts.total_ms == pytest.approx(found.import_ms + found.load_ms + found.first_decision_ms, rel=1e-3)
    assert parts.total_ms < found.process_ms
    assert parts.engine_import_ms > 1  # importing an engine takes its time, and is not compilation
    assert parts.open_ms == pytest.approx(found.load_ms, abs=0.01)
    assert not found.partial


def test_an_engine_without_a_cache_says_so():
    pytest.importorskip("onnxruntime")
    found = measure()
    assert found.cached is None
    assert found.cache_bytes is None
    assert found.cache_absent == "the engine keeps no compiled models"


FAKE = {
    "import_ms": 1.0, "load_ms": 2.0, "engine_import_ms": 3.0, "compile_ms": 40.0, "prepare_ms": 5.0,
    "inference_ms": 6.0, "decide_ms": 7.0, "first_decision_ms": 61.0, "total_ms": 64.0, "peak_rss_bytes": None,
    "process_ms": 70.0,
}  # fmt: skip


def test_with_and_without_the_cache_take_turns_after_one_process_has_filled_it(monkeypatch):
    begun: list[str] = []

    def start(arguments):
        cache = arguments[-1]
        begun.append("cached" if cache else "plain")
        if cache:
            Path(cache, "blob").write_bytes(b"x" * 100)
        return {**FAKE, "compile_ms": 4.0 if cache else 40.0}

    monkeypatch.setattr(coldstart, "_start", start)
    found = measure(runs=3)
    assert begun == ["cached", "plain", "cached", "plain", "cached", "plain", "cached"]
    assert found.runs == 3
    assert found.cache_bytes == 100
    assert found.parts is not None
    assert found.cached is not None
    assert (found.parts.compile_ms, found.cached.compile_ms) == (40.0, 4.0)
    assert found.cached_process_ms == 70.0


@pytest.mark.parametrize(("after", "runs"), [(2, 1), (3, 1), (4, 2)])
def test_ctrl_c_keeps_the_runs_that_are_done(monkeypatch, after, runs):
    left = iter(range(after))

    def start(arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        if arguments[-1]:
            Path(arguments[-1], "blob").write_bytes(b"x")
        return FAKE

    monkeypatch.setattr(coldstart, "_start", start)
    found = measure(runs=5)
    assert found.partial
    assert found.runs == runs


def test_ctrl_c_before_the_first_run_is_passed_on(monkeypatch):
    def start(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(coldstart, "_start", start)
    with pytest.raises(KeyboardInterrupt):
        measure()


def test_a_cold_start_that_fails_says_why(tmp_path):
    with pytest.raises(EdgeskinError, match="no such bundle"):
        coldstart.measure(tmp_path / "nothing", threads=1, height=64, width=64, runs=1)


def test_the_new_process_imports_no_more_than_a_device_does():
    watched = "import sys; from edgeskin.benchmark import coldchild; from edgeskin import runtime"
    told = f"{watched}; print([m for m in sys.modules if m.startswith('edgeskin.')])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    loaded = set(eval(done.stdout))
    assert "edgeskin.runtime" in loaded
    assert {name for name in loaded if name.startswith("edgeskin.benchmark")} == {
        "edgeskin.benchmark",
        "edgeskin.benchmark.coldchild",
    }
    assert not loaded & {"edgeskin.spec.bench", "edgeskin.spec.suite", "edgeskin.spec.result", "edgeskin.out"}


def test_imports_are_timed_once_however_deep(tmp_path, monkeypatch):
    (tmp_path / "outer_of_two.py").write_text("import time\nimport inner_of_two\ntime.sleep(0.01)\n")
    (tmp_path / "inner_of_two.py").write_text("import time\ntime.sleep(0.02)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with coldchild.imports_timed() as found:
        import sys as again  # noqa: F401

        import outer_of_two  # type: ignore[import-not-found] # noqa: F401
    assert sorted(found.names) == ["outer_of_two", "sys"]  # not the inner one
    assert 0.03 <= found.seconds < 1
    for name in ("outer_of_two", "inner_of_two"):
        sys.modules.pop(name)
