"""What every kind of training shares: decoded frames, loaders, and the trainer that can be killed and run again."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
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
from edgeskin.training.frames import ControlPairs, EpochSampler, TrainingPairs, finer, label_array, stored_frames


@dataclass(frozen=True, slots=True)
class Data:
    """What a training goes through in an epoch, and the control role's plain frames, uint8 [N, 2, H, W, 3]."""

    loader: Any
    control: Any
    control_frames: NDArray[np.uint8]
    labels: NDArray[np.int64]  # of the training pairs [N, tasks]
    batches: int  # in an epoch


def prepare_data(
    pairs: Sequence[Pair],
    control: Sequence[Pair],
    schema: Schema,
    preprocess: Preprocess,
    train: TrainSpec,
    cache: Path,
) -> Data:
    """Decode both roles once into the folder `cache` and make their loaders."""
    train_frames = stored_frames(pairs, finer(preprocess), cache, "decoding train")
    control_frames = stored_frames(control, preprocess, cache, "decoding control")
    labels = label_array(pairs, schema)
    loader: Any = DataLoader(
        TrainingPairs(train_frames, [p.clinical is not None for p in pairs], labels, train),
        batch_size=min(train.batch_pairs, len(labels)),
        sampler=EpochSampler(len(labels), train.seed),
        # Its own: a loader draws a number when it starts an epoch, in a resumed run at another moment than in a whole
        # one, and that must not shift the dropout masks.
        generator=torch.Generator(),
        num_workers=train.workers,
        drop_last=True,
    )
    held: Any = DataLoader(
        ControlPairs(control_frames, [p.clinical is not None for p in control], label_array(control, schema)),
        batch_size=train.batch_pairs,
    )
    return Data(loader, held, control_frames, labels, max(1, len(labels) // (train.batch_pairs * train.devices)))


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
        EdgeskinError: the process was asked to end.
    """
    _quiet()
    accelerator = train.accelerator
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    trainer = lightning.Trainer(
        max_epochs=train.epochs,
        accelerator=accelerator,
        devices=train.devices,
        strategy="ddp_find_unused_parameters_true" if train.devices > 1 else "auto",
        precision="16-mixed" if mixed and accelerator == "gpu" else "32-true",
        logger=[CSVLogger(folder, name="logs", version="csv"), TensorBoardLogger(folder, name="logs", version="tb")],
        callbacks=[callbacks.ShowProgress(train.epochs, data.batches), resumable, *after],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        accumulate_grad_batches=train.accumulate,
        use_distributed_sampler=False,  # EpochSampler deals among processes itself
    )
    try:
        trainer.fit(module, data.loader, data.control, ckpt_path=resumable.found(), weights_only=False)
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
