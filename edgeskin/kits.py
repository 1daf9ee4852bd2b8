"""What makes a bundle a build kit for TensorRT: linted graphs, FP16 beside INT8, emulated answers, a sibling's word."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeskin import audit, backends, out
from edgeskin.data.pairs import Pair, evenly
from edgeskin.data.roles import role_hash, short_hash
from edgeskin.errors import EdgeskinError
from edgeskin.files import staged_file
from edgeskin.layers import read_file
from edgeskin.proving import ControlRole, Logits
from edgeskin.quantize.graph import load
from edgeskin.quantize.lint import lint, refuse
from edgeskin.scoring import Deciding
from edgeskin.spec.engine import Emulated, GraphNeeds, KitEvidence, Sibling
from edgeskin.spec.manifest import IMAGES, MODES, Compatibility, GraphEntry, Mode
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.roles import Role
from edgeskin.verify import scores

ANSWERS, DRAWN = "reference/answers.npz", "reference/drawn.npz"  # under reference/: a lean bundle does not need them
ROLES: tuple[Role, ...] = ("control", "test")
_FP16 = "fp16"
_HALF_CHECKED = 8  # drawn lesions on which FP16 is computed as FP16
_BOOTSTRAP = 1000
EMULATED = 400  # lesions of a role: an emulation takes a tenth of a second and more for each; `verify` asks them all


@dataclass(frozen=True)
class RoleAnswers:
    """Logits of one role by lesion: FP32's, and those of the kit's precision in the emulation."""

    lesions: tuple[str, ...]  # short hashes
    fp32: Logits
    emulated: Logits


def some(role: Role, pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """The lesions of a role that the emulation is asked: of the control role all, as the gate counts them."""
    return tuple(pairs) if role == "control" else tuple(pairs[i] for i in evenly(len(pairs), EMULATED))


def refuse_unfit(models: Mapping[Mode, Path], tensorrt: str) -> None:
    """Raises EdgeskinError: a graph has what that TensorRT refuses, scales wrongly or does not run in INT8."""
    for mode, path in models.items():
        refuse(lint(load(path), tensorrt), f"the {mode} graph", tensorrt)


def in_fp16(plan: Recipe) -> Recipe:
    """The recipe with nothing quantised, in FP16."""
    return Recipe(name=plan.name, target=plan.target, precision="fp16", note=plan.note, opset=plan.opset)


def half_graphs(graphs: Mapping[Mode, Path], plan: Recipe, folder: Path) -> dict[Mode, GraphEntry]:
    """The same network in FP16, which the device times against INT8."""
    build = backends.get(plan.target).build
    half = in_fp16(plan)
    return {
        mode: GraphEntry(
            file=f"{_FP16}/{build(graphs[mode], folder / _FP16, half, stem=mode)[0]}",
            images=IMAGES[mode],
            precision="fp16",
        )
        for mode in MODES
    }


def refuse_overflow(models: Mapping[Mode, Path], frames: NDArray[np.uint8]) -> None:
    """Raises EdgeskinError: computed in FP16 as it is typed, a graph gives numbers that are not finite."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    for mode, path in models.items():
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for pair in frames[:_HALF_CHECKED]:
            if not np.isfinite(session.run(None, {"frames": pair[-IMAGES[mode] :]})[0]).all():
                raise EdgeskinError(
                    f"the {mode} graph overflows in FP16",
                    got="logits that are not finite",
                    possible="activations up to 65504",
                    fix="train with weight decay, or export for target onnxruntime",
                )


def write_answers(path: Path, roles: Mapping[Role, ControlRole], emulated: Mapping[Role, Logits]) -> None:
    """Keep the answers, so that the device can hold its engine against them; lesions by their short hashes."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for role, found in roles.items():
        arrays[f"{role}_lesions"] = np.array([short_hash(pair.lesion_id) for pair in found.pairs])
        for mode in MODES:
            arrays[f"{role}_{mode}_fp32"] = found.reference[mode]
            arrays[f"{role}_{mode}_emulated"] = emulated[role][mode]
    with staged_file(path) as staged, staged.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_answers(path: Path) -> dict[str, RoleAnswers]:
    """What `write_answers` kept."""
    with np.load(path, allow_pickle=False) as kept:
        return {
            role: RoleAnswers(
                tuple(str(name) for name in kept[f"{role}_lesions"]),
                {mode: kept[f"{role}_{mode}_fp32"] for mode in MODES},
                {mode: kept[f"{role}_{mode}_emulated"] for mode in MODES},
            )
            for role in ROLES
        }


def write_drawn(path: Path, frames: NDArray[np.uint8], emulated: Mapping[Mode, NDArray[np.float32]]) -> None:
    """Keep the drawn pairs and the emulation's answers: on them a device compares its rebuilds."""
    with staged_file(path) as staged, staged.open("wb") as file:
        np.savez_compressed(file, frames=frames, pair=emulated["pair"], dermoscopic=emulated["dermoscopic"])


def read_drawn(path: Path) -> tuple[NDArray[np.uint8], dict[Mode, NDArray[np.float32]]]:
    """What `write_drawn` kept: frames [cases, 2, H, W, 3], and logits by mode."""
    with np.load(path, allow_pickle=False) as kept:
        return kept["frames"], {mode: kept[mode] for mode in MODES}


def evidence(
    models: Mapping[Mode, Path],
    device: Compatibility,
    deciding: Deciding,
    roles: Mapping[Role, ControlRole],
    emulated: Mapping[Role, Logits],
    needed: Mapping[Mode, GraphNeeds],
) -> KitEvidence:
    """What is known of the kit before a device sees it.

    Args:
        roles: role -> its lesions with FP32's answers.
        emulated: role -> the kit's own.
        needed: of the largest graph that a device builds.

    Raises:
        EdgeskinError: a graph does not suit the device's TensorRT, or a builder that is at hand refuses it.
    """
    refuse_unfit(models, device.tensorrt)
    sibling, why_not = _sibling(models)
    planned = {mode: audit.join(read_file(path), [], 0).layers for mode, path in models.items()}
    scored = []
    for role, given in roles.items():
        parity, accuracy = scores(
            deciding, given.pairs, emulated[role], given.reference, bootstrap=_BOOTSTRAP, named=short_hash
        )
        ids = [pair.lesion_id for pair in given.pairs]
        scored.append(
            Emulated(role=role, role_sha256=role_hash(ids), lesions=len(ids), parity=parity, accuracy=accuracy)
        )
    return KitEvidence(
        linted_for=device.tensorrt,
        nodes={mode: len(load(path).graph.node) for mode, path in models.items()},
        planned=planned,
        needs=dict(needed),
        emulated=tuple(scored),
        sibling=sibling,
        sibling_why_not=why_not,
    )


def _sibling(models: Mapping[Mode, Path]) -> tuple[Sibling | None, str]:
    from edgeskin.engine import sibling

    if reason := sibling.unsupported():
        out.note(f"no acceptance check by TensorRT for RTX: {reason}")
        return None, reason
    with out.progress("TensorRT for RTX accepts the graphs", 100 * len(models)) as step:
        return sibling.accept(models, step), ""
