"""What the records of a report are made of: figures, lanes, and evidence of a bundle, a kit and an engine."""

import numpy as np

from edgeskin import metrics
from edgeskin.benchmark import statistics
from edgeskin.bundle import Bundle
from edgeskin.report import inputs
from edgeskin.spec.audit import AuditLayer, AuditResult, ModeAudit
from edgeskin.spec.bench import BenchResult, Lane, Route, Warmup
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
from edgeskin.spec.manifest import MODES, Compatibility, Manifest, Mode
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.result import Compared, Curve, Estimate, Flips, Parity, ReliabilityBin, VerifyResult
from edgeskin.spec.search import Candidate, Effect, LayerEffect, SearchResult, Speed
from edgeskin.spec.suite import Scenario

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


def report_of(bundle: Bundle, verified: VerifyResult | None, bench: BenchResult | None) -> inputs.ReportInput:
    return inputs.ReportInput(
        title="A title",
        bundles=(inputs.BundleInput(manifest=bundle.manifest, sha256=bundle.sha256, verify=verified, bench=bench),),
        training=tuple({"epoch": float(e), "loss": 1.0 / (e + 1), "control_macro_f1": e / 10} for e in range(4)),
        commands=("edgeskin verify bundles/tiny",),
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
