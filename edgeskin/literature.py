"""Figures in the form in which methods on Derm7pt are published, so that they can stand beside them.

Accuracy of each task and their plain mean; one-vs-rest AUC, sensitivity, specificity and precision of the classes that
bear the score (Kawahara et al. 2019, doi:10.1109/JBHI.2018.2824327, and the methods after it). Sensitivity, specificity
and precision there are those of the most probable class, not of the operating point that a bundle refers by; those of
the operating point stand in `Accuracy.target`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeskin import bootstrap as boot
from edgeskin.compared import compare
from edgeskin.spec.result import AgainstRest, Compared, Literature
from edgeskin.spec.schema import Schema

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
RATES = {"auc": "AUC", "sensitivity": "sensitivity", "specificity": "specificity", "precision": "precision"}
Answers = Mapping[str, Mapping[str, Floats]]  # "core", "reference" -> task -> probabilities [lesions, classes]


@dataclass(frozen=True, slots=True)
class Bearing:
    """A question of one class (of the target: all its positive classes) against the rest of its task."""

    title: str
    task: str
    indices: tuple[int, ...]


def score_bearing(schema: Schema) -> tuple[Bearing, ...]:
    """The classes whose one-vs-rest figures are reported.

    The rule: the target's positive classes as one question; then, of every other task, each class with the most points
    of that task. A task without points gives none.

    >>> from edgeskin import catalog
    >>> [one.title for one in score_bearing(catalog.schema("spc"))]
    ['MEL', 'PN-ATP', 'BWV-PRS', 'VS-IR', 'PIG-IR', 'STR-IR', 'DaG-IR', 'RS-PRS']
    """
    target = schema.target
    found = [Bearing("+".join(target.positive), target.task, schema.target_indices())]
    for task in schema.tasks:
        most = max(one.points for one in task.classes)
        if task.name != target.task and most:
            found += [
                Bearing(f"{task.name}-{one.name}", task.name, (number,))
                for number, one in enumerate(task.classes)
                if one.points == most
            ]
    return tuple(found)


def figures(schema: Schema, labels: Mapping[str, Ints], answers: Answers, weights: Floats) -> Literature | None:
    """Both models on the same draws; None where the schema has one task, as there is no such literature.

    Args:
        labels: task -> class number of each lesion, -1 where there is none; such lesions are left out of that task.
        weights: [draws, lesions], see `bootstrap.draws`.
    """
    if len(schema.tasks) == 1:
        return None
    bearing = tuple(_against_rest(one, schema, labels[one.task], answers, weights) for one in score_bearing(schema))
    return Literature(average_accuracy=_average(schema, labels, answers, weights), classes=bearing)


def _average(schema: Schema, labels: Mapping[str, Ints], answers: Answers, weights: Floats) -> Compared:
    """Plain mean of the accuracies of all tasks; undefined where a task has no labelled lesion."""
    unlabelled = [task.name for task in schema.tasks if not (labels[task.name] >= 0).any()]
    means = {}
    for name, probabilities in answers.items():
        rows = []
        for task in schema.tasks:
            known = labels[task.name] >= 0
            hit = probabilities[task.name][known].argmax(1) == labels[task.name][known]
            rows.append(boot.mean(weights[:, known], hit.astype(float)))
        means[name] = np.mean(rows, axis=0)
    why = f"no lesion is labelled for {', '.join(unlabelled)}" if unlabelled else ""
    return compare(means, lambda row: row, why)


def _against_rest(one: Bearing, schema: Schema, truth: Ints, answers: Answers, weights: Floats) -> AgainstRest:
    known = truth >= 0
    drawn, positive = weights[:, known], np.isin(truth[known], one.indices)
    names = schema.task(one.task).class_names
    score, flagged = {}, {}
    for name, probabilities in answers.items():
        given = probabilities[one.task][known]
        score[name] = given[:, list(one.indices)].sum(1)
        flagged[name] = np.isin(given.argmax(1), one.indices).astype(float)
    unlabelled = "" if known.any() else f"no lesion is labelled for {one.task}"
    none = unlabelled or ("" if positive.any() else "no lesion has this class")
    only = unlabelled or ("" if not positive.all() else "every lesion has this class")
    silent = unlabelled or "no lesion is answered with this class"
    return AgainstRest(
        title=one.title,
        task=one.task,
        classes=tuple(names[number] for number in one.indices),
        lesions=int(known.sum()),
        positives=int(positive.sum()),
        auc=compare(score, lambda s: boot.auc(drawn, positive, s), none or only),
        sensitivity=compare(flagged, lambda f: boot.sensitivity(drawn, positive, f > 0), none),
        specificity=compare(flagged, lambda f: boot.specificity(drawn, positive, f > 0), only),
        precision=compare(flagged, lambda f: boot.precision(drawn, positive, f > 0), silent),
    )
