"""The report from real records of the tiny bundle: self-contained, escaped, complete, honest about phantoms."""

import itertools
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeskin.benchmark import environment, sensors, statistics
from edgeskin.bundle import Bundle, open_bundle
from edgeskin.errors import EdgeskinError
from edgeskin.report import charts, html, inputs, text, view
from edgeskin.spec.bench import BenchResult, Lane, Warmup
from edgeskin.spec.result import Accuracy, Compared, Confusion, Estimate, Flips, GoldenResult, Parity, VerifyResult
from edgeskin.spec.suite import Suite

TINY = Path(__file__).resolve().parents[1] / "golden" / "tiny-onnxruntime"
VOID = {"meta", "line", "rect", "circle", "path", "polygon", "polyline", "br", "link", "img"}


def one(value: float, spread: float = 0.02) -> Estimate:
    return Estimate(value=value, low=value - spread, high=value + spread)


def compared(value: float) -> Compared:
    return Compared(fp32=one(value), bundle=one(value - 0.01), difference=one(-0.01, 0.004))


@pytest.fixture
def bundle() -> Bundle:
    return open_bundle(TINY)


@pytest.fixture
def verified(bundle: Bundle) -> VerifyResult:
    flips = Flips(
        flipped=3, of=90, share=3 / 90, low=0.01, high=0.09, to_target=1, from_target=2, lesions=("a", "b", "c")
    )
    accuracy = Accuracy(
        lesions=90,
        threshold=0.3,
        tasks={"DIAG": {"accuracy": compared(0.71), "balanced_accuracy": compared(0.52), "macro_f1": compared(0.5)}},
        target={
            "auc": compared(0.92),
            "sensitivity": compared(0.9),
            "specificity": compared(0.7),
            "ece": compared(0.1),
        },
        confusion={"DIAG": Confusion(fp32=None, bundle=tuple(tuple(7 * r + c for c in range(5)) for r in range(5)))},
    )
    parity = Parity(
        lesions=90, sqnr_db=Estimate(value=31.5), max_abs_probability_difference=0.04, argmax_agreement={"DIAG": 0.97},
        predicted=flips, referral=flips,
    )  # fmt: skip
    golden = GoldenResult(
        name="pair-0", mode="pair", max_abs_error=0.0, tolerance=0.1, same_decisions=True, passed=True
    )
    return VerifyResult(
        created="2026-01-01T00:00:00Z", bundle="tiny", bundle_sha256=bundle.sha256, target="onnxruntime",
        precision="int8", phantom=True, research_use="research use only, not a medical device", passed=True,
        golden=(golden,), data="phantom", role="test", role_sha256="0" * 64, lesions=90, without_clinical=0,
        parity={"dermoscopic": parity, "pair": parity}, accuracy={"dermoscopic": accuracy, "pair": accuracy},
        bootstrap=100, threads=1, engine={}, notes=("a remark",), seconds=1.0,
    )  # fmt: skip


@pytest.fixture
def benched(bundle: Bundle) -> BenchResult:
    warm = Warmup(queries=40, stationary=True, change=0.0)
    lanes = []
    for index, (mode, route) in enumerate((("pair", "network"), ("pair", "decision"), ("dermoscopic", "network"))):
        core = [5.0 + index + 0.01 * (i % 50) for i in range(700)]
        reference = [2 * value for value in core]
        lanes.append(
            Lane(
                mode=mode,
                route=route,
                core=statistics.latency(core, warm),
                reference=statistics.latency(reference, warm),
                ratio=statistics.ratio(core, reference, repeats=100),
                parts_ms={"core": {"prepare": 1.5, "infer": 3.0, "decide": 0.2, "total": 4.7}},
                same_outputs=None,
                seconds=1.0,
                validity=statistics.verdict([]),
            )
        )
    return BenchResult(
        bundle="tiny", bundle_sha256=bundle.sha256, target="onnxruntime", precision="int8", phantom=True,
        backbone="tiny", parameters=4428, input_height=32, input_width=32, core_bytes={"pair": 1000},
        reference_bytes={"pair": 4000}, suite=Suite(name="standard"), environment=environment.record(threads=2),
        lanes=tuple(lanes), cold_start=None, sensors_before=sensors.read(), sensors_after=sensors.read(),
        others_cpu_share=0.5, verify=None, partial=False,
        validity=statistics.verdict(["other processes used 50% of the processor time"]),
    )  # fmt: skip


@pytest.fixture
def given_all(bundle: Bundle, verified: VerifyResult, benched: BenchResult) -> inputs.ReportInput:
    return inputs.ReportInput(
        title="A title",
        bundles=(inputs.BundleInput(manifest=bundle.manifest, sha256=bundle.sha256, verify=verified, bench=benched),),
        training=tuple({"epoch": float(e), "loss": 1.0 / (e + 1), "control_macro_f1": e / 10} for e in range(4)),
        commands=("edgeskin verify bundles/tiny",),
    )


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
    assert not re.search(r"(src|href)\s*=|@import|url\(|<script|<link|<iframe|https?://", page)
    assert (tmp_path / "report.md").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.md"]


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
    assert page.count("<svg") == 5  # difference, two lanes, loss, scores


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
    assert "<script" not in page
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
    assert charts.difference_chart("x", [("a", Estimate(reason="none"))]) is None
    drawn = charts.difference_chart("x", [("a", one(-0.01)), ("b", Estimate(reason="none"))])
    assert drawn is not None
    assert drawn.count("<circle") == 1


def test_sizes_count_the_graph_with_its_weights(bundle: Bundle) -> None:
    files = dict(bundle.manifest.files)
    files["model/pair.data"] = files["model/pair.onnx"].model_copy(update={"size_bytes": 3_000_000})
    manifest = bundle.manifest.model_copy(update={"files": files})
    assert view.sizes(inputs.BundleInput(manifest=manifest, sha256=bundle.sha256)) == "20.9 kB → 3.02 MB"
    assert text.size_text(None) == text.NONE
