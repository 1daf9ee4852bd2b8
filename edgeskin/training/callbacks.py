"""Progress, resume and weight averaging of a training run."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from edgeskin import out
from edgeskin.files import sync

_LAST = "last.ckpt"


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
    """Keeps the state after each finished epoch, written under a temporary name and renamed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / _LAST
        self.metrics: dict[str, float] = {}  # of the last finished epoch

    def found(self) -> str | None:
        """The state of an earlier, interrupted run."""
        return str(self.path) if self.path.is_file() else None

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Save. This callback comes before the averaging one, whose state is part of what is saved."""
        self.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        partial = self.path.with_suffix(".partial")
        trainer.save_checkpoint(partial, weights_only=False)
        if trainer.is_global_zero:
            sync(partial)
            partial.replace(self.path)

    def state_dict(self) -> dict[str, Any]:
        """What is saved of this callback itself."""
        return {"metrics": self.metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The reverse."""
        self.metrics = dict(state_dict.get("metrics", {}))

    def clean(self) -> None:
        """Remove what only a resume needs."""
        self.path.unlink(missing_ok=True)
        frames = self.path.parent / "frames"
        if frames.is_dir():
            for file in frames.iterdir():
                file.unlink()
            frames.rmdir()


class _Average(WeightAveraging):
    """Exponential moving average after every step.

    Lightning's own averages weight by weight, which takes twice as long; on the CPU that is felt.

    The average also ends up in the network when a resumed run finds no epoch left to train: a run may be killed between
    its last epoch and its checkpoint. The trainer then skips the training and, with it, the hook that puts the average
    in place.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(decay))

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
