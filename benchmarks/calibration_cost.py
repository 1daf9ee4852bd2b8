"""Seconds and memory of quantising a pair graph against the number of calibration pairs; JSON out.

    python benchmarks/calibration_cost.py runs/milk/onnx-*/pair.onnx   # writes benchmarks/results/calibration-cost.json

Each run is a process of its own, reads its pairs from a store on the disk, and reports the seconds that `quantize`
took (imports and the store's writing left out, `import_seconds` tells of the former) and the most memory that the
process ever had. Two figures are asked for: time that grows linearly with the pairs (the fit's R2), and memory that
does not grow with them (most over least, of the runs with the most and the fewest pairs). Pixels are drawn at random:
the cost does not hang on what they show.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from edgeskin import files, provenance
from edgeskin.backends import usable_cores
from edgeskin.data.pairs import Pair

RESULT = Path(__file__).resolve().parent / "results" / "calibration-cost.json"
PAIRS = (50, 100, 200, 300)
QUANTIZERS = {"nncf": "openvino", "qdq": "onnxruntime"}


def one(graph: Path, frames: Path, key: str, quantizer: str, pairs: int, out: Path) -> dict[str, float]:
    """Quantise once, in this process."""
    began = time.perf_counter()
    from edgeskin import catalog
    from edgeskin.quantize.ptq import quantize
    from edgeskin.quantize.store import FrameStore

    __import__("nncf" if quantizer == "nncf" else "onnxruntime.quantization")
    store = FrameStore.write(frames, key, _pairs(max(PAIRS)), lambda _: np.zeros((1, 1, 3), np.uint8))
    recipe = catalog.recipe(f"{QUANTIZERS[quantizer]}-int8").model_copy(
        update={"quantizer": quantizer, "calibration_pairs": pairs}
    )
    imported = time.perf_counter()
    quantize(graph, store, recipe, out)
    return {
        "seconds": time.perf_counter() - imported,
        "import_seconds": imported - began,
        "peak_ram_bytes": _peak_ram_bytes(),
    }


def _pairs(count: int) -> list[Pair]:
    return [Pair(str(i), Path(f"{i} d"), Path(f"{i} c"), {}, i) for i in range(count)]


def _peak_ram_bytes() -> int:
    """High water mark of this program alone: that of getrusage may be the parent's, from before the exec."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this system does not tell a process's peak memory")


def fit(pairs: list[int], seconds: list[float]) -> dict[str, float]:
    """Straight line through the medians.

    >>> {k: round(v, 6) for k, v in fit([1, 2, 3], [3.0, 5.0, 7.0]).items()}
    {'seconds_per_pair': 2.0, 'seconds_at_0': 1.0, 'r2': 1.0}
    """
    slope, start = np.polyfit(pairs, seconds, 1)
    left = np.asarray(seconds) - (slope * np.asarray(pairs) + start)
    spread = np.asarray(seconds) - np.mean(seconds)
    r2 = 1 - float((left**2).sum() / (spread**2).sum()) if spread.any() else 1.0
    return {"seconds_per_pair": float(slope), "seconds_at_0": float(start), "r2": r2}


def main() -> None:
    """Run every quantizer with every number of pairs, in turn, and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", type=Path, help="FP32 ONNX of the pair graph")
    parser.add_argument("--pairs", type=int, nargs="+", default=list(PAIRS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quantizers", nargs="+", choices=list(QUANTIZERS), default=list(QUANTIZERS))
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        frames, key, quantizer, pairs, out = given.one
        print(json.dumps(one(given.graph, Path(frames), key, quantizer, int(pairs), Path(out))))
        return
    import onnx

    from edgeskin.quantize.graph import interface
    from edgeskin.quantize.store import FrameStore

    _, height, width, _ = interface(onnx.load(given.graph), given.graph)
    rng = np.random.default_rng(0)
    runs: dict[str, dict[int, list[dict[str, float]]]] = {q: {n: [] for n in given.pairs} for q in given.quantizers}
    with tempfile.TemporaryDirectory() as folder:
        frames, key = Path(folder) / "frames.npy", "drawn"
        pairs = _pairs(max(*PAIRS, *given.pairs))
        FrameStore.write(frames, key, pairs, lambda _: rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for number in range(given.rounds):
            for quantizer in given.quantizers:
                for count in given.pairs:
                    out = Path(folder) / f"{quantizer}-{count}-{number}"
                    command = [sys.executable, __file__, str(given.graph), "--one", str(frames), key]
                    told = subprocess.run(
                        [*command, quantizer, str(count), str(out)], check=True, capture_output=True, text=True
                    )
                    runs[quantizer][count].append(json.loads(told.stdout))
                    print(quantizer, count, runs[quantizer][count][-1], flush=True)
    found = {}
    for quantizer, by_count in runs.items():
        medians = {n: {k: statistics.median(run[k] for run in made) for k in made[0]} for n, made in by_count.items()}
        counts = sorted(medians)
        peaks = [medians[n]["peak_ram_bytes"] for n in counts]
        found[quantizer] = {
            "medians": {str(n): medians[n] for n in counts},
            "fit": fit(counts, [medians[n]["seconds"] for n in counts]) if len(counts) > 1 else None,
            "ram_most_pairs_over_fewest": peaks[-1] / peaks[0],
        }
    record = {
        "graph_sha256": files.sha256_file(given.graph),
        "rounds": given.rounds,
        "machine": provenance.machine(),
        "cores": usable_cores(),
        "versions": provenance.versions(),
        "measured": provenance.now(),
        "quantizers": found,
    }
    files.write_atomic(given.out, files.pretty_json(record))


if __name__ == "__main__":
    main()
