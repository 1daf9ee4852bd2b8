"""A built bundle against its own FP32 reference: golden cases, parity, decision flips, accuracy with intervals."""

import io
import math
import time
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from edgeskin import lacking, out, scoring
from edgeskin.audit import audit_model
from edgeskin.bundle import Bundle
from edgeskin.compared import NO_REFERENCE
from edgeskin.data.pairs import UNLABELLED, Pair
from edgeskin.data.roles import role_hash, short_hash
from edgeskin.env import cache_dir
from edgeskin.errors import EdgeskinError
from edgeskin.files import canonical_json, sha256_bytes, write_atomic
from edgeskin.runtime import Classifier, Graphs, load
from edgeskin.spec.audit import AuditResult
from edgeskin.spec.manifest import IMAGES, MODES, Manifest, Mode
from edgeskin.spec.result import Accuracy, GoldenResult, Parity, VerifyResult
from edgeskin.spec.roles import RoleRecord
from edgeskin.spec.schema import Schema

Logits = dict[tuple[Graphs, Mode], NDArray[np.float32]]  # [lesions, rows, K]; NaN where the clinical image is missing
_SAVE_EVERY = 100  # lesions
_EMULATED = "a build kit, emulated on the CPU: the engine that a device builds of it may differ"
_MAKING = ("train", "calibration", "control")  # roles that had a part in making the bundle


def check_roles(manifest: Manifest, records: Mapping[str, RoleRecord]) -> None:
    """Hold freshly derived roles against those the bundle was made with.

    Raises:
        EdgeskinError: any role differs, so that a test lesion may have been trained on.
    """
    differ = [role for role, record in manifest.roles.items() if records.get(role) != record]
    if differ:
        raise EdgeskinError(
            "these lesions are not the ones the bundle was made with",
            got=f"roles that differ: {', '.join(differ)}",
            fix="pass the same --data and --root; for a fresh collection pass --role all",
        )


def unseen(pairs: Sequence[Pair], lesion_hashes: Mapping[str, Collection[str]]) -> tuple[list[Pair], int]:
    """Leave out lesions that trained, calibrated or controlled the bundle; gives the rest and how many went.

    Raises:
        EdgeskinError: none is left.
    """
    known = {lesion for role in _MAKING for lesion in lesion_hashes.get(role, ())}
    kept = [pair for pair in pairs if short_hash(pair.lesion_id) not in known]
    dropped = len(pairs) - len(kept)
    if not kept:
        raise EdgeskinError(
            "no unseen lesion to score on",
            got=f"{len(pairs)} lesions, {dropped} of them used to make the bundle",
            fix="pass a fresh collection, or --role test of the same one",
        )
    if dropped:
        out.note(f"left out {dropped} of {len(pairs)} lesions: the bundle was made with them")
    return kept, dropped


def verify(
    bundle: Bundle,
    pairs: Sequence[Pair],
    *,
    role: str,
    data: str = "",
    threads: int = 0,
    bootstrap: int = 1000,
    notes: Sequence[str] = (),
    environment: Mapping[str, JsonValue] | None = None,
) -> VerifyResult:
    """Golden cases, then every lesion through the device's own path with both graphs, in both modes.

    Logits are kept in the cache every 100 lesions, so that a killed run resumes.

    Args:
        pairs: labelled under the bundle's schema; the caller has chosen the role and applied `check_roles` or `unseen`.
        bootstrap: draws for the intervals; whole patients are drawn where patient ids exist.

    Raises:
        EdgeskinError: no lesion, an unreadable image, an engine that is not there.
    """
    start = time.monotonic()
    if not pairs:
        raise EdgeskinError("empty role", got=f"no lesion for {role!r}", fix="pass another --role or --data")
    manifest = bundle.manifest
    models: dict[Graphs, Classifier] = {"core": load(bundle, threads=threads, emulated=True, fallback=False)}
    if not bundle.lean:
        models["reference"] = load(bundle, threads=threads, graphs="reference", emulated=True)
    golden = golden_results(models["core"])
    engine: dict[str, JsonValue] = dict(models["core"].session("dermoscopic").describe())
    logits = predict(models, pairs, _resume_file(bundle, pairs, engine, threads))
    paired = np.array([pair.clinical is not None for pair in pairs])
    compiled, why = _audit(models["core"])
    remarks = [*notes, *why, *_remarks(manifest, role, golden, paired, lean=bundle.lean)]
    labels = _labels(pairs, manifest.task_schema)
    remarks += lacking.undefined(np.stack(list(labels.values()), axis=1), manifest.task_schema, role)
    core = {mode: logits["core", mode] for mode in MODES}
    reference = None if bundle.lean else {mode: logits["reference", mode] for mode in MODES}
    parity, accuracy = scores(manifest, pairs, core, reference, bootstrap=bootstrap)
    every = scoring.every_lesion(
        manifest, labels, [pair.group for pair in pairs], paired, core, reference, repeats=bootstrap
    )
    return VerifyResult(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        bundle=manifest.name,
        bundle_sha256=bundle.sha256,
        target=manifest.target,
        precision=manifest.precision,
        phantom=manifest.phantom,
        research_use=manifest.research_use,
        passed=all(case.passed for case in golden),
        golden=golden,
        data=data,
        role=role,
        role_sha256=role_hash(pair.lesion_id for pair in pairs),
        lesions=len(pairs),
        without_clinical=int((~paired).sum()),
        parity=parity,
        accuracy=accuracy,
        every_lesion=every,
        bootstrap=bootstrap,
        threads=threads,
        engine=engine,
        environment=dict(environment or {}),
        audit=compiled,
        notes=tuple(remarks),
        seconds=round(time.monotonic() - start, 1),
    )


def scores(
    deciding: scoring.Deciding,
    pairs: Sequence[Pair],
    core: Mapping[Mode, NDArray[np.float32]],
    reference: Mapping[Mode, NDArray[np.float32]] | None,
    *,
    bootstrap: int,
    named: Callable[[str], str] = str,
) -> tuple[dict[Mode, Parity], dict[Mode, Accuracy]]:
    """Parity and accuracy in every mode, out of logits [lesions, rows, K]; lesions without clinical image sit mode
    pair out. Without a reference there is no parity."""
    paired = np.array([pair.clinical is not None for pair in pairs])
    parity: dict[Mode, Parity] = {}
    accuracy: dict[Mode, Accuracy] = {}
    for mode in MODES:
        use = paired if mode == "pair" else np.ones(len(pairs), bool)
        if not use.any():
            continue
        chosen = [pair for pair in pairs if mode == "dermoscopic" or pair.clinical is not None]
        plain = None if reference is None else reference[mode][use]
        labels = _labels(chosen, deciding.task_schema)
        groups = [pair.group for pair in chosen]
        accuracy[mode] = scoring.accuracy(deciding, mode, labels, groups, core[mode][use], plain, repeats=bootstrap)
        if plain is not None:
            parity[mode] = scoring.parity(deciding, mode, [named(p.lesion_id) for p in chosen], plain, core[mode][use])
    return parity, accuracy


def _labels(pairs: Sequence[Pair], schema: Schema) -> dict[str, NDArray[np.int64]]:
    """Task -> class number of each lesion."""
    return {t.name: np.array([p.labels.get(t.name, UNLABELLED) for p in pairs], np.int64) for t in schema.tasks}


def verify_golden(bundle: Bundle, *, threads: int = 0) -> VerifyResult:
    """Golden cases alone: what a device can verify that has no lesions with known diagnoses."""
    start = time.monotonic()
    manifest = bundle.manifest
    model = load(bundle, threads=threads, emulated=True, fallback=False)
    golden = golden_results(model)
    compiled, why = _audit(model)
    remarks = ["golden cases only: no lesion was scored", *why, *([_EMULATED] if manifest.stage == "kit" else [])]
    if failed := [case.name for case in golden if not case.passed]:
        remarks.append(f"golden cases fail on this machine: {', '.join(failed)}; do not trust its results")
    return VerifyResult(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        bundle=manifest.name,
        bundle_sha256=bundle.sha256,
        target=manifest.target,
        precision=manifest.precision,
        phantom=manifest.phantom,
        research_use=manifest.research_use,
        passed=all(case.passed for case in golden),
        golden=golden,
        data="",
        role="none",
        role_sha256=role_hash([]),
        lesions=0,
        without_clinical=0,
        parity={},
        accuracy={},
        bootstrap=0,
        threads=threads,
        engine=dict(model.session("dermoscopic").describe()),
        audit=compiled,
        notes=tuple(remarks),
        seconds=round(time.monotonic() - start, 1),
    )


def _audit(model: Classifier) -> tuple[AuditResult | None, list[str]]:
    """What runs in INT8 as compiled here, and a remark where that is less than the recipe asks or cannot be told."""
    try:
        found = audit_model(model)
    except EdgeskinError as error:  # of the golden cases and the lesions nothing is less true
        return None, [f"precision not audited: {error.line()}"]
    return found, [] if found.passed else [f"silent FP32 on this machine: {found.why}"]


def golden_results(model: Classifier) -> tuple[GoldenResult, ...]:
    """The classifier's self-test as records."""
    return tuple(
        GoldenResult(
            name=case.name,
            mode=case.mode,
            max_abs_error=case.max_abs_error if math.isfinite(case.max_abs_error) else None,
            tolerance=case.tolerance,
            same_decisions=case.same_decisions,
            passed=case.passed,
        )
        for case in model.self_test()
    )


def _remarks(
    manifest: Manifest, role: str, golden: Sequence[GoldenResult], paired: NDArray[np.bool_], *, lean: bool
) -> list[str]:
    found = []
    if failed := [case.name for case in golden if not case.passed]:
        found.append(f"golden cases fail on this machine: {', '.join(failed)}; do not trust its results")
    if manifest.stage == "kit":
        found.append(_EMULATED)
    if manifest.phantom:
        found.append("made on phantom images: these figures say nothing about real lesions")
    if role in _MAKING:
        found.append(f"the bundle was made with role {role!r}: these figures flatter it")
    if not paired.any():
        found.append("no lesion has a clinical image: mode pair was not scored")
    if lean:
        found.append(f"{NO_REFERENCE}: no parity, no differences")
    return found


def predict(models: Mapping[Graphs, Classifier], pairs: Sequence[Pair], resume: Path | None = None) -> Logits:
    """Logits of every lesion, graph and mode, by `Classifier.prepare` and `infer`. `resume` keeps them meanwhile."""
    manifest = next(iter(models.values())).manifest
    found: Logits = {
        (graphs, mode): np.full((len(pairs), manifest.rows[mode], manifest.task_schema.logits), np.nan, np.float32)
        for graphs in models
        for mode in MODES
    }
    done = _restore(resume, found) if resume else 0
    first = next(iter(models.values()))
    with out.progress("verify", len(pairs)) as step:
        if done:
            step(done)
        for index in range(done, len(pairs)):
            pair = pairs[index]
            photos = [pair.dermoscopic] if pair.clinical is None else [pair.clinical, pair.dermoscopic]
            frames = np.stack([first.prepare(photo) for photo in photos])
            for (graphs, mode), array in found.items():
                if len(frames) >= IMAGES[mode]:
                    array[index] = models[graphs].infer(frames[-IMAGES[mode] :], mode)
            if resume and (index + 1) % _SAVE_EVERY == 0:
                _keep(resume, found, index + 1)
            step()
    if resume:
        resume.unlink(missing_ok=True)
    return found


def _resume_file(bundle: Bundle, pairs: Sequence[Pair], engine: Mapping[str, JsonValue], threads: int) -> Path:
    """One file per bundle, engine and list of image files: anything else changed starts afresh."""
    photos = [(str(p.dermoscopic), str(p.clinical), p.dermoscopic.stat().st_size) for p in pairs]
    key = [bundle.sha256, role_hash(p.lesion_id for p in pairs), photos, engine, threads]
    return cache_dir() / "verify" / f"{sha256_bytes(canonical_json(key).encode())[:32]}.npz"


def _keep(path: Path, found: Logits, done: int) -> None:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {f"{graphs}_{mode}": array for (graphs, mode), array in found.items()}
    np.savez(buffer, done=done, **arrays)
    try:
        write_atomic(path, buffer.getvalue())
    except EdgeskinError as error:  # a cache that cannot be written costs the resume, not the verification
        out.note(f"cannot keep what is done so far: {error}")


def _restore(path: Path, found: Logits) -> int:
    try:
        with np.load(path, allow_pickle=False) as stored:
            kept = {key: stored[f"{key[0]}_{key[1]}"] for key in found}
            done = int(stored["done"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return 0
    if any(kept[key].shape != array.shape for key, array in found.items()):
        return 0
    for key, array in found.items():
        array[:] = kept[key]
    out.note(f"resuming after {done} lesions")
    return done
