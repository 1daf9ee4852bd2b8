"""Explain one lesion, many, or some of a role with the checks of the maps."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from edgeskin import out, provenance, quality
from edgeskin.data import registry
from edgeskin.data.pairs import UNLABELLED, Pair, PairSet
from edgeskin.data.roles import assign, short_hash
from edgeskin.errors import EdgeskinError, unknown
from edgeskin.examinations import Examination, read_examinations
from edgeskin.explain import drawing
from edgeskin.explain.opened import Asked, Opened, open_run
from edgeskin.files import canonical_json, os_errors, sha256_bytes, sha256_file, staged_file
from edgeskin.preprocess import prepare
from edgeskin.spec.explanation import KINDS, Explained, Explanation, Kind, Picture
from edgeskin.spec.manifest import Mode
from edgeskin.spec.quality import Flag
from edgeskin.spec.roles import ROLES, Role
from edgeskin.spec.train import Checkpoint

Floats = NDArray[np.float64]
Frame = NDArray[np.uint8]
SCORE = "log-odds of the fused, calibrated probability of the class, from which the diagnosis is decided"
SIDE = 160  # pixels of the pictures in a record
MARK = "edgeskin"  # of the text in a PNG that says what it is


def one(run: Path, dermoscopic: Path, clinical: Path | None, picture: Path, asked: Asked) -> Explained:
    """Explain one lesion and write its picture, a PNG.

    Raises:
        EdgeskinError: no trained run, an unreadable image, an unknown task, class, method or stage, a network without
            maps, or a picture that cannot be written.
    """
    if picture.suffix.lower() != ".png":
        raise EdgeskinError("the picture is a PNG", got=str(picture), fix="choose an --out that ends in .png")
    opened = open_run(run, asked)
    found = _explain(opened, Examination(dermoscopic.stem, dermoscopic, clinical), picture)
    return _record(opened, (found,))


def many(run: Path, source: Path, folder: Path, asked: Asked) -> Explained:
    """Explain the lesions of a CSV or folder; pictures go to `folder`, those that are there already stay.

    A lesion that cannot be read is told in `failed`, the rest go on.
    """
    examinations = read_examinations(source)
    opened = open_run(run, asked)
    with os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    done: list[Explanation] = []
    failed: dict[str, str] = {}
    with out.progress("explaining", len(examinations)) as step:
        for examination in examinations:
            try:
                done.append(_explain(opened, examination, folder / f"{_file_name(examination.lesion_id)}.png"))
            except EdgeskinError as error:
                failed[examination.lesion_id] = error.line()
            step()
    return _record(opened, tuple(done)).model_copy(update={"failed": failed})


def of_role(
    run: Path, role: str, asked: Asked, *, shown: int, checked: int, root: str = "", seed: int = 0
) -> Explained:
    """Explain lesions of a role with pictures in the record, and check the maps on more of them.

    Args:
        shown: how many with pictures; half of them with the target class, as far as there are any.
        checked: on how many the checks are made; 0: none.
        root: where the data lies now, if not where the run found it.

    Raises:
        EdgeskinError: as `one`; data that is absent or changed since the training.
    """
    if role not in ROLES:
        raise unknown("role", role, ROLES)
    opened = open_run(run, asked)
    pairset, pairs = _role_pairs(opened.record, role, root)
    order = sorted(pairs, key=lambda pair: short_hash(pair.lesion_id))
    chosen, rule = _chosen(opened, order, shown)
    rule = f"Lesions of role {role} in the order of the SHA-256 of their ids{': ' if chosen else ''}{rule}"
    found = []
    with out.progress("explaining", len(chosen)) as step:
        for pair in chosen:
            found.append(_pictured(opened, pair))
            step()
    record = _record(opened, tuple(found), data=pairset.name, role=role, rule=rule)
    checkable = order[:checked]
    if not checkable:
        return record
    from edgeskin.explain.checks import check

    groups = np.unique([pair.group for pair in checkable], return_inverse=True)[1]
    frames = (_frames(opened, pair.dermoscopic, pair.clinical) for pair in checkable)
    deletion, randomised = check(opened.explainer, frames, groups, opened.task.name, opened.chosen, seed)
    rule = f"{rule}; the checks: the first {len(checkable)} of all"
    return record.model_copy(update={"deletion": deletion, "randomised": randomised, "rule": rule})


def _frames(opened: Opened, dermoscopic: Path, clinical: Path | None) -> Frame:
    """uint8 [images, H, W, 3] of what the network takes, the clinical image first."""
    alone = clinical is None or opened.record.network.modalities == "dermoscopic"
    photos = [dermoscopic] if clinical is None or alone else [clinical, dermoscopic]
    return np.stack([prepare(photo, opened.record.preprocess) for photo in photos])


def _maps(opened: Opened, frames: Frame, lesion: str, truth: str | None) -> tuple[Explanation, dict[Kind, Floats]]:
    """What is told of a lesion, and its maps."""
    mode: Mode = "pair" if len(frames) == 2 else "dermoscopic"
    task, explainer = opened.task, opened.explainer
    probabilities = explainer.probabilities(frames[None], task.name)[0]
    predicted = int(probabilities.argmax())
    chosen = predicted if opened.chosen is None else opened.chosen
    maps = explainer.maps(frames, task.name, chosen)
    seen = quality.assess(frames, mode, opened.quality)
    unasked: tuple[Flag, ...] = ("swapped",) if mode == "pair" and not any(opened.quality.swapped_weights) else ()
    told = Explanation(
        lesion=lesion,
        mode=mode,
        task=task.name,
        predicted=task.class_names[predicted],
        explained=task.class_names[chosen],
        probability=min(1.0, float(probabilities[chosen])),
        truth=truth,
        share=shares(maps),
        quality={kind: seen.flags[kind] for kind in maps},
        assessable=seen.assessable,
        unasked=unasked,
    )
    return told, maps


def shares(maps: Mapping[Kind, Floats]) -> dict[Kind, float] | None:
    """Which part of the positive saliency lies in each image; None where nothing is positive.

    >>> shares({"clinical": np.array([[1.0, -9.0]]), "dermoscopic": np.array([[2.0, 1.0]])})
    {'clinical': 0.25, 'dermoscopic': 0.75}
    """
    sums = {kind: float(np.maximum(plane, 0).sum()) for kind, plane in maps.items()}
    total = sum(sums.values())
    return {kind: value / total for kind, value in sums.items()} if total > 0 else None


def _explain(opened: Opened, examination: Examination, picture: Path) -> Explanation:
    """Explain a lesion and write its picture; one that is there already, of the same images and network, is kept."""
    mark = _mark(opened, examination)
    if (known := _known(picture, mark)) is not None:
        return known
    frames = _frames(opened, examination.dermoscopic, examination.clinical)
    found, maps = _maps(opened, frames, examination.lesion_id, None)
    found = found.model_copy(update={"file": picture.name})
    seen = dict(zip(KINDS[-len(frames) :], frames, strict=True))
    page = drawing.sheet(found, seen, maps, opened.titles)
    told = PngInfo()
    told.add_itxt(MARK, json.dumps({"mark": mark, "explanation": found.to_json()}))
    with staged_file(picture) as staged:
        page.save(staged, "PNG", pnginfo=told)
    return found


def _mark(opened: Opened, examination: Examination) -> str:
    """Hash of what a picture is made of, and by which versions of what. An image that cannot be read is found when it
    is prepared."""
    asked = opened.asked
    images = [
        sha256_file(path) if path and path.is_file() else "" for path in (examination.dermoscopic, examination.clinical)
    ]
    parts = [opened.identity, asked.task, asked.chosen, asked.method, asked.stage, examination.lesion_id, images]
    parts += [opened.quality.to_json(), opened.versions]
    return sha256_bytes(canonical_json(parts).encode())


def _known(picture: Path, mark: str) -> Explanation | None:
    if not picture.is_file():
        return None
    try:
        with Image.open(picture) as image:
            assert isinstance(image, PngImageFile)
            image.load()  # a cut file is no picture
            told = json.loads(image.text[MARK])
        return Explanation.parse(told["explanation"], str(picture)) if told["mark"] == mark else None
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, AssertionError, EdgeskinError):
        return None


def _file_name(lesion: str) -> str:
    """A lesion's id as the name of a file.

    >>> _file_name("IL_1"), _file_name("ward 3/7")
    ('IL_1', 'ward_3_7-76d8b7bf')
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", lesion).lstrip(".")[:100]
    return plain if plain == lesion else f"{plain}-{short_hash(lesion)[:8]}"


def _role_pairs(record: Checkpoint, role: str, root: str) -> tuple[PairSet, Sequence[Pair]]:
    data = record.data
    pairset = registry.load_pairs(data.name, Path(root or data.root), data.schema_name, data.border_px)
    roles = assign(pairset, data.roles)
    if roles.records() != record.roles:
        raise EdgeskinError(
            "the data changed since the training", got=root or data.root, fix="pass the same data by --root"
        )
    wanted: Role = next(one for one in ROLES if one == role)
    return pairset, roles[wanted]


def _chosen(opened: Opened, order: Sequence[Pair], count: int) -> tuple[list[Pair], str]:
    """The first lesions with the target class and as many without, as far as there are any; and the rule in words."""
    schema = opened.record.task_schema
    target, positive = schema.target.task, schema.target_indices()
    known = [pair for pair in order if pair.labels.get(target, UNLABELLED) != UNLABELLED]
    having = [pair for pair in known if pair.labels[target] in positive]
    lacking = [pair for pair in known if pair.labels[target] not in positive]
    first = min(len(having), (count + 1) // 2)
    second = min(len(lacking), count - first)
    groups = ((first, f"with {schema.target.title}"), (second, f"without {schema.target.title}"))
    rule = ", then ".join(f"the first {many} {which}" for many, which in groups if many)
    return having[:first] + lacking[:second], rule


def _pictured(opened: Opened, pair: Pair) -> Explanation:
    """A lesion of a role with its pictures inside."""
    frames = _frames(opened, pair.dermoscopic, pair.clinical)
    label = pair.labels.get(opened.task.name, UNLABELLED)
    truth = None if label == UNLABELLED else opened.task.class_names[label]
    found, maps = _maps(opened, frames, short_hash(pair.lesion_id), truth)
    pictures = {
        kind: Picture(
            frame=drawing.jpeg(Image.fromarray(frame), SIDE),
            saliency=drawing.jpeg(drawing.overlay(frame, maps[kind], 2 * SIDE), SIDE),
        )
        for kind, frame in zip(KINDS[-len(frames) :], frames, strict=True)
    }
    return found.model_copy(update={"pictures": pictures})


def _record(
    opened: Opened, found: tuple[Explanation, ...], *, data: str = "", role: str = "", rule: str = ""
) -> Explained:
    record, explainer = opened.record, opened.explainer
    return Explained(
        created=provenance.now(),
        run=opened.name,
        checkpoint_sha256=opened.identity,
        backbone=record.network.backbone,
        method=explainer.method,
        stage=explainer.stage,
        grid=explainer.grid,
        score=SCORE,
        task=opened.task.name,
        chosen="" if opened.chosen is None else opened.task.class_names[opened.chosen],
        bundle=opened.bundle,
        data=data,
        role=role,
        rule=rule,
        phantom=record.phantom,
        lesions=found,
        versions=opened.versions,
    )
