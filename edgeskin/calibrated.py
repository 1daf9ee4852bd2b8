"""What temperatures do to calibration: error (ECE) and negative log likelihood before and after them.

"Before" sets every temperature to 1 and leaves the weights of the branches as they were chosen, so that the difference
is that of the temperatures alone (Guo et al. 2017, arXiv 1706.04599). On the control role, where they were fitted, the
gain flatters; on the test role `edgeskin verify` gives it for FP32 and for what was quantised. There the likelihood has
an interval and the error none: see `compared.shown`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from edgeskin import bootstrap as boot
from edgeskin import metrics
from edgeskin.compared import compare, shown
from edgeskin.decide import task_probabilities
from edgeskin.spec.manifest import MODES, Mode
from edgeskin.spec.result import Calibration
from edgeskin.spec.schema import Schema
from edgeskin.spec.train import Fusion

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Metric = Callable[[Floats, Floats, Ints], Floats]
METRICS: dict[str, Metric] = {"ece": boot.expected_calibration_error, "nll": boot.negative_log_likelihood}
TITLES = {"nll": "negative log likelihood, nats", "ece": "calibration error"}
PHASES = {"before": "every temperature 1", "after": "its temperatures", "change": "change"}
UNLABELLED = "no lesion is labelled for this task"


def plain(fusion: Mapping[str, Fusion]) -> dict[str, Fusion]:
    """The same weights of the branches with every temperature at 1.

    >>> plain({"DIAG": Fusion(dermoscopic_weight=0.7, temperature_alone=2.5)})["DIAG"].temperature_alone
    1.0
    """
    ones = {name: 1.0 for name in Fusion.model_fields if name.startswith("temperature")}
    return {task: one.model_copy(update=ones) for task, one in fusion.items()}


def figures(
    schema: Schema,
    labels: Mapping[str, Ints],
    before: Mapping[str, Mapping[str, Floats]],
    after: Mapping[str, Mapping[str, Floats]],
    weights: Floats,
) -> dict[str, Calibration]:
    """By task; both models, before and after, on the same draws. ECE is a point.

    Args:
        labels: task -> class number of each lesion, -1 where there is none; such lesions are left out of that task.
        before, after: "core" and, unless the bundle is lean, "reference" -> task -> probabilities [lesions, classes].
        weights: [draws, lesions], see `bootstrap.draws`.
    """
    found = {}
    for task in schema.tasks:
        known = labels[task.name] >= 0
        truth, drawn = labels[task.name][known], weights[:, known]
        rows: dict[str, dict[str, dict[str, Floats]]] = {"before": {}, "after": {}, "change": {}}
        for metric, of in METRICS.items():
            used = drawn[:1] if metric == "ece" else drawn  # of ECE the sample alone
            first, second = ({m: of(used, p[task.name][known], truth) for m, p in x.items()} for x in (before, after))
            change = {model: second[model] - first[model] for model in second}
            rows["before"][metric], rows["after"][metric], rows["change"][metric] = first, second, change
        why = "" if known.any() else UNLABELLED
        compared = {
            when: {metric: shown(metric, compare(values, lambda row: row, why)) for metric, values in by.items()}
            for when, by in rows.items()
        }
        found[task.name] = Calibration(**compared)
    return found


@dataclass(frozen=True, slots=True)
class Tempered:
    """A task's figures on a role, in one mode. NaN where no lesion is labelled."""

    mode: Mode
    task: str
    lesions: int
    ece_before: float
    ece_after: float
    nll_before: float
    nll_after: float


def on_control(
    both: Floats, alone: Floats, labels: Ints, schema: Schema, fusion: Mapping[str, Fusion]
) -> tuple[Tempered, ...]:
    """Figures of the role that the temperatures were fitted on, for every mode and task.

    Args:
        both: logits of lesions with both images [N, rows, K], NaN where the clinical image is missing.
        alone: logits of the dermoscopic image without its partner [N, K].
        labels: class numbers [N, tasks], -1 unlabelled.
    """
    found = []
    for mode in MODES:
        logits = both if mode == "pair" else alone[:, None]
        first, second = (task_probabilities(logits, schema, f, mode) for f in (plain(fusion), fusion))
        for index, task in enumerate(schema.tasks):
            known = (labels[:, index] >= 0) & ~np.isnan(second[task.name]).any(1)
            truth = labels[known, index]
            values = [
                of(p[task.name][known], truth)
                for of in (metrics.expected_calibration_error, metrics.negative_log_likelihood)
                for p in (first, second)
            ]
            found.append(Tempered(mode, task.name, len(truth), *values))
    return tuple(found)


def lines(found: tuple[Tempered, ...], schema: Schema) -> list[str]:
    """What a training says of them: the target's task in each mode, and the mean of all tasks where there are several.

    >>> from edgeskin import catalog
    >>> schema = catalog.schema("milk10k")
    >>> lines((Tempered("pair", schema.target.task, 40, 0.21, 0.043, 1.234, 1.02),), schema)[0].partition(": ")[2]
    'calibration error 0.210 -> 0.043, negative log likelihood 1.234 -> 1.020 by the temperatures, 40 control lesions'
    """
    told = []
    for mode in dict.fromkeys(one.mode for one in found):
        here = [one for one in found if one.mode == mode]
        groups = [(one.task, [one]) for one in here if one.task == schema.target.task]
        groups += [(f"mean of {len(here)} tasks", here)] if len(here) > 1 else []
        told += [f"mode {mode}, {name}: {_line(rows)}" for name, rows in groups]
    return told


def _line(rows: list[Tempered]) -> str:
    if without := [one.task for one in rows if not one.lesions]:
        return f"undefined, no control lesion with these images is labelled for {', '.join(without)}"
    mean = {
        name: math.fsum(asdict(one)[name] for one in rows) / len(rows)
        for name in ("ece_before", "ece_after", "nll_before", "nll_after")
    }
    counts = {one.lesions for one in rows}
    lesions = str(counts.pop()) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return (
        f"calibration error {mean['ece_before']:.3f} -> {mean['ece_after']:.3f}, negative log likelihood "
        f"{mean['nll_before']:.3f} -> {mean['nll_after']:.3f} by the temperatures, {lesions} control lesions"
    )
