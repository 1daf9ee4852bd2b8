import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeskin import bootstrap as boot
from edgeskin import metrics
from edgeskin.decide import softmax


@st.composite
def scored(draw):
    """Truth, probabilities and the lesions of one draw with replacement."""
    count, classes = draw(st.integers(1, 30)), draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    coarse = rng.integers(0, 6, (count, classes)) + 0.5  # coarse, so that ties occur
    return rng.integers(0, classes, count), coarse / coarse.sum(1, keepdims=True), rng.integers(0, count, count)


def agree(left: float, right: float) -> bool:
    return (math.isnan(left) and math.isnan(right)) or left == pytest.approx(right, abs=1e-9)


@settings(deadline=None)
@given(scored())
def test_a_weighted_row_equals_the_metric_of_the_drawn_lesions(case):
    truth, probabilities, drawn = case
    classes = probabilities.shape[1]
    predicted, score, positive = probabilities.argmax(1), probabilities[:, 1], truth == 1
    weights = np.stack([np.ones(len(truth)), np.bincount(drawn, minlength=len(truth)).astype(float)])
    matrices = boot.confusion(weights, truth, predicted, classes)
    for row, chosen in enumerate([np.arange(len(truth)), drawn]):
        t, p, hit, s = truth[chosen], predicted[chosen], positive[chosen], score[chosen]
        assert (matrices[row] == metrics.confusion(t, p, classes)).all()
        assert agree(boot.accuracy(matrices)[row], metrics.accuracy(t, p))
        assert agree(boot.balanced_accuracy(matrices)[row], metrics.balanced_accuracy(t, p, classes))
        assert agree(boot.macro_f1(matrices)[row], metrics.macro_f1(t, p, classes))
        assert agree(boot.auc(weights, positive, score)[row], metrics.auc(hit, s))
        flagged = score >= 0.3
        rates = metrics.sensitivity_specificity(hit, flagged[chosen])
        assert agree(boot.sensitivity(weights, positive, flagged)[row], rates[0])
        assert agree(boot.specificity(weights, positive, flagged)[row], rates[1])
        assert agree(boot.precision(weights, positive, flagged)[row], metrics.precision(hit, flagged[chosen]))
        assert agree(boot.mean(weights, score)[row], s.mean())
        nll = boot.negative_log_likelihood(weights, probabilities, truth)[row]
        assert agree(nll, metrics.negative_log_likelihood(probabilities[chosen], t))
        ece = boot.expected_calibration_error(weights, probabilities, truth)[row]
        assert agree(ece, metrics.expected_calibration_error(probabilities[chosen], t))


def test_no_lesion_gives_nan_not_zero():
    weights, none = np.ones((3, 0)), np.zeros(0, np.int64)
    matrices = boot.confusion(weights, none, none, 2)
    for values in (
        boot.accuracy(matrices),
        boot.balanced_accuracy(matrices),
        boot.macro_f1(matrices),
        boot.auc(weights, none > 0, none.astype(float)),
        boot.sensitivity(weights, none > 0, none > 0),
        boot.precision(weights, none > 0, none > 0),
        boot.mean(weights, none.astype(float)),
        boot.negative_log_likelihood(weights, np.zeros((0, 2)), none),
        boot.expected_calibration_error(weights, np.zeros((0, 2)), none),
    ):
        assert values.shape == (3,)
        assert np.isnan(values).all()


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        hit = rng.random(150) < 0.7
        weights = boot.draws(np.arange(150), 300, seed=trial)
        _, low, high = boot.interval(weights @ hit / 150)
        covered += low <= 0.7 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_rare_classes_that_leave_the_mean_cover_better_than_a_fixed_set_of_classes():
    sizes = np.array([150, 60, 40, 30, 4, 4, 3, 3])
    answered = 0.6 * np.eye(8) + 0.3 * np.ones((8, 1)) * sizes / sizes.sum() + 0.1 / 8
    whole = answered * sizes[:, None] / sizes.sum()
    figures = {"macro-F1": boot.macro_f1(whole[None])[0], "recall": boot.balanced_accuracy(whole[None])[0]}
    rng = np.random.default_rng(3)
    covered: dict[str, list[bool]] = {}
    for _ in range(200):
        sample = rng.multinomial(sizes.sum(), whole.ravel()).reshape(8, 8)
        draws = rng.multinomial(sizes.sum(), sample.ravel() / sizes.sum(), 200).reshape(-1, 8, 8).astype(float)
        rows = {"macro-F1": boot.macro_f1(draws), "recall": boot.balanced_accuracy(draws)}
        hits = np.diagonal(draws, axis1=1, axis2=2)
        for name, below in (("macro-F1", (draws.sum(1) + draws.sum(2)) / 2), ("recall", draws.sum(2))):
            rows[f"{name}, fixed"] = (hits / np.maximum(below, 1e-9)).mean(1)
        for name, row in rows.items():
            low, high = np.quantile(row, [0.025, 0.975])
            covered.setdefault(name, []).append(low <= figures[name.partition(",")[0]] <= high)
    share = {name: float(np.mean(hits)) for name, hits in covered.items()}
    assert share["recall"] >= 0.9
    assert share["macro-F1"] >= 0.8
    assert share["recall"] > share["recall, fixed"]
    assert share["macro-F1"] > share["macro-F1, fixed"]


def test_the_upper_end_bounds_a_small_rise_of_the_calibration_error_and_no_large_one():
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 1.3, (100_000, 6))
    fp32, near, far = (softmax(factor * logits) for factor in (1.0, 1.06, 1.4))
    truth = (fp32.cumsum(1) > rng.random((len(fp32), 1))).argmax(1)  # FP32 is calibrated
    whole = [metrics.expected_calibration_error(p, truth) for p in (fp32, near, far)]
    bounded = {"near": 0, "far": 0}
    for _ in range(100):
        some = rng.integers(0, len(truth), 377)
        weights = boot.draws(np.arange(377), 200)
        errors = [boot.expected_calibration_error(weights, p[some], truth[some]) for p in (fp32, near, far)]
        for place, name in ((1, "near"), (2, "far")):
            _, _, high = boot.interval(errors[place] - errors[0])
            bounded[name] += whole[place] - whole[0] <= high
    assert 0.01 < whole[1] - whole[0] < 0.02
    assert bounded["near"] >= 95
    assert bounded["far"] <= 60  # so the gate's check stops a gross rise, and proves nothing near its margin


def test_whole_groups_are_drawn_together():
    weights = boot.draws(np.array([0, 1, 0, 2]), 500)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert np.unique(weights[1:].sum(1)).tolist() == [3.0, 4.0, 5.0, 6.0]
    assert weights[1:].mean() == pytest.approx(1, abs=0.05)


def test_draws_repeat_with_their_seed():
    groups = np.arange(20)
    assert (boot.draws(groups, 9, seed=4) == boot.draws(groups, 9, seed=4)).all()
    assert (boot.draws(groups, 9, seed=4) != boot.draws(groups, 9, seed=5)).any()


def test_undefined_draws_are_left_out():
    assert boot.interval(np.array([0.5, np.nan, 0.5])) == (0.5, 0.5, 0.5)
    value, low, high = boot.interval(np.array([0.5, np.nan]))
    assert value == 0.5
    assert math.isnan(low)
    assert math.isnan(high)
