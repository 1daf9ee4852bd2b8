"""Records of the tiny bundle for reports: every scenario, every optional part, and a bare one."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from edgeskin.benchmark import environment, sensors, statistics
from edgeskin.bundle import Bundle, open_bundle
from edgeskin.report import inputs, thumbnails
from edgeskin.spec.bench import BenchResult, ColdParts, ColdStart, Ratio, Series, Stream, Throughput
from edgeskin.spec.evidence import Evidence
from edgeskin.spec.machine import Energy
from edgeskin.spec.manifest import Gated
from edgeskin.spec.result import (
    Accuracy,
    Confusion,
    Estimate,
    Flips,
    GoldenResult,
    Parity,
    Reliability,
    Roc,
    VerifyResult,
)
from edgeskin.spec.search import Speed
from edgeskin.spec.suite import Suite
from tests.report.records import (
    audit_result,
    bins,
    compared,
    curve,
    engine_evidence,
    evidence_of,
    for_tensorrt,
    gate_result,
    kit_evidence,
    lane,
    report_of,
    search_result,
)

TINY = Path(__file__).resolve().parents[1] / "golden" / "tiny-onnxruntime"


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
        reliability=Reliability(fp32=bins(1), bundle=bins(2)),
        roc=Roc(fp32=curve(1), bundle=curve(2)),
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
    """A record with nothing in it that may be absent."""
    return BenchResult(
        bundle="tiny", bundle_sha256=bundle.sha256, target="onnxruntime", precision="int8", phantom=True,
        backbone="tiny", parameters=4428, input_height=32, input_width=32, core_bytes={"pair": 1000},
        reference_bytes={"pair": 4000}, suite=Suite(name="standard"), environment=environment.record(threads=2),
        lanes=tuple(lane(index) for index in range(3)), cold_start=None, sensors_before=sensors.read(),
        sensors_after=sensors.read(), others_cpu_share=0.5, verify=None, partial=False,
        validity=statistics.verdict(["other processes used 50% of the processor time"]),
    )  # fmt: skip


@pytest.fixture
def rich(benched: BenchResult) -> BenchResult:
    """The same with every scenario, a course over time, energy, a cold start in parts, temperatures and throttling."""
    series = Series(
        at_s=tuple(0.1 * i for i in range(200)),
        core_ms=tuple(5.0 + 0.01 * (i % 50) for i in range(200)),
        reference_ms=tuple(10.0 + 0.02 * (i % 50) for i in range(200)),
    )
    energy = Energy(
        source="ina3221", seconds=10.0, joules=61.5, idle_w=4.25, per_examination_mj=27.9, rails_j={"VDD_IN": 61.5},
        covers="the module",
    )  # fmt: skip
    stream = Stream(fps=30, offered=600, answered=570, dropped=30, age_p50_ms=21.5, age_p99_ms=48.0, age_max_ms=70.5)
    offline = tuple(
        Throughput(in_flight=n, per_second=100.0 * n**0.5, p50_ms=10.0 * n**0.5, threads=4 // n, queries=500)
        for n in (1, 2, 4)
    )
    lanes = [lane(index).model_copy(update={"series": series, "energy": energy}) for index in range(3)]
    lanes.append(
        lane(1, "sparse").model_copy(update={"gap_s": 5.0, "first_query": Ratio(value=1.31, low=1.2, high=1.45)})
    )
    lanes.append(lane(1, "stream").model_copy(update={"stream": stream}))
    lanes.append(lane(1, "offline").model_copy(update={"offline": offline}))
    parts = ColdParts(
        import_ms=310, open_ms=41, engine_import_ms=120, compile_ms=205, prepare_ms=6, inference_ms=12, decide_ms=1,
        total_ms=695,
    )  # fmt: skip
    cold = ColdStart(
        runs=3, import_ms=310, load_ms=41, first_decision_ms=344, process_ms=760, peak_rss_bytes=150_000_000,
        every_run_ms=(), parts=parts, cached=parts.model_copy(update={"compile_ms": 33.0, "total_ms": 523.0}),
        cached_process_ms=588.0, cache_bytes=7_400_000,
    )  # fmt: skip
    before = benched.sensors_before.model_copy(
        update={"thermal_c": {"cpu-thermal": 41.0}, "cpu_mhz": (1500.0, 1510.0), "throttle": {"throttled": 0}}
    )
    after = before.model_copy(
        update={"thermal_c": {"cpu-thermal": 63.5}, "cpu_mhz": (1200.0, 1190.0), "throttle": {"throttled": 1}}
    )
    return benched.model_copy(
        update={
            "lanes": tuple(lanes),
            "cold_start": cold,
            "suite": Suite(name="all", scenarios=("single", "sparse", "stream", "offline")),
            "sensors_before": before,
            "sensors_after": after,
        }
    )


@pytest.fixture
def given_all(bundle: Bundle, verified: VerifyResult, benched: BenchResult) -> inputs.ReportInput:
    return report_of(bundle, verified, benched)


@pytest.fixture
def given_rich(bundle: Bundle, verified: VerifyResult, rich: BenchResult) -> inputs.ReportInput:
    """Two bundles, one real and one phantom in name: the second measured without the optional parts."""
    first = report_of(bundle, verified, rich)
    manifest = bundle.manifest.model_copy(update={"name": "tiny-two"})
    return first.model_copy(
        update={"bundles": (*first.bundles, first.bundles[0].model_copy(update={"manifest": manifest}))}
    )


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photograph that lies on its side, with metadata that must not travel: its upper half is red when upright."""
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[:, :200] = 200, 30, 30
    pixels[:, 200:] = 30, 30, 200
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # turn a quarter to the right: the left side comes to the top
    exif[ExifTags.Base.Artist] = "Dr SECRET"
    path = tmp_path / "photos" / "lying.jpg"
    path.parent.mkdir()
    Image.fromarray(pixels).save(path, exif=exif, comment=b"SECRET", quality=95)
    return path


@pytest.fixture
def given_proven(given_rich: inputs.ReportInput, bundle: Bundle, photo: Path) -> inputs.ReportInput:
    """The first bundle with all evidence and pictures of two lesions; the second passed its gate and has no record."""
    picture = thumbnails.thumbnail(photo)
    answer = inputs.Answer(fp32="nevus", bundle="melanoma", p_fp32=0.213, p_bundle=0.514)
    pictures = {
        f"{0xA1:016x}": inputs.Thumbnail(
            clinical=picture, dermoscopic=picture, truth="nevus", answers={"pair": answer, "dermoscopic": answer}
        ),
        f"{0xA3:016x}": inputs.Thumbnail(
            dermoscopic=picture, answers={"dermoscopic": inputs.Answer(fp32="nevus", bundle="vascular lesion")}
        ),
    }
    first, second = given_rich.bundles
    ungated = first.manifest.model_copy(
        update={"gated": Gated(status="ungated", why="not passed: 10 of 12 checks hold")}
    )
    passed = second.manifest.model_copy(update={"gated": Gated(status="passed", why="12 of 12 checks hold")})
    return given_rich.model_copy(
        update={
            "bundles": (
                first.model_copy(update={"manifest": ungated, "evidence": evidence_of(bundle), "thumbnails": pictures}),
                second.model_copy(update={"manifest": passed}),
            )
        }
    )


@pytest.fixture
def given_kit(bundle: Bundle, verified: VerifyResult) -> inputs.ReportInput:
    """A kit that was emulated, searched without a clock and gated; neither verified again nor measured."""
    search = search_result(bundle.manifest.recipe)
    tried = tuple(
        one.model_copy(update={"p50_ms": None, "planned_cost": None if one.p50_ms is None else one.p50_ms / 8})
        for one in search.candidates
    )
    proof = Evidence(
        bundle=bundle.manifest.name, gate=gate_result(), search=search.model_copy(update={"candidates": tried}),
        kit=kit_evidence(verified),
    )  # fmt: skip
    manifest = for_tensorrt(bundle, "kit").model_copy(
        update={"gated": Gated(status="passed", why="12 of 12 checks hold")}
    )
    return inputs.ReportInput(
        title="A kit", bundles=(inputs.BundleInput(manifest=manifest, sha256="5" * 64, evidence=proof),)
    )


@pytest.fixture
def given_engine(given_kit: inputs.ReportInput, bundle: Bundle, verified: VerifyResult) -> inputs.ReportInput:
    """The engine of that kit: audited, asked the lesions, timed against FP16."""
    kit = given_kit.bundles[0]
    audit = audit_result()
    assert kit.evidence is not None
    speed = Speed(
        machine="Orin", threads=1, p50_ms={"int8, engine": 1.234, "fp16, engine": 1.87},
        ratio=Estimate(value=0.66, low=0.655, high=0.666), int8_is_faster=True,
    )  # fmt: skip
    told = {"backend": "tensorrt", "version": "10.3.0", "device": "Orin", "threads": "1", "cuda_graph": "yes"}
    proof = kit.evidence.model_copy(
        update={"engine": engine_evidence(verified), "speed": speed, "audit": audit.model_copy(update={"engine": told})}
    )
    manifest = for_tensorrt(bundle, "ready", dla_core=0).model_copy(
        update={"gated": Gated(status="passed", why="on the engine: 12 of 12 checks hold")}
    )
    return given_kit.model_copy(
        update={
            "title": "An engine",
            "bundles": (inputs.BundleInput(manifest=manifest, sha256="6" * 64, evidence=proof),),
        }
    )
