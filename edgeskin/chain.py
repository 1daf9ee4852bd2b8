"""The chain: the only module that calls one stage after another."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeskin import backends, catalog, decide, out, provenance
from edgeskin.bundle import Bundle, Draft, Golden, add_tuning, open_bundle, write_bundle
from edgeskin.data import registry
from edgeskin.data.pairs import Pair, PairSet
from edgeskin.data.roles import Roles, assign, role_hash
from edgeskin.errors import EdgeskinError, unknown
from edgeskin.files import canonical_json, os_errors, sha256_bytes, sha256_file
from edgeskin.preprocess import prepare
from edgeskin.spec.base import Spec
from edgeskin.spec.bench import BenchResult
from edgeskin.spec.comparison import Comparison
from edgeskin.spec.device import Beside, Device
from edgeskin.spec.hosts import FleetResult
from edgeskin.spec.manifest import IMAGES, MANIFEST, MODES, GraphEntry, Manifest, Mode, Provenance
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.result import VerifyResult
from edgeskin.spec.roles import RoleSpec
from edgeskin.spec.train import Checkpoint, DataSpec, NetworkSpec, TrainSpec

R = TypeVar("R", bound=Spec)

# max |logits - expected| on another machine of the kind. INT8 kernels differ in saturation and rounding between
# instruction sets (up to 0.15 logits seen between x86-64 and aarch64); FP32 only in the order of sums.
GOLDEN_TOLERANCE = {"int8": 0.5, "fp32": 0.02}
_GOLDEN_DRAWN, _GOLDEN_KEPT = 24, 4


def load_roles(data: DataSpec) -> tuple[PairSet, Roles]:
    """The pairs of a data set and their roles."""
    pairset = registry.load_pairs(data.name, Path(data.root), data.schema_name, data.border_px)
    return pairset, assign(pairset, data.roles)


def train(data: DataSpec, network: NetworkSpec, spec: TrainSpec, weights: str, folder: Path) -> Checkpoint:
    """Check every image, then train. Raises EdgeskinError with all faults of the data before the first step."""
    from edgeskin.data.check import check_images
    from edgeskin.model.checkpoint import RECORD
    from edgeskin.training.train import train as fit

    pairset, roles = load_roles(data)
    if not (folder / RECORD).is_file():
        check_images(pairset)
    return fit(pairset, roles, data, network, spec, weights, folder)


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
    roles = _roles_if_any(pairset, data.roles)
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
    return tune(bundle) if tuned and provenance.processor() else manifest


def tune(bundle: Path) -> Manifest:
    """Measure how the bundle runs fastest on this processor, and seal it anew with the answer.

    Raises:
        EdgeskinError: the bundle is packed, its engine is absent, or the system does not name its processor.
    """
    from edgeskin.benchmark import tune as stage

    opened = open_bundle(bundle)
    with out.progress("tuning to this processor", stage.WARM_UP + stage.ROUNDS) as step:
        found = stage.tune(opened, step)
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


def verify(
    bundle: Path, *, role: str = "test", data: str = "", root: str = "", schema: str = "", threads: int = 0,
    bootstrap: int = 1000,
) -> VerifyResult:  # fmt: skip
    """Verify a bundle on a role of the data it was made with, or on a fresh collection with role "all".

    Raises:
        EdgeskinError: unknown role, a tampered bundle, lesions that are not those of the role, no unseen lesion.
    """
    from edgeskin.benchmark import environment
    from edgeskin.verify import unseen
    from edgeskin.verify import verify as check

    if role not in ("test", "control", "all"):
        raise unknown("role", role, ["test", "control", "all"])
    opened = open_bundle(bundle)
    pairset, chosen = _pairs_to_score(opened, role, data, root, schema)
    notes: tuple[str, ...] = ()
    if role == "all":
        kept, dropped = unseen(chosen, opened.lesion_hashes())
        notes = (f"{dropped} lesions left out: the bundle was made with them",) if dropped else ()
        chosen = tuple(kept)
    return check(
        opened,
        chosen,
        role=role,
        data=pairset.name,
        threads=threads,
        bootstrap=bootstrap,
        notes=notes,
        environment=environment.record(threads=threads).to_json(),
    )


def golden_only(bundle: Path, *, threads: int = 0) -> VerifyResult:
    """What can be verified on a machine without the data: hashes and golden cases."""
    from edgeskin.verify import verify_golden

    out.note("the data of the training is not here: golden cases only; pass --data and --root to score lesions")
    return verify_golden(open_bundle(bundle), threads=threads)


def _pairs_to_score(bundle: Bundle, role: str, data: str, root: str, schema: str) -> tuple[PairSet, tuple[Pair, ...]]:
    from edgeskin.verify import check_roles

    manifest = bundle.manifest
    source = manifest.data
    pairset = registry.load_pairs(
        data or source.name, Path(root or source.root), schema or source.schema_name, source.border_px
    )
    if [t.class_names for t in pairset.schema.tasks] != [t.class_names for t in manifest.task_schema.tasks]:
        raise EdgeskinError(
            "the data has another schema than the bundle",
            got=pairset.schema.name,
            possible=manifest.task_schema.name,
            fix="pass --schema",
        )
    if role == "all":
        return pairset, pairset.pairs
    roles = _roles_if_any(pairset, source.roles)
    check_roles(manifest, roles.records() if roles else {})
    assert roles is not None  # else check_roles has refused
    return pairset, roles["test" if role == "test" else "control"]


def _roles_if_any(pairset: PairSet, spec: RoleSpec) -> Roles | None:
    """Roles of a collection; None if it is too small to fill them, and so cannot be the one of the training."""
    try:
        return assign(pairset, spec)
    except EdgeskinError:
        return None


def data_is_here(bundle: Path) -> bool:
    """Whether the data a bundle was made with lies where its training found it."""
    return Path(open_bundle(bundle).manifest.data.root).is_dir()


def bench(
    bundle: Path, suite: str, *, threads: int = 0, verified: Path | None = None, accuracy: bool = False
) -> BenchResult:
    """Latency and memory of a bundle on this machine, with the accuracy of the same bytes where it is known.

    Args:
        verified: a verify result of this bundle.
        accuracy: without one, score the test role first, if its data is here.
    """
    from edgeskin.benchmark import scenarios

    plan = catalog.suite(suite)
    known = read_result(VerifyResult, verified) if verified else None
    if known is None and accuracy and data_is_here(bundle):
        known = verify(bundle, threads=threads)
    return scenarios.run(bundle, plan, threads=threads, verify=known)


def compare(a: Path, b: Path, *, anyway: bool = False) -> Comparison:
    """Two bench results side by side. Raises EdgeskinError where their conditions do not allow it."""
    from edgeskin.benchmark import compare as stage

    return stage.compare(stage.read(a), stage.read(b), anyway=anyway)


def fleet(
    bundle: Path, hosts: Path, folder: Path, *, suite: str = "standard", threads: int = 0, again: bool = False
) -> FleetResult:
    """Measure a bundle on boards over SSH; results go to `folder`, a board that fails is a row with its reason."""
    from edgeskin.benchmark import fleet as stage

    return stage.run(bundle, stage.read_hosts(hosts), folder, suite=suite, threads=threads, again=again)


def estimates(bundle: Path, devices: Sequence[Device], benched: Path | None = None) -> list[Beside]:
    """Roofline estimates of a bundle's pair graph on boards and on this computer, beside a measured value.

    Raises:
        EdgeskinError: the bench result is of another bundle.
    """
    from edgeskin.benchmark import compare, roofline

    opened = open_bundle(bundle)
    bench = compare.read(benched) if benched else None
    if bench is not None and bench.bundle_sha256 != opened.sha256:
        raise EdgeskinError(
            "the bench result is of another bundle",
            got=bench.bundle_sha256[:12],
            possible=opened.sha256[:12],
            fix="run `edgeskin bench` on this bundle",
        )
    found = [one for device in [*devices, roofline.this_computer()] for one in roofline.estimates(opened, device)]
    return [
        roofline.beside(one, bench) if bench else Beside(estimate=one, measured_p50_ms=None, reached=None)
        for one in found
    ]


def report(
    bundles: Sequence[Path],
    verified: Sequence[Path],
    benched: Sequence[Path],
    page: Path,
    *,
    run: Path | None = None,
    title: str = "edgeskin report",
    commands: Sequence[str] = (),
) -> Path:
    """One HTML page, its Markdown twin and their JSON, out of bundles and what verify and bench wrote about them.

    Raises:
        EdgeskinError: a result is of none of these bundles, or of another schema version.
    """
    from edgeskin.report.html import render
    from edgeskin.report.inputs import BundleInput, ReportInput, read_training

    opened = [open_bundle(path) for path in bundles]
    checks = {r.bundle_sha256: r for r in (read_result(VerifyResult, path) for path in verified)}
    speeds = {r.bundle_sha256: r for r in (read_result(BenchResult, path) for path in benched)}
    if foreign := (checks.keys() | speeds.keys()) - {bundle.sha256 for bundle in opened}:
        raise EdgeskinError(
            "a result is of none of these bundles",
            got=", ".join(h[:12] for h in foreign),
            fix="verify and bench them again",
        )
    log = run / "logs" / "csv" / "metrics.csv" if run else None
    given = ReportInput(
        title=title,
        bundles=tuple(
            BundleInput(manifest=b.manifest, sha256=b.sha256, verify=checks.get(b.sha256), bench=speeds.get(b.sha256))
            for b in opened
        ),
        training=read_training(log) if log and log.is_file() else (),
        commands=tuple(commands),
        created=provenance.now(),
    )
    return render(given, page)


def read_result(kind: type[R], path: Path) -> R:
    """A verify or bench result from its JSON file."""
    from edgeskin.benchmark.compare import read_json

    return kind.parse(read_json(path, str(kind.model_fields["format"].default)), str(path))
