"""What every kind of training shares: decoded frames, loaders, and the trainer that can be killed and run again."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from edgeskin.data.pairs import Pair
from edgeskin.errors import EdgeskinError
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.schema import Schema
from edgeskin.spec.train import TrainSpec
from edgeskin.training import callbacks
from edgeskin.training.callbacks import Resumable
from edgeskin.training.frames import (
    ControlPairs,
    EpochSampler,
    TrainingPairs,
    deal,
    finer,
    label_array,
    stored_frames,
)
from edgeskin.training.processes import accelerator, nodes, partners


class Data(lightning.LightningDataModule):
    """What a training goes through: both roles decoded once, by the first process of a machine, and read by all."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        control: Sequence[Pair],
        schema: Schema,
        preprocess: Preprocess,
        train: TrainSpec,
        cache: Path,
    ) -> None:
        """cache: folder of the decoded frames."""
        super().__init__()
        self.pairs, self.control, self.schema, self.preprocess = pairs, control, schema, preprocess
        self.train, self.cache = train, cache
        self.labels = label_array(pairs, schema)  # of the training pairs, int64 [N, tasks]
        self.deal = deal(len(pairs), train)

    @property
    def steps(self) -> int:
        """Of the optimiser, in the whole training."""
        return self.deal.batches // self.deal.accumulate * self.train.epochs

    @property
    def train_frames(self) -> NDArray[np.uint8]:
        """Finer than the network's, uint8 [N, 2, H, W, 3]."""
        return stored_frames(self.pairs, finer(self.preprocess), self.cache, "decoding train")

    @property
    def control_frames(self) -> NDArray[np.uint8]:
        """Of the control role, as the network takes them, uint8 [N, 2, H, W, 3]."""
        return stored_frames(self.control, self.preprocess, self.cache, "decoding control")

    def prepare_data(self) -> None:
        """Decode. The other processes wait."""
        _ = self.train_frames, self.control_frames

    def train_dataloader(self) -> Any:
        """Augmented training pairs."""
        sampler = EpochSampler(len(self.labels), self.train.seed, self.deal.batch * self.deal.batches)
        if self.trainer is not None:  # workers draw their first batches before the trainer names the epoch of a resume
            sampler.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)
        loader: Any = DataLoader(
            TrainingPairs(self.train_frames, [p.clinical is not None for p in self.pairs], self.labels, self.train),
            batch_size=self.deal.batch,
            sampler=sampler,
            # Its own: a loader draws a number when it starts an epoch, in a resumed run at another moment than in a
            # whole one, and that must not shift the dropout masks.
            generator=torch.Generator(),
            num_workers=self.train.workers,
            drop_last=True,
        )
        return loader

    def val_dataloader(self) -> Any:
        """Plain pairs of the control role."""
        has, labels = [p.clinical is not None for p in self.control], label_array(self.control, self.schema)
        loader: Any = DataLoader(ControlPairs(self.control_frames, has, labels), batch_size=self.train.batch_pairs)
        return loader


def fit(
    module: Any,
    data: Data,
    train: TrainSpec,
    folder: Path,
    resumable: Resumable,
    after: Sequence[Any] = (),
    *,
    mixed: bool = True,
) -> Any:
    """Train, from the state of an earlier, killed run where there is one. Returns the trainer.

    Args:
        after: callbacks that come after `resumable`, which saves their state.
        mixed: half precision on a GPU.

    Raises:
        EdgeskinError: the process was asked to end, or another one of this training ended.
    """
    _quiet()
    here, machines = nodes(train)
    kind = accelerator(train)
    trainer = lightning.Trainer(
        max_epochs=train.epochs,
        accelerator=kind,
        devices=here,
        num_nodes=machines,
        strategy="ddp_find_unused_parameters_true" if train.devices > 1 else "auto",
        precision="16-mixed" if mixed and kind == "gpu" else "32-true",
        logger=TensorBoardLogger(folder, name="logs", version="tb"),  # a table of the epochs is `resumable`'s
        callbacks=[callbacks.ShowProgress(train.epochs, data.deal.batches), resumable, *after],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        accumulate_grad_batches=data.deal.accumulate,
        use_distributed_sampler=False,  # EpochSampler deals among processes itself
    )
    try:
        with partners():
            trainer.fit(module, datamodule=data, ckpt_path=resumable.found(), weights_only=False)
    except SIGTERMException:  # of Lightning: it would end the process with status 0
        raise EdgeskinError(
            "stopped by a signal", got="SIGTERM", fix="run it again, it resumes after the last finished epoch"
        ) from None
    return trainer


def _quiet() -> None:
    """Lightning's remarks on hardware and workers are not a user's concern."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*weights_only.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*|.*tensorboardX.*|.*lr_scheduler.step.*")
