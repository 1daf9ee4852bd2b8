"""One checkpoint, one recipe -> the draft of a bundle: quantised, proven, with golden cases."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeskin import backends, golden, kits, out, provenance, swapped
from edgeskin.bundle import Draft
from edgeskin.data.pairs import Pair
from edgeskin.data.roles import Roles, role_hash
from edgeskin.engine.memory import needs
from edgeskin.files import canonical_json, os_errors, sha256_bytes
from edgeskin.preprocess import prepare
from edgeskin.proving import (
    ControlRole,
    Logits,
    answers,
    audited,
    kept_answers,
    refuse_ungated,
    through_the_gate,
    timed,
)
from edgeskin.quantize.store import FrameStore
from edgeskin.spec.audit import AuditResult
from edgeskin.spec.engine import KitEvidence
from edgeskin.spec.evidence import Evidence, Tuned
from edgeskin.spec.gated import GateResult
from edgeskin.spec.manifest import IMAGES, MODES, Compatibility, Gated, GraphEntry, Mode, Provenance
from edgeskin.spec.quality import Quality
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.roles import Role
from edgeskin.spec.search import SearchResult, Speed
from edgeskin.spec.train import Checkpoint

_BUILT = 4  # of a search's candidates, built one after another until both graphs hold the gate


@dataclass(frozen=True)
class Source:
    """A checkpoint and its FP32 graphs."""

    run: Path
    record: Checkpoint
    identity: str  # sha256 of checkpoint.json
    graphs: Mapping[Mode, Path]


@dataclass(frozen=True)
class Request:
    """What was asked of an export, beside its recipe."""

    name: str  # of the bundle
    sha256: str  # of everything that was asked
    budget_s: float  # of a search; 0: none
    tuned: Tuned | None  # the fine-tuning that made the source
    timing: bool
    allow_ungated: bool
    kit_for: Compatibility | None = None  # target tensorrt


@dataclass(frozen=True)
class Built:
    """A quantised build: its files, what it answers to the control role, and what the gate says of that."""

    plan: Recipe
    models: dict[Mode, Path]
    core: Logits
    gated: Gated
    checked: GateResult | None


def onnx_graphs(run: Path, record: Checkpoint, identity: str, opset: int) -> dict[Mode, Path]:
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


def build(
    teacher: Source,
    source: Source,
    plan: Recipe,
    roles: Roles,
    usable: list[Pair],
    work: Path,
    asked: Request,
) -> Draft:
    """Quantise, prove, and lay out what goes into the bundle. The reference is the teacher in FP32."""
    record, folder = source.record, work / "bundle"
    reference = _reference(teacher, plan, folder)
    fp32 = {mode: folder / entry.file for mode, entry in reference.items()}
    search: SearchResult | None = None
    speed: Speed | None = None
    checked: GateResult | None = None
    audit: AuditResult | None = None
    built: Built | None = None
    if plan.precision == "int8":
        frames = stored(teacher, "calibration", usable)
        control = _answered(teacher, "control", roles["control"], fp32, plan)
        plans = [plan]
        if asked.budget_s:
            plans, search = _searched(source, plan, frames, control, asked)
        built = _first_that_holds(source, plans[:_BUILT], frames, control, work, folder, asked)
        plan, models, gated, checked = built.plan, built.models, built.gated, built.checked
        if search is not None:
            search = settled(search, plan)
        audit = audited(models, plan) if asked.kit_for is None else None  # of a kit, the device audits what it compiles
        speed = timed(models["pair"], fp32["pair"], plan) if asked.timing else None
        if speed is not None and not speed.int8_is_faster:
            out.note(f"INT8 is not shipped: {speed.why}; the bundle runs in FP32")
            shutil.rmtree(folder / "model")
            gated, checked, audit = Gated(status="not needed", why=f"INT8 is not shipped: {speed.why}"), None, None
            plan = in_fp32(plan)
    else:
        gated = Gated(status="not needed", why=f"the bundle runs in {plan.precision.upper()}")
    if plan.precision != "int8":
        models = _floating(source, plan, folder)
    core = {
        mode: GraphEntry(file=f"model/{path.name}", images=IMAGES[mode], precision=plan.precision)
        for mode, path in models.items()
    }
    cases = golden.drawn(record.preprocess)
    drawn = {
        mode: golden.asked(backends.get(plan.target).open(path, precision_hint=plan.precision_hint), cases, mode)
        for mode, path in models.items()
    }
    kit: KitEvidence | None = None
    if asked.kit_for is not None:
        kits.refuse_overflow(models, cases)
        given = {role: _answered(teacher, role, kits.some(role, roles[role]), fp32, plan) for role in kits.ROLES}
        asked_before: dict[Role, Logits] = {"control": built.core} if built else {}
        emulated = {
            role: asked_before.get(role) or answers(models, plan, one.frames, one.paired, f"{role} role, emulated")
            for role, one in given.items()
        }
        kits.write_answers(folder / kits.ANSWERS, given, emulated)
        kits.write_drawn(folder / kits.DRAWN, cases, drawn)
        kit = kits.evidence(
            models, asked.kit_for, record, given, emulated, {mode: needs(path) for mode, path in fp32.items()}
        )
    return Draft(
        name=asked.name,
        folder=folder,
        graphs=core,
        reference=reference,
        golden=[one for mode in MODES for one in golden.surest(cases, drawn[mode], mode, record, plan.precision)],
        recipe=plan,
        checkpoint=record,
        quality=_quality(teacher, roles, usable),
        gated=gated,
        evidence=Evidence(
            bundle=asked.name, gate=checked, audit=audit, search=search, speed=speed, qat=asked.tuned, kit=kit
        ),
        compatibility=asked.kit_for,
        stage="kit" if kit else "ready",
        fp16=kits.half_graphs(source.graphs, plan, folder) if kit and plan.precision == "int8" else {},
        answers_file=kits.ANSWERS if kit else "",
        provenance=Provenance(
            checkpoint_sha256=source.identity,
            checkpoint_weights_sha256=record.weights_sha256,
            git_revision=provenance.git_revision(),
            versions=provenance.versions(),
            machine=provenance.machine(),
            created=provenance.now(),
            calibration_sha256=role_hash(p.lesion_id for p in usable) if plan.precision == "int8" else "",
            calibration_pairs=len(usable) if plan.precision == "int8" else 0,
            request_sha256=asked.sha256,
        ),
    )


def _first_that_holds(
    source: Source,
    plans: Sequence[Recipe],
    frames: FrameStore,
    control: ControlRole,
    work: Path,
    folder: Path,
    asked: Request,
) -> Built:
    """Build recipe after recipe until both graphs hold the gate; the first one, ungated, if none does.

    Raises:
        EdgeskinError: none does, and that is not allowed.
    """
    found: list[Built] = []
    for plan in plans:
        models = _quantised(source, plan, frames, work, folder, asked)
        gated = plan.gate is not None or asked.kit_for is not None
        core = answers(models, plan, control.frames, control.paired, "gate: control role") if gated else {}
        built = Built(plan, models, core, *through_the_gate(core, plan, source.record, control))
        if built.gated.status == "passed":
            return built
        out.note(f"gate: {built.gated.why}")
        found.append(built)
    first = found[0]
    if not asked.allow_ungated:
        refuse_ungated(first.plan, first.checked)
    if len(plans) > 1:  # the last one's files lie there
        _quantised(source, first.plan, frames, work, folder, asked)
    return first


def settled(search: SearchResult, plan: Recipe) -> SearchResult:
    """The record of a search whose first choice did not hold the gate with both graphs, so that another was built."""
    same = {"name": ""}
    built = next(one for one in search.candidates if one.recipe.model_copy(update=same) == plan.model_copy(update=same))
    if built.name == search.chosen:
        return search
    why = "the gate fails with the dermoscopic graph"
    order = [
        one.model_copy(update={"why_not": "" if one is built else one.why_not or why}) for one in search.candidates
    ]
    notes = (*search.notes, f"built {built.name}: {search.chosen} holds the gate with pairs alone")
    return search.model_copy(update={"candidates": tuple(order), "chosen": built.name, "notes": notes})


def in_fp32(plan: Recipe) -> Recipe:
    """The recipe with nothing quantised."""
    plain = Recipe(name=plan.name, target=plan.target, precision="fp32", note=plan.note, opset=plan.opset)
    return plain.model_copy(update={"inference_precision": plan.inference_precision})


def _reference(teacher: Source, plan: Recipe, folder: Path) -> dict[Mode, GraphEntry]:
    backend, found = backends.get(plan.target), {}
    for mode in MODES:
        plain = backend.build(teacher.graphs[mode], folder / "reference", in_fp32(plan), stem=mode)[0]
        found[mode] = GraphEntry(file=f"reference/{plain}", images=IMAGES[mode], precision="fp32")
    return found


def _floating(source: Source, plan: Recipe, folder: Path) -> dict[Mode, Path]:
    build = backends.get(plan.target).build
    return {mode: folder / "model" / build(source.graphs[mode], folder / "model", plan, stem=mode)[0] for mode in MODES}


def stored(teacher: Source, role: str, pairs: Sequence[Pair], *, unpaired: bool = False) -> FrameStore:
    """Frames of these pairs in one file of the run, prepared once for every export."""
    how = teacher.record.preprocess
    key = FrameStore.key_of(pairs, how)
    with out.progress(f"{role} frames", len(pairs)) as step:
        return FrameStore.write(
            teacher.run / "prepared" / f"{role}-{key[:12]}.npy",
            key,
            pairs,
            lambda photo: prepare(photo, how),
            step,
            unpaired=unpaired,
        )


def _quality(teacher: Source, roles: Roles, usable: Sequence[Pair]) -> Quality:
    """Thresholds of the quality gate: the defaults, and what tells exchanged images in this data."""
    both = [pair for pair in roles["calibration"] if pair.clinical is not None]
    calibration = stored(teacher, "calibration", usable or both)  # a bundle in FP32 is not calibrated
    control = stored(teacher, "control", roles["control"], unpaired=True)
    found, told = swapped.fitted(calibration, control.select(np.flatnonzero(control.paired).tolist()))
    out.note(told)
    return found


def _quantised(
    source: Source, plan: Recipe, frames: FrameStore, work: Path, folder: Path, asked: Request
) -> dict[Mode, Path]:
    from edgeskin.quantize.ptq import quantize

    backend, found = backends.get(plan.target), {}
    for mode in MODES:
        with out.progress(f"calibrating {mode}", len(frames)) as step:
            quantized = quantize(source.graphs[mode], frames, plan, work / "quantized", step)
        found[mode] = folder / "model" / backend.build(quantized, folder / "model", plan, stem=mode)[0]
    if asked.kit_for is not None:
        kits.refuse_unfit(found, asked.kit_for.tensorrt)
    return found


def _answered(
    teacher: Source, role: str, pairs: Sequence[Pair], fp32: Mapping[Mode, Path], plan: Recipe
) -> ControlRole:
    """A role's frames, and what FP32 answers to them in the target's engine: asked once for all exports."""
    frames = stored(teacher, role, pairs, unpaired=True)
    paired = np.array([pair.clinical is not None for pair in pairs])
    plain = in_fp32(plan)
    machine = [provenance.processor() or provenance.machine(), backends.usable_cores(), provenance.versions()]
    key = [teacher.identity, frames.path.name, plain.target, plain.opset, plain.precision_hint, *machine]
    path = frames.path.parent / f"answers-{sha256_bytes(canonical_json(key).encode())[:12]}.npz"
    found = kept_answers(path, lambda: answers(fp32, plain, frames, paired, f"{role} role in FP32"))
    return ControlRole(pairs, frames, paired, found)


def _searched(
    source: Source, plan: Recipe, frames: FrameStore, control: ControlRole, asked: Request
) -> tuple[list[Recipe], SearchResult]:
    """Search within the budget; state and models lie in the run, so that a killed search goes on."""
    from edgeskin.benchmark.turns import in_turns
    from edgeskin.quantize.search import search
    from edgeskin.quantize.trials import Control, Trials

    both = np.flatnonzero(control.paired).tolist()
    plain = {mode: control.reference[mode][control.paired] for mode in MODES}
    lesions = Control(
        [control.pairs[i] for i in both], control.frames.select(both), plain["pair"], plain["dermoscopic"]
    )
    stores = [frames.path.name, control.frames.path.name]
    key = [source.identity, plan.to_json(), *stores, len(frames), provenance.versions()]
    folder = source.run / f"search-{plan.target}-{sha256_bytes(canonical_json(key).encode())[:12]}"
    trials = Trials(
        source.graphs["pair"], frames, lesions, source.record, plan.target, folder,
        budget_s=asked.budget_s, alone=source.graphs["dermoscopic"],
    )  # fmt: skip
    return search(trials, plan, in_turns if asked.kit_for is None else None)
