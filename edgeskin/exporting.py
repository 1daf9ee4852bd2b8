"""Checkpoint -> bundle: what is asked for, with which lesions, sealed, and what runs fastest here."""

import shutil
from pathlib import Path

from edgeskin import backends, catalog, out, provenance
from edgeskin.building import Request, Source, build, onnx_graphs
from edgeskin.bundle import add_tuning, open_bundle, write_bundle
from edgeskin.data import registry
from edgeskin.data.pairs import Pair, PairSet
from edgeskin.data.roles import Roles, assign
from edgeskin.errors import EdgeskinError
from edgeskin.files import canonical_json, os_errors, sha256_bytes, sha256_file
from edgeskin.quantize.calibration import refuse_overlap
from edgeskin.spec.evidence import Tuned
from edgeskin.spec.manifest import MANIFEST, Compatibility, Manifest
from edgeskin.spec.qat import QatSpec
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.roles import RoleSpec


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
    budget_s: float = 0.0,
    qat: QatSpec | None = None,
    allow_ungated: bool = False,
    jetpack: str = "",
) -> Manifest:
    """Checkpoint -> FP32 ONNX -> INT8 -> gate, audit -> bundle. One that is there already is left alone.

    Args:
        recipe: name or path; "" = `<target>-int8`.
        root: where the data lies now, if not where the run found it.
        calibration_pairs: instead of the recipe's number; 0 = the recipe's.
        tuned: also measure on this machine: whether INT8 is faster than higher precision (else the bundle runs in
            FP32), and how it runs fastest. Pass False where the bundle is for another machine.
        budget_s: seconds for a search of what to quantise and how; 0: as the recipe says.
        qat: fine-tune the network under quantisation first.
        allow_ungated: write the bundle, marked as such, although the gate does not hold.
        jetpack: target tensorrt: release on the device, "6.2"; "" = the newest that its profile lists.

    Target tensorrt gives a build kit: the device, or this machine if `device` is "", builds its engine from it.

    Raises:
        EdgeskinError: unknown target, recipe or device, an unfinished run, data that changed since the training, a
            gate that does not hold, layers that silently run in floating point.
    """
    from edgeskin.model.checkpoint import RECORD, read_record

    plan = _recipe(target, recipe, device, calibration_pairs)
    kit_for = _kit_for(target, device, jetpack)
    tuned = tuned and kit_for is None  # of a kit the device measures what is faster
    record = read_record(run)
    if record.network.modalities != "both":
        raise EdgeskinError(
            "this network is to compare with, no bundle takes it",
            got=f"{run}, trained on {record.network.modalities} images alone",
            possible="networks for both images, which also answer to the dermoscopic one alone",
            fix="train with `--modalities both`",
        )
    identity = sha256_file(run / RECORD)
    wanted = [identity, plan.to_json(), tuned, budget_s > 0, qat.to_json() if qat else None, allow_ungated]
    wanted += [kit_for.to_json()] if kit_for else []
    request = sha256_bytes(canonical_json(wanted).encode())
    if _up_to_date(bundle, request):
        out.note(f"{bundle}: exported before from this checkpoint with this recipe, nothing to do")
        return open_bundle(bundle).manifest
    data = record.data.model_copy(update={"root": root}) if root else record.data
    pairset = registry.load_pairs(data.name, Path(data.root), data.schema_name, data.border_px)
    roles = roles_if_any(pairset, data.roles)
    if roles is None or roles.records() != record.roles:
        raise EdgeskinError(
            "the data changed since the training", got=data.root, fix="pass the same data by --root, or train again"
        )
    usable = _calibration(roles, plan)
    teacher = Source(run, record, identity, onnx_graphs(run, record, identity, plan.opset))
    source, tuning = teacher, None
    if qat:
        source, tuning = _fine_tuned(teacher, pairset, roles, qat, plan.opset)
        # The network learned to answer like FP32 when rounded; correcting it would lead back to its own FP32 answers.
        plan = plan.model_copy(update={"bias_correction": False})
    work = run / f"work-{plan.name}"  # of a killed run, what its calibration noted is taken up
    shutil.rmtree(work / "bundle", ignore_errors=True)
    try:
        with os_errors(work):
            asked = Request(
                bundle.name, request, budget_s, tuning, timing=tuned, allow_ungated=allow_ungated, kit_for=kit_for
            )
            draft = build(teacher, source, plan, roles, usable, work, asked)
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
        EdgeskinError: an engine of TensorRT, the bundle is packed, its engine is absent, the system does not name its
            processor, or others use it.
    """
    from edgeskin.benchmark import tune as stage

    opened = open_bundle(bundle)
    if opened.manifest.target == "tensorrt":
        raise EdgeskinError(
            "TensorRT chooses what runs fastest when it builds",
            got=str(bundle),
            possible="bundles of targets openvino and onnxruntime",
            fix="build the engine again on the device: `edgeskin build KIT`",
        )
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


def _kit_for(target: str, device: str, jetpack: str) -> Compatibility | None:
    """What the engine of a kit will be bound to; None for another target."""
    from edgeskin import tensorrt_here as here

    if target != "tensorrt":
        if jetpack:
            raise EdgeskinError("--jetpack is for target tensorrt", got=f"target {target}", fix="drop --jetpack")
        return None
    if device:
        board = catalog.device(device)
        line = here.software(board, jetpack)
        return Compatibility(
            device=board.name,
            arch=board.arch,
            sm=board.sm,
            tensorrt=line.tensorrt,
            cuda=line.cuda,
            jetpack=line.jetpack,
        )
    if isinstance(found := here.here(), str):
        boards = [name for name in catalog.device_names() if here.usable_lines(catalog.device(name))]
        raise EdgeskinError(
            "target tensorrt needs to know the device", got=f"no --device, and {found}", possible=boards, fix="pass it"
        )
    return found


def _up_to_date(bundle: Path, request: str) -> bool:
    if not (bundle / MANIFEST).is_file():
        return False
    try:
        made = open_bundle(bundle).manifest.provenance
    except EdgeskinError:
        return False  # damaged: build it again
    now = {k: v for k, v in provenance.versions().items() if k != "python"}
    return made.request_sha256 == request and {k: v for k, v in made.versions.items() if k != "python"} == now


def _calibration(roles: Roles, plan: Recipe) -> list[Pair]:
    """The pairs that calibrate: enough of them, and none of a role that controls or tests."""
    usable = [pair for pair in roles["calibration"] if pair.clinical is not None][: plan.calibration_pairs]
    if len(usable) < plan.calibration_pairs:  # told before the minutes that the ONNX export takes
        raise EdgeskinError(
            "too few calibration pairs",
            got=f"{len(usable)} with both images in role calibration",
            possible=f"{plan.calibration_pairs} or more, as recipe {plan.name} asks",
            fix=f"pass --calibration-pairs {len(usable)}, or train with a larger --calibration share",
        )
    others = {role: [pair.lesion_id for pair in roles[role]] for role in ("control", "test")}
    refuse_overlap([pair.lesion_id for pair in usable], others)
    return usable


def _fine_tuned(teacher: Source, pairset: PairSet, roles: Roles, spec: QatSpec, opset: int) -> tuple[Source, Tuned]:
    """The network after quantisation-aware training, kept in the run for every target."""
    from edgeskin.model.checkpoint import RECORD
    from edgeskin.training import qat

    folder = teacher.run / f"qat-{sha256_bytes(canonical_json(spec.to_json()).encode())[:12]}"
    record = qat.qat(teacher.run, teacher.record, pairset, roles, spec, folder)
    identity = sha256_file(folder / RECORD)
    return Source(folder, record, identity, onnx_graphs(folder, record, identity, opset)), qat.read_qat(folder).tuned


def roles_if_any(pairset: PairSet, spec: RoleSpec) -> Roles | None:
    """Roles of a collection; None if it is too small to fill them, and so cannot be the one of the training."""
    try:
        return assign(pairset, spec)
    except EdgeskinError:
        return None
