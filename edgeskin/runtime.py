"""Bundle -> Classifier: photographs in, a decision out. What a device runs, and what verify and bench measure."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeskin import backends, decide, preprocess, provenance, quality
from edgeskin.errors import EdgeskinError
from edgeskin.opening import Bundle, open_bundle
from edgeskin.preprocess import Frame, Photo
from edgeskin.spec.manifest import IMAGES, Fallback, Manifest, Mode, Tuning

Graphs = Literal["core", "reference"]
Probabilities = dict[str, dict[str, float]]  # task -> class -> probability


@dataclass(frozen=True, slots=True)
class Decision:
    """The question that is put first: refer when P(any of `positive`) >= threshold."""

    task: str
    positive: tuple[str, ...]
    title: str
    probability: float
    threshold: float
    refer: bool


@dataclass(frozen=True, slots=True)
class Result:
    """What a classifier says about one lesion. `timings_ms`: prepare, quality, infer, decide, total.

    An image that cannot be judged never gets a class: where not `assessable`, the network is not asked, and
    `probabilities`, `branches` and `predicted` are empty, `score` and `decision` None.
    """

    mode: Mode
    quality: dict[str, tuple[str, ...]]  # "clinical", "dermoscopic": flags of each image, see edgeskin/spec/quality.py
    assessable: bool
    probabilities: Probabilities
    # "clinical", "dermoscopic": what each image says by itself; "fused": a head on both, if the network has one.
    branches: dict[str, Probabilities]
    predicted: dict[str, str]  # task -> class
    score: int | None  # e.g. the seven-point score, where the schema has one
    score_reached: tuple[int, ...]  # those of the schema's thresholds that the score reaches
    decision: Decision | None
    timings_ms: dict[str, float] = field(compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class GoldenOutcome:
    """A golden case against this machine: max |logits - expected|, and whether every decision is the same."""

    name: str
    mode: Mode
    max_abs_error: float
    tolerance: float
    same_decisions: bool

    @property
    def passed(self) -> bool:
        """Within the tolerance and with equal decisions. NaN fails."""
        return self.same_decisions and self.max_abs_error <= self.tolerance


def load(
    path: "str | Path | Bundle",
    *,
    threads: int = 0,
    target_check: bool = True,
    graphs: Graphs = "core",
    cache: Path | None = None,
    emulated: bool = False,
    fallback: bool = True,
) -> "Classifier":
    """Open a bundle (folder or .zip), after its hashes have been verified.

    Args:
        threads: for inference; 0: as `edgeskin tune` measured for this processor, else every core in reach.
        target_check: ask now whether this machine can run the bundle's target, not at the first lesion.
        graphs: "core" is what the bundle is for; "reference" the same network in FP32.
        cache: folder where the engine may keep compiled models.
        emulated: open a build kit too, on the CPU, to learn what it will decide; never to decide by it.
        fallback: where the target does not run here, take the manifest's next engine and say so. Figures of the bundle
            must come from its own: what measures passes False.

    Raises:
        EdgeskinError: the bundle does not verify, its engine is not installed, or it has no reference; a build kit; an
            engine that was built for another machine.
    """
    bundle = path if isinstance(path, Bundle) else open_bundle(Path(path))
    if not emulated:
        refuse_kit(bundle)
    reason = backends.get(bundle.manifest.target).unsupported(recipe=bundle.manifest.recipe) if target_check else None
    if reason and fallback and graphs == "core" and (instead := _fall_back(bundle)):
        from edgeskin import out

        out.note(f"{bundle.root}: {bundle.manifest.target} does not run here ({reason}); fell back to {instead.target}")
        return Classifier(bundle, threads=threads, graphs=instead.graphs, cache=cache, fallback=instead)
    if reason:
        raise EdgeskinError(f"target {bundle.manifest.target!r} does not run here: {reason}")
    if target_check and bundle.manifest.stage == "ready" and (bound := bundle.manifest.compatibility):
        from edgeskin import tensorrt_here

        tensorrt_here.refuse_foreign(bound)
    if graphs == "reference" and bundle.lean:
        raise EdgeskinError(
            "this bundle was packed without its FP32 reference",
            got=str(bundle.root),
            fix="use one packed without --lean",
        )
    return Classifier(bundle, threads=threads, graphs=graphs, cache=cache)


def _fall_back(bundle: Bundle) -> Fallback | None:
    """The first of the manifest's fall-backs that can be used here."""
    for other in bundle.manifest.fallback:
        if not (bundle.lean and other.graphs == "reference") and not backends.get(other.target).unsupported():
            return other
    return None


def _in_ms(spent: Mapping[str, float]) -> dict[str, float]:
    return {name: 1e3 * seconds for name, seconds in spent.items()}


def refuse_kit(bundle: Bundle) -> None:
    """Raises EdgeskinError: a build kit, which holds graphs and no engine."""
    if bundle.manifest.stage == "kit":
        raise EdgeskinError(
            "this is a build kit, not yet an engine",
            got=str(bundle.root),
            possible="`edgeskin verify`, which emulates it",
            fix="build its engine on the device: `edgeskin build KIT --out BUNDLE`",
        )


def tuned(manifest: Manifest) -> Tuning | None:
    """What was measured for this processor with as many cores, if anything was."""
    if not manifest.tuning:
        return None  # nothing to look up: no need to ask the system who it is
    here = (provenance.processor(), backends.usable_cores())
    return next((found for found in manifest.tuning if (found.processor, found.cores) == here), None)


class Classifier:
    """A bundle ready to classify. Graphs are compiled when first needed. One thread at a time may use it."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int = 0,
        graphs: Graphs = "core",
        cache: Path | None = None,
        fallback: Fallback | None = None,
    ) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.graphs = graphs
        self.fallback = fallback  # in use instead of the manifest's target
        self.tuning = None if fallback else tuned(self.manifest)
        self._threads = threads or (self.tuning.threads if self.tuning else 0)
        self._cache = cache
        self._sessions: dict[Mode, backends.Session] = {}
        self._helper = ThreadPoolExecutor(1, thread_name_prefix="edgeskin-prepare")

    def session(self, mode: Mode) -> "backends.Session":
        """The compiled graph of a mode, opened and held against the manifest at the first call."""
        if mode not in self._sessions:
            manifest = self.manifest
            graph = (manifest.graphs if self.graphs == "core" else manifest.reference)[mode]
            session = backends.get(self.fallback.target if self.fallback else manifest.target).open(
                self.bundle.path(graph.file),
                threads=self._threads,
                cache=self._cache,
                precision_hint=self._hint() if self.graphs == "core" else "f32",
            )
            how, rows = manifest.preprocess, manifest.rows[mode]
            found = (session.images, session.height, session.width, session.rows, session.logits)
            wanted = (IMAGES[mode], how.height, how.width, rows, manifest.task_schema.logits)
            if found != wanted:
                raise EdgeskinError(
                    f"the graph {graph.file} does not fit its manifest",
                    got=f"images, height, width, rows of logits, logits = {found}",
                    possible=str(wanted),
                    fix="export the bundle again",
                )
            self._sessions[mode] = session
        return self._sessions[mode]

    def _hint(self) -> str:
        recipe = self.manifest.recipe
        if recipe.inference_precision == "auto" and self.tuning:
            return self.tuning.precision_hint
        return recipe.precision_hint

    def prepare(self, photo: Photo) -> Frame:
        """A path, PIL image or uint8 array [H, W, 3] as the frame uint8 [height, width, 3] that the graph takes."""
        return preprocess.prepare(photo, self.manifest.preprocess)

    def infer(self, frames: NDArray[np.uint8], mode: Mode) -> NDArray[np.float32]:
        """Logits float32 [rows, K] of frames uint8 [images, H, W, 3], the clinical one first.

        Raises:
            EdgeskinError: another shape or dtype, or logits that are not finite.
        """
        logits = self.session(mode).run(frames)
        if not np.isfinite(logits).all():
            raise EdgeskinError(
                "the engine gave logits that are not finite",
                got=str(self.bundle.root),
                fix="run `edgeskin verify` here",
            )
        return logits

    def classify(self, *, dermoscopic: "Photo | None" = None, clinical: "Photo | None" = None) -> Result:
        """Classify one lesion from its dermoscopic image and, where there is one, its clinical image.

        Where an image cannot be judged, the result says so and why, and has no decision.

        Raises:
            EdgeskinError: no dermoscopic image, an unreadable one, an array of a wrong shape or dtype.
        """
        if dermoscopic is None:
            raise EdgeskinError(
                "a dermoscopic image is needed",
                got="a clinical image alone" if clinical is not None else "no image",
                possible="clinical + dermoscopic, or dermoscopic alone",
                fix="pass dermoscopic=",
            )
        start = time.perf_counter()
        if clinical is None:
            frames = self.prepare(dermoscopic)[None]
        else:  # two threads: photographs of 600x450 and more take half the time, smaller ones the same
            pending = self._helper.submit(self.prepare, clinical)
            try:
                second = self.prepare(dermoscopic)
            finally:
                first = pending.result()
            frames = np.stack([first, second])
        prepared = time.perf_counter()
        mode: Mode = "dermoscopic" if clinical is None else "pair"
        seen = quality.assess(frames, mode, self.manifest.quality)
        judged = time.perf_counter()
        spent = {"prepare": prepared - start, "quality": judged - prepared}
        if not seen.assessable:
            spent |= {"infer": 0.0, "decide": 0.0, "total": judged - start}
            return Result(mode, {**seen.flags}, False, {}, {}, {}, None, (), None, _in_ms(spent))
        logits = self.infer(frames, mode)
        inferred = time.perf_counter()
        spent["infer"] = inferred - judged
        return self._decide(logits, mode, seen, start, inferred, spent)

    def _decide(
        self,
        logits: NDArray[np.float32],
        mode: Mode,
        seen: quality.Findings,
        start: float,
        inferred: float,
        spent: dict[str, float],
    ) -> Result:
        manifest, schema = self.manifest, self.manifest.task_schema
        branches = decide.branch_probabilities(logits, schema, manifest.fusion, mode)
        fused = decide.fuse(branches, manifest.fusion)
        predicted = {task: int(p.argmax()) for task, p in fused.items()}
        score = decide.points(predicted, schema) if schema.score else None
        reached = tuple(t for t in schema.score.thresholds if score is not None and score >= t) if schema.score else ()
        probability = float(decide.target_probability(fused, schema))
        limit = decide.threshold(manifest.thresholds, mode)
        decision = Decision(
            task=schema.target.task,
            positive=schema.target.positive,
            title=schema.target.title,
            probability=probability,
            threshold=limit,
            refer=probability >= limit,
        )
        named = self._named(fused)
        each = {str(branch): self._named(tasks) for branch, tasks in branches.items()}
        chosen = {task.name: task.class_names[predicted[task.name]] for task in schema.tasks}
        end = time.perf_counter()
        spent = {**spent, "decide": end - inferred, "total": end - start}
        return Result(mode, {**seen.flags}, True, named, each, chosen, score, reached, decision, _in_ms(spent))

    def _named(self, probabilities: Mapping[str, NDArray[np.float64]]) -> Probabilities:
        return {
            task.name: dict(zip(task.class_names, probabilities[task.name].tolist(), strict=True))
            for task in self.manifest.task_schema.tasks
        }

    def self_test(self) -> list[GoldenOutcome]:
        """Put the golden cases to this machine: logits within tolerance, every task's class and the decision equal.

        An engine can give plainly wrong numbers without an error (INT8 under an emulated CPU does): this finds it.

        Raises:
            EdgeskinError: the classifier runs the reference graphs, for which the golden logits do not hold.
        """
        if self.graphs != "core" and not self.fallback:
            raise EdgeskinError(
                "golden cases belong to the core graphs", got=self.graphs, fix="load with graphs='core'"
            )
        outcomes = []
        for case in self.manifest.golden:
            frames, expected = self.bundle.golden(case)
            logits = self.session(case.mode).run(frames)  # not infer(): NaN is to fail the case, not to end the test
            error = float(np.abs(logits - expected).max()) if logits.shape == expected.shape else float("inf")
            same = error < float("inf") and self._answers(logits, case.mode) == self._answers(expected, case.mode)
            outcomes.append(GoldenOutcome(case.name, case.mode, error, case.tolerance, same))
        return outcomes

    def _answers(self, logits: NDArray[np.float32], mode: Mode) -> tuple[object, ...]:
        schema = self.manifest.task_schema
        fused = decide.task_probabilities(logits, schema, self.manifest.fusion, mode)
        refer = float(decide.target_probability(fused, schema)) >= decide.threshold(self.manifest.thresholds, mode)
        return (*(int(p.argmax()) for p in fused.values()), refer)
