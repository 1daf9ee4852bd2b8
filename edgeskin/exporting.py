"""Checkpoint -> bundle: FP32 ONNX, INT8, golden cases, a seal, and what runs fastest here."""

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeskin import backends, catalog, decide, out, provenance
from edgeskin.bundle import Draft, Golden, add_tuning, open_bundle, write_bundle
from edgeskin.data import registry
from edgeskin.data.pairs import Pair, PairSet
from edgeskin.data.roles import Roles, assign, role_hash
from edgeskin.errors import EdgeskinError
from edgeskin.files import canonical_json, os_errors, sha256_bytes, sha256_file
from edgeskin.preprocess import prepare
from edgeskin.spec.manifest import IMAGES, MANIFEST, MODES, GraphEntry, Manifest, Mode, Provenance
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.roles import RoleSpec
from edgeskin.spec.train import Checkpoint

# max |logits - expected| on another machine of the kind. INT8 kernels differ in saturation and rounding between
# instruction sets (up to 0.15 logits seen between x86-64 and aarch64); FP32 only in the order of sums.
GOLDEN_TOLERANCE = {"int8": 0.5, "fp32": 0.02}
_GOLDEN_DRAWN, _GOLDEN_KEPT = 24, 4


def export(
    run: Path,
    target: str,
    bundle: Path,
    *,
    recipe: str = "",
    device: str = "",
    root: str = "",
    calibration_pairs: int = 0,
    tuned: bool = True,
) -> Manifest:
    """Checkpoint -> FP32 ONNX -> INT8 -> bundle, tuned to this processor. One that is there already is left alone.

    Args:
        recipe: name or path; "" = `<target>-int8`.
        root: where the data lies now, if not where the run found it.
        calibration_pairs: instead of the recipe's number; 0 = the recipe's.

    Raises:
        EdgeskinError: unknown target, recipe or device, an unfinished run, data that changed since the training.
    """
    from edgeskin.model.checkpoint import RECORD, read_record

    plan = _recipe(target, recipe, device, calibration_pairs)
    record = read_record(run)
    identity = sha256_file(run / RECORD)
    if _up_to_date(bundle, identity, plan):
        out.note(f"{bundle}: exported before from this checkpoint with this recipe, nothing to do")
        return open_bundle(bundle).manifest
    data = record.data.model_copy(update={"root": root}) if root else record.data
    pairset = registry.load_pairs(data.name, Path(data.root), data.schema_name, data.border_px)
    roles = roles_if_any(pairset, data.roles)
    if roles is None or roles.records() != record.roles:
        raise EdgeskinError(
            "the data changed since the training", got=data.root, fix="pass the same data by --root, or train again"
        )
    usable = [pair for pair in roles["calibration"] if pair.clinical is not None][: plan.calibration_pairs]
    if len(usable) < plan.calibration_pairs:  # told before the minutes that the ONNX export takes
        raise EdgeskinError(
            "too few calibration pairs",
            got=f"{len(usable)} with both images in role calibration",
            possible=f"{plan.calibration_pairs} or more, as recipe {plan.name} asks",
            fix=f"pass --calibration-pairs {len(usable)}, or train with a larger --calibration share",
        )
    graphs = _onnx(run, record, identity, plan.opset)
    work = run / f"work-{plan.name}"
    shutil.rmtree(work, ignore_errors=True)
    try:
        with os_errors(work):
            draft = _build(record, graphs, plan, pairset, usable, work, identity, bundle.name)
            manifest = write_bundle(bundle, draft)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    try:
        return tune(bundle) if tuned else manifest
    except EdgeskinError as error:  # the bundle is whole without it
        out.note(f"not tuned: {error.line()}")
        return manifest


def tune(bundle: Path, *, anyway: bool = False) -> Manifest:
    """Measure how the bundle runs fastest on this processor, and seal it anew with the answer.

    Raises:
        EdgeskinError: the bundle is packed, its engine is absent, the system does not name its processor, or others
            use it.
    """
    from edgeskin.benchmark import tune as stage

    opened = open_bundle(bundle)
    with out.progress("tuning to this processor", stage.WARM_UP + stage.ROUNDS) as step:
        found = stage.tune(opened, step, anyway=anyway)
    return add_tuning(bundle, found)


def _recipe(target: str, name: str, device: str, calibration_pairs: int) -> Recipe:
    """The recipe asked for, held against target, device and what is installed."""
    backend = backends.get(target)
    plan = catalog.recipe(name or f"{target}-int8")
    if plan.target != target:
        raise EdgeskinError(
            "the recipe is for another target",
            got=f"{plan.name} for {plan.target}",
            possible=target,
            fix="drop --recipe",
        )
    if calibration_pairs and plan.precision == "int8":
        plan = plan.model_copy(update={"calibration_pairs": calibration_pairs})
    profile = catalog.device(device) if device else None
    if reason := backend.unsupported(plan, profile):
        raise EdgeskinError(f"target {target} cannot be built here", got=reason)
    return plan


def _up_to_date(bundle: Path, identity: str, plan: Recipe) -> bool:
    if not (bundle / MANIFEST).is_file():
        return False
    try:
        manifest = open_bundle(bundle).manifest
    except EdgeskinError:
        return False  # damaged: build it again
    made_with = {k: v for k, v in manifest.provenance.versions.items() if k != "python"}
    now = {k: v for k, v in provenance.versions().items() if k != "python"}
    same_source = manifest.provenance.checkpoint_sha256 == identity and manifest.recipe == plan
    return same_source and made_with == now


def _onnx(run: Path, record: Checkpoint, identity: str, opset: int) -> dict[Mode, Path]:
    """Both FP32 graphs of the checkpoint, exported once and kept in the run for every target."""
    from edgeskin.backends import torch as torch_backend

    key = sha256_bytes(canonical_json([identity, opset, provenance.versions()]).encode())[:16]
    folder = run / f"onnx-{key}"
    files: dict[Mode, Path] = {mode: folder / f"{mode}.onnx" for mode in MODES}
    if not all(path.is_file() for path in files.values()):
        out.note("exporting ONNX (FP32, checked against torch)")
        with os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            torch_backend.build(run, record, folder, opset)
    return files


def _build(
    record: Checkpoint,
    graphs: dict[Mode, Path],
    plan: Recipe,
    pairset: PairSet,
    usable: list[Pair],
    work: Path,
    identity: str,
    name: str,
) -> Draft:
    from edgeskin.quantize.ptq import quantize

    backend = backends.get(plan.target)
    folder = work / "bundle"
    reference_plan = plan.model_copy(
        update={"precision": "fp32", "quantizer": "none", "calibration_pairs": 0, "keep_fp32": ()}
    )
    frames = []
    if plan.precision == "int8":
        for pair in out.track(usable, "calibration frames"):
            assert pair.clinical is not None
            frames.append(
                np.stack([prepare(pair.clinical, record.preprocess), prepare(pair.dermoscopic, record.preprocess)])
            )
    core: dict[Mode, GraphEntry] = {}
    reference: dict[Mode, GraphEntry] = {}
    golden: list[Golden] = []
    for mode in MODES:
        source = graphs[mode]
        if plan.precision == "int8":
            with out.progress(f"calibrating {mode}", len(frames)) as step:
                source = quantize(graphs[mode], frames, plan, work / "quantized", step)
        main = backend.build(source, folder / "model", plan, stem=mode)[0]
        plain = backend.build(graphs[mode], folder / "reference", reference_plan, stem=mode)[0]
        core[mode] = GraphEntry(file=f"model/{main}", images=IMAGES[mode], precision=plan.precision)
        reference[mode] = GraphEntry(file=f"reference/{plain}", images=IMAGES[mode], precision="fp32")
        golden += _golden(folder / "model" / main, mode, plan, record)
    return Draft(
        name=name,
        folder=folder,
        graphs=core,
        reference=reference,
        golden=golden,
        recipe=plan,
        checkpoint=record,
        provenance=Provenance(
            checkpoint_sha256=identity,
            checkpoint_weights_sha256=record.weights_sha256,
            git_revision=provenance.git_revision(),
            versions=provenance.versions(),
            machine=provenance.machine(),
            created=provenance.now(),
            calibration_sha256=role_hash(p.lesion_id for p in usable) if frames else "",
            calibration_pairs=len(frames),
        ),
    )


def _golden(model: Path, mode: Mode, plan: Recipe, record: Checkpoint) -> list[Golden]:
    """Drawn pairs and what this build answers to them; no patient's image travels in a bundle.

    Of many drawn cases the surest are kept: one near a tie would fail on another processor that rounds rightly.
    """
    from edgeskin.data.phantom import cases
    from edgeskin.data.phantom_draw import draw

    hint = "f32" if plan.inference_precision == "auto" else plan.inference_precision
    session = backends.get(plan.target).open(model, precision_hint=hint)
    found: list[tuple[float, Golden]] = []
    for number, case in enumerate(out.track(cases(_GOLDEN_DRAWN, seed=7), f"golden cases {mode}")):
        views = draw(case.latent, max(160, record.preprocess.height))
        frames = np.stack([prepare(view, record.preprocess) for view in views])[-IMAGES[mode] :]
        logits = session.run(frames)
        golden = Golden(f"{mode}-{number}", mode, frames, logits, GOLDEN_TOLERANCE[plan.precision])
        found.append((_margin(logits, mode, record), golden))
    found.sort(key=lambda item: -item[0])
    return [golden for _, golden in found[:_GOLDEN_KEPT]]


def _margin(logits: NDArray[np.float32], mode: Mode, record: Checkpoint) -> float:
    """Smallest gap in probability between a task's first and second class, or between target and threshold."""
    schema = record.task_schema
    probabilities = decide.task_probabilities(logits, schema, record.fusion, mode)
    gaps = [float(np.diff(np.sort(p)[-2:])[0]) for p in probabilities.values()]
    limit = decide.threshold(record.thresholds, mode)
    return min(*gaps, abs(float(decide.target_probability(probabilities, schema)) - limit))


def roles_if_any(pairset: PairSet, spec: RoleSpec) -> Roles | None:
    """Roles of a collection; None if it is too small to fill them, and so cannot be the one of the training."""
    try:
        return assign(pairset, spec)
    except EdgeskinError:
        return None
