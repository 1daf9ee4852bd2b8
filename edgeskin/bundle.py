"""The artefact: model files, golden cases, and a manifest that names and hashes every byte."""

import os
import shutil
import stat
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeskin.errors import EdgeskinError
from edgeskin.files import canonical_json, pretty_json, sha256_bytes, sha256_file, staged_dir, staged_file
from edgeskin.opening import Bundle, listing, open_bundle
from edgeskin.out import note
from edgeskin.signing import describe
from edgeskin.spec.manifest import (
    EVIDENCE,
    FORMAT_VERSION,
    MANIFEST,
    SEAL,
    SIGNATURE,
    Compatibility,
    FileEntry,
    Gated,
    GoldenCase,
    GraphEntry,
    Manifest,
    Mode,
    Provenance,
    Tuning,
)
from edgeskin.spec.quality import Quality
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.train import Checkpoint, Fusion, Thresholds

if TYPE_CHECKING:
    from edgeskin.spec.evidence import Evidence

__all__ = [
    "Bundle",
    "Draft",
    "Golden",
    "add_tuning",
    "inspect",
    "manifest_json_schema",
    "open_bundle",
    "pack",
    "reseal",
    "write_bundle",
]

REFERENCE_FOLDER = "reference/"  # files under it are the FP32 reference, which a lean pack leaves out, as the evidence
_LESIONS = "lesions.json"
NO_GATE = Gated(status="ungated", why="no gate was asked")


@dataclass(frozen=True, slots=True)
class Golden:
    """A case to put into a bundle: frames uint8 [images, H, W, 3] and the logits float32 [rows, K] they gave."""

    name: str
    mode: Mode
    frames: NDArray[np.uint8]
    logits: NDArray[np.float32]
    tolerance: float


@dataclass(frozen=True, slots=True)
class Draft:
    """What an exporter hands over. `folder` holds the model files as they are to lie in the bundle, the FP32
    reference under `reference/`; `fusion` and `thresholds` stand in for the checkpoint's where given."""

    name: str
    folder: Path
    graphs: Mapping[Mode, GraphEntry]
    reference: Mapping[Mode, GraphEntry]
    golden: Sequence[Golden]
    recipe: Recipe
    checkpoint: Checkpoint | Manifest  # an engine is made of its kit's manifest
    provenance: Provenance
    gated: Gated = NO_GATE
    evidence: "Evidence | None" = None
    fusion: Mapping[str, Fusion] | None = None
    thresholds: Thresholds | None = None
    quality: Quality | None = None  # None: the manifest's of which an engine is made, else the defaults
    compatibility: Compatibility | None = None
    stage: Literal["ready", "kit"] = "ready"
    fp16: Mapping[Mode, GraphEntry] = field(default_factory=dict)
    answers_file: str = ""
    lesion_hashes: Mapping[str, Collection[str]] | None = None  # where a manifest, which lacks them, is the checkpoint


def write_bundle(out: Path, draft: Draft) -> Manifest:
    """Write a bundle under a temporary name, read it back, then rename: `out` is the old one, none, or complete.

    Raises:
        EdgeskinError: `out` is something else than a bundle, a field does not fit, or the disk refuses.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100 - keeps a final link, which resolve() would follow
    if out.exists() and not (out / MANIFEST).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise EdgeskinError("the output exists and is no bundle", got=str(out), fix="choose another --out")
    with staged_dir(out) as stage:
        for name in listing(draft.folder):  # not copytree(), which hides the errno of a full disk
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(draft.folder / name, stage / name)
        golden = tuple(_write_golden(stage, case) for case in draft.golden)
        if draft.evidence is not None:
            (stage / EVIDENCE).write_text(pretty_json(draft.evidence.to_json()), encoding="utf-8")
        (stage / _LESIONS).write_text(canonical_json(_lesions(draft)) + "\n", encoding="utf-8")
        files = {
            name: FileEntry(
                sha256=sha256_file(stage / name), size_bytes=(stage / name).stat().st_size, group=_group(name)
            )
            for name in listing(stage)
        }
        source = draft.checkpoint
        manifest = Manifest.parse(
            {
                "name": draft.name,
                "target": draft.recipe.target,
                "precision": draft.recipe.precision,
                "phantom": source.phantom,
                "task_schema": source.task_schema,
                "preprocess": source.preprocess,
                "fusion": dict(draft.fusion or source.fusion),
                "thresholds": draft.thresholds or source.thresholds,
                "quality": draft.quality or (source.quality if isinstance(source, Manifest) else Quality()),
                "recipe": draft.recipe,
                "network": source.network,
                "parameters": source.parameters,
                "data": source.data,
                "roles": source.roles,
                "lesion_hashes_file": _LESIONS,
                "graphs": dict(draft.graphs),
                "reference": dict(draft.reference),
                "golden": golden,
                "files": files,
                "provenance": draft.provenance,
                "gated": draft.gated,
                "stage": draft.stage,
                "compatibility": draft.compatibility,
                "fp16": dict(draft.fp16),
                "answers_file": draft.answers_file,
                "evidence_file": EVIDENCE if draft.evidence is not None else "",
            },
            f"the manifest of {out}",
        )
        _seal(stage, manifest)
        return open_bundle(stage).manifest


def _lesions(draft: Draft) -> dict[str, list[str]]:
    if draft.lesion_hashes is not None:
        return {role: sorted(hashes) for role, hashes in draft.lesion_hashes.items()}
    assert isinstance(draft.checkpoint, Checkpoint)
    return {role: list(hashes) for role, hashes in draft.checkpoint.lesion_hashes.items()}


def _seal(stage: Path, manifest: Manifest) -> None:
    text = pretty_json(manifest.to_json())
    (stage / MANIFEST).write_text(text, encoding="utf-8")
    (stage / SEAL).write_text(f"{sha256_bytes(text.encode())}  {MANIFEST}\n", encoding="utf-8")


def add_tuning(path: Path, tuning: Tuning) -> Manifest:
    """Seal a bundle anew with a tuning, which takes the place of an older one of the same processor.

    Raises:
        EdgeskinError: see `reseal`.
    """
    opened = open_bundle(path)
    kept = [old for old in opened.manifest.tuning if (old.processor, old.cores) != (tuning.processor, tuning.cores)]
    return reseal(path, {"tuning": (*kept, tuning)}, opened)


def reseal(path: Path, update: Mapping[str, object], opened: Bundle | None = None) -> Manifest:
    """Seal a bundle anew with other values of some fields of its manifest; its files stay.

    `opened`: the bundle at `path` where it has been opened already, so that it is not hashed once more.

    A signature, which is over the old manifest, goes; a note says so.

    Raises:
        EdgeskinError: the bundle does not verify, is a .zip, or the disk refuses.
    """
    bundle = opened or open_bundle(path)
    if not path.is_dir():
        raise EdgeskinError("a packed bundle cannot be changed", got=str(path), fix="unpack it, and pack it afterwards")
    manifest = bundle.manifest.model_copy(update=dict(update))
    with staged_dir(Path(os.path.abspath(path))) as stage:  # noqa: PTH100 - keeps a final link
        for name in manifest.files:
            if bundle.path(name).is_file():  # a lean bundle lacks its reference
                (stage / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.path(name), stage / name)
        signed = bundle.path(SIGNATURE).is_file()
        _seal(stage, manifest)
        sealed = open_bundle(stage).manifest
    if signed:
        note(
            f"{path}: the manifest changed, so its signature was removed; sign it again: "
            f"edgeskin sign {path} --key NAME.key"
        )
    return sealed


def _group(name: str) -> Literal["core", "reference"]:
    return "reference" if name.startswith(REFERENCE_FOLDER) or name == EVIDENCE else "core"


def _write_golden(stage: Path, case: Golden) -> GoldenCase:
    entry = GoldenCase(name=case.name, mode=case.mode, file=f"golden/{case.name}.npz", tolerance=case.tolerance)
    path = stage / entry.file
    path.parent.mkdir(exist_ok=True)
    np.savez(path, frames=np.asarray(case.frames, np.uint8), logits=np.asarray(case.logits, np.float32))
    return entry


def pack(path: Path, out_zip: Path, *, lean: bool = False) -> Path:
    """One .zip of a bundle; the same bundle gives the same bytes on every machine.

    Entries are sorted, dated 1980-01-01 and stored uncompressed, as deflate differs between zlib builds. A signature
    stays, also in a lean pack: the manifest, which it signs, is the same.

    Raises:
        EdgeskinError: the bundle does not verify, or the disk refuses.
    """
    bundle = open_bundle(path)
    if out_zip.suffix != ".zip":
        raise EdgeskinError("a packed bundle is a .zip", got=str(out_zip), fix=f"name it {out_zip.name}.zip")
    if out_zip.is_dir():
        raise EdgeskinError("the output is a folder", got=str(out_zip), fix="choose another --out")
    names = [
        name for name, entry in bundle.manifest.files.items() if entry.group == "core" or not (lean or bundle.lean)
    ]
    with staged_file(out_zip) as staged, zipfile.ZipFile(staged, "w", zipfile.ZIP_STORED) as archive:
        signature = [SIGNATURE] if bundle.path(SIGNATURE).is_file() else []
        for name in sorted([*names, MANIFEST, SEAL, *signature]):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            info.file_size = bundle.path(name).stat().st_size
            with bundle.path(name).open("rb") as source, archive.open(info, "w") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    return out_zip


def inspect(bundle: Bundle) -> dict[str, Any]:
    """What a bundle is, as plain JSON data: for `edgeskin inspect`."""
    manifest = bundle.manifest
    schema = manifest.task_schema
    groups: dict[str, int] = {}
    for entry in manifest.files.values():
        groups[entry.group] = groups.get(entry.group, 0) + entry.size_bytes
    plain = manifest.to_json()
    kept = (
        "name",
        "target",
        "stage",
        "compatibility",
        "precision",
        "phantom",
        "research_use",
        "format_version",
        "parameters",
        "network",
    )
    return {
        **{key: plain[key] for key in kept},
        "sha256": bundle.sha256,
        "signature": describe(bundle),
        "lean": bundle.lean,
        "input": f"uint8 RGB {manifest.preprocess.height}x{manifest.preprocess.width}",
        "schema": schema.name,
        "tasks": {task.name: list(task.class_names) for task in schema.tasks},
        "decision": f"{schema.target.title}: P({' or '.join(schema.target.positive)}) of {schema.target.task}",
        "size_bytes": {**groups, "here": sum(f.stat().st_size for f in bundle.root.rglob("*") if f.is_file())},
        **{key: plain[key] for key in ("preprocess", "thresholds", "fusion", "roles", "recipe", "data", "graphs")},
        "golden": [case.name for case in manifest.golden],
        "tuning": plain["tuning"],
        "gated": plain["gated"],
        "provenance": plain["provenance"],
        "files": plain["files"],
    }


def manifest_json_schema() -> dict[str, Any]:
    """The JSON Schema of manifest.json, published beside the specs as manifest.schema.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"edgeskin-bundle-{FORMAT_VERSION}",
        **Manifest.model_json_schema(),
    }
