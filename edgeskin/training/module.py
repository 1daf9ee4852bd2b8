"""The training step and its optimiser, as a LightningModule."""

import math
from typing import Any

import lightning
import torch
from torch import Tensor

from edgeskin.errors import EdgeskinError
from edgeskin.model.loss import BiasedLoss
from edgeskin.model.network import PairNetwork
from edgeskin.spec.schema import Schema
from edgeskin.spec.train import Fusion, Modalities, TrainSpec
from edgeskin.training import operating

Batch = tuple[Tensor, Tensor, Tensor]  # frames uint8 [B, 2, H, W, 3], has clinical [B], labels int64 [B, tasks]


def stack(
    batch: Batch, kept: Tensor | None = None, modalities: Modalities = "both"
) -> tuple[Tensor, int, Tensor | None]:
    """A batch in the network's order: clinical images first, then all dermoscopic ones; their count and rows.

    Args:
        kept: the rows whose clinical image is used; None: all that are there.
        modalities: "dermoscopic" or "clinical" leaves out the others.
    """
    frames, has_clinical, _ = batch
    if modalities == "dermoscopic":
        return frames[:, 1], 0, None
    rows = has_clinical.nonzero(as_tuple=True)[0] if kept is None else kept
    every = None if len(rows) == len(frames) else rows
    if modalities == "clinical":
        return frames[rows, 0], len(rows), every
    return torch.cat([frames[rows, 0], frames[:, 1]]), len(rows), every


class PairTrainer(lightning.LightningModule):
    """Biased loss, AdamW with warm-up and cosine decay, metrics of the control role after each epoch."""

    cure = "train with a lower --learning-rate into another --out"  # of numbers that are not finite

    def __init__(self, network: PairNetwork, loss: BiasedLoss, schema: Schema, spec: TrainSpec, steps: int) -> None:
        super().__init__()
        self.network, self.loss = network, loss
        self.task_schema, self.spec, self.steps = schema, spec, steps
        self._control: list[tuple[Tensor, Tensor, Tensor]] = []
        share = {"both": 0.5, "dermoscopic": 1.0, "clinical": 0.0}[network.spec.modalities]
        third = 1 / 3 if network.spec.pair_rows == 3 else 0.0  # all three alike
        self._fusion = {task.name: Fusion(dermoscopic_weight=share, fused_weight=third) for task in schema.tasks}

    def setup(self, stage: str) -> None:
        """Use the threads that were asked for: Lightning sets a number of its own in each of several processes."""
        if self.spec.threads:
            torch.set_num_threads(self.spec.threads)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Loss of one batch; a loss that is not finite stops the run and keeps the last good checkpoint."""
        batches = int(self.trainer.num_training_batches)
        place = (self.current_epoch * batches + batch_index) * self.trainer.world_size + self.global_rank
        frames, clinical, rows = stack(batch, self._kept(batch[1], place), self.network.spec.modalities)
        loss = self.objective(frames, batch[2], clinical, rows)
        finite = bool(torch.isfinite(loss))
        # Of all processes: one that ended alone would leave the others waiting for its gradients.
        if not self.trainer.strategy.reduce_boolean_decision(finite):
            value = "that of another process" if finite else loss.item()
            kept = f"; the state after epoch {self.current_epoch} is kept" if self.current_epoch else ""
            raise EdgeskinError(
                "the training loss is not finite",
                got=f"{value} in epoch {self.current_epoch + 1}, batch {batch_index + 1}{kept}",
                fix=self.cure,
            )
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[0]), sync_dist=True)
        return loss

    def objective(self, frames: Tensor, labels: Tensor, clinical: int, rows: Tensor | None) -> Tensor:
        """What is minimised: the biased loss of the network's logits of these images, stacked as it takes them."""
        loss: Tensor = self.loss(self.network(frames, clinical, rows), labels, clinical, rows)
        return loss

    def _kept(self, has_clinical: Tensor, place: int) -> Tensor:
        """Modality drop-out: the same share of every batch loses its clinical image; none where it is all there is.

        A fixed number, not a coin for each pair: on the CPU every new batch shape costs seconds of kernel generation.
        The share is rounded to whole pairs of a batch: 0.15 are 2 of 16 and none of 2. Pairs that never had a clinical
        image count towards it, so that a batch with enough of them loses no other.
        `place` is the number of the batch in the run, of all processes together: each draws its own.
        """
        rows = has_clinical.nonzero(as_tuple=True)[0].cpu()
        lost = 0.0 if self.network.spec.modalities == "clinical" else self.spec.modality_dropout
        count = min(len(rows), round((1 - lost) * len(has_clinical)))
        generator = torch.Generator().manual_seed(self.spec.seed * 1_000_003 + place)
        drawn = torch.randperm(len(rows), generator=generator)[:count]
        return rows[drawn].sort().values.to(has_clinical.device)

    def on_train_epoch_start(self) -> None:
        """The same dropout masks in an epoch, whether or not the run was resumed before it."""
        torch.manual_seed(self.spec.seed * 7_919 + self.current_epoch + 1_000_000 * self.global_rank)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Collects the logits of control pairs: both images where there are two."""
        frames, clinical, rows = stack(batch, None, self.network.spec.modalities)
        logits = self.network(frames, clinical, rows).float().cpu()
        has = batch[1].cpu()
        # A branch that the network lacks stays flat.
        both = torch.zeros(len(batch[0]), self.network.spec.pair_rows, logits.shape[1])
        both[~has, 0] = math.nan
        if self.network.spec.modalities != "clinical":
            both[:, 1] = logits[clinical : clinical + len(batch[0])]
        if self.network.spec.modalities != "dermoscopic":
            both[has, 0] = logits[:clinical]
        if both.shape[1] == 3:
            both[~has, 2] = math.nan
            both[has, 2] = logits[clinical + len(batch[0]) :]
        self._control.append((both, batch[1].cpu(), batch[2].cpu()))

    def on_validation_epoch_end(self) -> None:
        """Macro-F1, balanced accuracy and AUC of the target on the control role."""
        both, has, labels = (torch.cat(part).numpy() for part in zip(*self._control, strict=True))
        self._control.clear()
        found = operating.scores(both, both[:, 1], has, labels, self.task_schema, self._fusion)
        for name, value in found.items():
            self.log(name, value, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW; no decay for biases and norms; a higher rate for what has no pretrained start."""
        fresh = {id(value) for value in self.network.fresh()}
        groups: dict[tuple[bool, bool], list[Tensor]] = {}
        for value in self.network.parameters():
            groups.setdefault((id(value) in fresh, value.ndim > 1), []).append(value)
        rate = self.spec.learning_rate
        optimizer = torch.optim.AdamW(
            [
                {
                    "params": values,
                    "lr": rate * (self.spec.head_learning_rate if new else 1),
                    "weight_decay": self.spec.weight_decay if decays else 0.0,
                }
                for (new, decays), values in groups.items()
            ],
            # One pass over the weights. Not on a GPU: there it would take over the scaling of half precision, and
            # gradients could no longer be clipped.
            fused=self.network.mean.device.type == "cpu",
        )
        warmup = max(1, int(self.spec.warmup * self.steps))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, self.steps - warmup))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
