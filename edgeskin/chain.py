"""The chain: the only module that calls one stage after another."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edgeskin import catalog, out, provenance
from edgeskin.bundle import Bundle, open_bundle
from edgeskin.data import registry
from edgeskin.data.pairs import Pair, PairSet
from edgeskin.data.roles import Roles, assign
from edgeskin.errors import EdgeskinError, unknown
from edgeskin.exporting import export, roles_if_any, tune
from edgeskin.spec.base import Spec
from edgeskin.spec.bench import BenchResult
from edgeskin.spec.comparison import Comparison
from edgeskin.spec.device import Beside, Device
from edgeskin.spec.explanation import Explained
from edgeskin.spec.hosts import FleetResult
from edgeskin.spec.manifest import Manifest
from edgeskin.spec.result import VerifyResult
from edgeskin.spec.train import Checkpoint, DataSpec, NetworkSpec, TrainSpec

if TYPE_CHECKING:
    from edgeskin.sealing import Options

__all__ = [
    "bench",
    "build",
    "build_here",
    "compare",
    "data_is_here",
    "estimates",
    "export",
    "fleet",
    "golden_only",
    "load_roles",
    "read_result",
    "report",
    "train",
    "tune",
    "verify",
]

R = TypeVar("R", bound=Spec)


def load_roles(data: DataSpec) -> tuple[PairSet, Roles]:
    """The pairs of a data set and their roles."""
    pairset = registry.load_pairs(data.name, Path(data.root), data.schema_name, data.border_px)
    return pairset, assign(pairset, data.roles)


def train(data: DataSpec, network: NetworkSpec, spec: TrainSpec, weights: str, folder: Path) -> Checkpoint:
    """Check every image, then train. Raises EdgeskinError with all faults of the data before the first step."""
    from edgeskin.data.check import check_images
    from edgeskin.training.train import train as fit

    pairset, roles = load_roles(data)
    return fit(pairset, roles, data, network, spec, weights, folder, check=partial(check_images, pairset))


def build(
    kit: Path,
    folder: Path,
    options: "Options | None" = None,
    *,
    root: str = "",
    trtexec: bool = False,
    allow_ungated: bool = False,
    key: Path | None = None,
) -> Manifest:
    """Build the engine of a kit on this machine, prove it, and seal it into a bundle.

    Args:
        root: where the kit's data lies, if it is here and not where the training found it; without it the gate is the
            one of the emulation.
        trtexec: build with TensorRT's program instead of its Python package.
        allow_ungated: seal the engine, marked as such, although the gate does not hold.
        key: private key that signs the bundle; without a password.

    Raises:
        EdgeskinError: no kit, one for another machine, and what `sealing.build` refuses.
    """
    from edgeskin import nearness, sealing
    from edgeskin import tensorrt_here as here
    from edgeskin.engine import maker, memory

    opened, asked = open_bundle(kit), options or sealing.Options()
    sealing.refuse_other(opened)
    bound = opened.manifest.compatibility
    assert bound is not None  # every kit has one
    if asked.dla_core is not None:
        here.dla(here.board(bound), bound.tensorrt, asked.dla_core)
    chosen = maker.find(opened.manifest, program=trtexec)
    here.check(bound, chosen.compatibility)
    if sealing.is_built(opened, folder, chosen.compatibility, asked):
        out.note(f"{folder}: built before from this kit on this machine, nothing to do")
        return _signed(folder, key)
    asked_lesions: sealing.Ask | None = None
    if trtexec:
        out.note("trtexec answers one question in seconds: no lesion is put to it, the gate is the emulation's")
    elif root or Path(opened.manifest.data.root).is_dir():
        asked_lesions = partial(nearness.put_to_lesions, opened, root=root, allow_ungated=allow_ungated)
    else:
        out.note("the data of the kit is not here: the gate is the one of the emulation; pass --root to ask the engine")
    sealing.build(opened, folder, chosen, memory.here(), asked, asked_lesions)
    return _signed(folder, key)


def _signed(bundle: Path, key: Path | None) -> Manifest:
    """The bundle's manifest, once it is signed if that was asked."""
    from edgeskin import signing

    if key is not None:
        signing.sign(bundle, key)
    return open_bundle(bundle).manifest


def build_here(kit: Path, *, root: str = "", allow_ungated: bool = False) -> Path | None:
    """Build the engine of a kit at once, beside it as `<kit>-engine`, if this machine is the one that it is for."""
    from edgeskin import tensorrt_here as here

    bound, found = open_bundle(kit).manifest.compatibility, here.here()
    if bound is None or isinstance(found, str):
        return None
    try:
        here.check(bound, found)
    except EdgeskinError as error:
        out.note(f"no engine built here: {error.line()}")
        return None
    folder = kit.with_name(f"{kit.name}-engine")
    build(kit, folder, root=root, allow_ungated=allow_ungated)
    return folder


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
    roles = roles_if_any(pairset, source.roles)
    check_roles(manifest, roles.records() if roles else {})
    assert roles is not None  # else check_roles has refused
    return pairset, roles["test" if role == "test" else "control"]


def data_is_here(bundle: Path) -> bool:
    """Whether the data a bundle was made with lies where its training found it."""
    return Path(open_bundle(bundle).manifest.data.root).is_dir()


def bench(
    bundle: Path, suite: str, *, threads: int = 0, verified: Path | None = None, accuracy: bool = False,
    loadgen: bool = False,
) -> BenchResult:  # fmt: skip
    """Latency and memory of a bundle on this machine, with the accuracy of the same bytes where it is known.

    Args:
        verified: a verify result of this bundle.
        accuracy: without one, score the test role first, if its data is here.
        loadgen: also ask through MLPerf LoadGen.
    """
    from edgeskin.benchmark import loadgen as peer
    from edgeskin.benchmark import scenarios
    from edgeskin.runtime import refuse_kit

    plan = catalog.suite(suite)
    refuse_kit(open_bundle(bundle))  # before minutes go into its accuracy
    if loadgen:
        peer.require()
    known = read_result(VerifyResult, verified) if verified else None
    if known is None and accuracy and data_is_here(bundle):
        known = verify(bundle, threads=threads)
    return scenarios.run(bundle, plan, threads=threads, verify=known, with_loadgen=loadgen)


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
    pictures: bool = True,
    explained: Sequence[Path] = (),
) -> Path:
    """One HTML page, its Markdown twin and their JSON, out of bundles and what verify and bench wrote about them.

    Args:
        pictures: show lesions that flip, where the data is on this machine, and those explained; the page then holds
            images of the data set.
        explained: what `edgeskin explain --role` wrote.

    Raises:
        EdgeskinError: a result is of none of these bundles or their network, or of another schema version.
    """
    from edgeskin.pictures import flipped
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
    looks = [read_result(Explained, path) for path in explained]
    log = run / "logs" / "csv" / "metrics.csv" if run else None
    given = ReportInput(
        title=title,
        bundles=tuple(
            BundleInput(
                manifest=b.manifest,
                sha256=b.sha256,
                verify=(check := checks.get(b.sha256)),
                bench=speeds.get(b.sha256),
                evidence=b.evidence(),
                thumbnails=flipped(b, check) if pictures else {},
            )
            for b in opened
        ),
        training=read_training(log) if log and log.is_file() else (),
        explained=tuple(looks if pictures else [look.bare() for look in looks]),
        commands=tuple(commands),
        created=provenance.now(),
    )
    return render(given, page)


def read_result(kind: type[R], path: Path) -> R:
    """A verify or bench result from its JSON file."""
    from edgeskin.benchmark.compare import read_json

    return kind.parse(read_json(path, str(kind.model_fields["format"].default)), str(path))
