"""Distillation: a network that also learns from the answers of a trained, usually larger one."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from edgeskin.data.roles import Roles
from edgeskin.errors import EdgeskinError
from edgeskin.model.checkpoint import load_network, read_record
from edgeskin.model.loss import BiasedLoss
from edgeskin.model.network import PairNetwork, takes
from edgeskin.spec.schema import Schema
from edgeskin.spec.train import NetworkSpec, TrainSpec
from edgeskin.training.module import PairTrainer


def read_teacher(run: Path, student: NetworkSpec, schema: Schema, roles: Roles) -> PairNetwork:
    """The trained network of a run, held against what it is to teach.

    Raises:
        EdgeskinError: no finished run, another schema, images that it does not know, or a teacher that trained on
            lesions which the student is to be chosen or judged by: it would whisper the answers.
    """
    record = read_record(run)
    if record.task_schema != schema:
        raise EdgeskinError(
            "the teacher answers another schema",
            got=f"{record.task_schema.name} with {record.task_schema.logits} classes",
            possible=f"{schema.name} with {schema.logits}, class for class",
            fix="train the teacher with the same --schema",
        )
    known = {"both": ("both",), "dermoscopic": ("dermoscopic", "both"), "clinical": ("clinical",)}[student.modalities]
    if record.network.modalities not in known:
        raise EdgeskinError(
            "the teacher does not know these images",
            got=f"a teacher of {record.network.modalities} images for a network of {student.modalities}",
            possible=" or ".join(known),
        )
    own = roles.lesion_hashes()
    for role in ("calibration", "control", "test"):
        seen = set(record.lesion_hashes["train"]) & set(own[role])
        if seen:
            raise EdgeskinError(
                f"the teacher was trained on lesions of this training's {role} role",
                got=f"{len(seen)} of {len(own[role])}",
                fix="give both trainings the same roles: the same shares and --role-seed",
            )
    return load_network(run, record)


class _Aside:
    """Holds a network beside a module, not in it: no part of the state that a resume needs, nor of copies of it."""

    def __init__(self, network: PairNetwork) -> None:
        self.network = network

    def __deepcopy__(self, memo: dict[int, object]) -> "_Aside":
        return self


class Taught(PairTrainer):
    """A training whose network also, or only, learns from a second one, which stays as it is."""

    def __init__(
        self, network: PairNetwork, teacher: PairNetwork, loss: BiasedLoss, schema: Schema, spec: TrainSpec, steps: int
    ) -> None:
        super().__init__(network, loss, schema, spec, steps)
        self._aside = _Aside(teacher.eval().requires_grad_(False))

    @property
    def teacher(self) -> PairNetwork:
        """In evaluation mode."""
        return self._aside.network

    def on_fit_start(self) -> None:
        """Put the teacher where the network is."""
        self.teacher.to(self.device)


class Student(Taught):
    """Biased loss against the labels and divergence from a teacher's answers to the same augmented images.

    (1 - d) * L_labels + d * L_teacher, with d = `distillation` and L_teacher the Kullback-Leibler divergence at a
    temperature, times its square (Hinton et al., arXiv 1503.02531), the branches weighted as in the biased loss.
    """

    def __init__(
        self, network: PairNetwork, teacher: PairNetwork, loss: BiasedLoss, schema: Schema, spec: TrainSpec, steps: int
    ) -> None:
        super().__init__(network, teacher, loss, schema, spec, steps)
        self._sizes: dict[int, int] = {}  # side of the frames -> side that the teacher is shown

    def objective(self, frames: Tensor, labels: Tensor, clinical: int, rows: Tensor | None) -> Tensor:
        """The loss of one batch."""
        with torch.no_grad():
            wanted = self.teacher(self._shown(frames), clinical, rows)
        logits = self.network(frames, clinical, rows)
        share, warmth = self.spec.distillation, self.spec.distillation_temperature
        taught = self.loss.follow(logits, wanted, len(labels), clinical, warmth)
        told: Tensor = self.loss(logits, labels, clinical, rows)
        return (1 - share) * told + share * taught

    def _shown(self, frames: Tensor) -> Tensor:
        """The frames at a size that the teacher takes: windowed Transformers take their own alone."""
        side = frames.shape[1]
        if side not in self._sizes:
            self._sizes[side] = side if takes(self.teacher, side) else self.teacher.side
        wanted = self._sizes[side]
        if wanted == side:
            return frames
        moved = frames.permute(0, 3, 1, 2).float()
        scaled = functional.interpolate(moved, (wanted, wanted), mode="bilinear", antialias=True)
        return scaled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
