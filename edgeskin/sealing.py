"""Build kit -> engine, on the device: built several times, audited, held against the emulation, timed, sealed."""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from edgeskin import audit, decide, golden, kits, metrics, out, provenance
from edgeskin.backends import Session
from edgeskin.benchmark.statistics import ratio
from edgeskin.benchmark.turns import in_turns
from edgeskin.bundle import Draft, write_bundle
from edgeskin.engine.maker import Limits, Maker
from edgeskin.engine.memory import Available, estimate, refuse
from edgeskin.engine.program import Asked
from edgeskin.env import cache_dir
from edgeskin.errors import EdgeskinError
from edgeskin.files import canonical_json, os_errors, pretty_json, sha256_bytes, sha256_file, write_atomic
from edgeskin.opening import Bundle, open_bundle
from edgeskin.scoring import Deciding
from edgeskin.spec.audit import AuditResult
from edgeskin.spec.engine import EngineEvidence, KitEvidence, MemoryEstimate, Nearness, Rebuild
from edgeskin.spec.evidence import Evidence
from edgeskin.spec.gated import GateResult
from edgeskin.spec.manifest import IMAGES, MANIFEST, MODES, Compatibility, Gated, GraphEntry, Manifest, Mode
from edgeskin.spec.recipe import Precision, Recipe
from edgeskin.spec.result import Estimate
from edgeskin.spec.search import Speed

Ask = Callable[[Mapping[Mode, Session], Path], tuple[Gated, GateResult | None, tuple[Nearness, ...]]]
_ROUNDS = 200  # of the timing of INT8 beside FP16
_TIMED_ONCE = 50  # rounds for one rebuild among several
_SURE = 0.02  # in probability: nearer to a tie no decision is sure
_SQNR_DB = 10.0  # of the logits: rounding elsewhere leaves more, another network less
_SUREST = 4  # drawn cases of which no decision may differ


@dataclass(frozen=True)
class Options:
    """What was asked of a build."""

    rebuilds: int = 3
    workspace_mb: int | None = None
    dla_core: int | None = None


def build(
    kit: Bundle, folder: Path, maker: Maker, memory: Available, options: Options, put_to_lesions: Ask | None = None
) -> Manifest:
    """Build the engines of a kit on this machine and seal them into a bundle. A killed build is taken up.

    INT8 is built `rebuilds` times, since no two builds need be equal: the one nearest to the emulation is frozen. FP16
    is built once and timed beside it; what is not faster is not shipped. FP32 becomes the reference.

    Args:
        put_to_lesions: asks the engines of each mode the lesions of the kit, where their images are at hand.

    Raises:
        EdgeskinError: no kit, too little memory, a refused graph, layers that silently do not run in INT8, an engine
            that does not decide as the emulation did.
    """
    manifest, here = kit.manifest, maker.compatibility
    before, known = _proof(kit)
    needed = _needed(known, memory, options)
    work = cache_dir() / "tensorrt" / "builds" / _key(kit, maker, options)
    with os_errors(work, fix="set EDGESKIN_CACHE to a folder with room"):
        work.mkdir(parents=True, exist_ok=True)
    bench = _Bench(kit, maker, work, {mode: Limits(needed[mode].workspace_bytes, options.dla_core) for mode in MODES})
    frames, emulated = kits.read_drawn(kit.path(kits.DRAWN))
    frames, emulated = frames[: maker.cases], {mode: logits[: maker.cases] for mode, logits in emulated.items()}
    chosen: dict[Mode, Path] = {}
    rebuilds: dict[Mode, tuple[Rebuild, ...]] = {}
    for mode in MODES:
        chosen[mode], rebuilds[mode] = bench.best(mode, options.rebuilds, frames, emulated[mode])
    compiled = _audited(chosen, maker, known, manifest.recipe) if manifest.precision == "int8" else None
    plan, gated, checked, speed = manifest.recipe, manifest.gated, before.gate, None
    if manifest.fp16:
        half = {mode: bench.once(mode, manifest.fp16[mode], "fp16") for mode in MODES}
        speed = timed(maker.open(chosen["pair"]), maker.open(half["pair"]), here.gpu or here.device)
        if not speed.int8_is_faster:
            out.note(f"INT8 is not shipped: {speed.why}; the bundle runs in FP16")
            chosen, compiled, checked = half, None, None
            plan = kits.in_fp16(plan)
            gated = Gated(status="not needed", why=f"INT8 is not shipped: {speed.why}")
    reference = {mode: bench.once(mode, manifest.reference[mode], "fp32") for mode in MODES}
    answers = {mode: golden.asked(maker.open(chosen[mode]), frames, mode) for mode in MODES}
    if plan is not manifest.recipe:  # no emulation speaks for what is shipped instead
        for mode in MODES:
            plain = golden.asked(maker.open(reference[mode]), frames, mode)
            refuse_other_answers(manifest, mode, plain, answers[mode], "fp16")
    near: tuple[Nearness, ...] = ()
    if put_to_lesions is not None:
        gated, checked, near = put_to_lesions({mode: maker.open(path) for mode, path in chosen.items()}, work)
        near = near if plan is manifest.recipe else ()  # the emulation was of INT8
    elif plan.precision == "int8":
        gated = gated.model_copy(update={"why": f"emulated, without the engine: {gated.why}"})
    engine = EngineEvidence(
        compatibility=here,
        kit_sha256=kit.sha256,
        maker=maker.name,
        timing_cache="used" if maker.used_cache else "new",
        memory=needed,
        rebuilds=rebuilds,
        dla_fallback=_left_to_gpu(chosen, maker, options.dla_core),
        nearness=near,
    )
    stage = work / "bundle"
    shutil.rmtree(stage, ignore_errors=True)
    lesions = {role: tuple(hashes) for role, hashes in kit.lesion_hashes().items()}
    sealed = write_bundle(
        folder,
        Draft(
            name=folder.name,
            folder=stage,
            graphs=_laid(chosen, stage, "model", plan.precision),
            reference=_laid(reference, stage, "reference", "fp32"),
            golden=[one for m in MODES for one in golden.surest(frames, answers[m], m, manifest, plan.precision)],
            recipe=plan,
            checkpoint=manifest,
            provenance=manifest.provenance.model_copy(
                update={
                    "created": provenance.now(),
                    "machine": provenance.machine(),
                    "versions": {**manifest.provenance.versions, "tensorrt": here.tensorrt},
                }
            ),
            gated=gated,
            evidence=before.model_copy(
                update={"bundle": folder.name, "gate": checked, "audit": compiled, "speed": speed, "engine": engine}
            ),
            compatibility=here.model_copy(update={"dla_core": options.dla_core}),
            lesion_hashes=lesions,
        ),
    )
    shutil.rmtree(work, ignore_errors=True)
    return sealed


class _Bench:
    """Builds engines into a folder, one file each, and takes up those that lie there."""

    def __init__(self, kit: Bundle, maker: Maker, work: Path, limits: Mapping[Mode, Limits]) -> None:
        self._kit, self._maker, self._work, self._limits = kit, maker, work, limits

    def once(self, mode: Mode, graph: GraphEntry, word: str) -> Path:
        """The engine of a graph, built unless it is there."""
        return self._built(mode, graph, f"{mode}-{word}")[0]

    def best(
        self, mode: Mode, rebuilds: int, frames: NDArray[np.uint8], emulated: NDArray[np.float32]
    ) -> tuple[Path, tuple[Rebuild, ...]]:
        """Several builds of the kit's graph, and the one nearest to the emulation.

        Raises:
            EdgeskinError: even that one decides otherwise where the decision is sure, or none gives finite numbers.
        """
        manifest = self._kit.manifest
        graph = manifest.graphs[mode]
        found: list[tuple[Path, Rebuild]] = []
        answers: list[NDArray[np.float32]] = []
        for number in range(rebuilds):
            path, seconds = self._built(mode, graph, f"{mode}-{graph.precision}-{number}")
            session = self._maker.open(path)
            logits = golden.asked(session, frames, mode)
            if not np.isfinite(logits).all():
                out.note(f"build {number + 1} of the {mode} graph gives numbers that are not finite: left out")
                continue
            answers.append(logits)
            wrong = differing(manifest, mode, emulated, logits)
            found.append(
                (
                    path,
                    Rebuild(
                        sha256=sha256_file(path),
                        size_bytes=path.stat().st_size,
                        seconds=round(seconds, 3),
                        max_abs_difference=float(np.abs(logits - emulated).max()),
                        flips=int(wrong.sum()),
                        cases=len(frames),
                        p50_ms=round(_p50(session), 6),
                    ),
                )
            )
        if not found:
            raise EdgeskinError(
                f"the {mode} engine gives numbers that are not finite",
                got=f"{rebuilds} of {rebuilds} builds",
                fix="build again with more --rebuilds; if it stays, report it with the kit and the TensorRT version",
            )
        at = min(range(len(found)), key=lambda n: (found[n][1].flips, found[n][1].max_abs_difference))
        path = found[at][0]
        refuse_other_answers(manifest, mode, emulated, answers[at], manifest.precision)
        kept = tuple(each.model_copy(update={"chosen": n == at}) for n, (_, each) in enumerate(found))
        return path, kept

    def _built(self, mode: Mode, graph: GraphEntry, name: str) -> tuple[Path, float]:
        path, note = self._work / f"{name}.plan", self._work / f"{name}.json"
        if path.is_file() and note.is_file():
            kept = json.loads(note.read_text(encoding="utf-8"))
            if kept["sha256"] == sha256_file(path):
                return path, float(kept["seconds"])
        started = time.monotonic()
        limits = self._limits[mode]
        if graph.precision == "fp32":  # which DLA has not
            limits = replace(limits, dla_core=None)
        with out.progress(f"building {name}", 100) as step:
            self._maker.build(self._kit.path(graph.file), path, limits, step)
        seconds = time.monotonic() - started
        write_atomic(note, pretty_json({"sha256": sha256_file(path), "seconds": seconds}))
        return path, seconds


def refuse_other_answers(
    deciding: Deciding,
    mode: Mode,
    expected: NDArray[np.float32],
    logits: NDArray[np.float32],
    precision: Precision,
) -> None:
    """Raises EdgeskinError: an engine decides otherwise where the decision is sure, or its logits lie too far off."""
    margins = [golden.margin(one, mode, deciding) for one in expected]
    sure = [n for n in sorted(range(len(expected)), key=lambda n: -margins[n])[:_SUREST] if margins[n] >= _SURE]
    wrong = differing(deciding, mode, expected[sure], logits[sure])
    off, limit = float(np.abs(logits - expected).max()), golden.TOLERANCE[precision]
    noise = metrics.sqnr_db(expected, logits)  # tells also where no decision is sure
    if wrong.any() or not off <= limit or not noise >= _SQNR_DB:
        raise EdgeskinError(
            f"the {mode} engine does not decide as its kit",
            got=f"{int(wrong.sum())} of {len(sure)} sure cases differ; logits off by {off:.3g}, {noise:.1f} dB",
            possible=f"no case, logits within {limit:g}, {_SQNR_DB:g} dB or more",
            fix="build again with more --rebuilds; if it stays, report it with the kit and the TensorRT version",
        )


def differing(
    deciding: Deciding, mode: Mode, before: NDArray[np.float32], after: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Cases of which a task's class or the referral differ, bool [cases], out of logits [cases, rows, K]."""
    schema = deciding.task_schema
    limit = decide.threshold(deciding.thresholds, mode)
    one, two = (decide.task_probabilities(x, schema, deciding.fusion, mode) for x in (before, after))
    wrong = (decide.target_probability(one, schema) >= limit) != (decide.target_probability(two, schema) >= limit)
    for task in one:
        wrong |= one[task].argmax(-1) != two[task].argmax(-1)
    return np.asarray(wrong, np.bool_)


def timed(int8: Session, fp16: Session, machine: str) -> Speed:
    """INT8 against FP16 in turns, with the interval of their ratio; trtexec tells medians alone."""
    if isinstance(int8, Asked) and isinstance(fp16, Asked):
        p50 = {"int8": int8.p50_ms(), "fp16": fp16.p50_ms()}
        shares = p50["int8"] / p50["fp16"]
        found = Estimate(value=shares, reason="two medians by trtexec, no interval")
        return _speed(machine, p50, found, shares < 1)
    spent = in_turns({"int8": int8, "fp16": fp16}, _ROUNDS)
    drawn = ratio(spent["int8"], spent["fp16"], repeats=1000)
    estimated = Estimate(value=drawn.value, low=drawn.low, high=drawn.high)
    return _speed(machine, {word: median(series) for word, series in spent.items()}, estimated, drawn.high < 1)


def _speed(machine: str, p50: Mapping[str, float], shares: Estimate, faster: bool) -> Speed:
    return Speed(
        machine=machine,
        threads=1,
        p50_ms={f"{word}, engine": round(value, 6) for word, value in p50.items()},
        ratio=shares,
        int8_is_faster=faster,
        why="" if faster else f"int8 takes {shares.value:.2f} times as long as fp16",
    )


def _p50(session: Session) -> float:
    if isinstance(session, Asked):
        return session.p50_ms()
    return median(in_turns({"it": session}, _TIMED_ONCE)["it"])


def refuse_other(bundle: Bundle) -> None:
    """Raises EdgeskinError: not a build kit."""
    if bundle.manifest.stage != "kit":
        raise EdgeskinError(
            "not a build kit",
            got=f"{bundle.root}, a bundle for {bundle.manifest.target}",
            possible="what `edgeskin export --target tensorrt` writes",
            fix="pass the kit",
        )


def is_built(kit: Bundle, folder: Path, here: Compatibility, options: Options) -> bool:
    """Whether a bundle is there that was built of this kit on this machine and for the same core."""
    if not (folder / MANIFEST).is_file():
        return False
    try:
        bundle = open_bundle(folder)
        made = bundle.evidence()
    except EdgeskinError:
        return False  # damaged: build it again
    wanted = here.model_copy(update={"dla_core": options.dla_core})
    engine = made.engine if made else None
    return engine is not None and (engine.kit_sha256, bundle.manifest.compatibility) == (kit.sha256, wanted)


def _proof(kit: Bundle) -> tuple[Evidence, KitEvidence]:
    """What is known of a kit. Raises EdgeskinError: no kit, or one that lacks what proves it."""
    found = kit.evidence()
    refuse_other(kit)
    if found is None or found.kit is None:
        raise EdgeskinError(
            "the kit lacks its evidence",
            got=f"{kit.root}, packed with --lean" if kit.lean else str(kit.root),
            fix="copy the whole kit, or pack it without --lean",
        )
    if kit.manifest.precision == "int8" and not kit.manifest.provenance.calibration_sha256:  # scales could be anything
        raise EdgeskinError(
            "the kit does not say what it was calibrated on",
            got="no hash of the calibration lesions",
            fix="export it again with `edgeskin export --target tensorrt`",
        )
    return found, found.kit


def _needed(known: KitEvidence, memory: Available, options: Options) -> dict[Mode, MemoryEstimate]:
    found = {mode: estimate(known.needs[mode], memory, options.workspace_mb) for mode in MODES}
    for one in found.values():
        refuse(one, shared=memory.shared)
    return found


def _audited(models: Mapping[Mode, Path], maker: Maker, known: KitEvidence, plan: Recipe) -> AuditResult:
    """Read from the engines what runs in INT8. Raises EdgeskinError where it is less than planned."""
    modes, engine = {}, {}
    for mode, path in models.items():
        session = maker.open(path)
        engine = session.describe()
        modes[mode] = audit.join(audit.layers_of(known.planned[mode]), *session.executed_layers())
    found = audit.check(modes, plan.int8_macs_floor, engine)
    audit.refuse(found)
    return found


def _laid(plans: Mapping[Mode, Path], stage: Path, folder: str, precision: Precision) -> dict[Mode, GraphEntry]:
    (stage / folder).mkdir(parents=True, exist_ok=True)
    found = {}
    for mode, path in plans.items():
        shutil.copyfile(path, stage / folder / f"{mode}.plan")
        found[mode] = GraphEntry(file=f"{folder}/{mode}.plan", images=IMAGES[mode], precision=precision)
    return found


def _left_to_gpu(chosen: Mapping[Mode, Path], maker: Maker, core: int | None) -> tuple[str, ...]:
    """Layers that a build for DLA left to the GPU. Raises EdgeskinError where those are all."""
    if core is None:
        return ()
    layers = [layer for path in chosen.values() for layer in maker.open(path).executed_layers()[0]]
    if not any(layer.kind.startswith("DLA") for layer in layers):
        raise EdgeskinError(
            "nothing of this network runs on the DLA",
            got=f"{len(layers)} layers, all left to the GPU",
            possible="networks of which this TensorRT's DLA takes the Q/DQ nodes",
            fix="build without --dla",
        )
    return tuple(dict.fromkeys(layer.name for layer in layers if not layer.kind.startswith("DLA")))


def _key(kit: Bundle, maker: Maker, options: Options) -> str:
    """Whatever is of another kit, maker, machine or choice is not taken up."""
    asked = [kit.sha256, maker.name, maker.compatibility.to_json(), options.workspace_mb, options.dla_core]
    return sha256_bytes(canonical_json(asked).encode())[:24]
