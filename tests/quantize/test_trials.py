"""What a trial tells of lesions that lack a class."""

from pathlib import Path

import numpy as np
import pytest

from edgeskin import catalog
from edgeskin.data.pairs import UNLABELLED, Pair
from edgeskin.quantize.trials import Control, effect
from edgeskin.spec.manifest import Manifest
from edgeskin.spec.train import Fusion, Threshold, Thresholds

SCHEMA = catalog.schema("milk10k5")
(TASK,) = SCHEMA.tasks
MEL = TASK.class_names.index("MEL")
HALF = Threshold(value=0.5, rule="a half")
DECIDING = Manifest.model_construct(
    task_schema=SCHEMA,
    fusion={TASK.name: Fusion(dermoscopic_weight=0.5)},
    thresholds=Thresholds(pair=HALF, dermoscopic=HALF),
)


@pytest.mark.parametrize(
    ("truth", "balanced", "auc"),
    [
        ([MEL, MEL + 1], "", ""),
        ([MEL + 1, MEL + 1], "", "the lesions are all with, or all without melanoma"),
        ([MEL, MEL], "", "the lesions are all with, or all without melanoma"),
        ([UNLABELLED] * 2, "no lesion is labelled", "the lesions are all with, or all without melanoma"),
    ],
)
def test_what_cannot_be_told_is_null_with_a_reason(truth, balanced, auc):
    rng = np.random.default_rng(0)
    pairs = [Pair(str(k), Path("d"), Path("c"), {TASK.name: label}, k) for k, label in enumerate(truth)]
    logits = rng.normal(0, 1, (2, 2, SCHEMA.logits)).astype(np.float32)
    found = effect(DECIDING, Control(pairs, [], logits), logits)
    for one, why in ((found.balanced_accuracy, balanced), (found.auc, auc)):
        assert (one.value is None, one.reason) == (bool(why), why)
