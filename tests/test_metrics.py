"""The formulas against scikit-learn, SciPy and brute force."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn import metrics as sk

from edgeskin import metrics

CLASSES = 5
LABELS = hnp.arrays(np.int64, st.shared(st.integers(1, 60), key="n"), elements=st.integers(0, CLASSES - 1))
OTHERS = hnp.arrays(np.int64, st.shared(st.integers(1, 60), key="n"), elements=st.integers(0, CLASSES - 1))
BOOLS = hnp.arrays(np.bool_, st.shared(st.integers(1, 60), key="n"))
SCORES = hnp.arrays(
    np.float64, st.shared(st.integers(1, 60), key="n"), elements=st.sampled_from([0, 0.1, 0.5, 0.7, 1.0])
)
quick = settings(max_examples=80, deadline=None)


@given(LABELS, OTHERS)
@quick
def test_confusion_and_scores_equal_scikit_learn(truth: NDArray[np.int64], predicted: NDArray[np.int64]) -> None:
    labels = list(range(CLASSES))
    assert (metrics.confusion(truth, predicted, CLASSES) == sk.confusion_matrix(truth, predicted, labels=labels)).all()
    assert metrics.accuracy(truth, predicted) == pytest.approx(sk.accuracy_score(truth, predicted))
    assert metrics.macro_f1(truth, predicted, CLASSES) == pytest.approx(
        sk.f1_score(truth, predicted, average="macro", zero_division=0)
    )
    # scikit-learn's balanced accuracy warns of, and leaves out, classes that the truth lacks: as ours does
    recalls = sk.recall_score(truth, predicted, labels=sorted(set(truth)), average="macro", zero_division=0)
    assert metrics.balanced_accuracy(truth, predicted, CLASSES) == pytest.approx(recalls)


@given(LABELS, st.integers(0, 2**32 - 1))
@quick
def test_negative_log_likelihood_equals_scikit_learn(truth: NDArray[np.int64], seed: int) -> None:
    probabilities = np.random.default_rng(seed).dirichlet(np.full(CLASSES, 0.5), len(truth))
    probabilities = np.clip(probabilities, 1e-9, None) / np.clip(probabilities, 1e-9, None).sum(1, keepdims=True)
    expected = sk.log_loss(truth, probabilities, labels=list(range(CLASSES)))
    assert metrics.negative_log_likelihood(probabilities, truth) == pytest.approx(expected)


def test_a_probability_of_nothing_costs_a_finite_likelihood() -> None:
    sure_and_wrong = np.array([[1.0, 0.0]])
    assert metrics.negative_log_likelihood(sure_and_wrong, np.array([1])) == pytest.approx(12 * math.log(10))
    assert metrics.negative_log_likelihood(sure_and_wrong, np.array([0])) == 0


@given(BOOLS, SCORES)
@quick
def test_precision_equals_scikit_learn(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> None:
    flagged = score >= 0.5
    found = metrics.precision(positive, flagged)
    if not flagged.any():
        assert math.isnan(found)
        return
    assert found == pytest.approx(sk.precision_score(positive, flagged, zero_division=0))


@given(BOOLS, SCORES)
@quick
def test_auc_equals_scikit_learn_ties_included(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> None:
    found = metrics.auc(positive, score)
    if positive.all() or not positive.any():
        assert math.isnan(found)
    else:
        assert found == pytest.approx(sk.roc_auc_score(positive, score))


@given(BOOLS, SCORES)
@quick
def test_roc_keeps_the_corners_of_scikit_learn_s(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> None:
    false_positive, true_positive = metrics.roc_curve(positive, score)
    if positive.all() or not positive.any():
        assert not len(false_positive)
        assert not len(true_positive)
        return
    full = {(round(x, 9), round(y, 9)) for x, y in zip(*sk.roc_curve(positive, score)[:2], strict=True)}
    kept = [(round(x, 9), round(y, 9)) for x, y in zip(false_positive, true_positive, strict=True)]
    assert set(kept) <= full
    assert (kept[0], kept[-1]) == ((0, 0), (1, 1))
    area = (np.diff(false_positive) * (true_positive[1:] + true_positive[:-1]) / 2).sum()
    assert area == pytest.approx(metrics.auc(positive, score))
    for (x0, y0), (x1, y1), (x2, y2) in zip(kept, kept[1:], kept[2:], strict=False):
        assert abs((x1 - x0) * (y2 - y1) - (x2 - x1) * (y1 - y0)) > 1e-9  # no point lies on a straight stretch


@given(st.integers(1, 60), st.integers(2, 20), st.integers(0, 2**32 - 1))
@quick
def test_bins_hold_every_entry_once_and_give_the_calibration_error(count: int, bins: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(CLASSES), count)
    truth = rng.integers(0, CLASSES, count)
    counts, confidence, correct = metrics.reliability_bins(probabilities, truth, bins)
    assert counts.sum() == count
    filled = counts > 0
    assert (np.isnan(confidence) == ~filled).all()
    edges = np.linspace(0, 1, bins + 1)
    assert (confidence[filled] >= edges[:-1][filled] - 1e-9).all()
    assert (confidence[filled] <= edges[1:][filled] + 1e-9).all()
    assert (counts * np.nan_to_num(correct)).sum() == pytest.approx((probabilities.argmax(1) == truth).sum())
    error = (counts * np.abs(np.nan_to_num(correct) - np.nan_to_num(confidence))).sum() / count
    assert metrics.expected_calibration_error(probabilities, truth, bins) == pytest.approx(error)


@given(BOOLS, SCORES, st.sampled_from([0.5, 0.8, 0.9, 1.0]))
@quick
def test_threshold_is_the_middle_of_those_that_reach_the_sensitivity(
    positive: NDArray[np.bool_], score: NDArray[np.float64], wanted: float
) -> None:
    threshold = metrics.threshold_at_sensitivity(positive, score, wanted)
    if not positive.any():
        assert math.isnan(threshold)
        return
    sensitivity, specificity = metrics.sensitivity_specificity(positive, score >= threshold)
    assert sensitivity >= wanted - 1e-12
    assert sensitivity == pytest.approx(sk.recall_score(positive, score >= threshold))
    if (~positive).any():
        assert specificity == pytest.approx(sk.recall_score(~positive, score < threshold, zero_division=0))
    last = score[positive & (score >= threshold)].min()
    missed = score[positive & (score < threshold)]
    if len(missed):  # as far from the last one found as from the first one missed
        assert last - threshold == pytest.approx(threshold - missed.max())
        assert metrics.sensitivity_specificity(positive, score > last)[0] < wanted
    assert threshold <= last


@given(st.integers(0, 200), st.integers(1, 200))
@quick
def test_wilson_equals_scipy(hits: int, total: int) -> None:
    hits = min(hits, total)
    low, high = metrics.wilson_interval(hits, total)
    expected = binomtest(hits, total).proportion_ci(method="wilson")
    assert low == pytest.approx(expected.low, abs=1e-6)
    assert high == pytest.approx(expected.high, abs=1e-6)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=80), st.floats(0.01, 1.0))
@quick
def test_percentile_is_the_nearest_rank(values: list[float], share: float) -> None:
    assert metrics.percentile(values, share) == np.quantile(values, share, method="inverted_cdf")


@given(
    hnp.arrays(np.float64, (40, 4), elements=st.floats(0.01, 1)), hnp.arrays(np.int64, 40, elements=st.integers(0, 3))
)
@quick
def test_calibration_error_equals_a_plain_loop(raw: NDArray[np.float64], truth: NDArray[np.int64]) -> None:
    probabilities = raw / raw.sum(1, keepdims=True)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(probabilities, truth, strict=True):
        bins.setdefault(min(int(row.max() * 15), 14), []).append((float(row.max()), bool(row.argmax() == label)))
    expected = sum(
        abs(sum(hit for _, hit in inside) / len(inside) - sum(c for c, _ in inside) / len(inside)) * len(inside) / 40
        for inside in bins.values()
    )
    assert metrics.expected_calibration_error(probabilities, truth) == pytest.approx(expected)


def test_sqnr_of_a_known_quantiser() -> None:
    signal = np.random.default_rng(0).uniform(-1, 1, 200_000)
    step = 2 / 255
    found = metrics.sqnr_db(signal, np.round(signal / step) * step)
    # uniform signal, uniform noise: 10 log10((1/3) / (step^2 / 12)), about 6.02 dB a bit
    assert found == pytest.approx(10 * math.log10((1 / 3) / (step**2 / 12)), abs=0.05)
    assert metrics.sqnr_db(signal, signal) == math.inf


def test_sqnr_does_not_overflow_in_half_precision() -> None:
    reference = np.full(1000, 300.0, np.float16)
    assert metrics.sqnr_db(reference, reference * np.float16(0.5)) == pytest.approx(6.02, abs=0.01)


def test_bootstrap_covers_the_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    held = 0
    for run in range(120):
        sample = generator.normal(3.0, 1.0, 60)
        low, high = metrics.bootstrap_interval(lambda i, s=sample: float(s[i].mean()), 60, repeats=150, seed=run)
        held += low <= 3.0 <= high
    assert 0.87 <= held / 120 <= 1.0


def test_bootstrap_leaves_undefined_draws_out() -> None:
    positive = np.array([True] + [False] * 9)
    score = np.linspace(1, 0, 10)
    low, high = metrics.bootstrap_interval(lambda i: metrics.auc(positive[i], score[i]), 10, repeats=200)
    assert 0 <= low <= high <= 1
    nothing = metrics.bootstrap_interval(lambda i: math.nan, 10, repeats=10)
    assert all(math.isnan(value) for value in nothing)


@pytest.mark.parametrize(
    "value",
    [
        metrics.accuracy(np.array([], np.int64), np.array([], np.int64)),
        metrics.balanced_accuracy(np.array([], np.int64), np.array([], np.int64), 3),
        metrics.macro_f1(np.array([], np.int64), np.array([], np.int64), 3),
        metrics.percentile([], 0.5),
        metrics.wilson_interval(0, 0)[0],
        metrics.auc(np.array([], np.bool_), np.array([], np.float64)),
        metrics.precision(np.array([True, False]), np.array([False, False])),
        metrics.expected_calibration_error(np.zeros((0, 3)), np.array([], np.int64)),
        metrics.negative_log_likelihood(np.zeros((0, 3)), np.array([], np.int64)),
    ],
)
def test_what_is_undefined_is_nan(value: float) -> None:
    assert math.isnan(value)
