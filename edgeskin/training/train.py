"""The training stage: data in, checkpoint out; killed runs resume, finished ones are not redone."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskin import calibrated, env, lacking, out, provenance
from edgeskin.data.pairs import Pair, PairSet
from edgeskin.data.roles import Roles
from edgeskin.errors import EdgeskinError
from edgeskin.files import os_errors, pretty_json, write_atomic
from edgeskin.spec.base import Spec
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.train import Checkpoint, DataSpec, NetworkSpec, TrainSpec
from edgeskin.training.allocator import keep_memory

RUN = "run.json"


def train(
    pairset: PairSet, roles: Roles, data: DataSpec, network: NetworkSpec, spec: TrainSpec, weights: str, folder: Path,
    *, frames: Path | None = None,
) -> Checkpoint:  # fmt: skip
    """Train the shared network and write checkpoint.safetensors and checkpoint.json into `folder`.

    Args:
        frames: where the decoded frames lie, for trainings that share them; None: in `folder`, until the end.

    Raises:
        EdgeskinError: another run is in that folder, weights that do not fit, a loss that is not finite.
    """
    from edgeskin.model.checkpoint import RECORD, read_record
    from edgeskin.training.processes import joined

    spec = joined(spec)
    request = {
        "data": data.to_json(),
        "network": network.to_json(),
        "train": spec.to_json(),
        "weights": weights,
        "roles": {role: record.to_json() for role, record in roles.records().items()},
    }
    # By its weights: another teacher may come to lie in the same folder.
    taught = {"teacher_sha256": read_record(Path(spec.teacher)).weights_sha256} if spec.teacher else {}
    request |= taught
    if same_run(folder, request) and (folder / RECORD).is_file():
        out.note(f"{folder}: finished before, nothing to do")
        return read_record(folder)
    with os_errors(folder):
        if not env.rank():
            write_atomic(folder / RUN, pretty_json(request))
        return _fit(pairset, roles, data, network, spec, weights, folder, frames, taught)


def same_run(folder: Path, request: dict[str, Any]) -> bool:
    """Whether the folder holds this very run. Raises if it holds another one."""
    path = folder / RUN
    if not path.is_file():
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        found = None
    if isinstance(found, dict):
        found = _with_defaults(found)
    if found != request:
        changed = [k for k in request if not isinstance(found, dict) or found.get(k) != request[k]]
        raise EdgeskinError(
            "another run is in this folder",
            got=f"{folder}, which differs in {', '.join(changed)}",
            fix="choose another --out, or delete the folder",
        )
    return True


def _with_defaults(request: dict[str, Any]) -> dict[str, Any]:
    """An earlier request with the options that came after it, which had their defaults then."""
    kinds: dict[str, type[Spec]] = {"data": DataSpec, "network": NetworkSpec, "train": TrainSpec}
    whole = dict(request)
    for key in kinds.keys() & request.keys():
        with suppress(EdgeskinError):
            whole[key] = kinds[key].parse(request[key], key).to_json()
    return whole


def _fit(
    pairset: PairSet, roles: Roles, data: DataSpec, spec: NetworkSpec, train: TrainSpec, weights: str, folder: Path,
    frames: Path | None, taught: dict[str, str],
) -> Checkpoint:  # fmt: skip
    if train.allocator and train.accelerator != "gpu" and not keep_memory():
        out.note("this C library has no mallopt: training on the CPU may be slower")
    import torch

    from edgeskin.model.checkpoint import read_record, save_checkpoint
    from edgeskin.model.loss import BiasedLoss
    from edgeskin.model.network import PairNetwork, takes
    from edgeskin.model.weights import build_encoder
    from edgeskin.training.callbacks import Resumable, averaging
    from edgeskin.training.fit import Data, fit
    from edgeskin.training.frames import label_array, size_at
    from edgeskin.training.module import PairTrainer
    from edgeskin.training.processes import partners, synchronised
    from edgeskin.training.teacher import Student, read_teacher

    if train.threads:
        torch.set_num_threads(train.threads)
    torch.manual_seed(train.seed)
    schema = pairset.schema
    teacher = read_teacher(Path(train.teacher), spec, schema, roles) if train.teacher else None
    encoder, source = build_encoder(spec, train.size, weights)
    preprocess = preprocess_for(encoder, train.size, data.border_px)
    network = PairNetwork(encoder, spec, schema, preprocess).to(memory_format=torch.channels_last)
    if not all(takes(network, size) for size in sorted({size_at(epoch, train) for epoch in range(train.epochs)})):
        out.note(f"{spec.backbone} takes frames of one size: {train.size} px from the first epoch")
        train = train.model_copy(update={"start_size": train.size, "train_size": train.size})

    # A pair without the one image that the network looks at teaches nothing.
    pairs = [p for p in roles["train"] if p.clinical is not None or spec.modalities != "clinical"]
    sets = Data(pairs, roles["control"], schema, preprocess, train, frames or folder / "frames")
    for line in lacking.undefined(label_array(roles["control"], schema), schema, "control"):
        out.note(line)
    loss = BiasedLoss(schema, class_counts(sets.labels, schema), train)
    network = synchronised(network, train)
    if teacher is None:
        module: PairTrainer = PairTrainer(network, loss, schema, train, sets.steps)
    else:
        module = Student(network, teacher, loss, schema, train, sets.steps)
    resumable = Resumable(folder)
    trainer = fit(module, sets, train, folder, resumable, averaging(train.ema_decay, sets.steps))

    if trainer.is_global_zero:
        both, alone = control_logits(network, sets.control_frames, roles["control"])
        record = _record(pairset, roles, data, spec, train, preprocess, network, source, both, alone, resumable.metrics)
        save_checkpoint(folder, network, record.model_copy(update=taught))
        resumable.clean()
    with partners():
        trainer.strategy.barrier()  # the other processes read what the first one wrote
    return read_record(folder)


def _record(
    pairset: PairSet,
    roles: Roles,
    data: DataSpec,
    spec: NetworkSpec,
    train: TrainSpec,
    preprocess: Preprocess,
    network: Any,
    source: str,
    both: NDArray[np.float64],
    alone: NDArray[np.float64],
    logged: dict[str, float],
) -> Checkpoint:
    from edgeskin.training.frames import label_array
    from edgeskin.training.operating import choose_fusion, choose_thresholds

    labels = label_array(roles["control"], pairset.schema)
    fusion = choose_fusion(both, alone, labels, pairset.schema, spec.modalities)
    if spec.modalities == "both":
        found = calibrated.on_control(both, alone, labels, pairset.schema, fusion)
        for line in calibrated.lines(found, pairset.schema):
            out.note(line)
    return Checkpoint(
        created=provenance.now(),
        network=spec,
        data=data,
        train=train,
        task_schema=pairset.schema,
        preprocess=preprocess,
        fusion=fusion,
        thresholds=choose_thresholds(both, alone, labels, pairset.schema, fusion),
        roles=roles.records(),
        lesion_hashes=roles.lesion_hashes(),
        phantom=pairset.phantom,
        parameters=sum(p.numel() for p in network.parameters()),
        weights_sha256="",
        weights_source=source,
        control_metrics={name: value for name, value in logged.items() if np.isfinite(value)},
        versions=provenance.versions(),
        git_revision=provenance.git_revision(),
    )


def preprocess_for(encoder: Any, size: int, border_px: int) -> Preprocess:
    """Square frames of `size` pixels, normalised as the encoder's weights were trained."""
    known = encoder.pretrained_cfg
    mean, std = (tuple(float(x) for x in known[key]) for key in ("mean", "std"))
    return Preprocess(height=size, width=size, border_px=border_px, mean=mean, std=std)


def class_counts(labels: NDArray[np.int64], schema: Any) -> dict[str, list[int]]:
    """How many training lesions each class of each task has."""
    return {
        task.name: [int((labels[:, index] == c).sum()) for c in range(len(task.classes))]
        for index, task in enumerate(schema.tasks)
    }


def control_logits(
    network: Any, frames: NDArray[np.uint8], pairs: Sequence[Pair], batch: int = 32, what: str = "control role"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logits of pairs [N, 2, K] (NaN without clinical image) and of the dermoscopic image alone [N, K].

    A fused head makes it [N, 3, K]. A network for one kind of image alone gives zeros for the other, whose weight is 0.

    Args:
        frames: uint8 [N, 2, H, W, 3], clinical images first.
        what: whose these are, for the progress line.
    """
    import torch

    network.eval()
    modalities, third = network.spec.modalities, hasattr(network, "fused")
    has = np.array([p.clinical is not None for p in pairs])
    both: list[NDArray[np.float64]] = []
    alone: list[NDArray[np.float64]] = []
    device = next(network.parameters()).device
    with torch.inference_mode(), out.progress(what, len(pairs)) as step:
        for start in range(0, len(pairs), batch):
            part = torch.from_numpy(np.array(frames[start : start + batch])).to(device)
            count = len(part)
            if modalities == "clinical":
                own = network(part[:, 0], count).double().cpu().numpy()
                lone = np.zeros_like(own)
                pair = np.stack([own, lone], axis=1)
            else:
                lone = network(part[:, 1], 0).double().cpu().numpy()
                if modalities == "dermoscopic":
                    pair = np.stack([np.zeros_like(lone), lone], axis=1)
                else:
                    stacked = network(torch.cat([part[:, 0], part[:, 1]]), count).double().cpu().numpy()
                    pair = stacked.reshape(2 + third, count, -1).swapaxes(0, 1).copy()
            missing = ~has[start : start + count]
            pair[missing, 0] = np.nan
            if third:
                pair[missing, 2] = np.nan
            both.append(pair)
            alone.append(lone)
            step(count)
    return np.concatenate(both), np.concatenate(alone)
