"""Logits of many lesions -> parity of two models, and accuracy of one or both with paired bootstrap intervals."""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeskin import bootstrap as boot
from edgeskin import calibrated, checklist, decide, literature, metrics
from edgeskin.compared import compare
from edgeskin.lacking import reservation
from edgeskin.spec.manifest import Mode
from edgeskin.spec.result import (
    Accuracy,
    Compared,
    Confusion,
    Curve,
    Estimate,
    EveryLesion,
    Flips,
    Parity,
    Reliability,
    ReliabilityBin,
    Roc,
)
from edgeskin.spec.schema import Schema
from edgeskin.spec.train import Fusion, Thresholds

Logits = NDArray[np.float32]  # [lesions, rows, K]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Deciding(Protocol):
    """What turns logits into decisions: a bundle's manifest, or a checkpoint's record."""

    @property
    def task_schema(self) -> Schema: ...

    @property
    def fusion(self) -> Mapping[str, Fusion]: ...

    @property
    def thresholds(self) -> Thresholds: ...


def parity(deciding: Deciding, mode: Mode, lesion_ids: Sequence[str], reference: Logits, core: Logits) -> Parity:
    """How far the bundle's logits, probabilities and decisions are from its reference's, lesion by lesion."""
    schema, target = deciding.task_schema, deciding.task_schema.target
    before, after = (decide.task_probabilities(x, schema, deciding.fusion, mode) for x in (reference, core))
    predicted = [p[target.task].argmax(-1) for p in (before, after)]
    inside = [np.isin(p, schema.target_indices()) for p in predicted]
    limit = decide.threshold(deciding.thresholds, mode)
    referred = [decide.target_probability(p, schema) >= limit for p in (before, after)]
    sqnr = metrics.sqnr_db(reference, core)
    return Parity(
        lesions=len(lesion_ids),
        sqnr_db=Estimate(value=sqnr) if math.isfinite(sqnr) else Estimate(reason="the logits are identical"),
        max_abs_probability_difference=max(float(np.abs(before[t] - after[t]).max()) for t in before),
        argmax_agreement={t: float((before[t].argmax(-1) == after[t].argmax(-1)).mean()) for t in before},
        predicted=_flips(lesion_ids, predicted[0] != predicted[1], *inside),
        referral=_flips(lesion_ids, referred[0] != referred[1], *referred),
    )


def _flips(lesion_ids: Sequence[str], changed: Bools, before: Bools, after: Bools) -> Flips:
    count = int(changed.sum())
    low, high = metrics.wilson_interval(count, len(lesion_ids))
    return Flips(
        flipped=count,
        of=len(lesion_ids),
        share=count / len(lesion_ids),
        low=max(0.0, low),
        high=min(1.0, high),
        to_target=int((~before & after).sum()),
        from_target=int((before & ~after).sum()),
        lesions=tuple(lesion for lesion, moved in zip(lesion_ids, changed, strict=True) if moved),
    )


def accuracy(
    deciding: Deciding,
    mode: Mode,
    labels: Mapping[str, NDArray[np.int64]],
    groups: Sequence[str],
    core: Logits,
    reference: Logits | None,
    *,
    repeats: int = 1000,
) -> Accuracy:
    """Figures of the bundle and its reference with 95 % intervals, and their difference on the same draws.

    The calibration error "ece" has none, see `compared.shown`.

    Args:
        labels: task -> class number of each lesion, -1 where there is none; such lesions are left out of that task.
        groups: what is drawn together: the patient of each lesion, or the lesion itself.
        reference: None for a lean bundle.
    """
    schema, limit = deciding.task_schema, decide.threshold(deciding.thresholds, mode)
    given = {"core": core} if reference is None else {"core": core, "reference": reference}
    answers, untempered = (
        {name: decide.task_probabilities(x, schema, fusion, mode) for name, x in given.items()}
        for fusion in (deciding.fusion, calibrated.plain(deciding.fusion))
    )
    weights = boot.draws(np.unique(list(groups), return_inverse=True)[1].astype(np.int64), repeats)
    tasks, target, confusions = {}, {}, {}
    reliability: Reliability | None = None
    roc: Roc | None = None
    for task in schema.tasks:
        known = labels[task.name] >= 0
        drawn, truth = weights[:, known], labels[task.name][known]
        found = {name: p[task.name][known] for name, p in answers.items()}
        why = "" if known.any() else calibrated.UNLABELLED
        matrices = {name: boot.confusion(drawn, truth, p.argmax(1), len(task.classes)) for name, p in found.items()}
        counts = {name: tuple(tuple(int(n) for n in row) for row in m[0]) for name, m in matrices.items()}
        confusions[task.name] = Confusion(fp32=counts.get("reference"), bundle=counts["core"])
        told = [
            {name: reservation(m[0], task, counts_answers=answered) for name, m in matrices.items()}
            for answered in (False, True)
        ]
        tasks[task.name] = {
            "accuracy": compare(matrices, boot.accuracy, why),
            "balanced_accuracy": compare(matrices, boot.balanced_accuracy, why, told[0]),
            "macro_f1": compare(matrices, boot.macro_f1, why, told[1]),
        }
        if task.name == schema.target.task:
            positive = np.isin(truth, schema.target_indices())
            score = {name: p[:, list(schema.target_indices())].sum(-1) for name, p in found.items()}
            target = _binary(drawn, positive, score, limit, why)
            reliability, roc = _reliability(found, truth), _roc(positive, score)
    calibration = calibrated.figures(schema, labels, untempered, answers, weights)
    target["ece"] = calibration[schema.target.task].after["ece"]
    return Accuracy(
        lesions=len(core),
        threshold=limit,
        tasks=tasks,
        target=target,
        confusion=confusions,
        reliability=reliability,
        roc=roc,
        literature=literature.figures(schema, labels, answers, weights),
        score=checklist.figures(schema, labels, answers, weights),
        calibration=calibration,
    )


def every_lesion(
    deciding: Deciding,
    labels: Mapping[str, NDArray[np.int64]],
    groups: Sequence[str],
    paired: Bools,
    core: Mapping[Mode, Logits],
    reference: Mapping[Mode, Logits] | None,
    *,
    repeats: int = 1000,
) -> EveryLesion | None:
    """Figures of all lesions together: each by both images, or by the dermoscopic one where it has no other.

    None where `accuracy` says it in one of the modes, as all lesions have both images or none has, or for one task.

    Args:
        labels, groups: as of `accuracy`.
        paired: which lesions have a clinical image [lesions].
        core, reference: mode -> logits [lesions, rows, K]; those of mode pair are not read where `paired` is false.
    """
    schema = deciding.task_schema
    if paired.all() or not paired.any():
        return None
    answers = {}
    for name, logits in (("core", core), *([("reference", reference)] if reference is not None else [])):
        both = decide.task_probabilities(logits["pair"][paired], schema, deciding.fusion, "pair")
        answers[name] = decide.task_probabilities(logits["dermoscopic"], schema, deciding.fusion, "dermoscopic")
        for task, found in answers[name].items():
            found[paired] = both[task]
    weights = boot.draws(np.unique(list(groups), return_inverse=True)[1].astype(np.int64), repeats)
    published = literature.figures(schema, labels, answers, weights)
    if published is None:
        return None
    return EveryLesion(
        lesions=len(paired),
        without_clinical=int((~paired).sum()),
        accuracy={task.name: _accuracy(labels[task.name], task.name, answers, weights) for task in schema.tasks},
        literature=published,
        score=checklist.figures(schema, labels, answers, weights),
    )


def _accuracy(
    truth: NDArray[np.int64], task: str, answers: Mapping[str, Mapping[str, Floats]], weights: Floats
) -> Compared:
    known = truth >= 0
    hits = {name: (p[task][known].argmax(1) == truth[known]).astype(float) for name, p in answers.items()}
    return compare(hits, lambda hit: boot.mean(weights[:, known], hit), "" if known.any() else calibrated.UNLABELLED)


def _reliability(given: Mapping[str, Floats], truth: NDArray[np.int64]) -> Reliability | None:
    """Bins of both models; None without a labelled lesion."""
    if not len(truth):
        return None
    bins = {}
    for name, probabilities in given.items():
        rows = zip(*metrics.reliability_bins(probabilities, truth), strict=True)
        bins[name] = tuple(
            ReliabilityBin(
                lesions=int(count),
                confidence=float(confidence) if count else None,
                accuracy=float(correct) if count else None,
            )
            for count, confidence, correct in rows
        )
    return Reliability(fp32=bins.get("reference"), bundle=bins["core"])


def _roc(positive: Bools, score: Mapping[str, Floats]) -> Roc | None:
    """Curves of both models; None where one side of the target is empty."""
    if positive.all() or not positive.any():
        return None
    curves = {}
    for name, values in score.items():
        false_positive, true_positive = metrics.roc_curve(positive, values)
        curves[name] = Curve(false_positive=tuple(false_positive.tolist()), true_positive=tuple(true_positive.tolist()))
    return Roc(fp32=curves.get("reference"), bundle=curves["core"])


def _binary(
    weights: Floats, positive: Bools, score: Mapping[str, Floats], limit: float, why: str
) -> dict[str, Compared]:
    """The target against the rest: ranking, and the stored operating point."""
    lacks = why or ("no positive lesion" if not positive.any() else "no negative lesion")
    return {
        "auc": compare(score, lambda s: boot.auc(weights, positive, s), lacks),
        "sensitivity": compare(score, lambda s: boot.sensitivity(weights, positive, s >= limit), lacks),
        "specificity": compare(score, lambda s: boot.specificity(weights, positive, s >= limit), lacks),
    }
