import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeskin import catalog, decide
from edgeskin.spec.train import Fusion, Threshold, Thresholds

SPC = catalog.schema("spc")
FUSION = {
    task.name: Fusion(
        dermoscopic_weight=0.1 * i, temperature_dermoscopic=1 + i, temperature_clinical=0.5, temperature_alone=2.0
    )
    for i, task in enumerate(SPC.tasks)
}
finite = st.floats(-50, 50, width=32)


@settings(deadline=None)
@given(arrays(np.float32, (5, 2, SPC.logits), elements=finite))
def test_probabilities_sum_to_one_and_lie_between_the_branches(logits):
    fused = decide.task_probabilities(logits, SPC, FUSION, "pair")
    branches = decide.branch_probabilities(logits, SPC, FUSION, "pair")
    for task in SPC.tasks:
        assert fused[task.name].shape == (5, len(task.classes))
        np.testing.assert_allclose(fused[task.name].sum(-1), 1)
        both = np.stack([branches["clinical"][task.name], branches["dermoscopic"][task.name]])
        assert (fused[task.name] >= both.min(0) - 1e-12).all()
        assert (fused[task.name] <= both.max(0) + 1e-12).all()


@settings(deadline=None)
@given(arrays(np.float32, (4, 1, SPC.logits), elements=finite))
def test_one_lesion_at_a_time_gives_the_same(logits):
    together = decide.task_probabilities(logits, SPC, FUSION, "dermoscopic")
    for i in range(4):
        alone = decide.task_probabilities(logits[i], SPC, FUSION, "dermoscopic")
        for name, value in alone.items():
            np.testing.assert_array_equal(value, together[name][i])


def test_each_branch_has_its_own_temperature_and_weight():
    logits = np.zeros((2, SPC.logits))
    logits[0, 0], logits[1, 0] = np.log(2.0), 2 * np.log(3.0)
    fusion = {
        **FUSION,
        "DIAG": Fusion(dermoscopic_weight=0.25, temperature_clinical=1.0, temperature_dermoscopic=2.0),
    }
    fused = decide.task_probabilities(logits, SPC, fusion, "pair")
    assert fused["DIAG"][0] == pytest.approx(0.75 * 2 / 6 + 0.25 * 3 / 7)


@given(arrays(np.float32, (3, 3, SPC.logits), elements=finite), st.floats(0, 1), st.floats(0.25, 4))
def test_a_fused_head_has_its_share_and_its_own_temperature(logits, third, warmth):
    """Against the formula written out with other means."""
    from scipy.special import softmax

    fusion = {
        task: one.model_copy(update={"fused_weight": third, "temperature_fused": warmth})
        for task, one in FUSION.items()
    }
    found = decide.task_probabilities(logits, SPC, fusion, "pair")
    branches = decide.branch_probabilities(logits, SPC, fusion, "pair")
    assert list(branches) == ["clinical", "dermoscopic", "fused"]
    without = decide.task_probabilities(logits[:, :2], SPC, FUSION, "pair")
    for task, part in SPC.slices().items():
        own = softmax(logits[:, 2, part].astype(float) / warmth, axis=-1)
        np.testing.assert_allclose(branches["fused"][task], own, atol=1e-12)
        np.testing.assert_allclose(found[task], (1 - third) * without[task] + third * own, atol=1e-12)
    alone = decide.task_probabilities(logits[:, 1:2], SPC, fusion, "dermoscopic")
    assert all(
        (alone[t] == decide.task_probabilities(logits[:, 1:2], SPC, FUSION, "dermoscopic")[t]).all() for t in alone
    )


def test_a_share_for_a_fused_head_that_gave_no_logits_is_a_fault():
    fusion = {task: one.model_copy(update={"fused_weight": 0.1}) for task, one in FUSION.items()}
    with pytest.raises(ValueError, match="there are no logits of one"):
        decide.task_probabilities(np.zeros((2, SPC.logits)), SPC, fusion, "pair")


def test_only_a_fused_head_that_has_a_say_is_written():
    plain = Fusion(dermoscopic_weight=0.5)
    assert set(plain.to_json()) == {
        "dermoscopic_weight",
        *(f"temperature_{n}" for n in ("alone", "clinical", "dermoscopic")),
    }
    with_head = plain.model_copy(update={"fused_weight": 0.25, "temperature_fused": 1.5})
    assert with_head.to_json() == {**plain.to_json(), "fused_weight": 0.25, "temperature_fused": 1.5}
    assert all(Fusion.parse(one.to_json(), "x") == one for one in (plain, with_head))


def test_alone_has_its_own_temperature():
    logits = np.zeros((1, SPC.logits))
    logits[0, 0] = 2 * np.log(3.0)
    assert decide.task_probabilities(logits, SPC, FUSION, "dermoscopic")["DIAG"][0] == pytest.approx(3 / 7)


def test_softmax_holds_out_large_logits():
    assert decide.softmax(np.array([1e4, 0.0, -1e4])).tolist() == [1.0, 0.0, 0.0]


def test_target_sums_its_positive_classes():
    schema = SPC.model_copy(update={"target": SPC.target.model_copy(update={"positive": ("MEL", "BCC")})})
    classes = schema.task("DIAG").class_names
    given_probabilities = np.linspace(0.1, 0.3, len(classes))
    expected = given_probabilities[classes.index("MEL")] + given_probabilities[classes.index("BCC")]
    assert decide.target_probability({"DIAG": given_probabilities}, schema) == pytest.approx(expected)


def test_thresholds_belong_to_modes():
    limits = Thresholds(pair=Threshold(value=0.2, rule=""), dermoscopic=Threshold(value=0.7, rule=""))
    assert decide.threshold(limits, "pair") == 0.2
    assert decide.threshold(limits, "dermoscopic") == 0.7
