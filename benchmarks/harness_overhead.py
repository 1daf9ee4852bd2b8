"""What our harness adds to a query, and its p50 beside OpenVINO's benchmark_app on the same file; JSON out.

    python benchmarks/harness_overhead.py bundles/milk-ov [--seconds 5] [--rounds 6] [--out results/harness.json]

Three ways take turns in every round: `single` (the scenario as it is: every query another picture, drawn and prepared
between two queries), `predrawn` (the same loop over eight pictures that lie ready, back to back) and `benchmark_app`
(one random input, back to back). All use the same graph, threads and precision hint. The target is for `predrawn`,
which asks as benchmark_app does; `single` also shows what the work between two examinations costs the next one.

The overhead of a query is what the harness itself adds: in its latency around the call of `Classifier.infer`, and the
bookkeeping between one query's end and the next one's drawing. What the runtime does around the engine's call (checks
of dtype, shape and finiteness) belongs to every examination, harness or not, and is given beside it. Both depend on
what the engine has left in the caches: hot they take a tenth.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeskin import files, metrics, runtime
from edgeskin.backends import usable_cores
from edgeskin.benchmark import environment, lanes, single
from edgeskin.benchmark.camera import Camera
from edgeskin.benchmark.clocks import Watch
from edgeskin.errors import EdgeskinError
from edgeskin.spec.suite import Suite

LIMIT_US = 50.0
LIMIT_RATIO = 0.03
RING = 8
WAYS = ("single", "predrawn", "benchmark_app")


class NotedAsk:
    """An Ask that notes how long the drawing before each query took, in seconds."""

    def __init__(self, ask: lanes.Ask, ring: int = 0) -> None:
        self.ask, self.ring = ask, ring
        self.drawing: list[float] = []

    def draw(self, classifier: runtime.Classifier, number: int) -> None:
        self.ask.draw(classifier, number)

    def __call__(self, classifier: runtime.Classifier, number: int) -> lanes.Answer:
        begun = time.perf_counter()
        asked = number % self.ring if self.ring else number
        self.ask.draw(classifier, asked)
        self.drawing.append(time.perf_counter() - begun)
        return self.ask(classifier, asked)


class NotedSetting(lanes.Setting):
    """A setting that hands out an ask of ours."""

    noted: NotedAsk

    def ask(self, mode: Any, route: Any, hold: int = 1) -> lanes.Ask:
        return self.noted


class Noted:
    """A call, timed in seconds; stands in for a session's `_infer` or a classifier's `infer`."""

    def __init__(self, infer: Callable[..., Any]) -> None:
        self.infer = infer
        self.spent: list[float] = []

    def __call__(self, *arguments: Any) -> Any:
        begun = time.perf_counter()
        logits = self.infer(*arguments)
        self.spent.append(time.perf_counter() - begun)
        return logits


def ours(setting: NotedSetting, engine: Noted, runtime_: Noted, ring: int, seconds: float) -> dict[str, Any]:
    """One block of scenario `single` over the pair's network: p50, and the overhead of every query in microseconds."""
    noted = NotedAsk(lanes.Setting.ask(setting, "pair", "network", hold=ring or 1), ring)
    object.__setattr__(setting, "noted", noted)
    engine.spent.clear()
    runtime_.spent.clear()
    found = single.measure(setting, "pair", "network", seconds, lambda *_, **__: None)
    if found is None or found.interrupted:
        raise KeyboardInterrupt
    series = found.series["core"]
    count = len(series.latencies_ms)
    inside, outside, drawing = engine.spent[-count:], runtime_.spent[-count:], noted.drawing[-count:]
    within = [1e6 * (ms / 1e3 - spent) for ms, spent in zip(series.latencies_ms, outside, strict=True)]
    between = [
        1e6 * (series.at_s[i + 1] - series.at_s[i] - series.latencies_ms[i] / 1e3 - drawing[i + 1])
        for i in range(count - 1)
    ]
    return {
        "p50_ms": metrics.percentile(series.latencies_ms, 0.5),
        "queries": count,
        "runtime_us": [1e6 * (a - b) for a, b in zip(outside, inside, strict=True)],
        "within_us": within,
        "between_us": between,
    }


def benchmark_app(graph: Path, threads: str, hint: str, seconds: float) -> dict[str, Any]:
    """One run of benchmark_app in a process of its own; its median."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(Path(sys.executable).parent / "benchmark_app"), "-m", str(graph), "-d", "CPU", "-hint", "none",
            "-nstreams", "1", "-nthreads", threads, "-nireq", "1", "-api", "sync", "-t", str(max(1, round(seconds))),
            "-infer_precision", hint, "-json_stats", "-report_type", "no_counters", "-report_folder", folder,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        report = Path(folder, "benchmark_report.json")
        if done.returncode or not report.is_file():
            raise EdgeskinError("benchmark_app failed", got=(done.stdout + done.stderr).strip().splitlines()[-1:])
        found = json.loads(report.read_text(encoding="utf-8"))["execution_results"]
    return {"p50_ms": float(found["latency (ms)"]), "queries": int(found["total number of iterations"])}


def overhead(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians and 90th percentiles over all queries of some blocks, in microseconds."""
    found: dict[str, Any] = {}
    for name in ("runtime_us", "within_us", "between_us"):
        values = [value for block in blocks for value in block[name]]
        found[name] = {"p50": round(statistics.median(values), 2), "p90": round(metrics.percentile(values, 0.9), 2)}
    found["per_query_us"] = round(found["within_us"]["p50"] + found["between_us"]["p50"], 2)
    return found


def measure(bundle: Path, threads: int, seconds: float, rounds: int) -> dict[str, Any]:
    """All three ways in turn, `rounds` times."""
    classifier = runtime.load(bundle, threads=threads)
    if classifier.manifest.target != "openvino":
        raise EdgeskinError("benchmark_app runs OpenVINO's files", got=classifier.manifest.target, possible="openvino")
    graph = classifier.bundle.path(classifier.manifest.graphs["pair"].file)
    session = classifier.session("pair")
    engine, runtime_ = Noted(session._infer), Noted(classifier.infer)
    session._infer, classifier.infer = engine, runtime_  # type: ignore[method-assign]
    told = session.describe()
    hint = {"f32": "f32", "float32": "f32", "bf16": "bf16", "bfloat16": "bf16"}.get(told["precision_hint"])
    if hint is None:
        raise EdgeskinError("unknown precision hint", got=told["precision_hint"], possible="f32, bf16")
    size = classifier.manifest.preprocess
    scenes = {"network": Camera(2 * size.height, 2 * size.width)}
    suite = Suite(name="overhead", min_queries=64, min_seconds=4 * seconds, max_seconds=4 * seconds, max_warmup=100)
    setting = NotedSetting({"core": classifier}, scenes, suite, threads, Watch())
    blocks: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for way in WAYS if number % 2 == 0 else WAYS[::-1]:
            if way == "benchmark_app":
                blocks[way].append(benchmark_app(graph, told["threads"], hint, seconds))
            else:
                blocks[way].append(ours(setting, engine, runtime_, RING if way == "predrawn" else 0, 1.5 * seconds))
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    ratios = {
        way: [a["p50_ms"] / b["p50_ms"] for a, b in zip(blocks[way], blocks["benchmark_app"], strict=True)]
        for way in ("single", "predrawn")
    }
    found = {way: overhead(blocks[way]) for way in ratios}
    return {
        "engine": told,
        "p50_ms": {way: round(statistics.median(b["p50_ms"] for b in found_), 4) for way, found_ in blocks.items()},
        "every_block_ms": {way: [round(b["p50_ms"], 4) for b in found_] for way, found_ in blocks.items()},
        "queries": {way: sum(b["queries"] for b in found_) for way, found_ in blocks.items()},
        "ratio_to_benchmark_app": {
            way: {"median": round(statistics.median(v), 4), "min": round(min(v), 4), "max": round(max(v), 4)}
            for way, v in ratios.items()
        },
        "overhead": found,
        "within_limits": {
            "overhead": all(one["per_query_us"] < LIMIT_US for one in found.values()),
            "p50": abs(statistics.median(ratios["predrawn"]) - 1) <= LIMIT_RATIO,
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=0, help="0: every core this process may use")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each block")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.seconds < 1 or given.rounds < 1:
        parser.error("seconds and rounds are at least 1")
    threads = given.threads or usable_cores()
    try:
        found = measure(given.bundle, threads, given.seconds, given.rounds)
    except EdgeskinError as error:
        raise SystemExit(error.line()) from None
    result = {
        "what": "overhead of the harness around a query, and its p50 beside benchmark_app, in turn",
        "limit_us": LIMIT_US,
        "limit_ratio": LIMIT_RATIO,
        "rounds": given.rounds,
        "seconds_a_block": given.seconds,
        **found,
        "environment": environment.record(threads=threads).to_json(),
    }
    text = files.pretty_json(result)
    if given.out:
        files.write_atomic(given.out, text)
    print(text, end="")
    return 0 if all(found["within_limits"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
