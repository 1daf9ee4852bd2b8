"""One run of a sweep, in a process of its own: train, ask the network about the test role, keep its answers."""

import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from edgeskin import out, provenance
from edgeskin.data import registry
from edgeskin.data.pairs import Pair
from edgeskin.data.roles import Roles, assign, short_hash
from edgeskin.errors import EdgeskinError
from edgeskin.spec.sweep import READINGS, Reading
from edgeskin.spec.train import Checkpoint, DataSpec
from edgeskin.sweeping.answers import Answers, write
from edgeskin.sweeping.plan import Job

LOG = "log.txt"
_BATCH = 64


def load(data: DataSpec) -> tuple[Any, Roles]:
    """The pairs of a data set and their roles."""
    pairset = registry.load_pairs(data.name, Path(data.root), data.schema_name, data.border_px)
    return pairset, assign(pairset, data.roles)


def perform(job: Job) -> None:
    """Train, or go on with a training that was killed; then write the answers of the test role.

    Raises:
        EdgeskinError: what the training refuses.
    """
    import torch

    from edgeskin.model.checkpoint import RECORD, load_network
    from edgeskin.training.request import RUN
    from edgeskin.training.train import train

    begun, whole = time.monotonic(), not (job.folder / RUN).is_file()
    torch.set_num_threads(job.threads)
    pairset, roles = load(job.data)
    if not (job.folder / RECORD).is_file():
        out.note(f"{job.name}: {job.network.backbone}, seed {job.seed}")
    record = train(pairset, roles, job.data, job.network, job.train, job.weights, job.folder, frames=job.frames)
    network = load_network(job.folder, record)
    write(job.answers, _answers(job, record, network, roles["test"], begun if whole else None))


def _answers(job: Job, record: Checkpoint, network: Any, test: Sequence[Pair], begun: float | None) -> Answers:
    import torch

    from edgeskin.training.frames import label_array, stored_frames
    from edgeskin.training.train import control_logits

    frames = stored_frames(test, record.preprocess, job.frames, "decoding test")
    places = _judged(test)
    chosen = [test[place] for place in places]
    device = "cuda" if torch.cuda.is_available() and job.train.accelerator != "cpu" else "cpu"
    # A network for one kind of image has zeros for the other: they are no answers.
    pair, alone = control_logits(network.to(device), frames[places], chosen, _BATCH, "test role")
    ways = _ways(network)
    return Answers(
        key=job.key,
        pair=pair.astype(np.float32) if "pair" in ways else None,
        dermoscopic=alone.astype(np.float32) if "dermoscopic" in ways else None,
        clinical=pair[:, 0].astype(np.float32) if "clinical" in ways else None,
        labels=label_array(chosen, record.task_schema),
        lesions=tuple(short_hash(one.lesion_id) for one in chosen),
        groups=tuple(short_hash(one.group) for one in chosen),
        fusion=record.fusion,
        parameters=record.parameters,
        macs=_macs(network.cpu(), record.preprocess.height),
        left_out=len(test) - len(places),
        seconds=None if begun is None else round(time.monotonic() - begun, 1),
        machine=torch.cuda.get_device_name() if device == "cuda" else f"{provenance.processor()}, CPU",
        facts={"weights_source": record.weights_source, "versions": record.versions},
    )


def _judged(test: Sequence[Pair]) -> list[int]:
    """Places of the lesions with both images, by which every variant is judged; of all where none has both."""
    return [place for place, pair in enumerate(test) if pair.clinical is not None] or list(range(len(test)))


def _ways(network: Any) -> list[str]:
    """Which images the network takes: "pair", "dermoscopic", "clinical"."""
    return {"both": ["pair", "dermoscopic"]}.get(network.spec.modalities, [network.spec.modalities])


def _macs(network: Any, size: int) -> dict[Reading, int]:
    """Multiply-accumulates of convolutions and matrix products for one examination, of each reading."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counted = {}
    for way in _ways(network):
        images = torch.zeros(2 if way == "pair" else 1, size, size, 3, dtype=torch.uint8)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(images, int(way != "dermoscopic"))
        counted[way] = int(counter.get_total_flops()) // 2  # torch counts two operations for each
    return {reading: counted.get(reading, counted.get("pair", 0)) for reading in READINGS[network.spec.modalities]}


def attempt(given: dict[str, Any], folder: str = "") -> str:
    """`perform` with everything it says in the run's log. Returns why it failed, "" if it did not.

    Args:
        given: a job as plain data.
        folder: the working directory, which relative paths are of.
    """
    if folder and Path(folder).is_dir():
        os.chdir(folder)
    job = Job.parse(given)
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        with (job.folder / LOG).open("a", encoding="utf-8") as log:
            _logged(job, log)
    except EdgeskinError as error:
        return error.line()
    except Exception as error:  # noqa: BLE001  whatever it is, it is this run's alone: the others go on
        return " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return ""


def _logged(job: Job, log: TextIO) -> None:
    with contextlib.redirect_stderr(log), contextlib.redirect_stdout(log):
        try:
            perform(job)
        except Exception:
            traceback.print_exc()
            raise


def main() -> int:
    """A job as a line of JSON on stdin; why it failed on stdout, and exit code 1. `python -m edgeskin.sweeping.work`.

    The run ends when stdin does: with the process that started it, however that came to its end.
    """
    given = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with, args=(sys.stdin.fileno(),), daemon=True).start()
    reason = attempt(given)
    if reason:
        out.raw(reason)
    return 1 if reason else 0


def _end_with(pipe: int) -> None:
    """End this process once the other side of a pipe is closed. Files are written whole, so that a resume goes on."""
    while os.read(pipe, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main())
