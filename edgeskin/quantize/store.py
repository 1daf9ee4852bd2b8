"""Frames of many pairs in one file, read a pair at a time."""

import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
from numpy.typing import NDArray

from edgeskin import __version__
from edgeskin.data.pairs import Pair
from edgeskin.errors import EdgeskinError
from edgeskin.files import canonical_json, os_errors, sha256_bytes, write_atomic
from edgeskin.quantize.calibration import Frames, check_pair
from edgeskin.quantize.pool import in_order
from edgeskin.spec.preprocess import Preprocess

_FORMAT = "edgeskin-frames/1"


class FrameStore(Sequence[Frames]):
    """Pairs uint8 [2, H, W, 3] in a .npy file [pairs, 2, H, W, 3]; memory does not grow with their number.

    Each access reads one pair from the disk. Beside the file lies `<name>.json` with the key of what it was made of.
    `paired` says which pairs have a clinical image; the others have a black frame in its place.
    """

    def __init__(self, path: Path, start: int, shape: tuple[int, ...], paired: NDArray[np.bool_]) -> None:
        self.path, self.paired = path, paired
        self._start, self._shape = start, shape  # shape of one pair
        self._places: Sequence[int] = range(len(paired))

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Frames: ...
    @overload
    def __getitem__(self, place: slice) -> "FrameStore": ...
    def __getitem__(self, place: int | slice) -> "Frames | FrameStore":
        if isinstance(place, slice):
            return self.select(range(*place.indices(len(self))))
        size = int(np.prod(self._shape))
        number = self._places[place]
        # Not memory-mapped: pages that were looked at would count as this process's memory.
        read = np.fromfile(self.path, np.uint8, count=size, offset=self._start + number * size)
        if read.size != size:
            raise EdgeskinError(
                "the stored frames are cut short", got=str(self.path), fix="delete the file and run again"
            )
        return read.reshape(self._shape)

    def select(self, places: Sequence[int]) -> "FrameStore":
        """These pairs alone, in this order, in the same file.

        Raises:
            IndexError: a place that is not there.
        """
        view = FrameStore(self.path, self._start, self._shape, self.paired[list(places)])
        view._places = [self._places[i] for i in places]
        return view

    @staticmethod
    def key_of(pairs: Sequence[Pair], preprocess: Preprocess) -> str:
        """Hash of what a store is made of: lesion ids in order, size and time of each image file, preprocessing.

        Raises:
            EdgeskinError: an image file is missing.
        """
        rows = [[pair.lesion_id, _stamp(pair.clinical), _stamp(pair.dermoscopic)] for pair in pairs]
        return sha256_bytes(canonical_json([_FORMAT, __version__, preprocess.to_json(), rows]).encode())

    @classmethod
    def write(
        cls,
        path: Path,
        key: str,
        pairs: Sequence[Pair],
        prepare: Callable[[Path], Frames],
        progress: Callable[[int], object] = lambda _: None,
        *,
        unpaired: bool = False,
    ) -> "FrameStore":
        """The store of these pairs: the one that is there if its key is the same, else a new one.

        A kill leaves no half file under this name, and the next call goes on after the last whole pair. Two processes
        that ask for the same store at once share one.

        Args:
            path: name of the .npy file; its folder is made.
            key: from `key_of`.
            prepare: image file -> frame uint8 [H, W, 3], e.g. `lambda p: preprocess.prepare(p, spec)`; asked from
                several threads.
            progress: called with 1 after each pair, with more where earlier work is taken up.
            unpaired: take pairs without a clinical image, with a black frame in its place, and frames without content
                (to score on, not to calibrate with).

        Raises:
            EdgeskinError: no pairs, a pair without clinical image, an unreadable image, or one that calibration
                refuses.
        """
        if not pairs:
            raise EdgeskinError("no pairs to store", got=str(path), fix="enlarge the role")
        lacking = [pair.lesion_id for pair in pairs if pair.clinical is None]
        if lacking and not unpaired:
            raise EdgeskinError(
                "calibration needs both images",
                got=f"{len(lacking)} lesions without a clinical image, {lacking[0]!r} first",
                fix="leave these lesions out of the calibration",
            )
        with os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{key[:16]}.partial")
            while True:
                if ready := cls._opened(path, key):
                    progress(len(ready))
                    return ready
                with partial.open("a+b") as stream:
                    _lock(stream)
                    if not partial.exists() or partial.stat().st_ino != os.fstat(stream.fileno()).st_ino:
                        continue  # another process finished it while this one waited
                    if not cls._opened(path, key):
                        _fill(stream, pairs, prepare, progress, unpaired)
                        _sidecar(path).unlink(missing_ok=True)  # it must not vouch for the file that comes
                        partial.replace(path)
                        paired = [pair.clinical is not None for pair in pairs]
                        text = canonical_json({"format": _FORMAT, "key": key, "paired": paired})
                        write_atomic(_sidecar(path), text + "\n")
                        progress = _nothing  # counted already
                for stale in path.parent.glob(f".{path.name}.*.partial"):
                    stale.unlink(missing_ok=True)

    @classmethod
    def _opened(cls, path: Path, key: str) -> "FrameStore | None":
        """The finished store of that key, or None."""
        try:
            notes = json.loads(_sidecar(path).read_text(encoding="utf-8"))
            with path.open("rb") as stream:
                start, shape = _header(stream)
        except (FileNotFoundError, ValueError):
            return None
        if not isinstance(notes, dict) or (notes.get("format"), notes.get("key")) != (_FORMAT, key):
            return None
        paired = np.array(notes["paired"], np.bool_)
        if len(paired) != shape[0] or path.stat().st_size != start + int(np.prod(shape)):
            return None
        return cls(path, start, shape[1:], paired)


def _fill(
    stream: BinaryIO,
    pairs: Sequence[Pair],
    prepare: Callable[[Path], Frames],
    progress: Callable[[int], object],
    unpaired: bool,
) -> None:
    """Append the pairs that a partial file lacks."""

    def decode(pair: Pair) -> Frames:
        dermoscopic = prepare(pair.dermoscopic)
        clinical = np.zeros_like(dermoscopic) if pair.clinical is None else prepare(pair.clinical)
        if getattr(clinical, "shape", None) != getattr(dermoscopic, "shape", None):
            raise EdgeskinError(
                f"the images of lesion {pair.lesion_id!r} have two sizes",
                got=f"{clinical.shape}, {dermoscopic.shape}",
                fix="prepare both with the same preprocessing",
            )
        return np.stack([clinical, dermoscopic])

    done, shape = _resumed(stream, len(pairs))
    if done:
        progress(done)
    left = pairs[done:]
    for number, frames in enumerate(in_order(decode, left), done):
        check_pair(frames, f"calibration pair {number} ({pairs[number].lesion_id})", shape, content=not unpaired)
        if shape is None:
            stream.write(_header_bytes((len(pairs), *frames.shape)))
            shape = frames.shape[1:]
        stream.write(frames.tobytes())
        stream.flush()  # in the hands of the system: a kill of this process loses no whole pair
        progress(1)
    os.fsync(stream.fileno())


def _resumed(stream: BinaryIO, pairs: int) -> tuple[int, tuple[int, ...] | None]:
    """Cut a partial file to whole pairs: (how many there are, [H, W, 3] if known)."""
    stream.seek(0)
    try:
        start, shape = _header(stream)
    except ValueError:
        stream.truncate(0)
        return 0, None
    size = int(np.prod(shape[1:]))
    done = min(pairs, (os.fstat(stream.fileno()).st_size - start) // size)
    stream.truncate(start + done * size)
    stream.seek(0, os.SEEK_END)
    return done, shape[2:]


def _header(stream: BinaryIO) -> tuple[int, tuple[int, ...]]:
    """Bytes before the frames, and the shape [pairs, 2, H, W, 3]. Raises ValueError if it is no such file."""
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("another version of the format")
    shape, in_columns, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype != np.uint8 or in_columns or len(shape) != 5 or shape[1:2] + shape[4:] != (2, 3):
        raise ValueError("another kind of array")
    return stream.tell(), shape


def _header_bytes(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    notes: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, notes)
    return buffer.getvalue()


def _stamp(image: Path | None) -> list[object] | None:
    if image is None:
        return None
    try:
        facts = image.stat()
    except FileNotFoundError:
        raise EdgeskinError("no such image", got=str(image), fix="check the path") from None
    return [str(image), facts.st_size, facts.st_mtime_ns]


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _nothing(_: int) -> None:
    return None


def _lock(stream: BinaryIO) -> None:
    """Wait until no other process writes this file; the system lets go of it when a process ends."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    fcntl.flock(stream, fcntl.LOCK_EX)
