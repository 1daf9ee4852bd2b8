"""Logits -> probabilities -> decision. One definition for training, verification, benchmark and runtime."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeskin.spec.manifest import Mode
from edgeskin.spec.schema import Schema
from edgeskin.spec.train import Fusion, Thresholds

Floats = NDArray[np.float32] | NDArray[np.float64]


def softmax(logits: Floats, temperature: float = 1.0) -> NDArray[np.float64]:
    """Softmax over the last axis of logits / temperature.

    >>> softmax(np.array([0.0, np.log(3.0)])).round(2).tolist()
    [0.25, 0.75]
    """
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def task_probabilities(
    logits: Floats, schema: Schema, fusion: Mapping[str, Fusion], mode: Mode
) -> dict[str, NDArray[np.float64]]:
    """Class probabilities of each task from the logits of one or many lesions.

    Args:
        logits: [..., images, schema.logits]; images = 2 (clinical, dermoscopic) in mode "pair", 1 in "dermoscopic".

    Returns:
        task name -> [..., classes]: w * dermoscopic + (1 - w) * clinical, or dermoscopic alone.
    """
    found = {}
    for name, part in schema.slices().items():
        weights = fusion[name]
        if mode == "dermoscopic":
            found[name] = softmax(logits[..., 0, part], weights.temperature_alone)
        else:
            clinical = softmax(logits[..., 0, part], weights.temperature_clinical)
            dermoscopic = softmax(logits[..., 1, part], weights.temperature_dermoscopic)
            share = weights.dermoscopic_weight
            found[name] = share * dermoscopic + (1 - share) * clinical
    return found


def target_probability(probabilities: Mapping[str, NDArray[np.float64]], schema: Schema) -> NDArray[np.float64]:
    """P(target), e.g. melanoma: the sum over its positive classes. Shape [...]."""
    chosen = probabilities[schema.target.task][..., list(schema.target_indices())]
    return np.asarray(chosen.sum(axis=-1))


def points(predicted: Mapping[str, int], schema: Schema) -> int:
    """Sum of the points of predicted classes, e.g. the seven-point score.

    >>> from edgeskin import catalog
    >>> spc = catalog.schema("spc")
    >>> points({"DIAG": 2, "PN": 2, "BWV": 1, "VS": 0, "PIG": 2, "STR": 0, "DaG": 1, "RS": 1}, spc)
    6
    """
    return sum(task.classes[predicted[task.name]].points for task in schema.tasks)


def threshold(thresholds: Thresholds, mode: Mode) -> float:
    """The operating point of a mode."""
    return thresholds.pair.value if mode == "pair" else thresholds.dermoscopic.value
