"""Logits -> probabilities -> decision. One definition for training, verification, benchmark and runtime."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeskin.spec.manifest import Mode
from edgeskin.spec.schema import Schema
from edgeskin.spec.train import Fusion, Thresholds

Floats = NDArray[np.float32] | NDArray[np.float64]
Branch = Literal["clinical", "dermoscopic", "fused"]


def softmax(logits: Floats, temperature: float = 1.0) -> NDArray[np.float64]:
    """Softmax over the last axis of logits / temperature.

    >>> softmax(np.array([0.0, np.log(3.0)])).round(2).tolist()
    [0.25, 0.75]
    """
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def branch_probabilities(
    logits: Floats, schema: Schema, fusion: Mapping[str, Fusion], mode: Mode
) -> dict[Branch, dict[str, NDArray[np.float64]]]:
    """Class probabilities that each branch gives by itself, each at its own temperature.

    Args:
        logits: [..., rows, schema.logits]; rows = 2 (clinical, dermoscopic) in mode "pair", or 3 where the network has
            a fused head; 1 in mode "dermoscopic".

    Returns:
        branch -> task name -> [..., classes].
    """
    found: dict[Branch, dict[str, NDArray[np.float64]]] = {}
    slices = schema.slices()
    if mode == "dermoscopic":
        found["dermoscopic"] = {t: softmax(logits[..., 0, s], fusion[t].temperature_alone) for t, s in slices.items()}
    else:
        found["clinical"] = {t: softmax(logits[..., 0, s], fusion[t].temperature_clinical) for t, s in slices.items()}
        found["dermoscopic"] = {
            t: softmax(logits[..., 1, s], fusion[t].temperature_dermoscopic) for t, s in slices.items()
        }
        if logits.shape[-2] == 3:
            found["fused"] = {t: softmax(logits[..., 2, s], fusion[t].temperature_fused) for t, s in slices.items()}
    return found


def fuse(
    branches: Mapping[Branch, Mapping[str, NDArray[np.float64]]], fusion: Mapping[str, Fusion]
) -> dict[str, NDArray[np.float64]]:
    """Task name -> [..., classes]: (1 - f) * (w * dermoscopic + (1 - w) * clinical) + f * fused.

    f is 0 without a fused head; the dermoscopic branch is taken as it is where it is alone.

    >>> clinical, dermoscopic, fused = ({"DIAG": np.array([1 - p, p])} for p in (0.5, 0.75, 0.9))
    >>> rule = {"DIAG": Fusion(dermoscopic_weight=0.8, fused_weight=0.25)}  # 0.75 * 0.7 + 0.25 * 0.9
    >>> fuse({"clinical": clinical, "dermoscopic": dermoscopic, "fused": fused}, rule)["DIAG"].round(3).tolist()
    [0.25, 0.75]
    """
    if "clinical" not in branches:
        return dict(branches["dermoscopic"])
    found = {}
    for task, dermoscopic in branches["dermoscopic"].items():
        share, third = fusion[task].dermoscopic_weight, fusion[task].fused_weight
        found[task] = share * dermoscopic + (1 - share) * branches["clinical"][task]
        if third and "fused" not in branches:
            raise ValueError(f"task {task} gives a fused head {third:g} of its weight, and there are no logits of one")
        if third:
            found[task] = (1 - third) * found[task] + third * branches["fused"][task]
    return found


def task_probabilities(
    logits: Floats, schema: Schema, fusion: Mapping[str, Fusion], mode: Mode
) -> dict[str, NDArray[np.float64]]:
    """Class probabilities of each task from the logits of one or many lesions.

    Args:
        logits: [..., rows, schema.logits], as `branch_probabilities` takes them.

    Returns:
        task name -> [..., classes], as `fuse` gives them.

    >>> from edgeskin.spec.schema import ClassSpec, Target, Task
    >>> task = Task(name="DIAG", classes=(ClassSpec(name="NEV"), ClassSpec(name="MEL")))
    >>> schema = Schema(name="two", tasks=(task,), target=Target(task="DIAG", positive=("MEL",)))
    >>> logits = np.log([[1.0, 1.0], [1.0, 3.0]])  # clinical says 1/2, dermoscopic 3/4
    >>> fused = task_probabilities(logits, schema, {"DIAG": Fusion(dermoscopic_weight=0.8)}, "pair")
    >>> fused["DIAG"].round(3).tolist()
    [0.3, 0.7]
    """
    return fuse(branch_probabilities(logits, schema, fusion, mode), fusion)


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
