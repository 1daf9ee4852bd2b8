"""Records of the tiny bundle for reports: every scenario, every optional part, and a bare one."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from edgeskin import metrics
from edgeskin.benchmark import environment, sensors, statistics
from edgeskin.bundle import Bundle, open_bundle
from edgeskin.report import inputs, thumbnails
from edgeskin.spec.audit import AuditLayer, AuditResult, ModeAudit
from edgeskin.spec.bench import (
    BenchResult,
    ColdParts,
    ColdStart,
    Lane,
    Ratio,
    Route,
    Series,
    Stream,
    Throughput,
    Warmup,
)
from edgeskin.spec.engine import (
    Emulated,
    EngineEvidence,
    GraphNeeds,
    KitEvidence,
    MemoryEstimate,
    Nearness,
    Rebuild,
    Sibling,
    SiblingGraph,
)
from edgeskin.spec.evidence import Evidence, Tuned
from edgeskin.spec.gated import GateCheck, GateResult, Verdict
from edgeskin.spec.machine import Energy
from edgeskin.spec.manifest import MODES, Compatibility, Gated, Manifest, Mode
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.result import (
    Accuracy,
    Compared,
    Confusion,
    Curve,
    Estimate,
    Flips,
    GoldenResult,
    Parity,
    Reliability,
    ReliabilityBin,
    Roc,
    VerifyResult,
)
from edgeskin.spec.search import Candidate, Effect, LayerEffect, SearchResult, Speed
from edgeskin.spec.suite import Scenario, Suite

TINY = Path(__file__).resolve().parents[1] / "golden" / "tiny-onnxruntime"
WARM = Warmup(queries=40, stationary=True, change=0.0)
LANES: tuple[tuple[Mode, Route], ...] = (("pair", "network"), ("pair", "decision"), ("dermoscopic", "network"))


def one(value: float, spread: float = 0.02) -> Estimate:
    return Estimate(value=value, low=value - spread, high=value + spread)


def compared(value: float) -> Compared:
    return Compared(fp32=one(value), bundle=one(value - 0.01), difference=one(-0.01, 0.004))


def bins(seed: int) -> tuple[ReliabilityBin, ...]:
    rng = np.random.default_rng(seed)
    found = metrics.reliability_bins(rng.dirichlet(np.full(5, 0.4), 90), rng.integers(0, 5, 90))
    return tuple(
        ReliabilityBin(
            lesions=int(count),
            confidence=float(confidence) if count else None,
            accuracy=float(correct) if count else None,
        )
        for count, confidence, correct in zip(*found, strict=True)
    )


def curve(seed: int) -> Curve:
    rng = np.random.default_rng(seed)
    positive = np.arange(90) < 20
    x, y = metrics.roc_curve(positive, positive + rng.normal(0, 0.8, 90))
    return Curve(false_positive=tuple(x.tolist()), true_positive=tuple(y.tolist()))


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


def lane(index: int, scenario: Scenario = "single") -> Lane:
    """A lane of 700 queries: p50 5.24 ms for the first, the reference takes twice as long."""
    mode, route = LANES[index]
    core = [5.0 + index + 0.01 * (i % 50) for i in range(700)]
    reference = [2 * value for value in core] if scenario == "single" else []
    return Lane(
        scenario=scenario,
        mode=mode,
        route=route,
        core=statistics.latency(core, WARM),
        reference=statistics.latency(reference, WARM) if reference else None,
        ratio=statistics.ratio(core, reference, repeats=100) if reference else None,
        parts_ms={"core": {"prepare": 1.5, "infer": 3.0, "decide": 0.2, "total": 4.7}},
        same_outputs=None,
        seconds=1.0,
        validity=statistics.verdict([]),
    )


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


def report_of(bundle: Bundle, verified: VerifyResult | None, bench: BenchResult | None) -> inputs.ReportInput:
    return inputs.ReportInput(
        title="A title",
        bundles=(inputs.BundleInput(manifest=bundle.manifest, sha256=bundle.sha256, verify=verified, bench=bench),),
        training=tuple({"epoch": float(e), "loss": 1.0 / (e + 1), "control_macro_f1": e / 10} for e in range(4)),
        commands=("edgeskin verify bundles/tiny",),
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


def check(mode: Mode, metric: str, difference: Estimate, verdict: Verdict, group: str = "", why: str = "") -> GateCheck:
    flips = metric.endswith("flips")
    return GateCheck(
        mode=mode, metric=metric, group=group, lesions=34 if group else 360, positives=6 if group else 58,
        fp32=Estimate(reason="flips are counted against FP32") if flips else one(0.87),
        bundle=difference if flips else one(0.86), difference=difference,
        margin=0.02 if metric == "auc" else 0.05, reason=f"Reason of the margin of {metric}.", verdict=verdict, why=why,
    )  # fmt: skip


def gate_result() -> GateResult:
    checks: list[GateCheck] = []
    for mode in MODES:
        checks += [
            check(mode, "sensitivity", Estimate(value=-0.0172, low=-0.0469, high=0.0), "holds"),
            check(mode, "specificity", one(0.0066, 0.012), "holds"),
            check(mode, "auc", one(-0.0011, 0.003), "holds"),
            check(mode, "ece", one(0.004, 0.009), "holds"),
            check(mode, "class_flips", Estimate(value=0.0139, low=0.006, high=0.032), "holds"),
        ]
        checks += [
            check(mode, "sensitivity", one(-0.21, 0.1), "fails", "sex = female", "the interval ends at -0.11"),
            check(mode, "sensitivity", Estimate(reason="no melanoma"), "cannot tell", "site = foot", "no melanoma"),
            *[check(mode, "auc", one(0.001 * n, 0.01), "holds", f"skin_tone_class = {n}") for n in range(1, 7)],
        ]
    # fails overall, so that its mark is drawn too
    checks.append(check("dermoscopic", "balanced_accuracy", one(-0.061, 0.03), "fails", why="it reaches to -0.091"))
    checks.append(check("dermoscopic", "macro_f1", Estimate(value=0.02), "cannot tell", why="one class only"))
    lesions = tuple(f"{n:016x}" for n in range(0xA1, 0xA6))
    flips = Flips(flipped=5, of=360, share=5 / 360, low=0.006, high=0.032, to_target=1, from_target=2, lesions=lesions)
    few = Flips(
        flipped=2, of=360, share=2 / 360, low=0.0015, high=0.02, to_target=1, from_target=1, lesions=lesions[:2]
    )
    parity = Parity(
        lesions=360, sqnr_db=Estimate(value=27.9), max_abs_probability_difference=0.21,
        argmax_agreement={"DIAG": 0.986}, predicted=flips, referral=few,
    )  # fmt: skip
    return GateResult(
        passed=False, role="control", role_sha256="1" * 64, lesions=360, target="melanoma", bootstrap=2000,
        checks=tuple(checks), parity={"pair": parity, "dermoscopic": parity},
        notes=("58 lesions with melanoma: a loss of sensitivity below 6.2 % could go unseen",),
    )  # fmt: skip


def audit_result(floor: float = 0.8) -> AuditResult:
    """Sixty layers as of a small network, one of which fell back; the last two are planned in floating point."""
    rng = np.random.default_rng(0)

    def layer(number: int) -> AuditLayer:
        planned = "int8" if number < 58 else "fp32"
        executed = {7: "bf16", 40: "unknown"}.get(number, planned)
        macs = int(4e7 * rng.beta(0.7, 3)) if number < 58 else 14_080
        name = f"node_Conv_{900 + number}"
        return AuditLayer(
            name=name, origin=(name, f"{name}_relu"), kind="" if executed == "unknown" else "Convolution",
            macs=macs, planned=planned, executed=executed,
        )  # fmt: skip

    layers = tuple(layer(number) for number in range(60))
    found = ModeAudit(
        layers=layers,
        macs=sum(one.macs for one in layers),
        int8_macs=sum(one.macs for one in layers if one.executed == "int8"),
        planned_int8_macs=sum(one.macs for one in layers if one.planned == "int8"),
        reorders=7,
        fell_back=(layers[7].name, layers[40].name),
    )
    passed = found.int8_share >= floor
    return AuditResult(
        engine={"backend": "openvino", "version": "2026.4", "device": "CPU", "threads": "2", "precision_hint": "f32"},
        floor=floor, passed=passed, why="" if passed else f"{found.int8_share:.1%} of the products run in INT8",
        modes={"dermoscopic": found, "pair": found},
    )  # fmt: skip


def search_result(recipe: Recipe) -> SearchResult:
    groups = [f"network.encoder.blocks.{stage}.{block}" for stage in range(6) for block in range(3)]
    reverted = (groups[4], groups[0])

    def candidate(
        name: str, nats: float, p50: float | None, gate: str, why: str, kept: tuple[str, ...] = ()
    ) -> Candidate:
        effect = Effect(
            divergence=nats, class_flips=round(400 * nats**0.5), target_flips=3, referral_flips=4,
            balanced_accuracy=Estimate(value=0.51), auc=Estimate(value=0.9), lesions=360,
        )  # fmt: skip
        return Candidate.parse(
            {
                "name": name,
                "recipe": recipe,
                "effect": effect,
                "p50_ms": p50,
                "gate": gate,
                "why_not": why,
                "reverted": kept,
            },
            "a candidate",
        )

    chosen = "nncf bias correction, 2 blocks in FP32"
    candidates = (
        candidate("recipe", 0.0061, 4.31, "fails", "the gate fails"),
        candidate("nncf smooth quant", 0.0058, 4.3, "fails", "the gate fails"),
        candidate("qdq percentile", 0.041, 4.62, "fails", "the gate fails"),
        candidate("qdq entropy", 0.052, 4.64, "not asked", "further from FP32"),
        candidate("nncf bias correction, 1 block in FP32", 0.0032, 4.38, "holds", "further from FP32", reverted[:1]),
        candidate(chosen, 0.0019, 4.41, "holds", "", reverted),
        candidate("nncf bias correction, 8 blocks in FP32", 0.0007, 5.9, "holds", "34% slower", tuple(groups[:8])),
        candidate("qdq that was not timed", 0.02, None, "not asked", "the budget ended"),
    )
    ranking = [
        LayerEffect(
            group=group, layers=3, macs_share=0.05, divergence=0.006 - gain, gain=gain, class_flips=9,
        )
        for n, group in enumerate(groups)
        for gain in [0.003 / (1 + (7 * n + 4) % 18) - 0.0002]
    ]  # fmt: skip
    return SearchResult(
        role="control", role_sha256="1" * 64, lesions=360, budget_s=1800, spent_s=1544.2, complete=False,
        candidates=candidates, ranking=tuple(sorted(ranking, key=lambda one: -one.gain)),
        slower_groups={"network.encoder.blocks.0": 1.084, "network.encoder.blocks.5": 0.71}, chosen=chosen,
        notes=("the budget ended before qdq that was not timed",),
    )  # fmt: skip


def evidence_of(bundle: Bundle) -> Evidence:
    speed = Speed(
        machine="A processor", threads=2, p50_ms={"int8, f32": 4.41, "fp32, f32": 9.96, "fp32, bf16": 9.4},
        ratio=Estimate(value=0.469, low=0.46, high=0.48), int8_is_faster=True,
    )  # fmt: skip
    qat = Tuned(
        epochs=4, teacher_sha256="2" * 64, checkpoint_sha256="3" * 64, learning_rate=2e-5, control_divergence=0.0031
    )
    return Evidence(
        bundle=bundle.manifest.name, gate=gate_result(), audit=audit_result(),
        search=search_result(bundle.manifest.recipe), speed=speed, qat=qat,
    )  # fmt: skip


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


def emulated(role: str, verified: VerifyResult, lesions: int) -> Emulated:
    """What a kit's emulation found on a role: the figures of the verified bundle, other lesions."""
    low, high = metrics.wilson_interval(4, lesions)
    flips = Flips(flipped=4, of=lesions, share=4 / lesions, low=low, high=high, to_target=2, from_target=1, lesions=())
    parity = verified.parity["pair"].model_copy(update={"predicted": flips, "referral": flips, "lesions": lesions})
    plain = {"confusion": {}, "reliability": None, "roc": None, "lesions": lesions}
    scored = verified.accuracy["pair"].model_copy(update=plain)
    return Emulated(
        role=role, role_sha256="4" * 64, lesions=lesions, parity={"dermoscopic": parity, "pair": parity},
        accuracy={"dermoscopic": scored, "pair": scored},
    )  # fmt: skip


def kit_evidence(verified: VerifyResult) -> KitEvidence:
    """Of a kit whose pair graph has one layer that fell back in the sibling builder."""
    audit = audit_result().modes["pair"]
    lost = audit.layers[7].model_copy(update={"executed": "fp16", "kind": "CaskConvolution"})
    layers = tuple(one.model_copy(update={"executed": one.planned}) for one in audit.layers)
    good = ModeAudit(
        layers=layers, macs=audit.macs, int8_macs=audit.planned_int8_macs, planned_int8_macs=audit.planned_int8_macs,
        reorders=0,
    )  # fmt: skip
    worse = good.model_copy(
        update={
            "layers": (*layers[:7], lost, *layers[8:]),
            "int8_macs": good.int8_macs - lost.macs,
            "fell_back": (lost.name,),
            "reorders": 3,
        }
    )
    planned = tuple(one.model_copy(update={"executed": "unknown", "kind": ""}) for one in layers)
    needs = GraphNeeds(weights_bytes=13_858_267, largest_weight_bytes=1_638_400, activation_bytes=19_568_728)
    return KitEvidence(
        linted_for="10.3.0", nodes={"dermoscopic": 251, "pair": 386}, planned={"dermoscopic": planned, "pair": planned},
        needs={"dermoscopic": needs, "pair": needs},
        emulated=(emulated("control", verified, 251), emulated("test", verified, 377)),
        sibling=Sibling(
            builder="tensorrt-rtx 1.7.1.116",
            sm="8.6",
            modes={
                "dermoscopic": SiblingGraph(layers=103, audit=good, plan_bytes=17_001_580),
                "pair": SiblingGraph(layers=123, audit=worse, plan_bytes=26_366_844),
            },
        ),
    )  # fmt: skip


BOUND = Compatibility(
    device="jetson-orin-nano", arch="aarch64", sm="8.7", tensorrt="10.3.0", cuda="12.6", jetpack="6.1 to 6.2.2"
)
BUILT_ON = BOUND.model_copy(update={"gpu": "Orin", "driver": "12.6"})


def engine_evidence(verified: VerifyResult) -> EngineEvidence:
    """Of three builds of each graph, the second was kept; two layers were left by the DLA."""

    def builds(size: int) -> tuple[Rebuild, ...]:
        return tuple(
            Rebuild(
                sha256=f"{number:x}{size:063x}", size_bytes=size + number, seconds=84.2 + number, cases=24,
                max_abs_difference=(0.0412, 0.0137, 0.0206)[number - 1], flips=int(number == 1),
                p50_ms=1.21 + 0.013 * number,
                chosen=number == 2,
            )
            for number in (1, 2, 3)
        )  # fmt: skip

    memory = MemoryEstimate(
        weights_bytes=58_709_868, activation_bytes=39_137_456, workspace_bytes=1 << 30, overhead_bytes=1600 << 20,
        needed_bytes=2_849_310_000, available_bytes=5_100_000_000, swap_bytes=0, zram=True,
    )  # fmt: skip
    near = emulated("test", verified, 377)
    return EngineEvidence(
        compatibility=BUILT_ON, kit_sha256="c0ffee" + "0" * 58, maker="tensorrt", timing_cache="new",
        memory={"dermoscopic": memory, "pair": memory},
        rebuilds={"dermoscopic": builds(4_100_000), "pair": builds(4_400_000)},
        dla_fallback=("node_Softmax_12", "node_Gemm_99"),
        nearness=tuple(Nearness(role=role, lesions=377, parity=near.parity) for role in ("control", "test")),
        notes=("the DLA has no softmax",),
    )  # fmt: skip


def for_tensorrt(bundle: Bundle, stage: str, dla_core: int | None = None) -> Manifest:
    """The tiny bundle's manifest as one of a kit, or of an engine."""
    plain = bundle.manifest.to_json()
    plain["recipe"].update(target="tensorrt", precision="int8", activations="int8")
    bound = (BOUND if stage == "kit" else BUILT_ON).model_copy(update={"dla_core": dla_core})
    plain.update(target="tensorrt", stage=stage, precision="int8", compatibility=bound.to_json())
    return Manifest.parse(plain, "a manifest")


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
