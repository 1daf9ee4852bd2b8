"""One step of the real training loop beside the network's own work on tensors that lie ready; JSON out.

    python benchmarks/training_step.py [--rounds 8] [--steps 10] [--sizes 192 128] [--out results/training-step.json]

The loop is that of `edgeskin train`: a worker reads, crops, turns and colours pairs, Lightning asks for batches, AdamW
steps, averages and logs follow. Blocks of its steps and blocks of plain steps take turns in one process. A plain step
is forward, backward and AdamW of an equal network on batches that the loop has just used, with the worker at rest. The
first steps of a block of the loop, whose batches were fetched during the plain block, do not count. The limit is for a
step of the loop over forward and backward alone, the median over the blocks; its interval draws blocks.

Pairs are drawn: what is on a picture changes nothing about the time. Decoding, validation and saving are once a
training or once an epoch, not part of a step.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from edgeskin import files, out
from edgeskin.backends import usable_cores
from edgeskin.benchmark import environment, sensors
from edgeskin.benchmark.statistics import OTHERS_SHARE, ratio
from edgeskin.spec.train import NetworkSpec, TrainSpec

LIMIT = 1.15
SKIPPED = 4  # steps of a block whose batches may have been fetched before it: 2 of one worker, and 1 of Lightning
RESULT = Path(__file__).resolve().parent / "results" / "training-step.json"


def measure(size: int, rounds: int, steps: int, spec: TrainSpec, backbone: str, folder: Path) -> dict[str, Any]:
    """Times in seconds of both kinds of step at crops of `size` pixels.

    Args:
        rounds: blocks of each kind.
        steps: that count, in each block.
        folder: for the drawn pairs, their frames and the run.
    """
    import copy

    import torch
    from lightning.pytorch.callbacks import Callback

    from edgeskin.data.registry import load_pairs
    from edgeskin.model.loss import BiasedLoss
    from edgeskin.model.network import PairNetwork
    from edgeskin.model.weights import SCRATCH, build_encoder
    from edgeskin.training.callbacks import Resumable, averaging
    from edgeskin.training.fit import Data, fit
    from edgeskin.training.module import PairTrainer, stack
    from edgeskin.training.train import class_counts, preprocess_for

    torch.manual_seed(0)
    spec = spec.model_copy(update={"epochs": 1, "train_size": size, "start_size": size})
    wanted = NetworkSpec(backbone=backbone)
    encoder, _ = build_encoder(wanted, spec.size, SCRATCH)
    preprocess = preprocess_for(encoder, spec.size, 0)
    pairset = load_pairs("derm7pt", folder / "phantom")
    pairs = [pair for pair in pairset.pairs if pair.clinical is not None]
    batches = rounds * (SKIPPED + steps) + 1
    many = (pairs * (batches * spec.batch_pairs // len(pairs) + 1))[: batches * spec.batch_pairs]
    data = Data(many, pairs[: spec.batch_pairs], pairset.schema, preprocess, spec, folder / "frames")
    network = PairNetwork(encoder, wanted, pairset.schema, preprocess).to(memory_format=torch.channels_last)
    loss = BiasedLoss(pairset.schema, class_counts(data.labels, pairset.schema), spec)
    module = PairTrainer(network, loss, pairset.schema, spec, data.steps)
    twin = PairTrainer(copy.deepcopy(network), loss, pairset.schema, spec, data.steps).train()
    optimizer = twin.configure_optimizers()["optimizer"]
    loop: list[list[float]] = []
    plain: list[list[tuple[float, float]]] = []  # forward and backward, AdamW
    busy: list[float] = []  # share of the processor time that others used
    waits: list[float] = []  # from the end of a step to the start of the next one: the batch is not there yet
    cpu: dict[str, list[float]] = {"loop": [], "plain": []}  # of this process, a step

    class Turns(Callback):
        """Times the loop's steps from start to start, and lets the plain ones take turns."""

        def __init__(self) -> None:
            self.starts: list[float] = []
            self.ended = self.cpu_s = 0.0
            self.kept: list[Any] = []

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.starts.append(time.perf_counter())
            if len(self.starts) > SKIPPED + 1:
                waits.append(self.starts[-1] - self.ended)
            if len(self.starts) == SKIPPED + 1:
                self.cpu_s = time.process_time()
            if len(self.starts) == SKIPPED + steps + 1:  # the block's last step has ended
                loop.append([b - a for a, b in zip(self.starts[SKIPPED:], self.starts[SKIPPED + 1 :], strict=False)])
                cpu["loop"].append((time.process_time() - self.cpu_s) / steps)
                self.plain()
                self.starts = [time.perf_counter()]
                self.kept = []
            if len(self.kept) < 4:
                self.kept.append(batch)

        def on_train_batch_end(self, *given: Any) -> None:
            self.ended = time.perf_counter()

        def plain(self) -> None:
            ready = []
            for place, batch in enumerate(self.kept):
                frames, clinical, rows = stack(batch, module._kept(batch[1], place))
                ready.append((frames, batch[2], clinical, rows))
            time.sleep(2.0)  # the worker fills its queue and rests
            before, found = sensors.ticks(), []
            for number in range(steps + 1):
                if number == 1:
                    self.cpu_s = time.process_time()
                begin = time.perf_counter()
                twin.objective(*ready[number % len(ready)]).backward()
                middle = time.perf_counter()
                optimizer.step()
                optimizer.zero_grad()
                found.append((middle - begin, time.perf_counter() - middle))
            cpu["plain"].append((time.process_time() - self.cpu_s) / steps)
            share = sensors.others_share(before, sensors.ticks())
            busy.append(share or 0.0)
            plain.append(found[1:])  # the first finds cold caches
            done = len(plain)
            out.note(
                f"{size} px, round {done}/{rounds}: loop {statistics.median(loop[-1]):.3f} s, forward and backward "
                f"{statistics.median(a for a, _ in plain[-1]):.3f} s"
            )

    out.configure(quiet=False)
    run = folder / f"run-{size}"
    run.mkdir()
    reaped = sum(os.times()[2:4])
    fit(module, data, spec, run, Resumable(run), [*averaging(spec.ema_decay, data.steps), Turns()])
    # Steps of one block resemble each other, so a block is drawn whole, by its median.
    rounds_s = [statistics.median(block) for block in loop]
    network_rounds_s = [statistics.median(a for a, _ in block) for block in plain]
    step_rounds_s = [statistics.median(a + b for a, b in block) for block in plain]
    over = ratio(rounds_s, network_rounds_s, repeats=2000)
    network_s = [a for block in plain for a, _ in block]
    step_s = [a + b for block in plain for a, b in block]
    loop_s = [value for block in loop for value in block]
    assert len(loop_s) == len(step_s) == rounds * steps
    return {
        "crops_px": size,
        "loop_step_s": _spread(loop_s),
        "of_it_waiting_s": _spread(waits),
        "forward_backward_s": _spread(network_s),
        "forward_backward_adamw_s": _spread(step_s),
        "over_forward_backward": over.to_json(),
        "over_forward_backward_adamw": ratio(rounds_s, step_rounds_s, repeats=2000).to_json(),
        "rounds": [
            {"loop_step_s": round(a, 4), "forward_backward_s": round(b, 4)}
            for a, b in zip(rounds_s, network_rounds_s, strict=True)
        ],
        "cpu_s": {
            "loop_step": round(statistics.median(cpu["loop"]), 4),
            "forward_backward_adamw": round(statistics.median(cpu["plain"]), 4),
            "workers_a_batch": round((sum(os.times()[2:4]) - reaped) / data.deal.batches, 4),
        },
        "others_share": round(statistics.median(busy), 3),
        "within_limit": over.value <= LIMIT,
    }


def _spread(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": round(middle, 4), "p25": round(low, 4), "p75": round(high, 4)}


def _said() -> list[str]:
    """The options but --out: where the result lies is nobody else's business."""
    words = sys.argv[1:]
    return [w for i, w in enumerate(words) if not w.startswith("--out") and (not i or words[i - 1] != "--out")]


def main() -> int:
    """Measure, print, write. Returns the exit code: 1 above the limit or on a busy machine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--sizes", type=int, nargs="+", default=[192, 128], help="sides of the crops in pixels")
    parser.add_argument("--batch-pairs", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10, help="steps of a block that count")
    parser.add_argument("--threads", type=int, default=0, help="0: every core this process may use")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.rounds < 1 or given.steps < 2:
        parser.error("at least 1 round of 2 steps")
    from edgeskin.training.allocator import keep_memory

    keep_memory()
    import torch

    from edgeskin.data.phantom import write_phantom

    threads = given.threads or usable_cores()
    torch.set_num_threads(threads)
    spec = TrainSpec(batch_pairs=given.batch_pairs, workers=given.workers, threads=threads, size=224, accelerator="cpu")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_phantom(folder / "phantom", 4 * given.batch_pairs, 0, 160)
        found = [measure(size, given.rounds, given.steps, spec, given.backbone, folder) for size in given.sizes]
    reasons = [
        f"{one['crops_px']} px: other processes used {one['others_share']:.0%} of the processor time"
        for one in found
        if one["others_share"] > OTHERS_SHARE
    ]
    result = {
        "what": "one step of the training loop over forward and backward alone, in turns",
        "command": " ".join(["python benchmarks/training_step.py", *_said()]),
        "backbone": given.backbone,
        "batch_pairs": given.batch_pairs,
        "workers": given.workers,
        "threads": threads,
        "limit": LIMIT,
        "sizes": found,
        "valid": not reasons,
        "reasons": reasons,
        "environment": environment.record(threads=threads).to_json(),
    }
    text = files.pretty_json(result)
    if given.out:
        files.write_atomic(given.out, text)
    print(text, end="")
    return 0 if result["valid"] and all(one["within_limit"] for one in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
