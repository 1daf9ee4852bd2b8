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
FEWEST = 10  # lesions that a temperature is fitted on
BOUNDS = (0.25, 4.0)  # of a temperature
_THIRDS = np.round(np.arange(0, 1.0001, 0.05), 2)  # weights of a fused head


def temperature(logits: Floats, truth: Ints) -> float:
    """The temperature in 0.25..4 that minimises the negative log likelihood (Guo et al. 2017).

    1.0 where there are fewer than `FEWEST` lesions to fit it on: a few lucky answers would make it as cold as it gets.
    """
    if len(truth) < FEWEST:
        return 1.0
    found = minimize_scalar(
        lambda log_t: metrics.negative_log_likelihood(softmax(logits, float(np.exp(log_t))), truth),
        bounds=tuple(np.log(BOUNDS)),
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
        # What the network does not look at has no answers to fit a temperature on.
        warm_clinical = temperature(both[paired, 0, part], truth) if modalities != "dermoscopic" else 1.0
        warm_dermoscopic = temperature(both[paired, 1, part], truth) if modalities != "clinical" else 1.0
        warm_alone = temperature(alone[known, part], labels[known, index]) if modalities != "clinical" else 1.0
        clinical = softmax(both[paired, 0, part], warm_clinical)
        dermoscopic = softmax(both[paired, 1, part], warm_dermoscopic)
        warm_fused = temperature(both[paired, 2, part], truth) if both.shape[1] == 3 else 1.0
        fused = softmax(both[paired, -1, part], warm_fused)
        scores = [
            metrics.negative_log_likelihood((1 - f) * (w * dermoscopic + (1 - w) * clinical) + f * fused, truth)
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
            temperature_alone=warm_alone,
        )
    return found


def doubts(
    both: Floats, labels: Ints, schema: Schema, fusion: dict[str, Fusion], modalities: Modalities = "both"
) -> list[str]:
    """Which temperatures are no minimum, a sentence for each reason: too few lesions to fit on, or stopped at a bound.

    Args: as `choose_fusion` takes and gives them.

    >>> schema = Schema.parse({"name": "x", "tasks": [{"name": "A", "classes": [{"name": "a"}, {"name": "b"}]}],
    ...     "target": {"task": "A", "positive": ["b"]}}, "x")
    >>> rule = Fusion(dermoscopic_weight=0.5, temperature_clinical=4.0, temperature_dermoscopic=1.3)
    >>> both, labels = np.zeros((12, 2, 2)), np.zeros((12, 1), np.int64)
    >>> doubts(both, labels, schema, {"A": rule})
    ['temperatures at a bound of 0.25..4, their best may lie beyond: A clinical 4 (n = 12)']
    """
    has = ~np.isnan(both[:, 0, 0])
    few, bound = [], []
    branches = ("clinical", "dermoscopic", "fused")[: both.shape[1]]
    used = {"both": (*branches, "alone"), "dermoscopic": ("dermoscopic", "alone"), "clinical": ("clinical",)}
    for index, task in enumerate(schema.tasks):
        known = labels[:, index] >= 0
        for name in used[modalities]:
            count = int((known if name == "alone" else known & has).sum())
            value = float(getattr(fusion[task.name], f"temperature_{name}"))
            if count < FEWEST:
                few.append(f"{task.name} {name} (n = {count})")
            elif not BOUNDS[0] * 1.001 < value < BOUNDS[1] / 1.001:
                bound.append(f"{task.name} {name} {value:g} (n = {count})")
    kinds = {
        f"temperatures left at 1, fewer than {FEWEST} control lesions": few,
        f"temperatures at a bound of {BOUNDS[0]:g}..{BOUNDS[1]:g}, their best may lie beyond": bound,
    }
    return [f"{kind}: {', '.join(found)}" for kind, found in kinds.items() if found]


def scores(
    both: Floats, alone: Floats, has: NDArray[np.bool_], labels: Ints, schema: Schema, fusion: dict[str, Fusion]
) -> dict[str, float]:
    """Macro-F1, balanced accuracy and AUC of the target on the control role by a fusion; NaN where undefined.

    Lesions with both images are read as pairs, the others by their dermoscopic image alone.

    Args:
        both, alone, labels, fusion: as `choose_fusion` takes and gives them.
        has: which lesions have a clinical image [N].

    >>> schema = Schema.parse({"name": "x", "tasks": [{"name": "A", "classes": [{"name": "a"}, {"name": "b"}]}],
    ...     "target": {"task": "A", "positive": ["b"]}}, "x")
    >>> both = np.array([[[1.0, 0.0], [2.0, 0.0]], [[0.0, 1.0], [0.0, 2.0]]])
    >>> found = scores(both, both[:, 1], np.array([True, True]), np.array([[0], [1]]), schema,
    ...     {"A": Fusion(dermoscopic_weight=0.5)})
    >>> found["control_macro_f1"], found["control_target_auc"]
    (1.0, 1.0)
    """
    pair = task_probabilities(both, schema, fusion, "pair")
    lone = task_probabilities(alone[:, None], schema, fusion, "dermoscopic")
    merged = {task: np.where(has[:, None], pair[task], lone[task]) for task in pair}
    index = [task.name for task in schema.tasks].index(schema.target.task)
    known = labels[:, index] >= 0
    truth, values = labels[known, index], merged[schema.target.task][known]
    classes = values.shape[1]
    answers = values.argmax(1)
    positive = np.isin(truth, schema.target_indices())
    return {
        "control_macro_f1": metrics.macro_f1(truth, answers, classes),
        "control_balanced_accuracy": metrics.balanced_accuracy(truth, answers, classes),
        "control_target_auc": metrics.auc(positive, target_probability(merged, schema)[known]),
    }


def control_metrics(
    both: Floats, alone: Floats, labels: Ints, schema: Schema, fusion: dict[str, Fusion], logged: dict[str, float]
) -> dict[str, float]:
    """What a run's record says of the control role: the scores by its own fusion, where defined, and the loss.

    Args:
        both, alone, labels, fusion: as `choose_fusion` takes and gives them.
        logged: what the training logged last, of which the loss stays.
    """
    has = ~np.isnan(both[:, 0, 0])
    loss = {name: value for name, value in logged.items() if name == "loss"}
    found = {**loss, **scores(both, alone, has, labels, schema, fusion)}
    return {name: value for name, value in found.items() if np.isfinite(value)}


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
