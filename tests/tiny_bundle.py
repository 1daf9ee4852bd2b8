"""The committed tiny bundle drafted again, its manifest edited, and its refusals in one line."""

import json
import shutil
from pathlib import Path

from edgeskin.bundle import Draft, Golden, open_bundle
from edgeskin.files import pretty_json, sha256_bytes
from edgeskin.spec.train import Checkpoint, TrainSpec
from tests.conftest import TINY


def reseal(root: Path, change) -> None:
    """Edit the manifest as an attacker would who also mends the seal."""
    plain = json.loads((root / "manifest.json").read_text())
    change(plain)
    text = pretty_json(plain)
    (root / "manifest.json").write_text(text)
    (root / "manifest.sha256").write_text(f"{sha256_bytes(text.encode())}  manifest.json\n")


def one_line(caught) -> str:
    text = str(caught.value)
    assert "\n" not in text
    assert "fix: " in text
    return text


def redraft(tmp_path: Path, **changes) -> Draft:
    """The draft that gives the tiny bundle again."""
    made = open_bundle(TINY)
    m = made.manifest
    folder = tmp_path / "stage"
    for name in m.files:
        if name.startswith(("model/", "reference/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TINY / name, folder / name)
    checkpoint = Checkpoint(
        created="", network=m.network, data=m.data, train=TrainSpec(), task_schema=m.task_schema,
        preprocess=m.preprocess, fusion=m.fusion, thresholds=m.thresholds, roles=m.roles,
        lesion_hashes={k: tuple(sorted(v)) for k, v in made.lesion_hashes().items()}, phantom=m.phantom,
        parameters=m.parameters, weights_sha256="", weights_source="", control_metrics={}, versions={}, git_revision="",
    )  # fmt: skip
    golden = [Golden(c.name, c.mode, *made.golden(c), tolerance=c.tolerance) for c in m.golden]
    given = {
        "name": m.name, "folder": folder, "graphs": m.graphs, "reference": m.reference, "golden": golden,
        "recipe": m.recipe, "checkpoint": checkpoint, "provenance": m.provenance, "gated": m.gated,
    }  # fmt: skip
    return Draft(**{**given, **changes})
