"""The gate: its figures are those of the scoring and of an oracle, its verdicts never gain by a worse build."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeskin import bootstrap as boot
from edgeskin import decide, metrics, scoring
from edgeskin.data.roles import role_hash, short_hash
from edgeskin.errors import EdgeskinError
from edgeskin.quantize.gate import gate, refuse, summary
from edgeskin.spec.gated import GateResult
from edgeskin.spec.manifest import MODES
from edgeskin.spec.train import Checkpoint
from tests.quantize.gate_cases import (
    ALL,
    CLASSES,
    FIELDS,
    LIMITS,
    MANIFEST,
    MEL,
    MIXED,
    OTHER,
    SCHEMA,
    TASK,
    alone,
    asked,
    lesions,
    noisy,
    only,
    saying,
)

ORDER = {"cannot tell": 1, "fails": 0, "holds": 2}


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0, 0.2))
def test_the_same_logits_always_hold_and_differ_by_nothing(seed, margin):
    fp32, _ = noisy(MIXED, seed)
    meta = [{"sex": "female" if i % 2 else "male"} for i in range(len(MIXED))]
    spec = asked(margin=margin, flips=(0.0, 0.0), groups=("sex",))
    found = gate(MANIFEST, spec, lesions(MIXED, meta=meta), fp32, fp32, "control")
    assert found.passed
    for check in found.checks:
        assert check.verdict == "holds"
        assert (check.difference.value, check.difference.low) == (0, 0)
        assert check.difference.high == 0 or check.metric.endswith("flips")  # Wilson's end is never 0
    refuse(found)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_the_order_of_the_lesions_means_nothing(seed, random):
    fp32, built = noisy(MIXED, seed)
    meta = [{"site": "abc"[i % 3]} for i in range(len(MIXED))]
    cases = lesions(MIXED, patients=[f"p{i // 2}" for i in range(len(MIXED))], meta=meta, without_clinical=(3, 30))
    spec = asked(groups=("site",), flips=(0.05, 0.05))
    order = list(range(len(cases)))
    random.shuffle(order)
    moved = [{mode: logits[order] for mode, logits in side.items()} for side in (fp32, built)]
    straight = gate(MANIFEST, spec, cases, fp32, built, "control")
    shuffled = gate(MANIFEST, spec, [cases[i] for i in order], *moved, "control")
    plain, other = straight.to_json(), shuffled.to_json()
    for record in (plain, other):
        for parity in record["parity"].values():
            assert parity.pop("sqnr_db")["value"] > 0  # float32 sums
    assert plain == other


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.floats(0.01, 0.4))
def test_a_worse_build_never_turns_fails_into_holds(seed, spoiled, margin):
    """Lesions that the build has right are made wrong: no figure but the calibration error can gain by that."""
    meta = [{"site": "ab"[i % 2]} for i in range(len(MIXED))]
    spec = asked(*ALL[:5], margin=margin, groups=("site",))
    cases = lesions(MIXED, meta=meta)
    fp32, built = noisy(MIXED, seed)
    worse = {mode: logits.copy() for mode, logits in built.items()}
    rng = np.random.default_rng(seed)
    for mode, logits in worse.items():
        probabilities = decide.task_probabilities(logits, SCHEMA, MANIFEST.fusion, mode)[TASK.name]
        right = np.flatnonzero(probabilities.argmax(1) == MIXED)
        for i in rng.permutation(right)[:spoiled]:
            logits[i] = saying([OTHER if MIXED[i] == MEL else MEL], mode)[0]
    first, second = (gate(MANIFEST, spec, cases, fp32, x, "control") for x in (built, worse))
    for before, after in zip(first.checks, second.checks, strict=True):
        assert after.difference.low <= before.difference.low
        if before.group:
            assert ORDER[after.verdict] <= ORDER[before.verdict]
        else:
            assert (before.verdict, after.verdict) != ("fails", "holds")
    assert first.passed or not second.passed


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_overall_figures_are_those_of_the_scoring(seed, clustered):
    rng = np.random.default_rng(seed)
    truth = rng.integers(-1, CLASSES, 60)
    truth[:12] = [MEL] * 6 + [OTHER] * 6
    patients = [f"p{i}" for i in rng.integers(0, 30, 60)] if clustered else None
    cases = lesions(truth, patients=patients)
    fp32, built = noisy(truth, seed)
    found = gate(MANIFEST, asked(), cases, fp32, built, "control")
    who = patients or [f"lesion {case.lesion_id}" for case in cases]
    for mode in MODES:
        scored = scoring.accuracy(MANIFEST, mode, {TASK.name: truth}, who, built[mode], fp32[mode], repeats=200)
        rows = {**scored.tasks[TASK.name], **scored.target}
        for metric in ALL:
            check = only(found, mode=mode, metric=metric)
            for side in ("fp32", "bundle", "difference"):
                ours, theirs = getattr(check, side), getattr(rows[metric], side)
                assert ours.value == pytest.approx(theirs.value)
                if metric == "ece" and side == "difference":  # the gate alone asks for a bound
                    assert ours.low <= ours.high
                    assert theirs.low is theirs.high is None
                else:
                    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
            assert (check.lesions, check.positives) == ((truth >= 0).sum(), (truth == MEL).sum())
        shorts = [short_hash(case.lesion_id) for case in cases]
        assert found.parity[mode] == scoring.parity(MANIFEST, mode, shorts, fp32[mode], built[mode])


def test_an_oracle_that_counts_drawn_lesions_one_by_one_agrees():
    rng = np.random.default_rng(5)
    truth = rng.integers(0, CLASSES, 50)
    truth[:15] = MEL
    patients = [f"p{i // 2:02d}" for i in range(50)]
    meta = [{"sex": "female" if i % 3 else "male"} for i in range(50)]
    fp32, built = noisy(truth, 6)
    found = gate(MANIFEST, asked(groups=("sex",)), lesions(truth, patients=patients, meta=meta), fp32, built, "control")
    weights = boot.draws(np.array([i // 2 for i in range(50)]), 200)
    mode = "pair"
    answers = []
    for logits in (fp32[mode], built[mode]):
        parts = [np.exp(logits[:, 0].astype(float) / 1.3), np.exp(logits[:, 1].astype(float))]
        clinical, dermoscopic = (x / x.sum(1, keepdims=True) for x in parts)
        answers.append(0.6 * dermoscopic + 0.4 * clinical)

    def figure(metric, p, chosen):
        t, q = truth[chosen], p[chosen]
        flagged, positive = q[:, MEL] >= LIMITS[mode], t == MEL
        return {
            "sensitivity": lambda: metrics.sensitivity_specificity(positive, flagged)[0],
            "specificity": lambda: metrics.sensitivity_specificity(positive, flagged)[1],
            "auc": lambda: metrics.auc(positive, q[:, MEL]),
            "balanced_accuracy": lambda: metrics.balanced_accuracy(t, q.argmax(1), CLASSES),
            "macro_f1": lambda: metrics.macro_f1(t, q.argmax(1), CLASSES),
            "ece": lambda: metrics.expected_calibration_error(q, t),
        }[metric]()

    for group, inside in (("", range(50)), ("sex = male", [i for i in range(50) if i % 3 == 0])):
        for metric in ALL:
            differences = []
            for row in weights:
                chosen = np.array([i for i in inside for _ in range(int(row[i]))])
                differences.append(figure(metric, answers[1], chosen) - figure(metric, answers[0], chosen))
            drawn = sorted(d for d in differences[1:] if not math.isnan(d))
            check = only(found, mode=mode, metric=metric, group=group)
            assert check.difference.value == pytest.approx(differences[0])
            assert check.difference.low == pytest.approx(np.quantile(drawn, 0.025))
            assert check.difference.high == pytest.approx(np.quantile(drawn, 0.975))


def test_flips_are_judged_by_their_share_and_named_by_short_hash():
    truth = [MEL] * 20 + [OTHER] * 80
    before, after = list(truth), list(truth)
    after[99] = MEL  # one of a hundred, and to the target
    cases = lesions(truth)
    within = alone(asked("auc", flips=(0.01, 0.01)), cases, before, after)
    beyond = alone(asked("auc", flips=(0.01, 0.005)), cases, before, after)
    assert [c.verdict for c in within.checks] == ["holds"] * 3
    assert [c.verdict for c in beyond.checks] == ["holds", "holds", "fails"]
    check = only(beyond, metric="target_flips")
    assert (check.difference.value, check.why) == (0.01, "1 of 100 lesions flip")
    assert (check.difference.low, check.difference.high) == pytest.approx(metrics.wilson_interval(1, 100))
    assert within.parity["dermoscopic"].predicted.lesions == (short_hash("IL_0099"),)
    assert "IL_0099" not in within.model_dump_json()
    assert any("a single flip to or from the target is more than its margin of 0.005" in n for n in beyond.notes)
    assert not any("class flip" in n for n in beyond.notes)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_numbers_that_are_not_finite_are_refused(value, side):
    logits = noisy(MIXED, 1)
    logits[side]["pair"][7, 1, 2] = value
    with pytest.raises(EdgeskinError, match="not finite: got '1 of 48 lesions in mode pair") as error:
        gate(MANIFEST, asked(), lesions(MIXED), *logits, "control")
    assert short_hash("IL_0007") in error.value.line()
    assert ("FP32 answers", "the build answers")[side] in error.value.line()


def test_no_lesion_and_one_twice_are_refused():
    fp32, built = noisy(MIXED, 1)
    with pytest.raises(EdgeskinError, match="empty role"):
        gate(MANIFEST, asked(), [], fp32, built, "control")
    cases = lesions(MIXED)
    cases[5] = dataclasses.replace(cases[5], lesion_id="IL_0000")
    with pytest.raises(EdgeskinError, match="a lesion is there twice"):
        gate(MANIFEST, asked(), cases, fp32, built, "control")
    with pytest.raises(ValueError, match="modes differ"):
        gate(MANIFEST, asked(), lesions(MIXED), fp32, {"pair": built["pair"]}, "control")
    with pytest.raises(ValueError, match=r"not \(47, 2, 5\)"):
        gate(MANIFEST, asked(), lesions(MIXED)[:47], fp32, built, "control")


def test_a_rise_of_the_calibration_error_fails_and_a_fall_holds():
    sure, unsure = saying(MIXED, strength=8.0), saying(MIXED, strength=1.0)
    for before, after, verdict in ((sure, unsure, "fails"), (unsure, sure, "holds")):
        found = gate(MANIFEST, asked("ece"), lesions(MIXED), {"dermoscopic": before}, {"dermoscopic": after}, "control")
        check = only(found, metric="ece")
        assert check.verdict == verdict
        assert (check.difference.value > 0.3) == (verdict == "fails")
    assert only(found, metric="ece").why == ""


def test_a_checkpoint_decides_as_its_bundle_does():
    fp32, built = noisy(MIXED, 2)
    record = Checkpoint.model_construct(**FIELDS)
    ours, theirs = (gate(x, asked(), lesions(MIXED), fp32, built, "control") for x in (record, MANIFEST))
    assert ours == theirs
    assert (ours.role_sha256, ours.target) == (role_hash(c.lesion_id for c in lesions(MIXED)), "melanoma")
    assert GateResult.parse(ours.to_json(), "the record") == ours


def test_a_passed_gate_says_on_how_many_lesions():
    fp32, _ = noisy(MIXED, 2)
    found = gate(MANIFEST, asked("auc", "ece"), lesions(MIXED), fp32, fp32, "control")
    assert summary(found) == "4 of 4 checks hold on 48 lesions of role control"
