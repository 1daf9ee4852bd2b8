"""A built engine on the lesions of its kit: the gate once more, and how near the emulation came."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgeskin import kits, out
from edgeskin.backends import Session
from edgeskin.data import registry
from edgeskin.data.pairs import Pair
from edgeskin.data.roles import short_hash
from edgeskin.errors import EdgeskinError
from edgeskin.exporting import roles_if_any
from edgeskin.opening import Bundle
from edgeskin.preprocess import prepare
from edgeskin.proving import ControlRole, Logits, answers_of
from edgeskin.quantize.gate import gate, refuse, summary
from edgeskin.quantize.store import FrameStore
from edgeskin.spec.engine import Nearness
from edgeskin.spec.gated import GateResult
from edgeskin.spec.manifest import MODES, Gated, Mode
from edgeskin.verify import check_roles, scores


def put_to_lesions(
    kit: Bundle, sessions: Mapping[Mode, Session], work: Path, *, root: str, allow_ungated: bool
) -> tuple[Gated, GateResult | None, tuple[Nearness, ...]]:
    """Ask an engine every lesion of the roles control and test.

    Args:
        sessions: the engines by mode.
        work: folder for the prepared frames.
        root: where the data lies; "" = where the training found it.

    Raises:
        EdgeskinError: other data than the kit's, or a gate that does not hold with the real engine.
    """
    manifest, source = kit.manifest, kit.manifest.data
    pairset = registry.load_pairs(source.name, Path(root or source.root), source.schema_name, source.border_px)
    roles = roles_if_any(pairset, source.roles)
    check_roles(manifest, roles.records() if roles else {})
    assert roles is not None  # else check_roles has refused
    kept = kits.read_answers(kit.path(kits.ANSWERS))
    near, gated, checked = [], manifest.gated, None
    for role in kits.ROLES:
        pairs = kits.some(role, roles[role])
        given = _prepared(kit, role, pairs, work)
        found = answers_of(sessions, given.frames, given.paired, f"{role} role on the engine")
        if role == "control" and manifest.recipe.gate is not None:
            fp32 = _ordered(kept[role], kept[role].fp32, pairs)
            checked = gate(manifest, manifest.recipe.gate, pairs, fp32, found, role=role)
            gated = Gated(status="passed" if checked.passed else "ungated", why=f"on the engine: {summary(checked)}")
            if not checked.passed and not allow_ungated:
                refuse(checked)
        emulated = _ordered(kept[role], kept[role].emulated, pairs)
        parity, _ = scores(manifest, pairs, found, emulated, bootstrap=100, named=short_hash)
        near.append(Nearness(role=role, lesions=len(pairs), parity=parity))
    return gated, checked, tuple(near)


def _prepared(kit: Bundle, role: str, pairs: tuple[Pair, ...], work: Path) -> ControlRole:
    how = kit.manifest.preprocess
    with out.progress(f"{role} frames", len(pairs)) as step:
        frames = FrameStore.write(
            work / f"{role}.npy",
            FrameStore.key_of(pairs, how),
            pairs,
            lambda photo: prepare(photo, how),
            step,
            unpaired=True,
        )
    return ControlRole(pairs, frames, np.array([pair.clinical is not None for pair in pairs]), {})


def _ordered(kept: kits.RoleAnswers, logits: Logits, pairs: tuple[Pair, ...]) -> Logits:
    """Answers of the kit in the order of these lesions."""
    places = {lesion: place for place, lesion in enumerate(kept.lesions)}
    try:
        order = [places[short_hash(pair.lesion_id)] for pair in pairs]
    except KeyError as missing:
        raise EdgeskinError(
            "the kit has no answer for a lesion of its own role", got=str(missing), fix="export the kit again"
        ) from None
    return {mode: logits[mode][order] for mode in MODES}
