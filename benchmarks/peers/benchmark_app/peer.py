"""OpenVINO's benchmark_app on the bundle's INT8 graph: synchronous, one stream, the bundle's precision hint.

The tool itself prints a median and no percentiles beside it, so its own loop is run under observation: `tool` calls
the tool's `main` and notes the latencies that its `sync_inference` returns. Nothing of the measurement is changed.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LIMIT_S = 300
ITERATIONS = 50  # at least: a start of the tool costs a second, and its first inferences are its slowest


def build(task: dict[str, Any], work: Path) -> list[Path]:
    """Nothing is built: the model file is the bundle's."""
    graph = Path(task["openvino_graph"])
    return [graph, graph.with_suffix(".bin")]


def open(task: dict[str, Any], work: Path) -> "Peer":
    """A new process of the tool for every turn."""
    return Peer(task, work)


class Peer:
    """The tool, asked for so many iterations."""

    def __init__(self, task: dict[str, Any], work: Path) -> None:
        self.noted = work / "latencies.json"
        options = {
            "-m": task["openvino_graph"], "-d": "CPU", "-api": "sync", "-hint": "none", "-nstreams": "1",
            "-nthreads": str(task["threads"]), "-infer_precision": task["openvino_precision"],
        }  # fmt: skip
        self.options = [part for option in options.items() for part in option]

    def network_run(self, count: int) -> list[float]:
        """Milliseconds of `count` inferences or more, as the tool measured them, sorted."""
        self.noted.unlink(missing_ok=True)
        command = [sys.executable, __file__, str(self.noted), *self.options, "-niter", str(max(count, ITERATIONS))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        if done.returncode or not self.noted.is_file():
            said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise RuntimeError(f"benchmark_app failed: {said[-1] if said else done.returncode}")
        found: list[float] = json.loads(self.noted.read_text(encoding="utf-8"))
        return found


def tool(noted: Path, arguments: list[str]) -> None:
    """Run the tool as its command does, and write the latencies that its loop returns to a file."""
    from openvino.tools.benchmark import benchmark, main

    measure = benchmark.Benchmark.sync_inference

    def observed(self: Any, *given: Any) -> Any:
        found = measure(self, *given)
        noted.write_text(json.dumps(found[0]), encoding="utf-8")
        return found

    benchmark.Benchmark.sync_inference = observed
    sys.argv = ["benchmark_app", *arguments]
    main.main()


if __name__ == "__main__":
    tool(Path(sys.argv[1]), sys.argv[2:])
