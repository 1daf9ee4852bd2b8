import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeskin import bootstrap as boot
from edgeskin import catalog, decide, metrics, scoring
from edgeskin.data.pairs import UNLABELLED, Pair
from edgeskin.data.roles import role_hash, short_hash
from edgeskin.errors import EdgeskinError
from edgeskin.quantize.gate import failing, gate, refuse, summary
from edgeskin.quantize.side import binomial_tail
from edgeskin.spec.gate import GateSpec, Margin
from edgeskin.spec.gated import GateResult
from edgeskin.spec.manifest import IMAGES, MODES, Manifest
from edgeskin.spec.train import Checkpoint, Fusion, Threshold, Thresholds

SCHEMA = catalog.schema("milk10k5")
(TASK,) = SCHEMA.tasks
CLASSES = len(TASK.classes)
MEL = TASK.class_names.index("MEL")
OTHER = (MEL + 1) % CLASSES
LIMITS = {"pair": 0.3, "dermoscopic": 0.4}
ALL = ("sensitivity", "specificity", "auc", "balanced_accuracy", "macro_f1", "ece")
FIELDS = {
    "task_schema": SCHEMA,
    "fusion": {TASK.name: Fusion(dermoscopic_weight=0.6, temperature_clinical=1.3)},
    "thresholds": Thresholds(**{mode: Threshold(value=value, rule="fixed") for mode, value in LIMITS.items()}),
}
MANIFEST = Manifest.model_construct(**FIELDS)
ORDER = {"cannot tell": 1, "fails": 0, "holds": 2}


def asked(*names, margin=0.05, groups=(), draws=200, smallest=5, flips=(None, None)) -> GateSpec:
    limits = [None if value is None else Margin(value=value, reason="for this test") for value in flips]
    return GateSpec(
        margins={name: Margin(value=margin, reason="for this test") for name in names or ALL},
        class_flips=limits[0],
        target_flips=limits[1],
        bootstrap=draws,
        groups=groups,
        smallest_group=smallest,
    )


def lesions(truth, *, patients=None, meta=None, without_clinical=()) -> list[Pair]:
    return [
        Pair(
            f"IL_{i:04d}",
            Path("d.jpg"),
            None if i in without_clinical else Path("c.jpg"),
            {TASK.name: int(label)},
            row=i,
            patient_id=patients[i] if patients else None,
            meta=meta[i] if meta else {},
        )
        for i, label in enumerate(truth)
    ]


def saying(classes, mode="dermoscopic", strength=6.0) -> np.ndarray:
    """Logits of lesions that are these classes for sure."""
    return np.repeat((np.eye(CLASSES)[classes] * strength)[:, None], IMAGES[mode], 1).astype(np.float32)


def noisy(truth, seed, noise=0.3):
    """FP32 and something near it, both modes."""
    rng = np.random.default_rng(seed)
    fp32, built = {}, {}
    for mode in MODES:
        signal = np.eye(CLASSES)[np.maximum(truth, 0)][:, None] * 1.5
        fp32[mode] = (signal + rng.normal(0, 1, (len(truth), IMAGES[mode], CLASSES))).astype(np.float32)
        built[mode] = fp32[mode] + rng.normal(0, noise, fp32[mode].shape).astype(np.float32)
    return fp32, built


def alone(spec, cases, before, after) -> GateResult:
    """The gate in mode dermoscopic, from the classes that both say."""
    return gate(MANIFEST, spec, cases, {"dermoscopic": saying(before)}, {"dermoscopic": saying(after)}, "control")


def only(found, **fields):
    """The one check with these fields."""
    (check,) = [c for c in found.checks if all(getattr(c, name) == value for name, value in fields.items())]
    return check


MIXED = np.array([MEL] * 12 + [OTHER] * 20 + [(MEL + 2) % CLASSES] * 16)


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


@pytest.mark.parametrize(
    ("truth", "told"),
    [
        (
            [OTHER] * 40,
            {
                "sensitivity": "no lesion with melanoma among 40",
                "specificity": "",
                "auc": "no lesion with melanoma among 40",
                "balanced_accuracy": "all 40 lesions are of one class",
            },
        ),
        (
            [MEL] * 40,
            {
                "sensitivity": "",
                "specificity": "no lesion without melanoma among 40",
                "auc": "no lesion without melanoma among 40",
                "ece": "all 40 lesions are of one class",
            },
        ),
        ([UNLABELLED] * 40, dict.fromkeys(ALL, "none of 40 lesions is labelled")),
        (
            [MEL] * 4 + [OTHER] * 36,
            {"sensitivity": "only 4 lesions with melanoma", "auc": "only 4 lesions with melanoma", "macro_f1": ""},
        ),
        ([MEL] + [OTHER] * 39, {"sensitivity": "only 1 lesion with melanoma", "specificity": ""}),
    ],
)
def test_what_a_control_role_cannot_tell_does_not_pass(truth, told):
    said = [max(label, 0) for label in truth]
    found = alone(asked(), lesions(truth), said, said)
    assert not found.passed
    for metric, why in told.items():
        check = only(found, metric=metric)
        assert (check.verdict, check.why) == (("cannot tell", why) if why else ("holds", ""))
    with pytest.raises(EdgeskinError, match="not shown to be as good as FP32") as error:
        refuse(found)
    assert len(error.value.details) == len(failing(found.checks))


def test_lesions_of_a_patient_are_drawn_together():
    """Ten melanomas that move count as one observation where they are one patient's: the interval is far wider."""
    truth = [MEL] * 100 + [OTHER] * 50
    after = [OTHER] * 10 + [MEL] * 90 + [OTHER] * 50
    apart = alone(asked("sensitivity", draws=1000), lesions(truth), truth, after)
    who = [f"p{i // 10}" for i in range(150)]
    together = alone(asked("sensitivity", draws=1000), lesions(truth, patients=who), truth, after)
    wide, narrow = (only(x, metric="sensitivity").difference for x in (together, apart))
    assert (wide.value, narrow.value) == pytest.approx((-0.1, -0.1))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert any(
        "100 lesions with melanoma of 10 patients: a loss of sensitivity below 27.8 %" in n for n in together.notes
    )
    assert any("100 lesions with melanoma: a loss of sensitivity below 3.7 %" in n for n in apart.notes)


def test_four_patients_are_few_however_many_their_lesions():
    truth = [MEL] * 40 + [OTHER] * 40
    who = [f"p{i // 10}" for i in range(80)]
    found = alone(asked("sensitivity"), lesions(truth, patients=who), truth, truth)
    assert only(found, metric="sensitivity").why == "only 4 patients with melanoma"


def test_a_group_shown_to_be_worse_fails_though_the_whole_holds():
    """12 of the 14 melanomas on feet are lost: 0.8 % of all melanomas' sensitivity."""
    truth = [MEL] * 1514 + [OTHER] * 100
    meta = [{"site": "foot" if i < 14 or i >= 1580 else "trunk"} for i in range(len(truth))]
    after = [OTHER] * 12 + truth[12:]
    found = alone(asked("sensitivity", groups=("site",)), lesions(truth, meta=meta), truth, after)
    assert only(found, group="").verdict == "holds"
    assert only(found, group="site = trunk").verdict == "holds"
    foot = only(found, group="site = foot")
    assert (foot.verdict, foot.lesions, foot.positives) == ("fails", 48, 14)
    assert foot.why == "all of the interval lies below -0.05"
    assert not found.passed
    assert failing(found.checks) == [foot]
    with pytest.raises(EdgeskinError, match=r"site = foot: sensitivity -0\.8571 .* fix: --budget 30m to search, --qat"):
        refuse(found)
    assert summary(found).startswith("not passed: 1 of 1 checks hold on 1614 lesions of role control; in sub-groups: h")


@pytest.mark.parametrize(("lost", "verdict"), [(0, "cannot tell"), (1, "cannot tell"), (2, "fails"), (3, "fails")])
def test_with_three_melanomas_a_group_needs_the_exact_test(lost, verdict):
    """By bootstrap, three of three lost and one of one lost look equally sure."""
    truth = [MEL] * 203 + [OTHER] * 47
    meta = [{"site": "foot" if i < 3 or i >= 240 else "trunk"} for i in range(250)]
    after = [OTHER] * lost + truth[lost:]
    found = alone(asked("sensitivity", groups=("site",)), lesions(truth, meta=meta), truth, after)
    foot = only(found, group="site = foot")
    assert foot.verdict == verdict
    assert (binomial_tail(lost, 3, 0.05) < 0.025) == (verdict == "fails")
    assert foot.why == (f"{lost} of 3 are lost" if verdict == "fails" else "only 3 lesions with melanoma")
    assert found.passed == (verdict != "fails")


def test_one_flip_in_a_small_group_is_no_proof():
    """Wilson's lower end of 1 of 32 is 0.55 %, above 0.4 %; yet that happens to one group in eight by chance."""
    truth = [MEL] * 100 + [OTHER] * 932
    meta = [{"skin": "5" if i >= 1000 else "3"} for i in range(1032)]
    spec = asked("auc", flips=(None, 0.004), groups=("skin",))
    cases = lesions(truth, meta=meta)
    one, three = (alone(spec, cases, truth, truth[: 1032 - n] + [MEL] * n) for n in (1, 3))
    assert only(one, metric="target_flips", group="skin = 5").verdict == "cannot tell"
    assert only(one, metric="target_flips", group="").verdict == "holds"
    assert one.passed
    assert only(three, metric="target_flips", group="skin = 5").verdict == "fails"
    assert not three.passed


def test_groups_too_small_unknown_or_absent_are_named_or_left_out():
    meta = [{"site": ["trunk", "trunk", "hand", ""][i % 4] if i < 8 else "trunk"} for i in range(len(MIXED))]
    fp32, built = noisy(MIXED, 3)
    spec = asked("auc", groups=("site", "sex"), smallest=10)
    found = gate(MANIFEST, spec, lesions(MIXED, meta=meta), fp32, built, "control")
    assert {c.group for c in found.checks} == {"", "site = trunk"}
    assert "below 10 lesions, so not compared: site = hand (2)" in found.notes
    assert "no lesion has metadata 'sex'" in found.notes
    assert any(note.startswith("2 comparisons in sub-groups, not corrected") for note in found.notes)


def test_unlabelled_lesions_count_for_flips_alone():
    truth = np.array([MEL] * 10 + [OTHER] * 10 + [UNLABELLED] * 5)
    said = [max(label, 0) for label in truth]
    after = [*said[:24], MEL if said[24] != MEL else OTHER]
    found = alone(asked("auc", "ece", flips=(0.5, 0.5)), lesions(truth), said, after)
    assert [c.lesions for c in found.checks] == [20, 20, 25, 25]
    assert only(found, metric="ece").difference.value == 0
    assert only(found, metric="class_flips").difference.value == 0.04


def test_lesions_without_a_clinical_image_are_left_out_of_mode_pair():
    fp32, built = noisy(MIXED, 1)
    for side in (fp32, built):
        side["pair"][[2, 20]] = np.nan
    found = gate(MANIFEST, asked(), lesions(MIXED, without_clinical=(2, 20)), fp32, built, "control")
    keep = np.delete(np.arange(len(MIXED)), [2, 20])
    rest = [lesions(MIXED)[i] for i in keep]
    fewer = gate(MANIFEST, asked(), rest, {"pair": fp32["pair"][keep]}, {"pair": built["pair"][keep]}, "control")
    ours = [c for c in found.checks if c.mode == "pair"]
    assert ours == list(fewer.checks)
    assert {c.lesions for c in ours} == {len(MIXED) - 2}
    assert found.parity["pair"] == fewer.parity["pair"]
    assert found.lesions == found.parity["dermoscopic"].lesions == len(MIXED)
    assert "mode dermoscopic was not compared" in fewer.notes


def test_a_mode_without_any_lesion_does_not_pass():
    fp32, built = noisy(MIXED, 1)
    cases = lesions(MIXED, without_clinical=range(len(MIXED)))
    found = gate(MANIFEST, asked(flips=(0.5, 0.5), groups=("sex",), margin=0.9), cases, fp32, built, "control")
    silent = [c for c in found.checks if c.mode == "pair"]
    assert {(c.verdict, c.why, c.lesions) for c in silent} == {("cannot tell", "no lesion has a clinical image", 0)}
    assert len(silent) == 8
    assert set(found.parity) == {"dermoscopic"}
    assert failing(found.checks) == silent


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
