"""Which lesions a gate counts: those of one patient, of a sub-group, too few, unlabelled, with one image only."""

import numpy as np
import pytest

from edgeskin.data.pairs import UNLABELLED
from edgeskin.errors import EdgeskinError
from edgeskin.quantize.gate import failing, gate, refuse, summary
from edgeskin.quantize.side import binomial_tail
from tests.quantize.gate_cases import ALL, MANIFEST, MEL, MIXED, OTHER, alone, asked, lesions, noisy, only


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
