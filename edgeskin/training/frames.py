"""Frames for training: decoded once into one file, augmented pair by pair."""

import os
import platform
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import v2

from edgeskin import out
from edgeskin.data.pairs import Pair
from edgeskin.errors import EdgeskinError
from edgeskin.files import canonical_json, sha256_bytes
from edgeskin.preprocess import prepare
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.schema import Schema
from edgeskin.spec.train import TrainSpec


def finer(preprocess: Preprocess) -> Preprocess:
    """How frames for training are stored: 8/7 as fine as the network's, so that a crop of them loses little."""
    return preprocess.model_copy(update={"height": preprocess.height * 8 // 7, "width": preprocess.width * 8 // 7})


def stored_frames(pairs: Sequence[Pair], preprocess: Preprocess, folder: Path, description: str) -> NDArray[np.uint8]:
    """All frames of these pairs as a memory-mapped uint8 array [pairs, 2, H, W, 3]; a missing image is zeros.

    The file's name is a hash of the lesions, in order, and the preprocessing; it is complete once it has that name, so
    a killed run starts it again and a finished one is never redone.
    """
    key = sha256_bytes(canonical_json([[p.lesion_id for p in pairs], preprocess.to_json()]).encode())[:16]
    path = folder / f"frames-{key}.npy"
    shape = (len(pairs), 2, preprocess.height, preprocess.width, 3)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _remove_left(folder)
        # Processes that train together each decode, also those of other machines on the same disk.
        partial = path.with_suffix(f".{platform.node()}.{os.getpid()}.partial")
        frames = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)

        def fill(index: int) -> None:
            pair = pairs[index]
            if pair.clinical is not None:
                frames[index, 0] = prepare(pair.clinical, preprocess)
            frames[index, 1] = prepare(pair.dermoscopic, preprocess)

        with ThreadPoolExecutor() as pool, out.progress(description, len(pairs)) as step:
            for _ in pool.map(fill, range(len(pairs))):
                step()
        frames.flush()
        del frames
        partial.rename(path)
    return np.load(path, mmap_mode="r")


def _remove_left(folder: Path) -> None:
    """Remove what processes of this machine had decoded in part when they were killed."""
    for left in folder.glob(f"frames-*.{platform.node()}.*.partial"):
        number = left.suffixes[-2].removeprefix(".")
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            left.unlink(missing_ok=True)


def label_array(pairs: Sequence[Pair], schema: Schema) -> NDArray[np.int64]:
    """Class numbers, int64 [pairs, tasks]; -1 is unlabelled."""
    return np.array([[p.labels[t.name] for t in schema.tasks] for p in pairs], np.int64).reshape(
        len(pairs), len(schema.tasks)
    )


def size_at(epoch: int, spec: TrainSpec) -> int:
    """Side of the training frames in an epoch: grows from start_size to train_size over the first 60 % of the epochs.

    >>> spec = TrainSpec(epochs=10, size=224, train_size=192, start_size=128)
    >>> [size_at(epoch, spec) for epoch in range(10)]
    [128, 128, 160, 160, 160, 192, 192, 192, 192, 192]
    """
    share = min(1.0, epoch / max(1.0, 0.6 * spec.epochs))
    final = min(spec.train_size, spec.size)
    if spec.start_size >= final or share == 1.0:
        return final
    grown = spec.start_size + share * (final - spec.start_size)
    return min(final, round(grown / 32) * 32)


class TrainingPairs(Dataset[tuple[Tensor, bool, Tensor]]):
    """Augmented pairs. An item's randomness depends on (seed, epoch, index) alone: workers and resumes change nothing.

    Items are asked for by `epoch * len(self) + index` and come as (uint8 [2, H, W, 3], has clinical, labels [tasks]).
    """

    def __init__(
        self, frames: NDArray[np.uint8], has_clinical: Sequence[bool], labels: NDArray[np.int64], spec: TrainSpec
    ) -> None:
        self.frames, self.has_clinical, self.labels, self.spec = frames, list(has_clinical), labels, spec

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, key: int) -> tuple[Tensor, bool, Tensor]:
        epoch, index = divmod(key, len(self))
        # fork_rng: the main process's own generator must not notice that items were drawn in it (workers = 0).
        with torch.random.fork_rng(devices=[]):
            # Of the CPU alone: torch.manual_seed seeks out every accelerator, which takes longer than a crop.
            torch.default_generator.manual_seed((self.spec.seed * 1_000_003 + key) & 0x7FFFFFFF)
            pair = torch.from_numpy(np.array(self.frames[index])).permute(0, 3, 1, 2)
            pair = self._augment(pair, size_at(epoch, self.spec))
        return pair, self.has_clinical[index], torch.from_numpy(self.labels[index])

    def _augment(self, pair: Tensor, size: int) -> Tensor:
        """Crop, flip and turn, as `geometry` says; colours vary image by image, as cameras do.

        uint8 [2, 3, H, W] -> [2, size, size, 3].
        """
        if self.spec.geometry == "each":
            pair = torch.cat([place(image, size) for image in pair.split(1)])
        else:
            pair = place(pair, size)
        return torch.stack([jitter(image).permute(1, 2, 0) for image in pair.contiguous()])


def place(images: Tensor, size: int) -> Tensor:
    """One random crop, flip and quarter turn for all of these images: uint8 [N, 3, H, W] -> [N, 3, size, size]."""
    images = v2.RandomResizedCrop(size, scale=(0.5, 1.0), ratio=(0.8, 1.25), antialias=True)(images)
    if torch.rand(()) < 0.5:
        images = images.flip(-1)
    return torch.rot90(images, int(torch.randint(4, ())), (-2, -1))


_JITTER: Any = v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2)


def jitter(image: Tensor) -> Tensor:
    """What torchvision's ColorJitter draws and does to a uint8 image [3, H, W], bit for bit, in a third of the time.

    It stays float32 throughout, floored after each change as a cast to uint8 would; torchvision goes back and forth. On
    a machine of two cores this is work that the network waits for.
    """
    drawn = _JITTER.make_params([])
    x = image.float()
    for change in drawn["fn_idx"].tolist():
        if change == 0:
            x.mul_(drawn["brightness_factor"])
        elif change == 1:
            share, level = drawn["contrast_factor"], _grey(x).mean()
            x.mul_(share).add_(level, alpha=1 - share)
        elif change == 2:
            share, grey = drawn["saturation_factor"], _grey(x)
            x.mul_(share).add_(grey, alpha=1 - share)
        x.clamp_(0, 255).floor_()
    return x.to(torch.uint8)


def _grey(image: Tensor) -> Tensor:
    """Luma of whole levels, after ITU-R BT.601: [3, H, W] -> [H, W]."""
    red, green, blue = image.unbind()
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


class Deal(NamedTuple):
    """How the pairs of an epoch are dealt, the same for every process."""

    batch: int  # pairs in a batch of a process
    accumulate: int  # batches in a step
    batches: int  # in an epoch of a process, a whole number of steps


def deal(count: int, train: TrainSpec) -> Deal:
    """Whole steps alone, so that each weighs the same; what is left over of an epoch is drawn into the next ones.

    A step takes batch_pairs * accumulate * devices pairs whichever way they are split, and an epoch as many steps.

    Raises:
        EdgeskinError: fewer pairs than processes.

    >>> deal(1000, TrainSpec(batch_pairs=64))
    Deal(batch=64, accumulate=1, batches=15)
    >>> deal(1000, TrainSpec(batch_pairs=32, accumulate=2))
    Deal(batch=32, accumulate=2, batches=30)
    >>> deal(1000, TrainSpec(batch_pairs=32, devices=2))
    Deal(batch=32, accumulate=1, batches=15)
    """
    if count < train.devices:
        raise EdgeskinError("fewer training pairs than processes", got=f"{count} for {train.devices}", fix="more data")
    batch = min(train.batch_pairs, count // train.devices)
    accumulate = min(train.accumulate, count // (batch * train.devices))
    return Deal(batch, accumulate, count // (batch * train.devices * accumulate) * accumulate)


class EpochSampler(Sampler[int]):
    """Shuffled indices that carry their epoch: epoch * n + index, an order given by (seed, epoch) alone.

    Processes that train together deal the same order among themselves, one by one: batch k of all of them together is
    batch k of a single process with batches as large as theirs together.
    """

    def __init__(self, count: int, seed: int, length: int | None = None) -> None:
        """length: how many indices each process gets; None: all that can be dealt evenly."""
        self.count, self.seed, self.length, self.epoch = count, seed, length, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at the start of each epoch, also after a resume."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // _processes()[1] if self.length is None else self.length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.count, generator=generator).tolist()
        rank, processes = _processes()
        dealt = order[rank : len(self) * processes : processes]
        return iter(self.epoch * self.count + index for index in dealt)


def _processes() -> tuple[int, int]:
    """(rank, number) of the processes that train together."""
    group = torch.distributed
    return (group.get_rank(), group.get_world_size()) if group.is_available() and group.is_initialized() else (0, 1)


class ControlPairs(Dataset[tuple[Tensor, bool, Tensor]]):
    """Plain pairs, without augmentation."""

    def __init__(self, frames: NDArray[np.uint8], has_clinical: Sequence[bool], labels: NDArray[np.int64]) -> None:
        self.frames, self.has_clinical, self.labels = frames, list(has_clinical), labels

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> tuple[Tensor, bool, Tensor]:
        frame = torch.from_numpy(np.array(self.frames[index]))
        return frame, self.has_clinical[index], torch.from_numpy(self.labels[index])
