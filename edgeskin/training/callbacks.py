"""Progress, resume and weight averaging of a training run."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback, EMAWeightAveraging

from edgeskin import out

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
        left = (self.epochs - trainer.current_epoch) * self.batches
        if trainer.current_epoch:
            out.note(f"resuming after epoch {trainer.current_epoch} of {self.epochs}")
        self._step = self._stack.enter_context(out.progress(self._text, left))

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        """One step."""
        assert self._step is not None
        self._step(1, f"epoch {trainer.current_epoch + 1}/{self.epochs}{self._text.removeprefix('training')}")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """A line that stays: loss and control metrics of this epoch."""
        shown = {
            name: float(trainer.callback_metrics.get(name, math.nan))
            for name in ("loss", "control_macro_f1", "control_balanced_accuracy", "control_target_auc")
        }
        self._text = f"training  loss {shown['loss']:.3f}  F1 {shown['control_macro_f1']:.3f}"
        words = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
        out.note(f"epoch {trainer.current_epoch + 1}/{self.epochs}: {words}")

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Close the bar, also after an error."""
        self._stack.close()


class Resumable(Callback):
    """Keeps the state after each finished epoch, written under a temporary name and renamed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / _LAST

    def found(self) -> str | None:
        """The state of an earlier, interrupted run."""
        return str(self.path) if self.path.is_file() else None

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Save. This callback comes before the averaging one, whose state is part of what is saved."""
        partial = self.path.with_suffix(".partial")
        trainer.save_checkpoint(partial, weights_only=False)
        if trainer.is_global_zero:
            partial.replace(self.path)

    def clean(self) -> None:
        """Remove what only a resume needs."""
        self.path.unlink(missing_ok=True)
        frames = self.path.parent / "frames"
        if frames.is_dir():
            for file in frames.iterdir():
                file.unlink()
            frames.rmdir()


def averaging(decay: float, steps: int) -> list[Any]:
    """Exponential moving average of the weights, which is validated and kept; none if decay is 0.

    In short runs the average must not reach back to the untrained start: its memory is at most an eighth of the run.
    """
    return [EMAWeightAveraging(decay=min(decay, max(0.0, 1 - 8 / steps)))] if decay else []
