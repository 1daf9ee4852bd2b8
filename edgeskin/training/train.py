"""The training stage: data in, checkpoint out; killed runs resume, finished ones are not redone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskin import calibrated, env, lacking, out, provenance
from edgeskin.data.pairs import Pair, PairSet
from edgeskin.data.roles import Roles
from edgeskin.errors import EdgeskinError
from edgeskin.files import os_errors, pretty_json, write_atomic
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.roles import Role
from edgeskin.spec.train import Checkpoint, DataSpec, NetworkSpec, TrainSpec
from edgeskin.training.allocator import keep_memory
from edgeskin.training.request import FRAMES, RUN, clean, hash_if_there, same_run


def train(
    pairset: PairSet, roles: Roles, data: DataSpec, network: NetworkSpec, spec: TrainSpec, weights: str, folder: Path,
    *, frames: Path | None = None, check: Callable[[], None] = lambda: None,
) -> Checkpoint:  # fmt: skip
    """Train the shared network and write checkpoint.safetensors and checkpoint.json into `folder`.

    Args:
        frames: where the decoded frames lie, for trainings that share them; None: in `folder`, until the end.
        check: called once all that is quickly refused was not, before anything is written.

    Raises:
        EdgeskinError: another run is in that folder, weights that do not fit, a role without an image that the network
            looks at, a loss, weights or answers that are not finite.
    """
    from edgeskin.model.checkpoint import RECORD, read_record
    from edgeskin.training.processes import joined

    spec = joined(spec)
    finished, teacher = (folder / RECORD).is_file(), Path(spec.teacher)
    taught: dict[str, str] = {}
    if spec.teacher and ((teacher / RECORD).is_file() or not finished):
        # By its weights: another teacher may come to lie in the same folder.
        taught = {"teacher_sha256": read_record(teacher).weights_sha256}
    request = {
        "data": data.to_json(),
        "network": network.to_json(),
        "train": spec.to_json(),
        "weights": weights,
        "roles": {role: record.to_json() for role, record in roles.records().items()},
        **hash_if_there("weights_file_sha256", weights),
        **taught,
    }
    if same_run(folder, request) and finished:
        out.note(f"{folder}: finished before, nothing to do")
        if not env.rank():
            clean(folder)  # a kill may have come between the checkpoint and this
        return read_record(folder)

    def begin() -> None:
        if not env.rank():
            check()
            write_atomic(folder / RUN, pretty_json(request))

    with os_errors(folder):
        return _fit(pairset, roles, data, network, spec, weights, folder, frames, taught, begin)


def _fit(
    pairset: PairSet, roles: Roles, data: DataSpec, spec: NetworkSpec, train: TrainSpec, weights: str, folder: Path,
    frames: Path | None, taught: dict[str, str], begin: Callable[[], None],
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

    pairs, control = (_looked_at(roles, role, spec) for role in ("train", "control"))
    sets = Data(pairs, control, schema, preprocess, train, frames or folder / FRAMES)
    begin()
    for line in lacking.undefined(label_array(control, schema), schema, "control"):
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
        both, alone = control_logits(network, sets.control_frames, control)
        labels = label_array(control, schema)
        record = _record(
            pairset, roles, data, spec, train, preprocess, network, source, both, alone, labels, resumable.metrics
        )
        save_checkpoint(folder, network, record.model_copy(update=taught))
        clean(folder)
    with partners():
        trainer.strategy.barrier()  # the other processes read what the first one wrote
    return read_record(folder)


def _looked_at(roles: Roles, role: Role, spec: NetworkSpec) -> tuple[Pair, ...]:
    """The pairs of a role but those without the one image that the network looks at: they teach and tell nothing.

    Raises:
        EdgeskinError: none is left.
    """
    found = tuple(pair for pair in roles[role] if pair.clinical is not None or spec.modalities != "clinical")
    if not found:
        raise EdgeskinError(
            f"no lesion of the {role} role has a clinical image",
            got=f"{len(roles[role])} lesions for a network of clinical images alone",
            fix="add clinical images, or train with --modalities both or dermoscopic",
        )
    return found


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
    labels: NDArray[np.int64],
    logged: dict[str, float],
) -> Checkpoint:
    from edgeskin.training.operating import choose_fusion, choose_thresholds, control_metrics, doubts

    fusion = choose_fusion(both, alone, labels, pairset.schema, spec.modalities)
    for line in doubts(both, labels, pairset.schema, fusion, spec.modalities):
        out.note(line)
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
        control_metrics=control_metrics(both, alone, labels, pairset.schema, fusion, logged),
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

    Raises:
        EdgeskinError: logits that are not finite.
        ValueError: a lesion without the one image that the network looks at.
    """
    import torch

    network.eval()
    modalities, third = network.spec.modalities, hasattr(network, "fused")
    has = np.array([p.clinical is not None for p in pairs], bool)
    if modalities == "clinical" and not has.all():
        raise ValueError("a network of clinical images alone is asked about lesions without one")
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
    found = np.concatenate(both), np.concatenate(alone)
    wrong = ~np.isfinite(found[1]).all(1) | has & ~np.isfinite(found[0]).all((1, 2))
    if wrong.any():
        raise EdgeskinError(
            f"the network's answers to the {what} are not finite",
            got=f"{int(wrong.sum())} of {len(pairs)} lesions",
            fix="train with a lower --learning-rate into another --out",
        )
    return found
