"""What the allocator setting and the memory format are worth in a training step on the CPU.

Each variant runs in a process of its own, the variants take turns, and the median step of each is kept:

    python benchmarks/training_allocator.py          # writes benchmarks/results/training_allocator.json
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULT = Path(__file__).resolve().parent / "results" / "training_allocator.json"
VARIANTS = {
    "default": {"keep_memory": False, "channels_last": False},
    "keep_memory": {"keep_memory": True, "channels_last": False},
    "keep_memory + channels_last": {"keep_memory": True, "channels_last": True},
}


def steps(keep: bool, channels_last: bool, size: int, images: int, count: int) -> list[float]:
    """Seconds of each forward + backward + update of EfficientNet-Lite0 with the exchange between its images."""
    if keep:
        from edgeskin.training.allocator import keep_memory

        if not keep_memory():
            raise SystemExit("this C library has no mallopt")
    import torch

    from edgeskin import catalog
    from edgeskin.model.network import PairNetwork
    from edgeskin.model.weights import SCRATCH, build_encoder
    from edgeskin.spec.preprocess import Preprocess
    from edgeskin.spec.train import NetworkSpec

    torch.manual_seed(0)
    spec = NetworkSpec(backbone="tf_efficientnet_lite0")
    preprocess = Preprocess(height=size, width=size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    encoder, _ = build_encoder(spec, size, SCRATCH)
    network = PairNetwork(encoder, spec, catalog.schema("milk10k"), preprocess).train()
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    frames = torch.randint(0, 256, (images, size, size, 3), dtype=torch.uint8)
    spent = []
    for _ in range(count + 2):
        begin = time.perf_counter()
        network(frames, images // 2).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        spent.append(time.perf_counter() - begin)
    return spent[2:]  # the first steps generate kernels


def main() -> None:
    """Run the variants in turn, rounds times, and write medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        chosen = VARIANTS[given.child]
        found = steps(chosen["keep_memory"], chosen["channels_last"], given.size, given.images, given.steps)
        print(json.dumps(found))
        return
    spent: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(given.rounds):
        for name in VARIANTS:
            options = [f"--{key}={getattr(given, key)}" for key in ("size", "images", "steps")]
            command = [sys.executable, __file__, "--child", name, *options]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            spent[name] += json.loads(done.stdout.splitlines()[-1])
            print(f"round {number + 1}: {name}: {statistics.median(spent[name]):.2f} s a step", flush=True)
    from edgeskin.benchmark.environment import record
    from edgeskin.files import pretty_json, write_atomic

    medians = {name: round(statistics.median(values), 4) for name, values in spent.items()}
    result = {
        "what": f"one training step, EfficientNet-Lite0 pair network, {given.images} images of {given.size} px",
        "command": " ".join(["python benchmarks/training_allocator.py", *sys.argv[1:]]),
        "median_step_s": medians,
        "every_step_s": {name: [round(v, 4) for v in values] for name, values in spent.items()},
        "ratio_to_default": {name: round(value / medians["default"], 3) for name, value in medians.items()},
        "environment": record(threads=0).to_json(),
    }
    write_atomic(RESULT, pretty_json(result))
    print(f"written: {RESULT.name}")


if __name__ == "__main__":
    main()
