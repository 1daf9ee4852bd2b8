"""The runtime in C beside Python, with the same bundle on the same machine: decisions, latency, opening, memory, size.

    cmake -S devices/runtime -B build/runtime -DEDGESKIN_TESTS=ON -DOpenVINO_DIR=... && cmake --build build/runtime
    python benchmarks/embedded_runtime.py bundles/milk-ov --root DATA --pairs 1200 --soak 100000

Both are given the same decoded photographs. Latency is measured in turns, one examination of each after the other, on
drawn 1920x1080 frames; opening in fresh processes; the soak in one process of its own. Nothing else should run.
"""

import argparse
import ctypes
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from edgeskin import catalog, preprocess, provenance, runtime
from edgeskin.benchmark.camera import Camera
from edgeskin.benchmark.statistics import ratio
from edgeskin.bundle import pack
from edgeskin.data.milk10k import DEFAULT_SCHEMA, load
from edgeskin.data.pairs import Pair, evenly
from edgeskin.files import pretty_json, write_atomic
from edgeskin.opening import open_bundle

ROOT = Path(__file__).resolve().parents[1]
FORMAT = "edgeskin-embedded-runtime/1"
Photo = NDArray[np.uint8]


def example() -> ModuleType:
    """devices/runtime/examples/classify.py, which calls the library through ctypes."""
    path = ROOT / "devices" / "runtime" / "examples" / "classify.py"
    spec = importlib.util.spec_from_file_location("edgeskin_c", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def photos(pair: Pair) -> tuple[Photo | None, Photo]:
    """The decoded photographs of a lesion, clinical and dermoscopic."""
    read = [np.asarray(preprocess.read_photo(path)) if path else None for path in (pair.clinical, pair.dermoscopic)]
    assert read[1] is not None
    return read[0], read[1]


def parity(small: Any, large: runtime.Classifier, pairs: list[Pair]) -> dict[str, Any]:
    """How often both say the same of real lesions, as pairs and by the dermoscopic image alone."""
    found: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        clinical, dermoscopic = photos(pair)
        for mode, first in (("pair", clinical), ("dermoscopic", None)):
            if mode == "pair" and first is None:
                continue
            ours = small.classify(dermoscopic, first)
            theirs = large.classify(dermoscopic=dermoscopic, clinical=first)
            row = found.setdefault(
                mode, {"lesions": 0, "not_assessable": 0, "quality": 0, "predicted": 0, "refer": 0, "worst": []}
            )
            row["lesions"] += 1
            row["quality"] += {v: tuple(f) for v, f in ours["quality"].items()} != theirs.quality
            if not (ours["assessable"] and theirs.assessable):
                row["not_assessable"] += 1
                continue
            assert theirs.decision is not None
            row["predicted"] += ours["predicted"] != theirs.predicted
            row["refer"] += ours["decision"]["refer"] != theirs.decision.refer
            row["worst"].append(
                max(
                    abs(ours["probabilities"][task][name] - p)
                    for task, classes in theirs.probabilities.items()
                    for name, p in classes.items()
                )
            )
    for row in found.values():
        worst = sorted(row.pop("worst"))
        row["probability_difference"] = {
            "median": float(np.median(worst)), "p99": float(np.quantile(worst, 0.99)), "max": worst[-1],
            "beyond_1e-3": sum(one > 1e-3 for one in worst),
        }  # fmt: skip
    return found


def speed(module: ModuleType, small: Any, large: runtime.Classifier, rounds: int) -> dict[str, Any]:
    """Milliseconds from two frames to a decision, in turns."""
    camera = Camera(1080, 1920)
    spent: dict[str, list[float]] = {"c": [], "python": [], "c_nv12": []}
    steps: dict[str, list[int]] = {}
    for number in range(rounds + 30):
        clinical, dermoscopic = camera.pair(number)
        grey = [
            np.concatenate([frame[..., 1], np.full((540, 1920), 128, np.uint8)]) for frame in (clinical, dermoscopic)
        ]
        nv12 = [module.Image(plane.tobytes(), 1920, 1080, format=module.NV12) for plane in grey]
        order = ["c", "python", "c_nv12"]
        for who in order[number % 3 :] + order[: number % 3]:
            if who == "python":
                start = time.perf_counter()
                large.classify(dermoscopic=dermoscopic, clinical=clinical)
                took = 1e3 * (time.perf_counter() - start)
            else:
                images = (dermoscopic, clinical) if who == "c" else (nv12[1], nv12[0])
                took = call(module, small, *images, steps if who == "c" else {})
            if number >= 30:
                spent[who].append(took)
    compared = ratio(spent["python"], spent["c"], repeats=1000)
    return {
        "frames": "1920x1080", "queries": rounds,
        **{f"{who}_ms": quantiles(times) for who, times in spent.items()},
        "c_steps_us": {name: float(np.median(times)) for name, times in steps.items()},
        "c_over_python": compared.model_dump(),
    }  # fmt: skip


def grey(frame: Photo) -> Photo:
    """A frame as NV12 without colour: its conversion costs the same."""
    half = np.full((frame.shape[0] // 2, frame.shape[1]), 128, np.uint8)
    return np.concatenate([frame[..., 1], half])


def quantiles(times: list[float]) -> dict[str, float]:
    """Median and p90."""
    return {"p50": float(np.median(times)), "p90": float(np.quantile(times, 0.9))}


def call(module: ModuleType, small: Any, dermoscopic: Any, clinical: Any, steps: dict[str, list[int]]) -> float:
    """Milliseconds of es_classify itself, without the example's dictionaries."""
    seen, kept = module.as_c(dermoscopic)
    around, kept_too = module.as_c(clinical)
    result = module.CResult()
    start = time.perf_counter()
    status = small.library.es_classify(small._model, ctypes.byref(around), ctypes.byref(seen), ctypes.byref(result))
    took = 1e3 * (time.perf_counter() - start)
    del kept, kept_too
    assert status == 0, small.library.es_last_error()
    assert result.assessable
    for name in ("prepare", "quality", "infer", "decide", "total"):
        steps.setdefault(name, []).append(getattr(result, f"{name}_us"))
    return took


def opening(bundle: Path, build: Path, libraries: Path, repeats: int = 7) -> dict[str, Any]:
    """What es_open needs beside the engine's own loading, of a lean bundle, in fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        lean = Path(folder) / "lean"
        shutil.unpack_archive(pack(bundle, Path(folder) / "lean.zip", lean=True), lean)
        rows = []
        for _ in range(repeats):
            start = time.perf_counter()
            words = [build / "classify", "--backend-path", libraries, "--json", lean]
            done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True)
            rows.append((1e3 * (time.perf_counter() - start), json.loads(done.stdout)))
    return {
        "repeats": repeats,
        "bundle_bytes": sum(e.size_bytes for e in open_bundle(bundle).manifest.files.values() if e.group == "core"),
        "verify_ms": float(np.median([row["bundle"]["verify_us"] / 1e3 for _, row in rows])),
        "engine_load_ms": float(np.median([row["bundle"]["load_us"] / 1e3 for _, row in rows])),
        "process_with_selftest_ms": float(np.median([took for took, _ in rows])),
    }  # fmt: skip


def soak(bundle: Path, build: Path, libraries: Path, count: int, threads: int) -> dict[str, Any]:
    """Many classifications in one process: growth of resident memory after the warm-up, p99 over p50."""
    words = [build / "tests" / "soak", bundle, libraries, count, threads]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"soak: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "growth_kb": found["end_kb"] - found["warm_kb"], "p99_over_p50": found["p99_us"] / found["p50_us"]}


def soaks(given: argparse.Namespace, libraries: Path) -> list[dict[str, Any]]:
    """The bundle's soak in one thread; the tiny one's in one and in eight."""
    found = [soak(given.bundle, given.build, libraries, given.soak, 1)]
    return found + [soak(given.tiny, given.build, libraries, given.soak, n) for n in (1, 8) if given.tiny]


def size(library: Path) -> dict[str, int]:
    """Bytes of the library as it is installed, stripped."""
    with tempfile.TemporaryDirectory() as folder:
        stripped = Path(folder) / "stripped.so"
        subprocess.run(["strip", "-o", str(stripped), str(library.resolve())], check=True)
        return {"stripped_bytes": stripped.stat().st_size}


def main() -> None:
    """Measure, and write benchmarks/results/embedded-runtime.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--root", type=Path, required=True, help="MILK10k in its official layout")
    parser.add_argument("--pairs", type=int, default=1200)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--soak", type=int, default=100_000)
    parser.add_argument("--tiny", type=Path, help="a second, small bundle for the soak with 8 threads")
    parser.add_argument("--soak-alone", action="store_true", help="measure the soak anew, keep the rest of --out")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "runtime")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "embedded-runtime.json")
    given = parser.parse_args()
    found = importlib.util.find_spec("openvino")
    assert found is not None
    assert found.submodule_search_locations is not None
    libraries = Path(found.submodule_search_locations[0]) / "libs"
    if given.soak_alone:
        result = json.loads(given.out.read_text(encoding="utf-8"))
        result["soak"] = soaks(given, libraries)
        write_atomic(given.out, pretty_json(result))
        return
    module = example()
    large = runtime.load(given.bundle)
    small = module.EdgeSkin(given.bundle, given.build / "libedgeskin.so", backend_path=libraries)
    every = load(given.root, catalog.schema(DEFAULT_SCHEMA)).pairs
    chosen = [every[place] for place in evenly(len(every), given.pairs)]
    result = {
        "format": FORMAT,
        "command": " ".join(["python", "benchmarks/embedded_runtime.py", *sys.argv[1:]]),
        "machine": provenance.machine(),
        "processor": provenance.processor(),
        "versions": provenance.versions(),
        "bundle": {"name": large.manifest.name, "sha256": large.bundle.sha256, "target": large.manifest.target},
        "selftest": small.selftest(),
        "size": size(given.build / "libedgeskin.so"),
        "opening": opening(given.bundle, given.build, libraries),
        "speed": speed(module, small, large, given.rounds),
        "parity": {"frames_by_opencv": parity(small, large, chosen)},
    }
    with mock.patch.object(preprocess, "_opencv", return_value=None):
        result["parity"]["frames_without_opencv"] = parity(small, large, chosen)
    small.close()
    result["soak"] = soaks(given, libraries)
    write_atomic(given.out, pretty_json(result))
    print(pretty_json(result))


if __name__ == "__main__":
    main()
