"""What a build has to show before it becomes a bundle: gate, audit, speed."""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeskin import audit as auditing
from edgeskin import backends, out
from edgeskin.backends import Session
from edgeskin.data.pairs import Pair
from edgeskin.errors import EdgeskinError
from edgeskin.files import staged_file
from edgeskin.quantize.gate import gate, refuse, summary
from edgeskin.quantize.store import FrameStore
from edgeskin.spec.audit import AuditResult
from edgeskin.spec.gated import GateResult
from edgeskin.spec.manifest import IMAGES, MODES, Gated, Mode
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.search import Speed
from edgeskin.spec.train import Checkpoint

Logits = dict[Mode, NDArray[np.float32]]  # [lesions, rows, K]; NaN where the clinical image is missing


@dataclass(frozen=True)
class ControlRole:
    """The control role, ready to be put to any build: its lesions, their frames, and FP32's answers."""

    pairs: Sequence[Pair]
    frames: FrameStore
    paired: NDArray[np.bool_]
    reference: Logits


def answers(
    models: Mapping[Mode, Path], plan: Recipe, frames: FrameStore, paired: NDArray[np.bool_], what: str
) -> Logits:
    """Logits of every lesion in both modes, by the target's own engine."""
    backend = backends.get(plan.target)
    opened = {mode: backend.open(models[mode], precision_hint=plan.precision_hint) for mode in MODES}
    return answers_of(opened, frames, paired, what)


def answers_of(sessions: Mapping[Mode, Session], frames: FrameStore, paired: NDArray[np.bool_], what: str) -> Logits:
    """Logits of every lesion in both modes, by sessions that are open."""
    found = {
        mode: np.full((len(frames), session.rows, session.logits), np.nan, np.float32)
        for mode, session in sessions.items()
    }
    for number, pair in enumerate(out.track(frames, what)):
        for mode, session in sessions.items():
            if paired[number] or mode == "dermoscopic":
                found[mode][number] = session.run(pair[-IMAGES[mode] :])
    return found


def kept_answers(path: Path, ask: Callable[[], Logits]) -> Logits:
    """What `path` keeps of an earlier export, or else what `ask` finds, which is kept there."""
    try:
        with np.load(path) as kept:
            return {mode: kept[mode] for mode in MODES}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):  # not there, or damaged
        found = ask()
    with staged_file(path) as staged, staged.open("wb") as file:
        np.savez(file, allow_pickle=False, **found)
    return found


def through_the_gate(
    core: Logits, plan: Recipe, record: Checkpoint, control: ControlRole
) -> tuple[Gated, GateResult | None]:
    """Hold the answers of a quantised build against FP32's on the control role."""
    if plan.gate is None:
        return Gated(status="ungated", why=f"recipe {plan.name} has no gate"), None
    result = gate(record, plan.gate, control.pairs, control.reference, core, role="control")
    return Gated(status="passed" if result.passed else "ungated", why=summary(result)), result


def refuse_ungated(plan: Recipe, result: GateResult | None) -> None:
    """Raises EdgeskinError: the recipe has no gate, or what was built is worse than its margins allow."""
    if result is None:
        cure = "add it, or pass --allow-ungated"
        raise EdgeskinError("the recipe has no gate", got=plan.name, possible="a [gate] with margins", fix=cure)
    refuse(result)


def audited(models: Mapping[Mode, Path], plan: Recipe) -> AuditResult:
    """Read from the compiled graphs what really runs in INT8. Raises EdgeskinError where it is less than planned."""
    backend = backends.get(plan.target)
    found = {}
    engine: dict[str, str] = {}
    for mode in MODES:
        session = backend.open(models[mode], precision_hint=plan.precision_hint)
        engine = session.describe()
        found[mode] = auditing.audit_session(session, models[mode])
    result = auditing.check(found, plan.int8_macs_floor, engine)
    auditing.refuse(result)
    return result


def timed(int8: Path, fp32: Path, plan: Recipe) -> Speed:
    """INT8 against the fastest higher precision on this machine."""
    from edgeskin.benchmark import speed as stage

    with out.progress("INT8 against higher precision", stage.LONGEST) as step:
        return stage.speed(int8, fp32, plan, step=step)
