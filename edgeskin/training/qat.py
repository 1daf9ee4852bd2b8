"""Quantisation-aware training: a checkpoint in, a checkpoint out, whose network loses less when it is quantised.

The network learns, for a few epochs, to answer under fake quantisation as it answered in FP32. What is written is a
plain FP32 checkpoint again: the usual export and post-training quantisation follow, for any target.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeskin import out, provenance
from edgeskin.data.pairs import Pair, PairSet, evenly
from edgeskin.data.roles import Roles
from edgeskin.errors import EdgeskinError
from edgeskin.files import os_errors, pretty_json, sha256_file, write_atomic
from edgeskin.model.checkpoint import RECORD, load_network, read_record, save_checkpoint
from edgeskin.model.loss import BiasedLoss, divergence
from edgeskin.model.network import PairNetwork, takes
from edgeskin.preprocess import prepare
from edgeskin.spec.evidence import Tuned
from edgeskin.spec.qat import QAT, QatRecord, QatSpec
from edgeskin.spec.schema import Schema
from edgeskin.spec.train import Checkpoint, TrainSpec
from edgeskin.training.allocator import keep_memory
from edgeskin.training.callbacks import Resumable
from edgeskin.training.fakequant import fake_quantised
from edgeskin.training.fit import Data, fit
from edgeskin.training.frames import label_array
from edgeskin.training.operating import control_metrics
from edgeskin.training.request import FRAMES, RUN, clean, same_run
from edgeskin.training.teacher import Taught
from edgeskin.training.train import class_counts, control_logits

MEASURED = 160  # lesions of the control role, at most, on which divergences from the teacher are taken
Logits = tuple[NDArray[np.float64], NDArray[np.float64]]  # of pairs [N, 2, K], of dermoscopic images alone [N, K]


def qat(run: Path, record: Checkpoint, pairset: PairSet, roles: Roles, spec: QatSpec, folder: Path) -> Checkpoint:
    """Fine-tune the checkpoint of `run` under fake quantisation, and write another one into `folder`.

    The calibration role sets the ranges of the activations, the train role trains; the control role is only scored,
    test not touched. Fusion, temperatures and thresholds stay those of the FP32 checkpoint, and so do roles and
    preprocessing: decisions of what is built from it compare with FP32 at the FP32 operating point. `control_metrics`
    are those of the fake-quantised network. A killed run resumes, a finished one is not redone.

    Quantise what comes out without bias correction: the network has learnt to mend the errors of rounding itself, and
    its own FP32 answers, to which a correction would lead back, are further from the teacher's.

    Returns:
        The new record; `folder` holds checkpoint.safetensors, checkpoint.json and qat.json (`read_qat`).

    Raises:
        EdgeskinError: data that changed since the training, another run in `folder`, a loss that is not finite.
    """
    if roles.records() != record.roles:
        raise EdgeskinError(
            "the data changed since the training", got=str(pairset.root), fix="pass the same data, or train again"
        )
    if run.resolve() == folder.resolve():
        raise EdgeskinError(
            "the fine-tuned checkpoint would replace its teacher", got=str(folder), fix="another folder"
        )
    teacher = sha256_file(run / RECORD)
    request = {"qat": spec.to_json(), "teacher": teacher}
    if same_run(folder, request) and (folder / QAT).is_file():
        out.note(f"{folder}: finished before, nothing to do")
        read_qat(folder)
        clean(folder)  # a kill may have come between the record and this
        return read_record(folder)
    with os_errors(folder):
        write_atomic(folder / RUN, pretty_json(request))
        return _tune(run, record, teacher, pairset.schema, roles, spec, folder)


def read_qat(folder: Path) -> QatRecord:
    """qat.json of a finished fine-tuning, held against the checkpoint beside it; `.tuned` goes into the evidence.

    Raises:
        EdgeskinError: missing, damaged, or of another checkpoint.
    """
    path = folder / QAT
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EdgeskinError("no finished fine-tuning", got=str(folder), fix="run it again, it resumes") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EdgeskinError("damaged record of the fine-tuning", got=f"{path}: {error}", fix="delete it") from error
    found = QatRecord.parse(data, str(path))
    record = folder / RECORD
    if not record.is_file() or sha256_file(record) != found.tuned.checkpoint_sha256:
        raise EdgeskinError(
            "the fine-tuning's record is of another checkpoint", got=str(path), fix="delete the folder and run again"
        )
    return found


class Distiller(Taught):
    """Follows a teacher: KL divergence of both branches' probabilities, the clinical one weighted as in training."""

    cure = "a lower learning rate, or export without --qat"

    def __init__(
        self, network: PairNetwork, teacher: PairNetwork, loss: BiasedLoss, schema: Schema,
        train: TrainSpec, steps: int, spec: QatSpec,
    ) -> None:  # fmt: skip
        super().__init__(network, teacher, loss, schema, train, steps)
        self.qat = spec

    def train(self, mode: bool = True) -> "Distiller":
        """The network stays in evaluation mode: statistics of batch norm are frozen, the teacher's answer is exact."""
        super().train(mode)
        self.network.eval()
        return self

    def objective(self, frames: Tensor, labels: Tensor, clinical: int, rows: Tensor | None) -> Tensor:
        """Distance from the teacher's answer to the same images, and from the labels if they have a weight."""
        with torch.no_grad():
            wanted = self.teacher(frames, clinical, rows)
        logits = self.network(frames, clinical, rows)
        loss = self.loss.follow(logits, wanted, len(labels), clinical, self.qat.temperature)
        if self.qat.label_weight:
            loss = loss + self.qat.label_weight * self.loss(logits, labels, clinical, rows)
        return loss


def logits_divergence(given: Logits, wanted: Logits, schema: Schema) -> float:
    """KL divergence of all answers to a role: each image of a pair, and the dermoscopic one alone; mean, nats."""
    rows = []
    for both, alone in (given, wanted):
        paired = both[~np.isnan(both[:, 0, 0])]
        rows.append(torch.from_numpy(np.concatenate([paired.reshape(-1, both.shape[2]), alone])))
    return float(divergence(rows[0], rows[1], list(schema.slices().values())))


def _tune(
    run: Path, record: Checkpoint, teacher_sha256: str, schema: Schema, roles: Roles, spec: QatSpec, folder: Path
) -> Checkpoint:
    if spec.allocator and spec.accelerator != "gpu" and not keep_memory():
        out.note("this C library has no mallopt: training on the CPU may be slower")
    if spec.threads:
        torch.set_num_threads(spec.threads)
    teacher = load_network(run, record).to(memory_format=torch.channels_last)
    train = _training(record, spec, teacher)
    student = fake_quantised(teacher, _calibration(record, roles, spec), spec.weight_bits)
    pairs = _drawn(roles["train"], spec)
    sets = Data(pairs, roles["control"], schema, record.preprocess, train, folder / FRAMES)
    counts = class_counts(sets.labels, schema)
    loss = BiasedLoss(schema, counts, train)
    module = Distiller(student, teacher, loss, schema, train, sets.steps, spec)

    places = evenly(len(roles["control"]), MEASURED)
    control, frames = [roles["control"][place] for place in places], sets.control_frames[places]
    wanted = control_logits(teacher, frames, control)
    before = logits_divergence(control_logits(student, frames, control), wanted, schema)
    resumable = Resumable(folder)
    fit(module, sets, train, folder, resumable, mixed=False)  # half precision would hide the grid
    both, alone = control_logits(student, sets.control_frames, roles["control"])
    after = logits_divergence((both[places], alone[places]), wanted, schema)
    labels = label_array(roles["control"], schema)
    reached = control_metrics(both, alone, labels, schema, record.fusion, resumable.metrics)

    tuned = load_network(run, record)
    tuned.load_state_dict(student.state_dict())  # the rounding has no state
    plain = logits_divergence(control_logits(tuned, frames, control), wanted, schema)
    save_checkpoint(folder, tuned, _record(record, teacher_sha256, reached))
    found = QatRecord(
        spec=spec,
        tuned=Tuned(
            epochs=spec.epochs,
            teacher_sha256=teacher_sha256,
            checkpoint_sha256=sha256_file(folder / RECORD),
            learning_rate=spec.learning_rate,
            control_divergence=plain,
        ),
        quantised_before=before,
        quantised_after=after,
    )
    write_atomic(folder / QAT, pretty_json(found.to_json()))
    clean(folder)
    out.note(f"divergence from FP32 on the control role, fake-quantised: {before:.5f} before, {after:.5f} after")
    return read_record(folder)


def _training(record: Checkpoint, spec: QatSpec, network: PairNetwork) -> TrainSpec:
    """The options of the loop that both kinds of training share, from what the FP32 training was asked for."""
    size = record.preprocess.height
    crops = min(spec.size or record.train.train_size, size)
    if not takes(network, crops):
        out.note(f"{record.network.backbone} takes frames of one size: {size} px")
        crops = size
    return record.train.model_copy(
        update={
            **spec.model_dump(include={"epochs", "learning_rate", "weight_decay", "warmup", "seed"}),
            **spec.model_dump(include={"batch_pairs", "threads", "workers", "accelerator", "allocator"}),
            **{"size": size, "train_size": crops, "start_size": crops},
            **{"head_learning_rate": 1.0, "ema_decay": 0.0, "devices": 1, "accumulate": 1},
        }
    )


def _calibration(record: Checkpoint, roles: Roles, spec: QatSpec) -> list[NDArray[np.uint8]]:
    """Pairs with both images, prepared as the network takes them, uint8 [2, H, W, 3] each."""
    usable = [pair for pair in roles["calibration"] if pair.clinical is not None][: spec.calibration_pairs]
    frames = []
    for pair in out.track(usable, "calibration frames"):
        assert pair.clinical is not None
        both = prepare(pair.clinical, record.preprocess), prepare(pair.dermoscopic, record.preprocess)
        frames.append(np.stack(both))
    return frames


def _drawn(pairs: tuple[Pair, ...], spec: QatSpec) -> tuple[Pair, ...]:
    """The training pairs asked for: all, or a seeded draw."""
    if not spec.pairs or spec.pairs >= len(pairs):
        return pairs
    order = np.random.default_rng(spec.seed).permutation(len(pairs))[: spec.pairs]
    return tuple(pairs[index] for index in sorted(order))


def _record(record: Checkpoint, teacher_sha256: str, reached: dict[str, float]) -> Checkpoint:
    """The teacher's record, as far as it still holds."""
    source: dict[str, Any] = {
        "created": provenance.now(),
        "weights_source": f"fine-tuned under fake quantisation from checkpoint {teacher_sha256[:12]}",
        "control_metrics": reached,
        "versions": provenance.versions(),
        "git_revision": provenance.git_revision(),
    }
    return record.model_copy(update=source)
