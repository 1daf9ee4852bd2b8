"""A sweep without trainings: answers drawn at random, with a known skill."""

import numpy as np
import pytest

from edgeskin.spec.schema import ClassSpec, Schema, Target, Task
from edgeskin.spec.sweep import READINGS, SweepSpec
from edgeskin.spec.train import Fusion
from edgeskin.sweeping.answers import Answers

NAMES = ("NEV", "MEL", "BCC")
COUNT = 60
LABELS = np.random.default_rng(7).integers(0, len(NAMES), COUNT)


@pytest.fixture(scope="session")
def schema() -> Schema:
    """One task of three classes, melanoma its target."""
    task = Task(name="DIAG", classes=tuple(ClassSpec(name=name) for name in NAMES))
    return Schema(name="three", tasks=(task,), target=Target(task="DIAG", positive=("MEL",)))


@pytest.fixture(scope="session")
def suite_of():
    """suite_of(variants={...}, **fields): a sweep of these variants, name -> their overrides."""

    def make(variants=None, **fields) -> SweepSpec:
        given = variants or {"base": {}, "other": {"train": {"clinical_weight": 1.0}}}
        return SweepSpec.parse(
            {
                "kind": "sweep",
                "name": "tiny",
                "base": {
                    "data": {"name": "derm7pt"},
                    "network": {"backbone": "test_efficientnet", "attention_dim": 16, "attention_heads": 2},
                    "train": {
                        "epochs": 2,
                        "batch_pairs": 6,
                        "size": 32,
                        "start_size": 32,
                        "workers": 0,
                        "accelerator": "cpu",
                        "allocator": False,
                    },
                    "weights": "scratch",
                },
                "seeds": [0, 1],
                "evaluate": ["pair", "dermoscopic", "clinical", "dermoscopic-branch", "clinical-branch"],
                "target": [{"task": "DIAG", "positive": ["MEL", "BCC"], "title": "malignant"}],
                "bootstrap": 100,
                "variant": [{"name": name, **more} for name, more in given.items()],
                **fields,
            },
            "tiny.toml",
        )

    return make


@pytest.fixture(scope="session")
def answers_of():
    """answers_of(skill, seed): what a run of that skill answers; 0 is guessing."""

    def make(skill: float, seed: int, modalities="both", **fields) -> Answers:
        rng = np.random.default_rng([seed, int(skill * 1000)])

        def logits(*lead: int) -> np.ndarray:
            return rng.normal(size=(COUNT, *lead, 3)) + skill * np.eye(3)[LABELS].reshape(COUNT, *[1] * len(lead), 3)

        return Answers(
            **{
                "key": f"{skill}-{seed}",
                "pair": logits(2).astype(np.float32) if modalities == "both" else None,
                "dermoscopic": logits().astype(np.float32) if modalities != "clinical" else None,
                "clinical": logits().astype(np.float32) if modalities == "clinical" else None,
                "labels": LABELS[:, None].astype(np.int64),
                "lesions": tuple(f"{i:016x}" for i in range(COUNT)),
                "groups": tuple(f"{i // 2:016x}" for i in range(COUNT)),
                "fusion": {"DIAG": Fusion(dermoscopic_weight=0.6, temperature_clinical=1.5)},
                "parameters": 2_000_000 if modalities == "both" else 1_000_000,
                "macs": {reading: 200 if modalities == "both" else 100 for reading in READINGS[modalities]},
                "left_out": 0,
                "seconds": 30.0,
                "machine": "a machine",
                **fields,
            }
        )

    return make
