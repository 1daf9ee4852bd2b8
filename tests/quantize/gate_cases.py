"""Lesions, what two networks answer to them, and a gate asked of both."""

from pathlib import Path

import numpy as np

from edgeskin import catalog
from edgeskin.data.pairs import Pair
from edgeskin.quantize.gate import gate
from edgeskin.spec.gate import GateSpec, Margin
from edgeskin.spec.gated import GateResult
from edgeskin.spec.manifest import IMAGES, MODES, Manifest
from edgeskin.spec.train import Fusion, Threshold, Thresholds

SCHEMA = catalog.schema("milk10k5")
(TASK,) = SCHEMA.tasks
CLASSES = len(TASK.classes)
MEL = TASK.class_names.index("MEL")
OTHER = (MEL + 1) % CLASSES
LIMITS = {"pair": 0.3, "dermoscopic": 0.4}
ALL = ("sensitivity", "specificity", "auc", "balanced_accuracy", "macro_f1", "ece")
FIELDS = {
    "task_schema": SCHEMA,
    "fusion": {TASK.name: Fusion(dermoscopic_weight=0.6, temperature_clinical=1.3)},
    "thresholds": Thresholds(**{mode: Threshold(value=value, rule="fixed") for mode, value in LIMITS.items()}),
}
MANIFEST = Manifest.model_construct(**FIELDS)


def asked(*names, margin=0.05, groups=(), draws=200, smallest=5, flips=(None, None)) -> GateSpec:
    limits = [None if value is None else Margin(value=value, reason="for this test") for value in flips]
    return GateSpec(
        margins={name: Margin(value=margin, reason="for this test") for name in names or ALL},
        class_flips=limits[0],
        target_flips=limits[1],
        bootstrap=draws,
        groups=groups,
        smallest_group=smallest,
    )


def lesions(truth, *, patients=None, meta=None, without_clinical=()) -> list[Pair]:
    return [
        Pair(
            f"IL_{i:04d}",
            Path("d.jpg"),
            None if i in without_clinical else Path("c.jpg"),
            {TASK.name: int(label)},
            row=i,
            patient_id=patients[i] if patients else None,
            meta=meta[i] if meta else {},
        )
        for i, label in enumerate(truth)
    ]


def saying(classes, mode="dermoscopic", strength=6.0) -> np.ndarray:
    """Logits of lesions that are these classes for sure."""
    return np.repeat((np.eye(CLASSES)[classes] * strength)[:, None], IMAGES[mode], 1).astype(np.float32)


def noisy(truth, seed, noise=0.3):
    """FP32 and something near it, both modes."""
    rng = np.random.default_rng(seed)
    fp32, built = {}, {}
    for mode in MODES:
        signal = np.eye(CLASSES)[np.maximum(truth, 0)][:, None] * 1.5
        fp32[mode] = (signal + rng.normal(0, 1, (len(truth), IMAGES[mode], CLASSES))).astype(np.float32)
        built[mode] = fp32[mode] + rng.normal(0, noise, fp32[mode].shape).astype(np.float32)
    return fp32, built


def alone(spec, cases, before, after) -> GateResult:
    """The gate in mode dermoscopic, from the classes that both say."""
    return gate(MANIFEST, spec, cases, {"dermoscopic": saying(before)}, {"dermoscopic": saying(after)}, "control")


def only(found, **fields):
    """The one check with these fields."""
    (check,) = [c for c in found.checks if all(getattr(c, name) == value for name, value in fields.items())]
    return check


MIXED = np.array([MEL] * 12 + [OTHER] * 20 + [(MEL + 2) % CLASSES] * 16)
