"""The score of predicted criteria, e.g. the seven-point score, as a test for the target at each of its thresholds.

Beside it stands the same rule on the true criteria of the same lesions: what perfect predictions of the criteria would
reach. On all 1,011 cases of Derm7pt that is, for melanoma, sensitivity 0.992 and specificity 0.407 at score >= 1, and
0.929 and 0.822 at score >= 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgeskin import bootstrap as boot
from edgeskin.compared import compare, estimate
from edgeskin.spec.result import Reached, ScoreFigures
from edgeskin.spec.schema import Schema

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def scores(classes: Mapping[str, Ints], schema: Schema) -> Ints:
    """Sum of the points of the classes of each lesion: `decide.points` for many.

    Args:
        classes: task -> class numbers [lesions].

    >>> from edgeskin import catalog
    >>> spc = catalog.schema("spc")
    >>> scores({t.name: np.array([0, len(t.classes) - 1]) for t in spc.tasks}, spc).tolist()
    [0, 10]
    """
    total = np.zeros(len(next(iter(classes.values()))), np.int64)
    for task in schema.tasks:
        total += np.array([one.points for one in task.classes])[classes[task.name]]
    return total


def figures(
    schema: Schema, labels: Mapping[str, Ints], answers: Mapping[str, Mapping[str, Floats]], weights: Floats
) -> ScoreFigures | None:
    """Both models on the same draws; None where the schema has no score.

    Args:
        labels: task -> class number of each lesion, -1 where there is none.
        answers: "core" and, unless the bundle is lean, "reference" -> task -> probabilities [lesions, classes].
        weights: [draws, lesions], see `bootstrap.draws`.
    """
    if schema.score is None:
        return None
    target = schema.target
    known = labels[target.task] >= 0
    scoring = [task.name for task in schema.tasks if any(one.points for one in task.classes)]
    complete = known & np.all([labels[name] >= 0 for name in scoring], axis=0)
    predicted = {
        name: scores({task: p.argmax(1) for task, p in tasks.items()}, schema).astype(float)
        for name, tasks in answers.items()
    }
    true = scores({task: np.maximum(found, 0) for task, found in labels.items()}, schema).astype(float)
    positive = np.isin(labels[target.task], schema.target_indices())
    reached = [
        _reached(
            limit,
            _Cases(positive[known], {name: found[known] for name, found in predicted.items()}, weights[:, known]),
            _Cases(positive[complete], {"labels": true[complete]}, weights[:, complete]),
        )
        for limit in schema.score.thresholds
    ]
    return ScoreFigures(
        lesions=int(known.sum()),
        labelled=int(complete.sum()),
        distance=compare(
            {name: np.abs(found - true)[complete] for name, found in predicted.items()},
            lambda away: boot.mean(weights[:, complete], away),
            "" if complete.any() else "no lesion is labelled for the score",
        ),
        reached=tuple(reached),
    )


@dataclass(frozen=True, slots=True)
class _Cases:
    """Lesions with their target and their scores, those of each model or those of the labels."""

    positive: Bools
    scores: dict[str, Floats]
    weights: Floats


def _reached(limit: int, answered: _Cases, labelled: _Cases) -> Reached:
    def sensitivity(of: _Cases, score: Floats) -> Floats:
        return boot.sensitivity(of.weights, of.positive, score >= limit)

    def specificity(of: _Cases, score: Floats) -> Floats:
        return boot.specificity(of.weights, of.positive, score >= limit)

    no_positive, no_negative = _lacks(answered.positive, "for the target")
    truly, (no_true_positive, no_true_negative) = labelled.scores["labels"], _lacks(labelled.positive, "for the score")
    return Reached(
        threshold=limit,
        sensitivity=compare(answered.scores, partial(sensitivity, answered), no_positive),
        specificity=compare(answered.scores, partial(specificity, answered), no_negative),
        labelled_sensitivity=estimate(sensitivity(labelled, truly), no_true_positive),
        labelled_specificity=estimate(specificity(labelled, truly), no_true_negative),
    )


def _lacks(positive: Bools, what: str) -> tuple[str, str]:
    """Why sensitivity, and why specificity, is undefined; "" where it is not."""
    if not len(positive):
        why = f"no lesion is labelled {what}"
        return why, why
    return ("" if positive.any() else "no positive lesion"), ("" if not positive.all() else "no negative lesion")
