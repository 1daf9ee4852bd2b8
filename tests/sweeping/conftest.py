"""Answers drawn at random, with a known skill, for a sweep without trainings; drawn pairs for one that trains."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgeskin import out
from edgeskin.data.phantom import write_phantom
from edgeskin.spec.roles import ROLES, RoleRecord
from edgeskin.spec.schema import ClassSpec, Schema, Target, Task
from edgeskin.spec.sweep import READINGS, SweepSpec
from edgeskin.spec.sweep_result import Column, SweepResult
from edgeskin.spec.train import Fusion
from edgeskin.sweeping.answers import Answers
from edgeskin.sweeping.figures import METHOD, Judge

NAMES = ("NEV", "MEL", "BCC")
COUNT = 60
LABELS = np.random.default_rng(7).integers(0, len(NAMES), COUNT)
THREE = {
    "base": {},
    "clinical-only": {"network": {"modalities": "clinical"}},
    "broken": {"network": {"backbone": "resnet_of_nobody"}, "seeds": [0]},
}
QUESTION = {"question": "both beat one", "a": "base", "b": "clinical-only"}


@pytest.fixture(autouse=True)
def _quiet():
    out.configure(quiet=True)
    yield
    out.configure()


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
                "macs": dict.fromkeys(READINGS[modalities], 200 if modalities == "both" else 100),
                "left_out": 0,
                "seconds": 30.0,
                "machine": "a machine",
                **fields,
            }
        )

    return make


@pytest.fixture(scope="session")
def result(schema, suite_of, answers_of) -> SweepResult:
    """Three variants: a good one, a bad one that lost a seed, and one that never ran."""
    variants = {
        "base": {"title": "shared | all", "group": "the method"},
        "clinical-only": {"group": "images", "network": {"modalities": "clinical"}},
        "broken": {"group": "images", "network": {"backbone": "resnet_of_nobody"}},
    }
    claims = [
        {"question": "Both images beat one", "a": "base", "b": "clinical-only"},
        {"question": "It runs", "a": "broken", "b": "base"},
        {"question": "Fused is not worse", "a": "base", "b": "base", "b_reading": "dermoscopic", "at_least": -0.05},
    ]
    suite = suite_of(variants, title="A <tiny> sweep", comparison=claims)
    found = {
        "base": {seed: answers_of(2.0, seed) for seed in (0, 1)},
        "clinical-only": {0: answers_of(0.3, 0, "clinical")},
    }
    failed = {"clinical-only": {1: "stopped by a signal"}, "broken": {0: "unknown backbone", 1: "unknown backbone"}}
    judge = Judge(suite, schema, found["base"][0])
    return SweepResult(
        created="2026-01-01T00:00:00Z",
        suite=suite,
        data="derm7pt",
        phantom=True,
        roles={role: RoleRecord(lesions=COUNT, sha256="0" * 64) for role in ROLES},
        lesions=COUNT,
        left_out=2,
        classes={"NEV": 40, "MEL": 3, "BCC": 17},
        metrics=tuple(Column(metric=metric, title=title) for metric, title in judge.titles.items()),
        method=METHOD,
        variants=tuple(judge.variant(v.name, found.get(v.name, {}), failed.get(v.name, {})) for v in suite.variant),
        answers=tuple(judge.answer(question, found) for question in suite.comparison),
        machine="a machine",
        versions={},
        git_revision="",
    )


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """60 drawn pairs of 32 x 32 pixels."""
    root = tmp_path_factory.mktemp("drawn") / "data"
    out.configure(quiet=True)
    write_phantom(root, 60, seed=3, size=32)
    return root


def write_toml(suite, folder: Path) -> Path:

    def text(value: object) -> str:
        if isinstance(value, dict):
            return "{ " + ", ".join(f"{k} = {text(v)}" for k, v in value.items() if v is not None) + " }"
        if isinstance(value, list):
            return f"[{', '.join(map(text, value))}]"
        return json.dumps(value)

    given = {k: v for k, v in suite.to_json().items() if v is not None}
    path = folder / "tiny.toml"
    path.write_text("\n".join(f"{key} = {text(value)}" for key, value in given.items()))
    return path
