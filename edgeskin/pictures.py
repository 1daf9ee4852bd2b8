"""Lesions that a bundle and its reference decide differently, as small pictures for a report on this machine."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeskin import decide, out
from edgeskin.data import registry
from edgeskin.data.pairs import UNLABELLED, Pair
from edgeskin.data.roles import short_hash
from edgeskin.errors import EdgeskinError
from edgeskin.opening import Bundle
from edgeskin.report.inputs import Answer, Thumbnail
from edgeskin.report.thumbnails import thumbnail
from edgeskin.runtime import Classifier, Graphs, load
from edgeskin.spec.manifest import IMAGES, MODES, Mode
from edgeskin.spec.result import Parity, VerifyResult


def flipped(bundle: Bundle, verified: VerifyResult | None) -> dict[str, Thumbnail]:
    """Pictures of the lesions that flip in the gate or in a verify result, under the names that these give them.

    Empty where the data is not on this machine, the bundle is lean, or its engine is not installed.
    """
    evidence = bundle.evidence()
    gate = evidence.gate.parity if evidence and evidence.gate else {}
    wanted = _lesions(gate) | (_lesions(verified.parity) if verified else set())
    source = bundle.manifest.data
    if not wanted or bundle.lean or not Path(source.root).is_dir():
        return {}
    try:
        pairs = registry.load_pairs(source.name, Path(source.root), source.schema_name, source.border_px).pairs
        models: dict[Graphs, Classifier] = {
            "core": load(bundle, fallback=False),
            "reference": load(bundle, graphs="reference"),
        }
    except EdgeskinError as error:
        out.note(f"no pictures of flipped lesions: {error.line()}")
        return {}
    found = {}
    for pair in pairs:
        names = {pair.lesion_id, short_hash(pair.lesion_id)} & wanted
        if names:
            picture = _picture(pair, models)
            found.update(dict.fromkeys(names, picture))
    return found


def _lesions(parity: Mapping[Mode, Parity]) -> set[str]:
    return {lesion for one in parity.values() for flips in (one.predicted, one.referral) for lesion in flips.lesions}


def _picture(pair: Pair, models: Mapping[Graphs, Classifier]) -> Thumbnail:
    schema = models["core"].manifest.task_schema
    task = next(task for task in schema.tasks if task.name == schema.target.task)
    titles = [one.title or one.name for one in task.classes]
    photos = [pair.dermoscopic] if pair.clinical is None else [pair.clinical, pair.dermoscopic]
    frames = np.stack([models["core"].prepare(photo) for photo in photos])
    answers = {mode: _answer(frames, mode, models, titles) for mode in MODES if IMAGES[mode] <= len(frames)}
    label = pair.labels.get(task.name, UNLABELLED)
    return Thumbnail(
        clinical=thumbnail(pair.clinical),
        dermoscopic=thumbnail(pair.dermoscopic),
        truth="" if label == UNLABELLED else titles[label],
        answers=answers,
    )


def _answer(
    frames: NDArray[np.uint8], mode: Mode, models: Mapping[Graphs, Classifier], titles: Sequence[str]
) -> Answer:
    manifest = models["core"].manifest
    schema = manifest.task_schema
    order: tuple[Graphs, ...] = ("reference", "core")
    classes, chances = [], []
    for graphs in order:
        logits = models[graphs].infer(frames[-IMAGES[mode] :], mode)
        fused = decide.task_probabilities(logits, schema, manifest.fusion, mode)
        classes.append(titles[int(fused[schema.target.task].argmax())])
        chances.append(float(decide.target_probability(fused, schema)))
    return Answer(fp32=classes[0], bundle=classes[1], p_fp32=chances[0], p_bundle=chances[1])
