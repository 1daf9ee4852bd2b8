"""Progress, resume and weight averaging of a training run."""

import csv
import io
import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from edgeskin import out
from edgeskin.errors import EdgeskinError
from edgeskin.files import sync, write_atomic
from edgeskin.training.request import LAST


class ShowProgress(Callback):
    """One bar over all steps of the run, with loss and control metrics of the last epoch and the remaining time."""

    def __init__(self, epochs: int, batches: int) -> None:
        self.epochs, self.batches = epochs, batches
        self._stack = ExitStack()
        self._step: Callable[..., None] | None = None
        self._text = "training"

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the bar for what is left: a resumed run starts at the epoch it reached."""
        if not trainer.is_global_zero:
            return
        left = (self.epochs - trainer.current_epoch) * self.batches
        if trainer.current_epoch:
            out.note(f"resuming after epoch {trainer.current_epoch} of {self.epochs}")
        self._step = self._stack.enter_context(out.progress(self._text, left))

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        """One step."""
        if self._step is None:  # another process shows
            return
        self._step(1, f"epoch {trainer.current_epoch + 1}/{self.epochs}{self._text.removeprefix('training')}")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """A line that stays: loss and control metrics of this epoch."""
        if self._step is None:
            return
        shown = {
            name: float(trainer.callback_metrics.get(name, math.nan))
            for name in ("loss", "control_macro_f1", "control_balanced_accuracy", "control_target_auc")
        }
        self._text = f"training  loss {shown['loss']:.3f}  F1 {shown['control_macro_f1']:.3f}"
        words = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
        out.note(f"epoch {trainer.current_epoch + 1}/{self.epochs}: {words}")

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Close the bar."""
        self._stack.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close the bar: after an error there is no teardown."""
        self._stack.close()


class Resumable(Callback):
    """Keeps the state after each finished epoch, written under a temporary name and renamed; and the log of all epochs.

    The log, logs/csv/metrics.csv, is written anew from rows that are part of the state: a resumed run has those of the
    epochs before it too.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LAST
        self.table = folder / "logs" / "csv" / "metrics.csv"
        self.rows: list[dict[str, float]] = []  # one an epoch

    @property
    def metrics(self) -> dict[str, float]:
        """Of the last finished epoch."""
        return {name: value for name, value in self.rows[-1].items() if name not in ("epoch", "step")}

    def found(self) -> str | None:
        """The state of an earlier, interrupted run."""
        return str(self.path) if self.path.is_file() else None

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Save. This callback comes before the averaging one, whose state is part of what is saved.

        Raises:
            EdgeskinError: weights or statistics are not finite; the state of the epoch before stays.
        """
        # First of all: what is logged of all processes is gathered when it is read, by the first one just before this.
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        tensors = (value for value in pl_module.state_dict().values() if value.is_floating_point())
        finite = all(bool(torch.isfinite(value).all()) for value in tensors)
        # Of all processes: they save together.
        if not trainer.strategy.reduce_boolean_decision(finite):
            raise EdgeskinError(
                "the weights are not finite",
                got=f"after epoch {trainer.current_epoch + 1}",
                fix=pl_module.cure,
            )
        self.rows.append({"epoch": trainer.current_epoch, "step": trainer.global_step, **logged})
        if trainer.is_global_zero:
            write_atomic(self.table, _table(self.rows))  # before the state: an epoch that it lacks is trained again
        partial = self.path.with_suffix(".partial")
        trainer.save_checkpoint(partial, weights_only=False)
        if trainer.is_global_zero:
            sync(partial)
            partial.replace(self.path)

    def state_dict(self) -> dict[str, Any]:
        """What is saved of this callback itself."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The reverse."""
        self.rows = list(state_dict.get("rows") or [state_dict["metrics"]])  # (states once held the last epoch alone)


def _table(rows: list[dict[str, float]]) -> str:
    """CSV with a column for everything that any epoch logged."""
    text = io.StringIO()
    writer = csv.DictWriter(text, sorted({name for row in rows for name in row}), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class _Average(WeightAveraging):
    """Exponential moving average after every step.

    Lightning's own averages weight by weight, which takes twice as long; on the CPU that is felt.

    The average also ends up in the network when a resumed run finds no epoch left to train: a run may be killed between
    its last epoch and its checkpoint. The trainer then skips the training and, with it, the hook that puts the average
    in place.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Follow the network to its device: the average is made before the network gets there."""
        assert self._average_model is not None
        self._average_model.to(pl_module.device)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """After each step of the optimiser."""
        return step_idx is not None

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """After a finished training this changes nothing; an error ends without teardown."""
        if stage == "fit":
            self._copy_average_to_current(pl_module)


def averaging(decay: float, steps: int) -> list[Any]:
    """Exponential moving average of the weights, which is validated and kept; none if decay is 0.

    In short runs the average must not reach back to the untrained start: its memory is at most an eighth of the run.
    """
    return [_Average(min(decay, max(0.0, 1 - 8 / steps)))] if decay else []
