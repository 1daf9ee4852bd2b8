"""Two results side by side: what compares, what is refused and why, and whether the interval covers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeskin.benchmark import compare, conditions, medians, scenarios, statistics
from edgeskin.bundle import open_bundle
from edgeskin.errors import EdgeskinError
from edgeskin.files import pretty_json
from edgeskin.spec.bench import BenchResult, Lane, Series, Warmup
from edgeskin.spec.machine import Environment
from edgeskin.spec.result import Accuracy, Compared, Estimate, VerifyResult
from edgeskin.spec.suite import Suite
from edgeskin.verify import verify_golden

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "golden" / "tiny-onnxruntime"
SUITE = Suite(
    name="tiny", min_warmup=10, max_warmup=20, min_queries=24, min_seconds=0, max_seconds=60, frame_height=96,
    frame_width=128, cold_starts=1, bootstrap=100,
)  # fmt: skip
WARM = Warmup(queries=40, stationary=True, change=0.0)


@pytest.fixture(scope="module")
def measured() -> BenchResult:
    """A real run; made valid, as a busy machine may let it drift."""
    pytest.importorskip("onnxruntime")
    return valid(scenarios.run(TINY, SUITE, threads=1))


def valid(result: BenchResult) -> BenchResult:
    return result.model_copy(update={"validity": statistics.verdict([])})


def latencies(median: float, n: int = 400, seed: int = 0) -> list[float]:
    return list(median * np.exp(np.random.default_rng(seed).normal(0, 0.08, n)))


def with_lanes(result: BenchResult, median: float, *, seed: int = 0, n: int = 400, series: bool = True) -> BenchResult:
    """The result with drawn latencies of a known median in every lane."""
    lanes = []
    for k, lane in enumerate(result.lanes):
        values = latencies(median, n, seed + k)
        kept = Series(at_s=tuple(np.arange(n) / 100), core_ms=tuple(values)) if series else None
        lanes.append(lane.model_copy(update={"core": statistics.latency(values, WARM), "series": kept}))
    return result.model_copy(update={"lanes": tuple(lanes)})


def elsewhere(result: BenchResult, **fields: Any) -> BenchResult:
    return result.model_copy(update={"environment": result.environment.model_copy(update=fields)})


def test_a_run_beside_itself_is_one(measured: BenchResult) -> None:
    found = compare.compare(measured, measured)
    assert found.question == "again"
    assert found.differences == ()
    assert found.objections == ()
    assert [lane.ratio for lane in found.lanes] == [1.0] * 4
    assert all(lane.verdict == "no difference" for lane in found.lanes)
    assert all(lane.low is not None and lane.high is not None and lane.low <= 1 <= lane.high for lane in found.lanes)
    assert {row.part for row in found.cold_start} == {"process", "import", "load", "first_decision"}
    assert any("no verify result in A and B" in remark for remark in found.remarks)


@pytest.mark.parametrize("series", [True, False])
def test_two_bundles_on_one_machine(measured: BenchResult, series: bool) -> None:
    a = with_lanes(measured, 4.0, series=series)
    b = with_lanes(measured, 3.0, seed=50, series=series).model_copy(
        update={"bundle_sha256": "b" * 64, "precision": "fp32"}
    )
    found = compare.compare(a, b)
    assert found.question == "bundles"
    assert {one.name for one in found.differences} == {"bundle_sha256", "precision"}
    for lane in found.lanes:
        assert lane.ratio == pytest.approx(0.75, rel=0.03)
        assert lane.low is not None
        assert lane.high is not None
        assert 0.70 < lane.low < lane.ratio < lane.high < 0.80
        assert lane.verdict == "faster"
        assert lane.basis == ("series" if series else "histogram")
    assert any("histogram" in remark for remark in found.remarks) != series
    back = compare.compare(b, a)
    assert {lane.verdict for lane in back.lanes} == {"slower"}


def test_one_bundle_on_two_machines(measured: BenchResult) -> None:
    other = elsewhere(
        measured, board="Another Board", cpu_model="Other CPU", threads=4, governor="performance", kernel="6.1"
    )
    found = compare.compare(measured, other)
    assert found.question == "machines"
    assert {one.name for one in found.differences} >= {"board", "cpu_model", "threads", "governor", "kernel"}
    assert found.b.machine == "Another Board, Other CPU"


@pytest.mark.parametrize(("fields", "asked"), [({"threads": 7}, "settings"), ({"governor": "powersave"}, "settings")])
def test_settings_alone(measured: BenchResult, fields: dict[str, Any], asked: str) -> None:
    assert compare.compare(measured, elsewhere(measured, **fields)).question == asked


def test_software_alone(measured: BenchResult) -> None:
    versions = {**measured.environment.versions, "onnxruntime": "0.1", "torch": "0.0", "openvino": "1.0"}
    found = compare.compare(measured, elsewhere(measured, versions=versions))
    assert found.question == "software"
    assert [one.name for one in found.differences] == ["onnxruntime"]  # the others run none of this


def test_frames_prepared_by_other_software_are_another_measurement(measured: BenchResult) -> None:
    versions = {**measured.environment.versions, "opencv": "0.1"}
    found = compare.compare(measured, elsewhere(measured, versions=versions))
    assert [one.name for one in found.differences] == ["opencv"]


def test_apples_and_oranges_name_every_difference(measured: BenchResult) -> None:
    other = elsewhere(measured, cpu_model="Other CPU", threads=9).model_copy(update={"bundle_sha256": "c" * 64})
    with pytest.raises(EdgeskinError) as refused:
        compare.compare(measured, other)
    line = refused.value.line()
    assert "\n" not in line
    for said in ("do not compare", "bundle_sha256", "cccccccccccc", "Other CPU", "threads 1 / 9", "--anyway"):
        assert said in line
    forced = compare.compare(measured, other, anyway=True)
    assert forced.question == "mixed"
    assert {one.name for one in forced.differences} == {"bundle_sha256", "cpu_model", "threads"}
    assert len(forced.lanes) == 4
    assert forced.objections


def test_another_machine_with_other_software_is_refused(measured: BenchResult) -> None:
    versions = {**measured.environment.versions, "onnxruntime": "0.1"}
    with pytest.raises(EdgeskinError, match=r"onnxruntime .* / 0\.1"):
        compare.compare(measured, elsewhere(measured, board="Another", versions=versions))


@pytest.mark.parametrize(
    ("change", "word"), [({"frame_height": 480}, "frame_height 96 / 480"), ({"min_queries": 64}, "min_queries 24 / 64")]
)
def test_another_suite_is_refused(measured: BenchResult, change: dict[str, Any], word: str) -> None:
    other = measured.model_copy(update={"suite": SUITE.model_copy(update=change)})
    with pytest.raises(EdgeskinError, match=word):
        compare.compare(measured, other)


def test_words_of_a_suite_do_not_matter(measured: BenchResult) -> None:
    other = measured.model_copy(update={"suite": SUITE.model_copy(update={"name": "x", "note": "y", "cold_starts": 9})})
    assert compare.compare(measured, other).question == "again"


def test_a_lean_bundle_was_asked_in_another_way(measured: BenchResult) -> None:
    lean = tuple(lane.model_copy(update={"reference": None, "ratio": None}) for lane in measured.lanes)
    with pytest.raises(EdgeskinError, match="reference in turn yes / no"):
        compare.compare(measured, measured.model_copy(update={"lanes": lean}))


def test_partial_and_invalid_are_refused(measured: BenchResult) -> None:
    spoilt = measured.model_copy(update={"partial": True, "validity": statistics.verdict(["it drifts"])})
    with pytest.raises(EdgeskinError, match=r"B is partial; B is not valid \(it drifts\)"):
        compare.compare(measured, spoilt)
    assert len(compare.compare(measured, spoilt, anyway=True).objections) == 2


def test_no_lane_in_both(measured: BenchResult) -> None:
    one = measured.model_copy(update={"lanes": measured.lanes[:1]})
    other = measured.model_copy(update={"lanes": measured.lanes[1:]})
    with pytest.raises(EdgeskinError, match="no lane is in both"):
        compare.compare(one, other)
    found = compare.compare(one, measured)
    assert len(found.lanes) == 1
    assert len(found.only_b) == 3
    assert found.only_a == ()


def test_a_machine_that_moved_is_remarked_on(measured: BenchResult) -> None:
    slow: list[Lane] = []
    for lane in measured.lanes:
        assert lane.reference is not None
        slower = lane.reference.model_copy(update={"p50_ms": 1.2 * lane.reference.p50_ms})
        slow.append(lane.model_copy(update={"reference": slower}))
    found = compare.compare(measured, measured.model_copy(update={"lanes": tuple(slow)}))
    assert any("machine itself moved" in remark and "1.20" in remark for remark in found.remarks)
    moved = compare.compare(measured, elsewhere(measured, cpu_model="Other CPU"))
    assert all(lane.reference_ratio is None for lane in moved.lanes)  # on another machine it says nothing


def test_few_queries_give_no_interval(measured: BenchResult) -> None:
    few = with_lanes(measured, 2.0, n=5)
    lane = compare.compare(few, few).lanes[0]
    assert (lane.low, lane.high, lane.verdict) == (None, None, "unknown")
    assert lane.ratio == 1


def test_a_clock_that_jumped(measured: BenchResult) -> None:
    lane = measured.lanes[0]
    jumped = lane.model_copy(update={"core": lane.core.model_copy(update={"min_ms": -3.0, "p50_ms": 0.0})})
    other = measured.model_copy(update={"lanes": (jumped, *measured.lanes[1:])})
    with pytest.raises(EdgeskinError, match="zero or less"):
        compare.compare(measured, other)


def scored(auc: float, sha: str = "1" * 64) -> VerifyResult:
    figure = Compared(fp32=Estimate(value=0.9), bundle=Estimate(value=auc, low=0.7, high=0.95), difference=Estimate())
    accuracy = Accuracy(lesions=10, threshold=0.3, tasks={"DIAG": {"macro_f1": figure}}, target={"auc": figure})
    return verify_golden(open_bundle(TINY), threads=1).model_copy(
        update={"accuracy": {"pair": accuracy}, "role_sha256": sha}
    )


def test_accuracy_side_by_side_on_the_same_lesions(measured: BenchResult) -> None:
    a = measured.model_copy(update={"verify": scored(0.81)})
    b = measured.model_copy(update={"verify": scored(0.80)})
    rows = {row.name: (row.a.value, row.b.value) for row in compare.compare(a, b).accuracy}
    assert rows == {"target auc": (0.81, 0.80), "DIAG macro_f1": (0.81, 0.80)}
    other = measured.model_copy(update={"verify": scored(0.80, "2" * 64)})
    found = compare.compare(a, other)
    assert found.accuracy == ()
    assert any("other lesions" in remark for remark in found.remarks)


def test_what_nobody_knows_is_said(measured: BenchResult) -> None:
    blind = elsewhere(measured, governor=None, cpu_model=None, absent={"governor": "no cpufreq"})
    said = " ".join(compare.compare(blind, blind).remarks)
    assert "unknown on both sides" in said
    assert "governor" in said
    assert "cpu_model" in said
    assert compare.compare(blind, elsewhere(blind, governor="performance")).question == "settings"


def test_every_field_of_the_record_is_a_condition_or_has_a_reason(measured: BenchResult) -> None:
    for name in Environment.model_fields:
        if name in {*conditions.NOT_CONDITIONS, *conditions.GPU_SOFTWARE}:
            continue
        other = elsewhere(measured, **{name: 1 if name == "memory_bytes" else ("changed",)})
        assert [one.name for one in conditions.differences(measured, other)] == [name]
    assert set(conditions.NOT_CONDITIONS) <= set(Environment.model_fields)
    assert set(Suite.model_fields) >= conditions.NOT_ASKED
    assert set(conditions.WORTH_KNOWING) | conditions.SETTINGS | conditions.GPU_SOFTWARE <= set(
        Environment.model_fields
    )
    cuda = elsewhere(measured, cuda="12.6")
    assert conditions.differences(measured, cuda) == ()  # this bundle does not use it
    on_gpu = [one.model_copy(update={"target": "tensorrt"}) for one in (measured, cuda)]
    assert [one.kind for one in conditions.differences(*on_gpu)] == ["software"]
    a_little_more = elsewhere(measured, memory_bytes=(measured.environment.memory_bytes or 10**9) + 4096)
    assert conditions.differences(measured, a_little_more) == ()


def test_a_result_survives_the_file(measured: BenchResult, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(pretty_json(measured.to_json()), encoding="utf-8")
    assert compare.read(file) == measured
    found = compare.compare(measured, measured)
    assert type(found).parse(json.loads(pretty_json(found.to_json())), "text") == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"format": "edgeskin-bench/1"}', ("another schema version", "edgeskin-bench/1", compare.FORMAT, "again")),
        ('{"format": "edgeskin-bench/99"}', ("another schema version", "newer edgeskin")),
        ('{"format": "edgeskin-verify/1"}', ("another kind of file", "edgeskin-verify/1")),
        ('{"format": 3}', ("no result of", compare.FORMAT)),
        ("[1, 2]", ("no result of",)),
        ("{", ("not a result file",)),
        ("[" * 100_000, ("not a result file",)),
        ("\xff\xfe", ("not a result file",)),
    ],
)
def test_another_file_is_named(tmp_path: Path, text: str, said: tuple[str, ...]) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(EdgeskinError) as refused:
        compare.read(file)
    assert all(word in refused.value.line() for word in said), refused.value.line()


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(EdgeskinError, match="no such result"):
        compare.read(tmp_path / "nothing.json")
    with pytest.raises(EdgeskinError, match="cannot be read"):
        compare.read(tmp_path)


def test_the_interval_covers_as_often_as_it_says() -> None:
    """300 experiments with a true ratio of 1: about 95 % of the intervals hold it."""
    held = 0
    for seed in range(300):
        a, b = np.asarray(latencies(3.0, 100, 2 * seed)), np.asarray(latencies(3.0, 100, 2 * seed + 1))
        low, high = medians.interval(a, b, float(np.median(b) / np.median(a)), repeats=300, ordered=(False, False))
        held += low <= 1 <= high
    assert 0.91 <= held / 300 <= 0.99


def test_blocks_widen_the_interval_of_a_series_that_wanders() -> None:
    """An autocorrelated series: drawn one by one, its interval is too narrow."""
    generator = np.random.default_rng(0)
    noise, walk = generator.normal(0, 1, 1400), np.zeros(1400)
    for k in range(1, 1400):
        walk[k] = 0.9 * walk[k - 1] + noise[k]
    a, b = 5 * np.exp(0.02 * walk[:700]), 5 * np.exp(0.02 * walk[700:])
    widths = []
    for kept in (True, False):
        low, high = medians.interval(a, b, 1.0, ordered=(kept, kept))
        widths.append(high - low)
    assert widths[0] > 1.4 * widths[1]


@given(st.lists(st.floats(0.5, 50), min_size=2, max_size=300))
def test_a_histogram_gives_back_its_counts(values: list[float]) -> None:
    latency = statistics.latency(values, WARM)
    drawn = medians.from_histogram(latency.histogram, latency)
    assert len(drawn) == len(values)
    below = len(values) - latency.histogram.above
    width = latency.histogram.edges_ms[1] - latency.histogram.edges_ms[0] + 1e-4
    assert np.abs(np.sort(drawn)[:below] - np.sort(values)[:below]).max(initial=0) <= width
    assert drawn.max() <= latency.max_ms + width
