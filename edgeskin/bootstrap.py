"""Metrics of many bootstrap draws at once. A draw is a row of weights: how often each lesion was drawn.

Row 0 of `draws` is the sample itself, so that value [0] of a result is the metric and the rest its distribution.
Every function gives a float64 [rows]; NaN where a draw leaves the metric undefined. On the row of ones each
equals the function of the same name in `metrics`.
"""

import math

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def draws(groups: Ints, repeats: int, *, seed: int = 0) -> Floats:
    """Weights [1 + repeats, lesions]: ones, then bootstrap draws of whole groups (a patient's lesions, or one lesion).

    >>> weights = draws(np.array([0, 1, 1]), 200)
    >>> weights.shape, weights[0].tolist(), bool((weights[:, 1] == weights[:, 2]).all())
    ((201, 3), [1.0, 1.0, 1.0], True)
    """
    count = int(groups.max()) + 1 if len(groups) else 0
    weights = np.ones((1 + repeats, len(groups)))
    if count:
        drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=repeats)
        weights[1:] = drawn[:, groups]
    return weights


def interval(values: Floats, level: float = 0.95) -> tuple[float, float, float]:
    """The metric of the sample and its percentile interval; draws on which it is undefined are left out.

    >>> interval(np.array([0.5, 0.4, np.nan, 0.6]), level=1.0)
    (0.5, 0.4, 0.6)
    """
    drawn = values[1:][~np.isnan(values[1:])]
    if math.isnan(values[0]) or not len(drawn):
        return float(values[0]), math.nan, math.nan
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(values[0]), float(low), float(high)


def _divide(above: Floats, below: Floats) -> Floats:
    quotient = np.full(np.broadcast(above, below).shape, math.nan)
    np.divide(above, below, out=quotient, where=below > 0)
    return quotient


def _mean_of_defined(values: Floats) -> Floats:
    """Mean over the last axis of what is not NaN."""
    known = ~np.isnan(values)
    return _divide(np.where(known, values, 0.0).sum(-1), known.sum(-1).astype(float))


def confusion(weights: Floats, truth: Ints, predicted: Ints, classes: int) -> Floats:
    """Weighted confusion matrices [rows, truth, predicted].

    >>> confusion(np.array([[1.0, 1.0], [2.0, 0.0]]), np.array([0, 1]), np.array([0, 0]), 2).tolist()
    [[[1.0, 0.0], [1.0, 0.0]], [[2.0, 0.0], [0.0, 0.0]]]
    """
    cells = np.zeros((len(truth), classes * classes))
    cells[np.arange(len(truth)), truth * classes + predicted] = 1.0
    return (weights @ cells).reshape(-1, classes, classes)


def accuracy(matrices: Floats) -> Floats:
    """Share of the diagonal of confusion matrices."""
    return _divide(np.trace(matrices, axis1=1, axis2=2), matrices.sum((1, 2)))


def balanced_accuracy(matrices: Floats) -> Floats:
    """Mean recall over the classes that occur in the truth of the row: one that a draw misses leaves its mean.

    See `macro_f1` for what that does to an interval.

    >>> balanced_accuracy(np.array([[[2.0, 1.0], [0.0, 1.0]], [[3.0, 1.0], [0.0, 0.0]]])).round(4).tolist()
    [0.8333, 0.75]
    """
    return _mean_of_defined(_divide(np.diagonal(matrices, axis1=1, axis2=2), matrices.sum(2)))


def macro_f1(matrices: Floats) -> Floats:
    """Mean F1 over the classes that occur in truth or prediction of the row: one that a draw misses leaves its mean.

    So draws average over different classes, and their interval is wider than one of a fixed set. That covers better:
    of 377 lesions in 11 classes, five of them with 3 or 4 lesions, a 95 % interval holds the F1 of the population in
    84 to 88 % of the samples; with the classes of the sample in every draw (0 for one that is missed) in 78 to 86 %;
    without the draws that miss one in 77 to 85 %; with draws within each class in 76 to 84 %. For balanced accuracy it
    is 92 to 94 %, and less for the others too. Macro-F1 is missed at the upper end: of few lesions F1 itself is low.

    >>> macro_f1(np.array([[[1.0, 1.0], [0.0, 2.0]], [[3.0, 0.0], [0.0, 0.0]]])).round(4).tolist()
    [0.7333, 1.0]
    """
    return _mean_of_defined(_divide(2 * np.diagonal(matrices, axis1=1, axis2=2), matrices.sum(1) + matrices.sum(2)))


def mean(weights: Floats, values: Floats) -> Floats:
    """Mean of a value of each lesion.

    >>> mean(np.array([[1.0, 1.0], [0.0, 2.0]]), np.array([0.0, 3.0])).tolist()
    [1.5, 3.0]
    """
    return _divide(weights @ values, weights.sum(1))


def auc(weights: Floats, positive: Bools, score: Floats) -> Floats:
    """Area under the ROC curve, ties count half (Mann-Whitney with weights).

    >>> positive = np.array([True, False, True, False])
    >>> auc(np.array([[1.0, 1, 1, 1], [1, 1, 0, 1]]), positive, np.array([0.9, 0.8, 0.7, 0.1]))
    array([0.75, 1.  ])
    """
    above, below = weights[:, positive], weights[:, ~positive]
    lead = score[positive][:, None] - score[~positive]
    wins = np.einsum("rn,rn->r", above @ ((np.sign(lead) + 1) / 2), below)
    return _divide(wins, above.sum(1) * below.sum(1))


def sensitivity(weights: Floats, positive: Bools, flagged: Bools) -> Floats:
    """Share of the positives that are flagged."""
    return _divide(weights @ (positive & flagged).astype(float), weights @ positive.astype(float))


def specificity(weights: Floats, positive: Bools, flagged: Bools) -> Floats:
    """Share of the negatives that are not flagged."""
    return sensitivity(weights, ~positive, ~flagged)


def precision(weights: Floats, positive: Bools, flagged: Bools) -> Floats:
    """Share of the flagged that are positive.

    >>> precision(np.ones((1, 3)), np.array([True, False, True]), np.array([True, True, False])).tolist()
    [0.5]
    """
    return sensitivity(weights, flagged, positive)


def negative_log_likelihood(weights: Floats, probabilities: Floats, truth: Ints) -> Floats:
    """Mean of -log p(true class), in nats; a probability counts as 1e-12 at least.

    >>> negative_log_likelihood(np.array([[1.0, 1], [0, 2]]), np.array([[0.5, 0.5], [0, 1]]), np.array([0, 1])).round(4)
    array([0.3466, 0.    ])
    """
    losses = -np.log(np.clip(probabilities[np.arange(len(truth)), truth], 1e-12, None))
    return mean(weights, losses)


def sensitivity_at_specificity(weights: Floats, positive: Bools, score: Floats, specificity: float) -> Floats:
    """The highest sensitivity of a rule `score >= t` with at least the given specificity, t chosen draw by draw.

    >>> positive = np.array([True, False, True, False])
    >>> sensitivity_at_specificity(np.array([[1.0, 1, 1, 1], [1, 1, 2, 0]]), positive, np.array([4.0, 3, 2, 1]), 0.5)
    array([1.        , 0.33333333])
    """
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.diff(score[order], append=-np.inf))  # a threshold takes equal scores together
    hits = np.cumsum(weights[:, order] * positive[order], axis=1)[:, ends]
    alarms = np.cumsum(weights[:, order] * ~positive[order], axis=1)[:, ends]
    negatives = weights @ (~positive).astype(float)
    allowed = alarms <= (1 - specificity) * negatives[:, None] + 1e-9
    best = np.where(allowed, hits, 0.0).max(axis=1, initial=0.0)
    return np.where(negatives > 0, _divide(best, weights @ positive.astype(float)), math.nan)


def expected_calibration_error(weights: Floats, probabilities: Floats, truth: Ints, bins: int = 15) -> Floats:
    """ECE of the top class over equal-width bins of confidence (Guo et al. 2017).

    >>> expected_calibration_error(np.ones((1, 2)), np.array([[0.2, 0.8], [0.4, 0.6]]), np.array([1, 0])).round(3)
    array([0.4])
    """
    confidence, hit = probabilities.max(1), probabilities.argmax(1) == truth
    gaps = np.zeros((len(truth), bins))
    gaps[np.arange(len(truth)), np.minimum((confidence * bins).astype(int), bins - 1)] = hit - confidence
    return _divide(np.abs(weights @ gaps).sum(1), weights.sum(1))
