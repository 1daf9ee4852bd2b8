"""Ways to quantise one network, each built, scored on the control role and kept, so that a killed search goes on."""

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskin import backends, decide, metrics
from edgeskin.data.pairs import UNLABELLED, Pair, evenly
from edgeskin.files import canonical_json, pretty_json, sha256_bytes, write_atomic
from edgeskin.quantize.calibration import Frames
from edgeskin.quantize.gate import gate
from edgeskin.quantize.graph import load
from edgeskin.quantize.nodes import kept, labels
from edgeskin.quantize.ptq import quantize
from edgeskin.quantize.qdq import Hub
from edgeskin.scoring import Deciding
from edgeskin.spec.gated import GateResult
from edgeskin.spec.manifest import MODES, Mode
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.result import Estimate
from edgeskin.spec.search import Effect

Logits = NDArray[np.float32]  # [lesions, rows, K]
STATE = "state.json"


@dataclass(frozen=True)
class Control:
    """Lesions of the control role that have both images, their frames uint8 [2, H, W, 3] each and FP32's logits.

    `alone`: FP32's logits [lesions, 1, K] of their dermoscopic images alone, where that graph is asked too.
    """

    pairs: Sequence[Pair]
    frames: Sequence[Frames]
    reference: Logits
    alone: Logits | None = None

    def some(self, most: int) -> "Control":
        """At most so many of them, evenly spread over the role."""
        if len(self.pairs) <= most:
            return self
        chosen = evenly(len(self.pairs), most)
        alone = None if self.alone is None else self.alone[chosen]
        return Control([self.pairs[i] for i in chosen], [self.frames[i] for i in chosen], self.reference[chosen], alone)


def divergence(reference: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """Mean Kullback-Leibler divergence KL(reference || found) of class probabilities [lesions, classes], in nats.

    >>> divergence(np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])).__round__(4)
    0.1438
    """
    p, q = np.clip(reference, 1e-12, None), np.clip(found, 1e-12, None)
    return float(np.sum(p * (np.log(p) - np.log(q)), axis=-1).mean())


def effect(deciding: Deciding, control: Control, logits: Logits) -> Effect:
    """How far these logits lead from FP32's on the same lesions."""
    schema, target = deciding.task_schema, deciding.task_schema.target
    before, after = (decide.task_probabilities(x, schema, deciding.fusion, "pair") for x in (control.reference, logits))
    predicted = [p[target.task].argmax(-1) for p in (before, after)]
    inside = [np.isin(p, schema.target_indices()) for p in predicted]
    score = decide.target_probability(after, schema)
    limit = decide.threshold(deciding.thresholds, "pair")
    referred = [decide.target_probability(p, schema) >= limit for p in (before, after)]
    truth = np.array([pair.labels.get(target.task, UNLABELLED) for pair in control.pairs], np.int64)
    known = truth >= 0
    classes = after[target.task].shape[-1]
    balanced = metrics.balanced_accuracy(truth[known], predicted[1][known], classes)
    auc = metrics.auc(np.isin(truth[known], schema.target_indices()), score[known])
    return Effect(
        divergence=divergence(before[target.task], after[target.task]),
        class_flips=int((predicted[0] != predicted[1]).sum()),
        target_flips=int((inside[0] != inside[1]).sum()),
        referral_flips=int((referred[0] != referred[1]).sum()),
        balanced_accuracy=_value(balanced, "no lesion is labelled"),
        auc=_value(auc, f"the lesions are all with, or all without {schema.target.title}"),
        lesions=len(control.pairs),
    )


def divergence_of(deciding: Deciding, control: Control, logits: Logits) -> dict[str, float]:
    """The two figures by which parts of a network are ranked."""
    found = effect(deciding, control, logits)
    return {"divergence": found.divergence, "class_flips": float(found.class_flips)}


def _value(found: float, why: str) -> Estimate:
    return Estimate(reason=why) if np.isnan(found) else Estimate(value=found)


class Trials:
    """Builds graphs and scores them. What was found lies in `folder`/state.json and is not done again."""

    def __init__(
        self,
        graph: Path,
        calibration: Sequence[Frames],
        control: Control,
        deciding: Deciding,
        target: str,
        folder: Path,
        *,
        budget_s: float,
        threads: int = 0,
        role: str = "control",
        alone: Path | None = None,
    ) -> None:
        """`graph`: of pairs; `alone`: of the dermoscopic image alone, which then has to hold the gate as well."""
        self.graph, self.calibration, self.control, self.deciding = graph, calibration, control, deciding
        self.backend, self.folder, self.budget_s, self.threads = backends.get(target), folder, budget_s, threads
        self.role, self.alone = role, alone
        self._begun = time.monotonic()
        self._state: dict[str, Any] = {"spent_s": 0.0, "found": {}, "seconds": {}}
        with contextlib.suppress(OSError, ValueError):  # none yet, or no JSON: start afresh
            self._state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        self._before = float(self._state["spent_s"])
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def spent_s(self) -> float:
        """Seconds so far, those of killed runs included as far as they were noted."""
        return self._before + time.monotonic() - self._begun

    @property
    def resumed(self) -> int:
        """How many answers an earlier run left."""
        return len(self._state["found"])

    def has_time(self, kind: str, key: Any) -> bool:
        """Whether this step, if as long as the last of its kind, fits the budget; one whose answer is kept does."""
        if self._name(kind, key) in self._state["found"]:
            return True
        return self.spent_s + float(self._state["seconds"].get(kind, 0.0)) <= self.budget_s

    def once(self, kind: str, key: Any, work: Callable[[], Any]) -> Any:
        """The stored answer of `work`, plain JSON data, under that key; else do it now and store it."""
        name = self._name(kind, key)
        if name not in self._state["found"]:
            begun = time.monotonic()
            self._state["found"][name] = work()
            self._state["seconds"][kind] = time.monotonic() - begun
            self._state["spent_s"] = self.spent_s
            write_atomic(self.folder / STATE, pretty_json(self._state))
        return self._state["found"][name]

    @staticmethod
    def _name(kind: str, key: Any) -> str:
        return f"{kind} {sha256_bytes(canonical_json(key).encode())[:16]}"

    def model(self, recipe: Recipe, mode: Mode = "pair") -> Path:
        """The graph as this recipe builds it, from the folder if it is there."""
        place = self.folder / self.key(recipe) / mode
        if not (place / "done").is_file():
            model = self._quantised(recipe, place, mode)
            name = self.backend.build(model, place / "built", recipe, stem=mode)[0]
            write_atomic(place / "done", name)
        return place / "built" / (place / "done").read_text(encoding="utf-8")

    def _quantised(self, recipe: Recipe, place: Path, mode: Mode) -> Path:
        graph = self._graph(mode)
        if recipe.quantizer != "qdq":
            return quantize(graph, self.calibration, recipe, place)
        keep = kept(recipe.keep_fp32, labels(load(graph)), required=mode == "pair")
        return self.hub(recipe, mode).write(keep, place / f"{mode}.onnx")

    def _graph(self, mode: Mode) -> Path:
        if mode == "pair":
            return self.graph
        assert self.alone is not None
        return self.alone

    def hub(self, recipe: Recipe, mode: Mode = "pair") -> Hub:
        """A graph calibrated as a qdq recipe asks; all recipes share what was measured once."""
        folder = self.folder / ("hub" if mode == "pair" else f"hub-{mode}")
        return Hub(self._graph(mode), self.calibration, recipe, folder)

    def key(self, recipe: Recipe) -> str:
        """What distinguishes this recipe's model: 16 hex digits."""
        plain = {k: v for k, v in recipe.to_json().items() if k not in ("name", "note", "gate", "int8_macs_floor")}
        return sha256_bytes(canonical_json(plain).encode())[:16]

    def session(self, model: Path, recipe: Recipe) -> backends.Session:
        """The model opened with the recipe's precision."""
        return self.backend.open(model, threads=self.threads, precision_hint=recipe.precision_hint)

    def logits(self, session: backends.Session, control: Control, step: Callable[[int], None]) -> Logits:
        """Logits [lesions, rows, K] of the control lesions."""
        found = []
        for frames in control.frames:
            found.append(session.run(frames[-session.images :]))
            step(1)
        return np.stack(found)

    def effect(self, recipe: Recipe, step: Callable[[int], None] = lambda _: None) -> tuple[Effect, bool | None]:
        """Effect of a recipe, and whether the gate holds (None: the recipe has no gate).

        Divergence is the mean of both graphs', where both are asked; what else the effect counts is the pair's.
        """

        def work() -> dict[str, Any]:
            modes: tuple[Mode, ...] = ("pair",) if self.alone is None else MODES
            logits = {
                mode: self.logits(self.session(self.model(recipe, mode), recipe), self.control, step) for mode in modes
            }
            checked = self.gate(recipe, logits)
            found = effect(self.deciding, self.control, logits["pair"])
            if "dermoscopic" in logits:
                both = (found.divergence + self._divergence_alone(logits["dermoscopic"])) / 2
                found = found.model_copy(update={"divergence": both})
            return {"effect": found.to_json(), "gate": checked.passed if checked else None}

        found: Mapping[str, Any] = self.once("effect", self.effect_key(recipe), work)
        return Effect.parse(found["effect"], str(self.folder / STATE)), found["gate"]

    def _divergence_alone(self, logits: Logits) -> float:
        assert self.control.alone is not None
        schema = self.deciding.task_schema
        before, after = (
            decide.task_probabilities(x, schema, self.deciding.fusion, "dermoscopic")[schema.target.task]
            for x in (self.control.alone, logits)
        )
        return divergence(before, after)

    def effect_key(self, recipe: Recipe) -> list[Any]:
        """What distinguishes an effect: the model, the gate it was put to, and whether both graphs were."""
        return [self.key(recipe), recipe.gate.to_json() if recipe.gate else None, self.alone is not None]

    def gate(self, recipe: Recipe, logits: Mapping[Mode, Logits]) -> GateResult | None:
        """The recipe's gate on the graphs that were asked."""
        if recipe.gate is None:
            return None
        return gate(
            self.deciding,
            recipe.gate,
            self.control.pairs,
            {mode: one for mode in logits if (one := self._reference(mode)) is not None},
            dict(logits),
            role=self.role,
        )

    def _reference(self, mode: Mode) -> Logits | None:
        return self.control.reference if mode == "pair" else self.control.alone
