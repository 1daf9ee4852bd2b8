"""Formulas only. What is undefined is NaN, never 0."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def confusion(truth: Ints, predicted: Ints, classes: int) -> Ints:
    """Confusion matrix [truth, predicted].

    >>> confusion(np.array([0, 1, 1]), np.array([0, 1, 0]), 2).tolist()
    [[1, 0], [1, 1]]
    """
    return np.bincount(truth * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def accuracy(truth: Ints, predicted: Ints) -> float:
    """Share of equal entries.

    >>> accuracy(np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0]))
    0.75
    """
    return float(np.mean(truth == predicted)) if len(truth) else math.nan


def balanced_accuracy(truth: Ints, predicted: Ints, classes: int) -> float:
    """Mean recall over the classes that occur in the truth.

    >>> balanced_accuracy(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), 3).__round__(4)
    0.8333
    """
    matrix = confusion(truth, predicted, classes)
    support = matrix.sum(1)
    present = support > 0
    return float(np.mean(matrix.diagonal()[present] / support[present])) if present.any() else math.nan


def macro_f1(truth: Ints, predicted: Ints, classes: int) -> float:
    """Mean F1 over the classes that occur in truth or prediction (as scikit-learn's f1_score(average="macro")).

    >>> macro_f1(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 2).__round__(4)
    0.7333
    """
    matrix = confusion(truth, predicted, classes)
    denominator = matrix.sum(0) + matrix.sum(1)
    present = denominator > 0
    return float(np.mean(2 * matrix.diagonal()[present] / denominator[present])) if present.any() else math.nan


def auc(positive: NDArray[np.bool_], score: Floats) -> float:
    """Area under the ROC curve: P(score of a positive > score of a negative), ties count half (Mann-Whitney).

    >>> auc(np.array([True, False, True, False]), np.array([0.9, 0.8, 0.7, 0.1]))
    0.75
    """
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if positives == 0 or negatives == 0:
        return math.nan
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # mean rank of each distinct score
    rank_sum = float(ranks[inverse][positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def roc_curve(positive: NDArray[np.bool_], score: Floats) -> tuple[Floats, Floats]:
    """Shares of the negatives and of the positives with `score >= t`, for every t where the curve turns.

    From (0, 0) to (1, 1); points on a straight stretch are left out, so the trapezoids below it still sum to `auc`.
    Both are empty where there is no positive, or no negative.

    >>> false_positive, true_positive = roc_curve(np.array([True, False, True, False]), np.array([0.9, 0.8, 0.7, 0.1]))
    >>> false_positive.tolist(), true_positive.tolist()
    ([0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0])
    """
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if positives == 0 or negatives == 0:
        return np.empty(0), np.empty(0)
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.diff(score[order], append=-np.inf))  # where each distinct score ends
    hits = np.concatenate([[0], np.cumsum(positive[order])[last]])
    alarms = np.concatenate([[0], np.cumsum(~positive[order])[last]])
    up, right = np.diff(hits), np.diff(alarms)
    turns = np.concatenate([[True], up[1:] * right[:-1] != up[:-1] * right[1:], [True]])
    return alarms[turns] / negatives, hits[turns] / positives


def sensitivity_specificity(positive: NDArray[np.bool_], flagged: NDArray[np.bool_]) -> tuple[float, float]:
    """Sensitivity and specificity of a binary decision; NaN where there is no positive, or no negative.

    >>> sensitivity_specificity(np.array([True, True, False, False]), np.array([True, False, False, False]))
    (0.5, 1.0)
    """
    sensitivity = float(flagged[positive].mean()) if positive.any() else math.nan
    specificity = float((~flagged[~positive]).mean()) if (~positive).any() else math.nan
    return sensitivity, specificity


def precision(positive: NDArray[np.bool_], flagged: NDArray[np.bool_]) -> float:
    """Share of the flagged that are positive (positive predictive value); NaN where none is flagged.

    >>> precision(np.array([True, True, False, False]), np.array([True, False, True, False]))
    0.5
    """
    return float(positive[flagged].mean()) if flagged.any() else math.nan


def sensitivity_at_specificity(positive: NDArray[np.bool_], score: Floats, specificity: float) -> float:
    """The highest sensitivity of a rule `score >= t` whose specificity is at least the one given.

    >>> sensitivity_at_specificity(np.array([True, False, True, False]), np.array([0.9, 0.8, 0.7, 0.1]), 0.9)
    0.5
    """
    if not positive.any() or positive.all():
        return math.nan
    best = 0.0
    for threshold in np.unique(score):
        sensitivity, reached = sensitivity_specificity(positive, score >= threshold)
        if reached >= specificity - 1e-9:
            best = max(best, sensitivity)
    return best


def threshold_at_sensitivity(positive: NDArray[np.bool_], score: Floats, sensitivity: float) -> float:
    """The middle of the thresholds t for which `score >= t` finds that share of the positives and no positive more.

    They reach from the next positive's score up to the score of the last one that must be found. The upper end would
    lose that one to the least change of its score, as by rounding to INT8. Where every positive must be found, the
    next score of any lesion stands for the next positive's.

    >>> threshold_at_sensitivity(np.array([True, True, True, False]), np.array([0.9, 0.5, 0.2, 0.4]), 0.66)
    0.35
    """
    if not positive.any():
        return math.nan
    ranked = np.sort(score[positive])[::-1]
    last = float(ranked[max(0, math.ceil(sensitivity * len(ranked)) - 1)])
    below = ranked[ranked < last] if (ranked < last).any() else score[score < last]
    return (last + float(below.max())) / 2 if len(below) else last


def reliability_bins(probabilities: Floats, truth: Ints, bins: int = 15) -> tuple[Ints, Floats, Floats]:
    """Entries, mean confidence of the top class and its accuracy in each of `bins` equal-width bins of confidence.

    Bins as in Guo et al. 2017, the last one with its upper edge. Confidence and accuracy are NaN where a bin is empty.

    >>> counts, confidence, correct = reliability_bins(np.array([[0.2, 0.8], [0.4, 0.6]]), np.array([1, 0]), bins=2)
    >>> counts.tolist(), confidence.round(3).tolist(), correct.tolist()
    ([0, 2], [nan, 0.7], [nan, 0.5])
    """
    top, hit = probabilities.max(1), probabilities.argmax(1) == truth
    which = np.minimum((top * bins).astype(int), bins - 1)
    counts = np.bincount(which, minlength=bins).astype(np.int64)
    confidence, correct = np.full(bins, math.nan), np.full(bins, math.nan)
    filled = counts > 0
    confidence[filled] = np.bincount(which, top, minlength=bins)[filled] / counts[filled]
    correct[filled] = np.bincount(which, hit, minlength=bins)[filled] / counts[filled]
    return counts, confidence, correct


def expected_calibration_error(probabilities: Floats, truth: Ints, bins: int = 15) -> float:
    """ECE of the top class over equal-width bins of confidence (Guo et al. 2017).

    >>> expected_calibration_error(np.array([[0.2, 0.8], [0.4, 0.6]]), np.array([1, 0])).__round__(3)
    0.4
    """
    counts, confidence, correct = reliability_bins(probabilities, truth, bins)
    filled = counts > 0
    return float(np.sum(np.abs(correct - confidence)[filled] * counts[filled] / len(truth))) if len(truth) else math.nan


def negative_log_likelihood(probabilities: Floats, truth: Ints) -> float:
    """Mean of -log p(true class), in nats; a probability counts as 1e-12 at least.

    >>> negative_log_likelihood(np.array([[0.5, 0.5], [0.2, 0.8]]), np.array([0, 1])).__round__(4)
    0.4581
    """
    if not len(truth):
        return math.nan
    return float(-np.log(np.clip(probabilities[np.arange(len(truth)), truth], 1e-12, None)).mean())


def sqnr_db(reference: NDArray[np.floating], value: NDArray[np.floating]) -> float:
    """Signal to quantisation noise ratio in dB: 10 log10(sum ref^2 / sum (ref - value)^2).

    >>> sqnr_db(np.array([1.0, 1.0]), np.array([0.9, 1.1])).__round__(2)
    20.0
    """
    reference64 = np.asarray(reference, np.float64)
    noise = float(np.sum((reference64 - np.asarray(value, np.float64)) ** 2))
    signal = float(np.sum(reference64**2))
    return math.inf if noise == 0 else 10 * math.log10(signal / noise)


def percentile(values: Sequence[float] | Floats, share: float) -> float:
    """Nearest-rank percentile: the smallest value with at least that share of the values at or below it.

    >>> percentile([5.0, 1.0, 2.0, 3.0, 4.0], 0.9)
    5.0
    """
    ranked = np.sort(np.asarray(values, np.float64))
    if not len(ranked):
        return math.nan
    return float(ranked[max(0, math.ceil(share * len(ranked)) - 1)])


def wilson_interval(hits: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927).

    >>> tuple(round(x, 4) for x in wilson_interval(8, 10))
    (0.4902, 0.9433)
    """
    if total == 0:
        return math.nan, math.nan
    share = hits / total
    scale = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / scale
    return centre - half, centre + half


def bootstrap_interval(
    statistic: Callable[[Ints], float], count: int, *, repeats: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic(indices)` over `count` lesions drawn with replacement.

    Draws on which the statistic is undefined (NaN) are left out; (NaN, NaN) if all are.

    >>> values = np.arange(100.0)
    >>> low, high = bootstrap_interval(lambda i: float(values[i].mean()), 100, repeats=200)
    >>> 40 < low < 49.5 < high < 60
    True
    """
    generator = np.random.default_rng(seed)
    drawn = np.array([statistic(generator.integers(0, count, count)) for _ in range(repeats)])
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return math.nan, math.nan
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
