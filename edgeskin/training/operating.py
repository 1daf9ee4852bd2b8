"""What is chosen on the control role, never on test: branch weights, temperatures, thresholds."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from edgeskin import metrics
from edgeskin.decide import softmax, target_probability, task_probabilities
from edgeskin.spec.manifest import MODES, Mode
from edgeskin.spec.schema import Schema
from edgeskin.spec.train import Fusion, Modalities, Threshold, Thresholds

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SENSITIVITY = 0.90
_THIRDS = np.round(np.arange(0, 1.0001, 0.05), 2)  # weights of a fused head


def negative_log_likelihood(probabilities: Floats, truth: Ints) -> float:
    """Mean -log p(truth).

    >>> negative_log_likelihood(np.array([[0.5, 0.5]]), np.array([0])).__round__(4)
    0.6931
    """
    return float(-np.log(np.clip(probabilities[np.arange(len(truth)), truth], 1e-12, None)).mean())


def temperature(logits: Floats, truth: Ints) -> float:
    """The temperature in 0.25..4 that minimises the negative log likelihood (Guo et al. 2017); 1.0 without lesions."""
    if not len(truth):
        return 1.0
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(softmax(logits, float(np.exp(log_t))), truth),
        bounds=(np.log(0.25), np.log(4.0)),
        method="bounded",
    )
    return round(float(np.exp(found.x)), 4)


def choose_fusion(
    both: Floats, alone: Floats, labels: Ints, schema: Schema, modalities: Modalities = "both"
) -> dict[str, Fusion]:
    """Temperatures of each branch and the weights of the branches of each task.

    Args:
        both: logits of lesions with both images [N, 2, logits], or [N, 3, logits] with a fused head; NaN where the
            clinical image is missing.
        alone: logits of the dermoscopic image without its partner [N, logits].
        labels: class numbers [N, tasks], -1 unlabelled.
        modalities: of a network for one kind of image alone, which has all the weight.

    The dermoscopic weight in 0.5..1 (dermoscopy first) and the fused head's in 0..1, in steps of 0.05, are those that
    have the lowest negative log likelihood together; of equal ones the lowest weights.
    """
    found = {}
    shares = {"both": np.round(np.arange(0.5, 1.0001, 0.05), 2), "dermoscopic": np.ones(1), "clinical": np.zeros(1)}
    grid = [(third, share) for third in _THIRDS[: None if both.shape[1] == 3 else 1] for share in shares[modalities]]
    for index, (name, part) in enumerate(schema.slices().items()):
        known = labels[:, index] >= 0
        paired = known & ~np.isnan(both[:, 0, 0])
        truth = labels[paired, index]
        warm_clinical = temperature(both[paired, 0, part], truth)
        warm_dermoscopic = temperature(both[paired, 1, part], truth)
        clinical = softmax(both[paired, 0, part], warm_clinical)
        dermoscopic = softmax(both[paired, 1, part], warm_dermoscopic)
        warm_fused = temperature(both[paired, 2, part], truth) if both.shape[1] == 3 else 1.0
        fused = softmax(both[paired, -1, part], warm_fused)
        scores = [
            negative_log_likelihood((1 - f) * (w * dermoscopic + (1 - w) * clinical) + f * fused, truth)
            if len(truth)
            else 0.0
            for f, w in grid
        ]
        third, share = grid[int(np.argmin(scores))]
        found[name] = Fusion(
            dermoscopic_weight=float(share),
            fused_weight=float(third),
            temperature_clinical=warm_clinical,
            temperature_dermoscopic=warm_dermoscopic,
            temperature_fused=warm_fused,
            temperature_alone=temperature(alone[known, part], labels[known, index]),
        )
    return found


def choose_thresholds(
    both: Floats, alone: Floats, labels: Ints, schema: Schema, fusion: dict[str, Fusion]
) -> Thresholds:
    """For each mode the middle of the thresholds that find 90 % of the control role's target lesions."""
    index = [task.name for task in schema.tasks].index(schema.target.task)
    known = labels[:, index] >= 0
    chosen: dict[Mode, Threshold] = {}
    for mode in MODES:
        usable = known & ~np.isnan(both[:, 0, 0]) if mode == "pair" else known
        logits = both[usable] if mode == "pair" else alone[usable][:, None]
        score = target_probability(task_probabilities(logits, schema, fusion, mode), schema)
        positive = np.isin(labels[usable, index], schema.target_indices())
        if not positive.any():
            chosen[mode] = Threshold(value=0.5, rule=f"0.5: no {schema.target.title} in the control role to choose by")
            continue
        # Rounded down to what a float32 device can tell apart, so that a lesion at the threshold itself stays found.
        value = float(np.floor(metrics.threshold_at_sensitivity(positive, score, SENSITIVITY) * 1e6) / 1e6)
        sensitivity, specificity = metrics.sensitivity_specificity(positive, score >= value)
        chosen[mode] = Threshold(
            value=value,
            rule=f"middle of the thresholds with sensitivity {SENSITIVITY:.2f} on the control role",
            control_sensitivity=sensitivity,
            control_specificity=None if np.isnan(specificity) else specificity,
        )
    return Thresholds(pair=chosen["pair"], dermoscopic=chosen["dermoscopic"])
