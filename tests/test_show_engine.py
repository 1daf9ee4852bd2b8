"""A build kit and an engine in the terminal: called what they are, with what was found about them."""

from pathlib import Path
from typing import Any

import pytest

from edgeskin import metrics, out, show, show_engine
from edgeskin.bundle import inspect, open_bundle
from edgeskin.engine import memory
from edgeskin.report.engine import SIBLING
from edgeskin.spec.audit import AuditLayer, ModeAudit
from edgeskin.spec.engine import (
    Emulated,
    EngineEvidence,
    GraphNeeds,
    KitEvidence,
    Nearness,
    Rebuild,
    Sibling,
    SiblingGraph,
)
from edgeskin.spec.evidence import Evidence
from edgeskin.spec.gated import GateCheck, GateResult
from edgeskin.spec.manifest import Compatibility
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.result import Accuracy, Compared, Estimate, Flips, GoldenResult, Parity, VerifyResult
from edgeskin.spec.search import Candidate, Effect, SearchResult, Speed

TINY = Path(__file__).resolve().parent / "golden" / "tiny-onnxruntime"
NEEDS = GraphNeeds(weights_bytes=13_858_267, largest_weight_bytes=1_638_400, activation_bytes=19_568_728)
BOUND = Compatibility(
    device="jetson-orin-nano", arch="aarch64", sm="8.7", tensorrt="10.3.0", cuda="12.6", jetpack="6.1 to 6.2.2"
)
AUC = Compared(
    fp32=Estimate(value=0.892, low=0.82, high=0.94),
    bundle=Estimate(value=0.893, low=0.82, high=0.95),
    difference=Estimate(value=0.0008, low=-0.004, high=0.006),
)


@pytest.fixture(autouse=True)
def _text() -> Any:
    out.configure(quiet=True)
    yield
    out.configure()


def flips(flipped: int, of: int) -> Flips:
    low, high = metrics.wilson_interval(flipped, of)
    return Flips(flipped=flipped, of=of, share=flipped / of, low=low, high=high, to_target=1, from_target=0, lesions=())


PARITY = Parity(
    lesions=377, sqnr_db=Estimate(value=27.2), max_abs_probability_difference=0.13, argmax_agreement={"DIAG": 0.98},
    predicted=flips(6, 377), referral=flips(5, 377),
)  # fmt: skip


def layer(name: str, macs: int, planned: str, executed: str) -> AuditLayer:
    return AuditLayer(name=name, origin=(name,), kind="correlation", macs=macs, planned=planned, executed=executed)


def kit_evidence() -> KitEvidence:
    layers = (layer("conv", 900, "int8", "int8"), layer("gate", 80, "int8", "fp16"), layer("head", 20, "fp32", "fp16"))
    audit = ModeAudit(layers=layers, macs=1000, int8_macs=900, planned_int8_macs=980, reorders=2, fell_back=("gate",))
    accuracy = Accuracy(lesions=377, threshold=0.03, tasks={"DIAG": {"macro_f1": AUC}}, target={"auc": AUC})
    return KitEvidence(
        linted_for="10.3.0", nodes={"pair": 386, "dermoscopic": 251},
        planned={"pair": layers}, needs={"pair": NEEDS},
        emulated=(
            Emulated(
                role="test", role_sha256="0" * 64, lesions=377, parity={"pair": PARITY}, accuracy={"pair": accuracy}
            ),
        ),
        sibling=Sibling(
            builder="tensorrt-rtx 1.7.1.116", sm="8.6",
            modes={"pair": SiblingGraph(layers=123, audit=audit, plan_bytes=26_366_844)},
        ),
    )  # fmt: skip


def engine_evidence() -> EngineEvidence:
    found = memory.estimate(NEEDS, memory.Available(5_100_000_000, zram=True))
    builds = tuple(
        Rebuild(
            sha256=f"{n}" * 64, size_bytes=4_400_000, seconds=84.2, max_abs_difference=0.04 / n, flips=2 - n, cases=24,
            p50_ms=1.2 + n, chosen=n == 2,
        )
        for n in (1, 2)
    )  # fmt: skip
    return EngineEvidence(
        compatibility=BOUND.model_copy(update={"gpu": "Orin", "driver": "12.6"}), kit_sha256="c0ffee" + "0" * 58,
        maker="trtexec", timing_cache="used", memory={"pair": found}, rebuilds={"pair": builds},
        dla_fallback=("node_Softmax_12",), nearness=(Nearness(role="test", lesions=377, parity={"pair": PARITY}),),
        notes=("slow",),
    )  # fmt: skip


def test_a_kit(capsys: pytest.CaptureFixture[str]) -> None:
    show_engine.evidence(Evidence(bundle="kit", kit=kit_evidence()))
    said = capsys.readouterr().out
    for expected in (
        "linter, rules of TensorRT 10.3.0: nothing found in 386 (pair), 251 (dermoscopic) nodes",
        "plan pair: 98.0% of the products in INT8, 3 layers",
        "emulated on the CPU, mode pair, 377 lesions of role test",
        "0.892 [0.820, 0.940]",
        "+0.001 [-0.004, +0.006]",
        "flips of the class:  6 of 377, 1.59% (0.73% to 3.43%)",
        "sibling builder pair: 90.0% of the products in INT8, 123 layers, 2 of them reformats; fell back: gate",
        f"tensorrt-rtx 1.7.1.116 for SM 8.6: {SIBLING}; nothing of it ran",
        "memory: a build takes 1.84 GB or more of a board whose GPU shares it, an estimate",
        "this is a build kit: no engine yet",
    ):
        assert expected in said, expected
    alone = kit_evidence().model_copy(update={"sibling": None, "sibling_why_not": "it is not installed"})
    show_engine.kit(alone)
    said = capsys.readouterr().out
    assert "sibling builder: not asked: it is not installed" in said
    assert SIBLING not in said


def test_an_engine(capsys: pytest.CaptureFixture[str]) -> None:
    show_engine.evidence(Evidence(bundle="engine", kit=kit_evidence(), engine=engine_evidence()))
    said = capsys.readouterr().out
    for expected in (
        "Orin",
        "for CUDA up to 12.6",
        "trtexec, TensorRT's own program",
        "used: kernels timed in an earlier build",
        "c0ffee0000000000 ",
        "against the emulation on drawn cases",
        "memory for the pair build, an estimate: 2.85 GB needed, of it 1.07 GB workspace; 5.10 GB free, zram adds none",
        "layers that DLA left to the GPU, 1: node_Softmax_12",
        "engine against emulation, pair, role test: flips of the class 6 of 377",
        "note: slow",
    ):
        assert expected in said, expected
    rows = [line.split() for line in said.splitlines() if "4.40 MB" in line]
    assert rows[0] == ["1", "84", "4.40", "MB", "1" * 12, "0.04", "1", "of", "24", "2.200"]
    assert rows[1] == ["2", "84", "4.40", "MB", "2" * 12, "0.02", "0", "of", "24", "3.200", "nearest"]
    assert "build kit" not in said


def test_nothing_of_tensorrt_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show_engine.evidence(Evidence(bundle="another"))
    assert capsys.readouterr().out == ""


def gate_of() -> GateResult:
    check = GateCheck(
        mode="pair", metric="auc", lesions=251, positives=22, fp32=AUC.fp32, bundle=AUC.bundle,
        difference=AUC.difference, margin=0.02, reason="so", verdict="holds",
    )  # fmt: skip
    return GateResult(
        passed=True, role="control", role_sha256="1" * 64, lesions=251, target="melanoma", bootstrap=100,
        checks=(check,), parity={},
    )  # fmt: skip


def test_the_gate_says_whether_it_was_emulated(capsys: pytest.CaptureFixture[str]) -> None:
    found = Evidence(bundle="kit", gate=gate_of(), kit=kit_evidence())
    show.evidence(found)
    assert "gate: 251 lesions of role control, emulated on the CPU" in capsys.readouterr().out
    unasked = engine_evidence().model_copy(update={"nearness": ()})
    show.evidence(found.model_copy(update={"engine": unasked}))
    assert "emulated on the CPU" in capsys.readouterr().out
    for real in (found.model_copy(update={"engine": engine_evidence()}), found.model_copy(update={"kit": None})):
        show.evidence(real)
        assert "emulated" not in capsys.readouterr().out


def test_a_planned_cost_is_an_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    effect = Effect(
        divergence=0.01, class_flips=3, target_flips=1, referral_flips=1, balanced_accuracy=Estimate(value=0.5),
        auc=Estimate(value=0.9), lesions=251,
    )  # fmt: skip
    recipe = Recipe(
        name="r", target="tensorrt", precision="int8", quantizer="qdq", activations="int8", calibration_pairs=8
    )
    tried = tuple(
        Candidate(name=name, recipe=recipe, effect=effect, planned_cost=cost, why_not=why)
        for name, cost, why in (("all", 0.5, ""), ("none", 0.987, "less of it in INT8"), ("lost", None, "no time"))
    )
    search = SearchResult(
        role="control", role_sha256="1" * 64, lesions=251, budget_s=60, spent_s=50, complete=True, candidates=tried,
        chosen="all",
    )  # fmt: skip
    show.evidence(Evidence(bundle="kit", search=search))
    said = capsys.readouterr().out
    assert "planned cost, an estimate" in said
    assert "p50" not in said
    assert "0.987" in said
    timed = search.model_copy(update={"candidates": tuple(one.model_copy(update={"p50_ms": 4.0}) for one in tried)})
    show.evidence(Evidence(bundle="another", search=timed))
    said = capsys.readouterr().out
    assert "p50 ms" in said
    assert "planned" not in said


def test_speed_names_engines(capsys: pytest.CaptureFixture[str]) -> None:
    speed = Speed(
        machine="Orin", threads=1, p50_ms={"int8, engine": 1.23, "fp16, engine": 1.87}, int8_is_faster=True,
        ratio=Estimate(value=0.66, low=0.65, high=0.67),
    )  # fmt: skip
    show.evidence(Evidence(bundle="engine", speed=speed))
    assert "speed: int8 engine 1.23 ms, fp16 engine 1.87 ms; INT8 over higher" in capsys.readouterr().out


def summary(stage: str, **bound: object) -> dict[str, Any]:
    found = inspect(open_bundle(TINY))
    plain = BOUND.model_copy(update=bound).to_json()
    return {**found, "target": "tensorrt", "stage": stage, "compatibility": plain}


def test_inspect_says_kit_or_engine_first(capsys: pytest.CaptureFixture[str]) -> None:
    show.bundle(summary("kit"))
    said = [line.strip() for line in capsys.readouterr().out.splitlines()]
    at = next(n for n, line in enumerate(said) if line.startswith("kind"))
    assert said[at].split(maxsplit=1)[1].startswith("build kit for jetson-orin-nano, TensorRT 10.3.0; no engine yet")
    assert said[at + 1].split(maxsplit=1) == ["for", "SM 8.7, aarch64, CUDA 12.6, JetPack 6.1 to 6.2.2"]
    assert said[at + 2].startswith("target")
    show.bundle(summary("ready", gpu="Orin", driver="12.6", dla_core=1))
    said = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert any(line.startswith("kind") and line.endswith("engine for Orin, TensorRT 10.3.0") for line in said)
    assert any(line.startswith("bound to") and line.endswith("JetPack 6.1 to 6.2.2, DLA core 1") for line in said)
    show.bundle(inspect(open_bundle(TINY)))
    assert "kind" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"status": "unsigned", "key": "", "verified": False}, "unsigned"),
        ({"status": "unreadable", "key": "", "verified": False}, "unreadable"),
        ({"status": "signed", "key": "SHA256:abc", "verified": False}, "signed by key SHA256:abc, not verified here"),
    ],
)
def test_inspect_tells_a_signature(found: dict[str, object], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    show.bundle({**summary("kit"), "signature": found})
    said = next(line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("signature"))
    assert told in said


def test_a_verified_kit_reads_as_an_emulation(capsys: pytest.CaptureFixture[str]) -> None:
    golden = GoldenResult(
        name="pair-0", mode="pair", max_abs_error=0.0, tolerance=0.1, same_decisions=True, passed=True
    )
    accuracy = Accuracy(lesions=377, threshold=0.03, tasks={"DIAG": {"macro_f1": AUC}}, target={"auc": AUC})
    found = VerifyResult(
        created="2026-01-01T00:00:00Z", bundle="kit", bundle_sha256="0" * 64, target="tensorrt", precision="int8",
        phantom=False, research_use="research use only, not a medical device", passed=True, golden=(golden,),
        data="milk10k", role="test", role_sha256="0" * 64, lesions=377, without_clinical=0, parity={"pair": PARITY},
        accuracy={"pair": accuracy}, bootstrap=100, threads=1,
        engine={"backend": "emulation of tensorrt", "version": "onnxruntime 1.32.0"}, seconds=1.0,
    )  # fmt: skip
    show.verify(found)
    said = capsys.readouterr().out
    assert "INT8 emulated" in said
    assert "golden cases: 1 of 1 hold in the emulation of tensorrt on this CPU" in said
    show.verify(found.model_copy(update={"engine": {"backend": "tensorrt"}}))
    said = capsys.readouterr().out
    assert "golden cases: 1 of 1 hold on this machine" in said
    assert "emulat" not in said
