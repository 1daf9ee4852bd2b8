"""MLPerf LoadGen beside our loop: its log is read, its queries reach the bundle, and a disagreement is told."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from edgeskin import chain, runtime
from edgeskin.benchmark import loadgen, scenarios, statistics
from edgeskin.errors import EdgeskinError
from edgeskin.files import pretty_json
from edgeskin.report import scenes
from edgeskin.spec.bench import BenchResult, LoadGenCheck
from edgeskin.spec.suite import Suite

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "golden" / "tiny-onnxruntime"
HERE = pytest.mark.skipif(bool(loadgen.unavailable()), reason=loadgen.unavailable() or "")

# an excerpt of mlperf_log_summary.txt as LoadGen 6.0.17 wrote it
SUMMARY = """
SUT name : PySUT
Scenario : SingleStream
Mode     : PerformanceOnly
90.0th percentile latency (ns) : 2118733
Result is : VALID
Early Stopping Result:
 * Processed at least 64 queries (134).
 * Would discard 4 highest latency queries.
 * Early stopping 90.0th percentile estimate: 4853013
 * Not enough queries processed for 99.0th percentile
 early stopping estimate (would need to process at
 least 662 total queries).

Min latency (ns)                : 2072044
Max latency (ns)                : 5835185
Mean latency (ns)               : 2261057
50.00 percentile latency (ns)   : 2090311
90.00 percentile latency (ns)   : 2118733
95.00 percentile latency (ns)   : 3656362
97.00 percentile latency (ns)   : 4853013
99.00 percentile latency (ns)   : 5749557
99.90 percentile latency (ns)   : 5835185
"""

CHECK = LoadGenCheck(
    mode="pair", route="network", threads=1, version="6.0.17", blocks=4, queries=400, loadgen_queries=396, p50_ms=2.0,
    p90_ms=3.0, loadgen_p50_ms=2.0, loadgen_p90_ms=2.7, p50_ratio=1.0, p90_ratio=1.111, limit=loadgen.LIMIT,
    agree=False, reasons=("p90: ours over LoadGen is 1.111, further from 1 than 3%",),
)  # fmt: skip


def test_percentiles_are_read_from_the_summary_not_the_early_stopping_estimate():
    found = loadgen.percentiles(SUMMARY)
    assert found["50.00"] == 2.090311
    assert found["90.00"] == 2.118733
    assert len(found) == 6


def test_our_early_stopping_discards_as_many_as_loadgen_did():
    assert statistics.early_stopping_rank(134, 0.90) == 4 + 1  # it reports the one below those it discards
    assert statistics.early_stopping_needs(0.99) == 662


def test_agreement_is_of_each_percentile_and_to_three_percent():
    same = [(1.0, 2.0)] * 4
    assert loadgen.compare(same, [(1.02, 2.05)] * 4)[2] == []
    p50, p90, reasons = loadgen.compare(same, [(1.05, 2.0)] * 4)
    assert (p50, p90) == (0.952, 1.0)
    assert reasons == ["p50: ours over LoadGen is 0.952, further from 1 than 3%"]
    assert len(loadgen.compare(same, [(0.9, 1.8)] * 4)[2]) == 2
    assert loadgen.compare(same, [(1.0, 2.0)] * 3 + [(9.0, 9.0)])[2] == []  # one bad moment is not the machine


def test_without_the_package_there_is_a_reason(monkeypatch):
    monkeypatch.setattr(loadgen, "unavailable", lambda: "the package mlcommons-loadgen is not installed")
    with pytest.raises(EdgeskinError, match="pip install mlcommons-loadgen"):
        loadgen.cross_check(TINY)


def script():
    spec = importlib.util.spec_from_file_location("loadgen_check", ROOT / "benchmarks" / "loadgen_check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_says_that_it_is_absent(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(loadgen, "unavailable", lambda: "the package mlcommons-loadgen is not installed")
    monkeypatch.setattr(sys, "argv", ["loadgen_check.py", str(TINY), "--out", str(tmp_path / "found.json")])
    assert script().main() == 0
    told = json.loads(capsys.readouterr().out)
    assert told["absent"] == "the package mlcommons-loadgen is not installed"
    assert told["checks"] == []
    assert json.loads((tmp_path / "found.json").read_text()) == told


@HERE
def test_loadgen_puts_its_queries_to_the_bundle():
    pytest.importorskip("onnxruntime")
    suite = Suite(name="t", min_warmup=10, max_warmup=20, frame_height=96, frame_width=128)
    found = loadgen.cross_check(TINY, threads=1, seconds=0.2, route="decision", blocks=2, suite=suite)
    assert found.loadgen_queries >= 2 * 64
    assert found.queries >= 2 * 64
    assert 0 < found.p50_ms <= found.p90_ms
    assert 0 < found.loadgen_p50_ms <= found.loadgen_p90_ms
    assert found.agree == (not found.reasons)
    assert LoadGenCheck.parse(json.loads(pretty_json(found.to_json())), "text") == found


@HERE
def test_an_error_of_the_bundle_comes_through_loadgen():
    asked: list[int] = []

    def ask(number: int) -> None:
        asked.append(number)
        if len(asked) > 5:
            raise EdgeskinError("the engine gave logits that are not finite")

    with pytest.raises(EdgeskinError, match="not finite"):
        loadgen.single_stream(ask, 0.1)
    assert len(asked) == 6
    assert set(asked) <= set(range(loadgen.SAMPLES))


@HERE
def test_a_bench_carries_its_check_and_stands_or_falls_with_it():
    pytest.importorskip("onnxruntime")
    suite = Suite(
        name="t", min_warmup=10, max_warmup=20, min_queries=8, min_seconds=0, max_seconds=2, frame_height=96,
        frame_width=128, cold_starts=0, bootstrap=100,
    )  # fmt: skip
    found = scenarios.run(TINY, suite, threads=1, with_loadgen=True)
    assert [(one.mode, one.route) for one in found.loadgen] == [("pair", "network"), ("pair", "decision")]
    told = [reason for reason in found.validity.reasons if reason.startswith("LoadGen, pair ")]
    assert len(told) == sum(len(one.reasons) for one in found.loadgen)
    table = scenes.loadgen(found)
    assert table is not None
    assert [row[-1] for row in table.rows] == ["yes" if one.agree else "no" for one in found.loadgen]
    assert BenchResult.parse(json.loads(pretty_json(found.to_json())), "text") == found


def test_a_bench_without_the_package_ends_before_it_measures(monkeypatch):
    monkeypatch.setattr(loadgen, "unavailable", lambda: "the package mlcommons-loadgen is not installed")
    monkeypatch.setattr(runtime, "load", lambda *_, **__: pytest.fail("measures"))
    with pytest.raises(EdgeskinError, match="pip install mlcommons-loadgen"):
        chain.bench(TINY, "quick", loadgen=True)
    with pytest.raises(EdgeskinError, match="pip install mlcommons-loadgen"):
        scenarios.run(TINY, Suite(name="t"), with_loadgen=True)


def test_ctrl_c_keeps_the_check_that_was_finished(monkeypatch):
    done = iter([CHECK])

    def ask(*_: object, **__: object) -> LoadGenCheck:
        for check in done:
            return check
        raise KeyboardInterrupt

    monkeypatch.setattr(loadgen, "cross_check", ask)
    assert scenarios.beside_loadgen(TINY, Suite(name="t"), 1) == ((CHECK,), True)
