"""The process of one peer: builds its files, answers queries, or starts once and decides once.

    python worker.py build PEER.py TASK.json WORK           one line of JSON: the files it made
    python worker.py serve PEER.py TASK.json WORK           JSON lines: a request in, an answer out, until stdin ends
    python worker.py cold  PEER.py TASK.json WORK           one line of JSON: import, load, first decision

It times itself, from two frames in memory to a decision, so that no pipe is within a figure. At its top it imports
nothing but what Python has loaded anyhow: the cold start belongs to the peer.
"""

import time

BEGUN = time.perf_counter_ns()

import importlib.util  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType
    from typing import Any, TextIO


def load_module(path: "str | Path") -> "ModuleType":
    """The peer's script as a module. Its own errors come out as they are."""
    spec = importlib.util.spec_from_file_location("peer", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"not a Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pin(threads: int) -> None:
    """Let this process use so many cores and no more: an engine that counts cores itself then counts these."""
    if hasattr(os, "sched_getaffinity"):
        usable = sorted(os.sched_getaffinity(0))
        if threads < len(usable):
            os.sched_setaffinity(0, usable[:threads])


def answer(peer: "Any", clinical: "Any", dermoscopic: "Any") -> float:
    """Two frames uint8 [H, W, 3] to P(target): all that lies between the camera and the decision."""
    return float(peer.decide(peer.network(peer.prepare(clinical, dermoscopic))))


def ask(peer: "Any", frames: "Any", request: "dict[str, Any]") -> "dict[str, Any]":
    """Answer each query of a request by itself: milliseconds, and P(target) where the route ends in a decision."""
    import numpy as np

    if request["route"] == "network" and hasattr(peer, "network_run"):  # a tool that asks itself
        return {"ms": peer.network_run(len(request["numbers"])), "whole": True, "probabilities": []}
    decide = getattr(peer, "answer", None) or (lambda one, two: answer(peer, one, two))
    pair, spent, probabilities = np.empty(frames.shape[1:], np.uint8), [], []
    for number in request["numbers"]:
        np.copyto(pair, frames[number % len(frames)])  # as the camera has just left it
        if request["route"] == "network":
            inputs = peer.prepare(pair[0], pair[1])
            start = time.perf_counter_ns()
            peer.network(inputs)
            end = time.perf_counter_ns()
        else:
            start = time.perf_counter_ns()
            probabilities.append(float(decide(pair[0], pair[1])))
            end = time.perf_counter_ns()
        spent.append((end - start) / 1e6)
    return {"ms": spent, "whole": False, "probabilities": probabilities}


def versions(packages: "list[str]") -> "dict[str, str]":
    """Installed versions of distributions, by name."""
    from importlib import metadata

    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def serve(peer: "Any", task: "dict[str, Any]", out: "TextIO") -> None:
    """Answer requests until stdin ends. A request that fails is answered with its error, and the process goes on."""
    import numpy as np

    sources = {name: np.load(task[name], mmap_mode="r") for name in ("frames", "check")}
    say(out, {"ready": True, "versions": versions(task["packages"])})
    for line in sys.stdin:
        try:
            request = json.loads(line)
            found = ask(peer, sources[request["source"]], request)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the row's reason
            found = {"error": explain(error)}
        say(out, found)


def cold(module: "ModuleType", imported: int, task: "dict[str, Any]", work: "Path", out: "TextIO") -> None:
    """Load and decide once. The frames are read between the two, outside the clock."""
    peer = module.open(task, work)
    loaded = time.perf_counter_ns()
    import numpy as np

    pair = np.array(np.load(task["frames"], mmap_mode="r")[0])
    decide = getattr(peer, "answer", None) or (lambda one, two: answer(peer, one, two))
    start = time.perf_counter_ns()
    decide(pair[0], pair[1])
    end = time.perf_counter_ns()
    spent = {"import_ms": imported - BEGUN, "load_ms": loaded - imported, "first_decision_ms": end - start}
    say(out, {**{name: value / 1e6 for name, value in spent.items()}, "peak_rss_bytes": peak_rss_bytes()})


def peak_rss_bytes() -> "int | None":
    """The most memory this process ever held in RAM, from /proc; None elsewhere."""
    if not os.path.exists("/proc/self/status"):  # noqa: PTH110 - pathlib is not imported on purpose
        return None
    with open("/proc/self/status", encoding="utf-8") as status:  # noqa: PTH123
        return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:")), None)


def explain(error: BaseException) -> str:
    """One line for an error."""
    told = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {told}"[:300]


def say(out: "TextIO", value: "dict[str, Any]") -> None:
    """One line of JSON, sent off."""
    out.write(json.dumps(value) + "\n")
    out.flush()


def main(arguments: "list[str]") -> int:
    """Do what the first argument says."""
    verb, script, task_path, folder = arguments
    # Packages talk on stdout; the answers get a channel of their own and stdout goes where stderr goes.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with open(task_path, encoding="utf-8") as handle:  # noqa: PTH123
        task = json.load(handle)
    pin(task["threads"])
    try:
        module = load_module(script)
        imported = time.perf_counter_ns()
        from pathlib import Path

        work = Path(folder)
        if verb == "build":
            say(out, {"files": [str(path) for path in module.build(task, work)]})
        elif verb == "serve":
            serve(module.open(task, work), task, out)
        else:
            cold(module, imported, task, work, out)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the row's reason
        say(out, {"error": explain(error)})
        import traceback

        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
