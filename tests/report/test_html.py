"""The report from real records of the tiny bundle: self-contained, escaped, complete, honest about phantoms."""

import base64
import hashlib
import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeskin.bundle import Bundle
from edgeskin.errors import EdgeskinError
from edgeskin.report import charts, figures, html, inputs, text, tradeoff, view
from edgeskin.spec.bench import BenchResult
from edgeskin.spec.result import Estimate, VerifyResult

VOID = {"meta", "line", "rect", "circle", "path", "polygon", "polyline", "br", "link", "img"}


class Balanced(HTMLParser):
    """Fails on a tag that is closed out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_whole_and_needs_no_network(given_all: inputs.ReportInput, tmp_path: Path) -> None:
    page = html.render(given_all, tmp_path / "report.html").read_text()
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r"(src|href)\s*=|@import|url\(|<link|<iframe|https?://", page)
    assert page.count("<script>") == page.count("<script") == 1
    script = page.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src &#39;none&#39;" in page
    assert f"sha256-{digest.replace('+', '&#43;')}" in page or f"sha256-{digest}" in page
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]


def test_page_says_what_the_records_say(given_all: inputs.ReportInput, tmp_path: Path) -> None:
    page = html.render(given_all, tmp_path / "report.html").read_text()
    for expected in (
        "0.910 [0.890, 0.930]",  # AUC of the bundle
        "-0.0100 [-0.0140, -0.0060]",  # the paired difference
        "3 of 90",  # flips
        "2.00x [2.00, 2.00]",
        "5.24",  # p50 of the network lane
        "10.5",  # p50 of its reference
        "other processes used 50% of the processor time",
        "Golden cases: 1 of 1 pass",
        "a remark",
        "edgeskin verify bundles/tiny",
        next(iter(given_all.bundles[0].manifest.roles.values())).sha256,
    ):
        assert expected in page
    assert page.index("clinical + dermoscopic, 90 lesions") < page.index("dermoscopic alone, 90 lesions")
    assert len(re.findall('<td class="(?:hit|miss)"', page)) == 25
    # two Pareto, reliability, ROC, difference, two lanes, loss, scores
    assert page.count("<svg") == 9


def test_research_use_stands_once_and_the_phantom_banner_only_where_due(
    given_all: inputs.ReportInput, tmp_path: Path
) -> None:
    for out in (tmp_path / "a.html", tmp_path / "b.html"):
        phantom = out.name == "a.html"
        manifest = given_all.bundles[0].manifest.model_copy(update={"phantom": phantom})
        bundle = given_all.bundles[0].model_copy(update={"manifest": manifest})
        html.render(given_all.model_copy(update={"bundles": (bundle,)}), out)
        for page in (out.read_text(), out.with_suffix(".md").read_text()):
            assert page.lower().count("not a medical device") == 1
            assert ("Phantom data: drawn images, not lesions" in page) is phantom


def test_markdown_tables_are_well_formed(given_all: inputs.ReportInput, tmp_path: Path) -> None:
    html.render(given_all, tmp_path / "report.html")
    width = 0
    tables = 0
    for line in (tmp_path / "report.md").read_text().splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        cells = len(re.findall(r"(?<!\\)\|", line))
        tables += width == 0
        width = width or cells
        assert cells == width, line
    assert tables >= 8


def test_names_from_outside_are_escaped(given_all: inputs.ReportInput, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>|x"
    manifest = given_all.bundles[0].manifest.model_copy(update={"name": evil})
    bundle = given_all.bundles[0].model_copy(update={"manifest": manifest})
    html.render(given_all.model_copy(update={"title": evil, "bundles": (bundle,)}), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in page
    assert page.count("<script") == 1
    assert "&lt;script&gt;" in page
    assert "\\|x" in (tmp_path / "report.md").read_text()


def test_without_verify_and_bench_it_says_so(bundle: Bundle, tmp_path: Path) -> None:
    bare = inputs.BundleInput(manifest=bundle.manifest, sha256=bundle.sha256)
    page = html.render(inputs.ReportInput(title="t", bundles=(bare,)), tmp_path / "r.html").read_text()
    assert "Not verified" in page
    assert "Not measured" in page
    assert "<svg" not in page


def test_golden_only_verification_has_no_accuracy(
    given_all: inputs.ReportInput, verified: VerifyResult, tmp_path: Path
) -> None:
    only = verified.model_copy(update={"accuracy": {}, "parity": {}, "lesions": 0})
    bundle = given_all.bundles[0].model_copy(update={"verify": only})
    page = html.render(given_all.model_copy(update={"bundles": (bundle,)}), tmp_path / "r.html").read_text()
    assert "Golden cases: 1 of 1 pass" in page
    assert "Flips against FP32" not in page


def test_a_result_of_another_bundle_is_refused(given_all: inputs.ReportInput, tmp_path: Path) -> None:
    bundle = given_all.bundles[0].model_copy(update={"sha256": "f" * 64})
    with pytest.raises(EdgeskinError, match="verify result is of another bundle"):
        html.render(given_all.model_copy(update={"bundles": (bundle,)}), tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_training_log_is_joined_by_epoch(tmp_path: Path) -> None:
    log = tmp_path / "metrics.csv"
    log.write_text("epoch,step,loss,control_macro_f1\n1,20,0.5,\n0,10,0.9,\n0,10,,0.2\n1,20,,nan\n")
    assert inputs.read_training(log) == (
        {"epoch": 0.0, "step": 10.0, "loss": 0.9, "control_macro_f1": 0.2},
        {"epoch": 1.0, "step": 20.0, "loss": 0.5},
    )


@pytest.mark.parametrize(
    ("content", "what"), [("a,b\n1,2\n", "not a training log"), ("epoch,loss\nx,1\n", "not a training")]
)
def test_other_files_are_no_training_log(content: str, what: str, tmp_path: Path) -> None:
    log = tmp_path / "metrics.csv"
    log.write_text(content)
    with pytest.raises(EdgeskinError, match=what):
        inputs.read_training(log)
    with pytest.raises(EdgeskinError, match="no such file"):
        inputs.read_training(tmp_path / "absent.csv")


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(3, 9))
@example(low=1.0, span=400401.0, count=3)
def test_ticks_lie_within_and_are_evenly_spaced(low: float, span: float, count: int) -> None:
    high = low + span
    found = charts.ticks(low, high, count)
    slack = 1e-6 * max(span, abs(low), 1e-6)
    assert all(low - slack <= value <= high + slack for value in found)
    if high > low and span > 1e-3 * abs(low):
        assert 1 <= len(found) <= count + 1
        gaps = [b - a for a, b in itertools.pairwise(found)]
        assert all(math.isclose(gap, gaps[0], rel_tol=1e-3) for gap in gaps)


def test_difference_chart_needs_a_difference() -> None:
    assert figures.difference_chart("x", [("a", Estimate(reason="none"))]) is None
    drawn = figures.difference_chart(
        "x", [("a", Estimate(value=-0.01, low=-0.02, high=0.0)), ("b", Estimate(reason="none"))]
    )
    assert drawn is not None
    assert drawn.count("<circle") == 1


def test_the_json_holds_what_the_page_was_made_of(given_rich: inputs.ReportInput, tmp_path: Path) -> None:
    html.render(given_rich, tmp_path / "report.html")
    plain = json.loads((tmp_path / "report.json").read_text())
    assert plain["format"] == "edgeskin-report/1"
    again = inputs.ReportInput.parse(plain, "report.json")
    assert again == given_rich
    html.render(again, tmp_path / "again.html")
    assert (tmp_path / "again.json").read_text() == (tmp_path / "report.json").read_text()
    for kind in ("html", "md"):  # the order of sensors is not kept, every number is
        first, second = ((tmp_path / f"{name}.{kind}").read_text() for name in ("report", "again"))
        assert sorted(re.findall(r"[\d.]+", first)) == sorted(re.findall(r"[\d.]+", second))


@pytest.mark.parametrize("content", ['{"format": "edgeskin-bench/2"}', "[]", "no JSON"])
def test_a_result_of_the_same_name_is_not_overwritten(
    given_all: inputs.ReportInput, content: str, tmp_path: Path
) -> None:
    (tmp_path / "milk.json").write_text(content)
    with pytest.raises(EdgeskinError, match="another file stands where the report's JSON would be written"):
        html.render(given_all, tmp_path / "milk.html")
    assert (tmp_path / "milk.json").read_text() == content
    assert not (tmp_path / "milk.html").exists()
    html.render(given_all, tmp_path / "other.html")
    html.render(given_all, tmp_path / "other.html")  # its own it replaces


def test_a_number_that_json_cannot_hold_is_refused(given_all: inputs.ReportInput, tmp_path: Path) -> None:
    bench = given_all.bundles[0].bench
    assert bench is not None
    bundle = given_all.bundles[0].model_copy(update={"bench": bench.model_copy(update={"others_cpu_share": math.nan})})
    with pytest.raises(EdgeskinError, match="not finite"):
        html.render(given_all.model_copy(update={"bundles": (bundle,)}), tmp_path / "r.html")


def test_every_scenario_and_sensor_is_told(given_rich: inputs.ReportInput, tmp_path: Path) -> None:
    html.render(given_rich, tmp_path / "report.html")
    for page in ((tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()):
        for expected in (
            "1.31x [1.20, 1.45]",  # after an idle gap
            "5.0%",  # frames dropped
            "70.5",  # the oldest answer
            "200",  # examinations a second with four in flight
            "588",  # a new process with a cache of compiled models
            "7.40 MB",  # that cache
            "150 MB",  # peak memory
            "27.9",  # mJ an examination
            "The joules are of the module",
            "VDD_IN 61.5 J",
            "63.5 °C",
            "+22.5 °C",
            "1195 MHz",
            "throttling: throttled",
        ):
            assert expected in page, expected
        assert "Not measured for sparse, stream, offline: the record gives no reason." in page  # energy
    charts_drawn = re.findall(r'aria-label="([^"]*)" viewBox', (tmp_path / "report.html").read_text())
    for kind in (
        "Latency against",
        "Latency distribution",
        "Latency over time",
        "Throughput",
        "Cold start",
        "Reliability",
        "ROC",
    ):
        assert any(name.startswith(kind) for name in charts_drawn), kind


def test_what_was_not_measured_comes_with_its_reason(given_all: inputs.ReportInput, tmp_path: Path) -> None:
    html.render(given_all, tmp_path / "report.html")
    for page in ((tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()):
        told = page.replace("&#39;", "'")
        assert "After an idle gap (sparse): not measured, the suite 'standard' does not ask for it." in told
        assert "Latency over time: the record keeps percentiles and a histogram only." in told
        assert "Not measured: the record gives no reason." in told  # energy
        assert "Latency over time, " not in told


def test_reasons_of_the_sensors_are_passed_on(given_all: inputs.ReportInput, tmp_path: Path) -> None:
    bench = given_all.bundles[0].bench
    assert bench is not None
    quiet = {"energy": "no rail in hwmon", "thermal_c": "no thermal zone", "cpu_mhz": "no clock", "throttle": "no flag"}
    sensors = bench.sensors_after.model_copy(
        update={"absent": quiet, "thermal_c": {}, "cpu_mhz": (), "load_1min": None, "throttle": {}, "gpu_mhz": {}}
    )
    bench = bench.model_copy(update={"sensors_before": sensors, "sensors_after": sensors})
    bundle = given_all.bundles[0].model_copy(update={"bench": bench})
    page = html.render(given_all.model_copy(update={"bundles": (bundle,)}), tmp_path / "r.html").read_text()
    for expected in (
        "Not measured: no rail in hwmon.",
        "Temperature: no thermal zone.",
        "Processor clock: no clock.",
        "Throttling: no flag.",
    ):
        assert expected in page


def test_a_record_of_before_the_bins_still_makes_a_page(
    given_all: inputs.ReportInput, verified: VerifyResult, tmp_path: Path
) -> None:
    plain = verified.to_json()
    for scored in plain["accuracy"].values():
        del scored["reliability"], scored["roc"]
    older = VerifyResult.parse(plain, "an older result")
    bundle = given_all.bundles[0].model_copy(update={"verify": older})
    page = html.render(given_all.model_copy(update={"bundles": (bundle,)}), tmp_path / "r.html").read_text()
    assert "Reliability: the record has no bins; verify the bundle again." in page
    assert "ROC curve: the record has no points; verify the bundle again." in page
    assert page.count("<svg") == 7


def test_the_verify_record_of_a_bench_record_is_used(
    given_all: inputs.ReportInput, verified: VerifyResult, benched: BenchResult, tmp_path: Path
) -> None:
    travelling = benched.model_copy(update={"verify": verified})
    bundle = given_all.bundles[0].model_copy(update={"verify": None, "bench": travelling})
    page = html.render(given_all.model_copy(update={"bundles": (bundle,)}), tmp_path / "r.html").read_text()
    assert "0.910 [0.890, 0.930]" in page
    assert "Not verified" not in page


def test_models_stand_beside_one_another(given_rich: inputs.ReportInput) -> None:
    table = tradeoff.table(given_rich)
    assert [row[0] for row in table.rows] == ["tiny INT8", "tiny FP32", "tiny-two INT8", "tiny-two FP32"]
    assert table.rows[0][2:6] == ("5.24", "6.24", "6.49", "0.910 [0.890, 0.930]")
    assert table.rows[1][2:6] == ("10.5", "12.5", "13.0", "0.920 [0.900, 0.940]")
    assert [point.name for point in tradeoff.points(given_rich, "network")] == [row[0] for row in table.rows]
    assert "do not compare" not in table.note
    other = given_rich.bundles[1].bench
    assert other is not None
    environment = other.environment.model_copy(update={"threads": 7, "cpu_model": "another"})
    changed = given_rich.bundles[1].model_copy(update={"bench": other.model_copy(update={"environment": environment})})
    note = tradeoff.table(given_rich.model_copy(update={"bundles": (given_rich.bundles[0], changed)})).note
    assert "Not measured alike: processor, threads; these latencies do not compare." in note


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=12))
def test_the_front_is_what_no_other_point_beats(points: list[tuple[int, int]]) -> None:
    kept = figures.front(points)
    assert kept == sorted(kept, key=lambda index: points[index])
    for index, (cost, value) in enumerate(points):
        better = [p for p in points if p != (cost, value) and p[0] <= cost and p[1] >= value]
        assert (index in kept) is (not better)


def test_keys_of_tables_are_unique(given_rich: inputs.ReportInput, tmp_path: Path) -> None:
    page = html.render(given_rich, tmp_path / "r.html").read_text()
    keys = re.findall(r'<table data-key="([^"]+)"', page)
    assert len(keys) == len(set(keys))
    assert {"models", "latency", "latency-2", "accuracy", "stream", "offline", "energy"} <= set(keys)


def test_sizes_count_the_graph_with_its_weights(bundle: Bundle) -> None:
    files = dict(bundle.manifest.files)
    files["model/pair.data"] = files["model/pair.onnx"].model_copy(update={"size_bytes": 3_000_000})
    manifest = bundle.manifest.model_copy(update={"files": files})
    assert view.sizes(inputs.BundleInput(manifest=manifest, sha256=bundle.sha256)) == "20.9 kB → 3.02 MB"
    assert text.size_text(None) == text.NONE
