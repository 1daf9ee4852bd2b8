"""Write the tables of README.md and benchmarks/README.md from benchmarks/results/*.json.

python benchmarks/tables.py          # writes what stands between <!-- table:NAME --> and <!-- /table -->
python benchmarks/tables.py --check  # exit 1 if a table is not what the results say
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeskin import out
from edgeskin.errors import EdgeskinError
from edgeskin.files import write_atomic
from edgeskin.report.forest import forest
from edgeskin.report.sweep import markdown as sweep_tables
from edgeskin.report.text import MODE_TITLES, NONE, ROUTE_TITLES, estimate, ms, ratio, size_text
from edgeskin.spec.bench import BenchResult, Route
from edgeskin.spec.manifest import Mode
from edgeskin.spec.result import Compared, VerifyResult
from edgeskin.spec.sweep_result import SweepResult

HERE = Path(__file__).resolve().parent
PAGES = (HERE.parent / "README.md", HERE / "README.md")
RESULTS = HERE / "results"
if str(HERE) not in sys.path:  # the peers' own modules lie beside this file
    sys.path.insert(0, str(HERE))
MARKED = re.compile(r"(<!-- table:(?P<name>[\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
INT8_FEATURES = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}
TITLES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}


@dataclass(frozen=True)
class Measured:
    """What the results say of one bundle."""

    verify: VerifyResult | None
    bench: BenchResult | None

    @property
    def target(self) -> str:
        """Its target's name for people."""
        record = self.bench or self.verify
        assert record is not None
        return TITLES.get(record.target, record.target)


def read(folder: Path, prefix: str) -> list[Measured]:
    """Verify and bench results of files `prefix*.json`, joined by the bundle's hash, OpenVINO first.

    Raises:
        EdgeskinError: a file is no result, or phantom figures stand among those of real lesions.
    """
    checks: dict[str, VerifyResult] = {}
    speeds: dict[str, BenchResult] = {}
    for path in sorted(folder.glob(f"{prefix}*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        kind = data.get("format") if isinstance(data, dict) else None
        if kind == "edgeskin-verify/1":
            verify = VerifyResult.parse(data, str(path))
            checks[verify.bundle_sha256] = verify
        elif kind == "edgeskin-bench/2":
            bench = BenchResult.parse(data, str(path))
            speeds[bench.bundle_sha256] = bench
        if kind in ("edgeskin-verify/1", "edgeskin-bench/2") and data.get("phantom"):
            raise EdgeskinError("a result on drawn images among those on real lesions", got=str(path), fix="remove it")
    found = []
    for sha in checks.keys() | speeds.keys():
        bench_of = speeds.get(sha)
        found.append(Measured(checks.get(sha) or (bench_of.verify if bench_of else None), bench_of))
    return sorted(found, key=lambda one: one.target, reverse=True)


def lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    head = [f"| {' | '.join(columns)} |", f"|---|{'---:|' * (len(columns) - 1)}"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _figure(found: Compared | None) -> str:
    if found is None or found.bundle.value is None:
        return NONE
    before = NONE if found.fp32.value is None else f"{found.fp32.value:.3f}"
    return f"{before} → {estimate(found.bundle)}, {estimate(found.difference, signed=True)}"


def _rows_of(one: Measured) -> dict[str, str]:
    verify, bench = one.verify, one.bench
    scored = verify.accuracy.get("pair") if verify else None
    parity = verify.parity.get("pair") if verify else None
    alone = verify.accuracy.get("dermoscopic") if verify else None
    task = next(iter(scored.tasks.values())) if scored else {}
    flips = NONE
    if parity:
        moved = parity.predicted
        flips = f"{moved.flipped} of {moved.of} ({moved.to_target} to, {moved.from_target} from melanoma)"
    found = {
        "lesions": f"{scored.lesions:,}" if scored else NONE,
        "macro-F1": _figure(task.get("macro_f1")),
        "balanced accuracy": _figure(task.get("balanced_accuracy")),
        "accuracy": _figure(task.get("accuracy")),
        "melanoma AUC": _figure(scored.target.get("auc") if scored else None),
        "melanoma AUC, dermoscopic alone": _figure(alone.target.get("auc") if alone else None),
        "diagnoses that flip": flips,
        "size": NONE,
    }
    if bench:
        found["size"] = f"{size_text(bench.reference_bytes.get('pair'))} → {size_text(bench.core_bytes['pair'])}"
    for route, title in ROUTE_TITLES.items():
        lane = bench.lane("pair", route) if bench else None
        if lane is None:
            found[f"{title}, p50 / p99 ms"] = NONE
            continue
        own = f"{ms(lane.core.p50_ms)} / {ms(lane.core.p99_ms)}"
        other = f"{ms(lane.reference.p50_ms)} / {ms(lane.reference.p99_ms)}" if lane.reference else NONE
        found[f"{title}, p50 / p99 ms"] = f"{other} → {own}, {ratio(lane.ratio)}"
    cold = bench.cold_start if bench else None
    found["peak memory of a process"] = size_text(cold.peak_rss_bytes if cold else None)
    return found


def milk10k(folder: Path) -> str:
    """Accuracy and latency of the bundles on real pairs, beside the given baseline."""
    baseline, given = _baseline(folder)
    measured = read(folder, "milk10k-")
    columns = [_rows_of(one) for one in measured]
    titles = list(columns[0]) if columns else list(given)
    rows = [(title, *(column[title] for column in columns), given.get(title, NONE)) for title in titles]
    text = lines(("FP32 → INT8, difference", *(one.target for one in measured), baseline["name"]), rows)
    if measured:
        text += (
            "\nAccuracies: FP32 → INT8, then their paired difference, with 95 % bootstrap intervals. Latencies: FP32 → "
        )
        text += "INT8, then the speed against FP32 with its interval.\n"
    else:
        text += "\nNot measured yet: `edgeskin verify --out` and `edgeskin bench --out` write the results.\n"
    text += f"\n{baseline['name']}: {baseline['what']}; {baseline['note']}.\n"
    return text + "".join(f"{line}\n" for line in conditions(measured))


def _baseline(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The given reference, and its figures by the titles of our rows."""
    found: dict[str, Any] = json.loads((folder / "baseline.json").read_text(encoding="utf-8"))
    return found, {
        "lesions": f"{found['lesions']:,}",
        "macro-F1": f"{found['macro_f1']:.2f}",
        "balanced accuracy": f"{found['balanced_accuracy']:.2f}",
        "accuracy": f"{found['accuracy']:.2f}",
        "melanoma AUC": f"{found['target_auc']:.2f}",
    }


def accurate(folder: Path) -> str:
    """How good the network of the recipe for accuracy is on lesions it has not seen, beside the given baseline."""
    from accuracy_table import table

    checks = [one.verify for one in read(folder, "lite2-") if one.verify]
    return str(table(checks, *_baseline(folder)))


def conditions(measured: Sequence[Measured]) -> list[str]:
    """What the latencies were measured on, and whether they count; equal conditions are said once."""
    found: dict[str, list[str]] = {}
    for one in measured:
        if one.bench is None:
            continue
        bench, on = one.bench, one.bench.environment
        engine = on.versions.get(bench.target) or "?"
        features = ", ".join(
            name for name in on.cpu_features if "vnni" in name or "amx_int8" in name or "asimddp" in name
        )
        state = "valid" if bench.validity.valid else f"not valid: {'; '.join(bench.validity.reasons)}"
        frame = f"{bench.suite.frame_width}x{bench.suite.frame_height}"
        text = f"{on.cpu_model} ({features or 'no INT8 dot product'}), {on.threads} threads, {bench.target} {engine}, "
        text += (
            f"{bench.backbone} at {bench.input_height} px, camera frames {frame}, suite {bench.suite.name}; {state}."
        )
        found.setdefault(text, []).append(one.target)
    return [f"\n{', '.join(names)}: {text}" for text, names in found.items()]


def milk10k_latency(folder: Path) -> str:
    """Every lane of every bundle, all percentiles."""
    rows = []
    for one in read(folder, "milk10k-"):
        for lane in one.bench.lanes if one.bench else ():
            for title, found in (("INT8", lane.core), ("FP32", lane.reference)):
                if found is not None:
                    values = (found.p50_ms, found.p90_ms, found.p95_ms, found.p99_ms, found.max_ms)
                    bound = found.bounds[-1].value_ms
                    where = f"{one.target} {title}, {lane.scenario}, {_lane(lane.mode, lane.route)}"
                    rows.append((where, *(ms(value) for value in values), ms(bound), str(found.queries)))
    if not rows:
        return "Not measured yet.\n"
    return lines(("ms", "p50", "p90", "p95", "p99", "max", "p99 bound (99 %)", "queries"), rows)


def _lane(mode: Mode, route: Route) -> str:
    return f"{MODE_TITLES[mode]}, {ROUTE_TITLES[route]}"


def peers(folder: Path) -> str:
    """Other ways to run the checkpoint, beside ours."""
    from peers.table import peers_table

    return str(peers_table(folder))


def int8(folder: Path) -> str:
    """What INT8 costs and gains, network by network."""
    from int8_table import table

    return str(table(folder))


def tensorrt(folder: Path) -> str:
    """What is known of TensorRT's build kits without a GPU."""
    from tensorrt_table import table

    return str(table(folder))


def scenarios(folder: Path) -> str:
    """Streams, throughput and cold start of every bundle."""
    rows = []
    for one in read(folder, "milk10k-"):
        for lane in one.bench.lanes if one.bench else ():
            where = f"{one.target}, {_lane(lane.mode, lane.route)}"
            if lane.first_query and lane.gap_s is not None:
                text = f"{lane.first_query.value:.2f}x the next ones"
                rows.append((f"{where}: first query after {lane.gap_s:g} s idle", text))
            if lane.stream:
                seen = lane.stream
                text = f"{seen.dropped} of {seen.offered} dropped; age {seen.age_p50_ms:.1f} / {seen.age_p99_ms:.1f} ms"
                rows.append((f"{where}: camera at {seen.fps:g} frames/s, age p50 / p99", text))
            if lane.offline:
                found = ", ".join(f"{step.per_second:.0f} ({step.in_flight})" for step in lane.offline)
                rows.append((f"{where}: examinations a second (in flight)", found))
        cold = one.bench.cold_start if one.bench else None
        for title, parts in (("", cold.parts), (", compiled models kept", cold.cached)) if cold else ():
            if parts:
                text = f"{parts.total_ms:.0f} ms, of it import {parts.import_ms + parts.engine_import_ms:.0f}, "
                text += f"open {parts.open_ms:.0f}, compile {parts.compile_ms:.0f}"
                rows.append((f"{one.target}: new process to first decision{title}", text))
    return lines(("", "measured"), rows) if rows else "Not measured yet.\n"


def quality_gate(folder: Path) -> str:
    """What the quality gate refuses: real pairs as they are, and faults made on one image or on the pair."""
    found = json.loads((folder / "quality-gate.json").read_text(encoding="utf-8"))

    def refused(share: dict[str, Any]) -> str:
        interval = f"{share['low']:.1%} to {share['high']:.1%}"
        return f"{share['flagged']} of {share['of']} ({share['flagged'] / share['of']:.1%}, {interval})"

    rows: dict[str, dict[str, str]] = {"none: pairs as they are": {"both": refused(found["test"]["not_assessable"])}}
    for one in found["faults"]:
        rows.setdefault(one["fault"], {})[one["image"]] = refused(one["not_assessable"])
    columns = ("clinical", "dermoscopic", "both")
    shown = [(fault, *(cells.get(column, NONE) for column in columns)) for fault, cells in rows.items()]
    height, width = found["frame_px"]
    text = lines(("fault, refused on", "the clinical image", "the dermoscopic image", "the pair"), shown)
    text += f"\n{found['data']}, test role, frames {width} x {height} px, 95 % Wilson intervals; "
    return f"{text}{found['swapped']}.\n"


def embedded(folder: Path) -> str:
    """The runtime in C beside Python."""
    from embedded_table import table

    return str(table(folder))


def ablation(folder: Path) -> str:
    """What each part of the method gives, on real pairs."""
    return _sweep(folder, "ablation")


def ablation_backbones(folder: Path) -> str:
    """Encoder and attention with other backbones, on real pairs."""
    return _sweep(folder, "ablation-backbones")


def ablation_phantom(folder: Path) -> str:
    """What each part of the method gives, on drawn lesions."""
    return _sweep(folder, "ablation-phantom")


def _sweep(folder: Path, name: str) -> str:
    found = _read_sweep(folder / f"{name}.json")
    if found is None:
        root = "data/phantom" if name.endswith("phantom") else "data/milk10k"
        told = f"edgeskin sweep {name} --root {root} --out runs/{name} --results benchmarks/results/{name}.json"
        return f"Not measured yet: `{told}` writes the result.\n"
    if found.phantom and not name.endswith("phantom"):
        raise EdgeskinError("a result on drawn images among those on real lesions", got=f"{name}.json", fix="remove it")
    picture = f"![{found.suite.title}: figures and differences with their intervals](results/{name}.svg)\n"
    return f"{picture}\n{sweep_tables(found)}"


def _read_sweep(path: Path) -> SweepResult | None:
    return SweepResult.parse(json.loads(path.read_text(encoding="utf-8")), str(path)) if path.is_file() else None


def pictures(folder: Path) -> dict[Path, str]:
    """The plots beside the results of sweeps: file -> what stands in it."""
    found = {name: _read_sweep(folder / f"{name}.json") for name in SWEEPS}
    return {folder / f"{name}.svg": forest(one) for name, one in found.items() if one is not None}


def models(folder: Path) -> str:
    """Backbones: size of the pair network, and what comes through to every target."""
    from models_table import table

    return str(table(folder))


def training(folder: Path) -> str:
    """A step of the training loop beside the network's own work."""
    from training_table import table

    return str(table(folder))


SWEEPS = ("ablation", "ablation-backbones", "ablation-phantom")  # those with a table and a plot
TABLES: dict[str, Callable[[Path], str]] = {
    "milk10k": milk10k,
    "accurate": accurate,
    "milk10k-latency": milk10k_latency,
    "milk10k-scenarios": scenarios,
    "peers": peers,
    "int8": int8,
    "tensorrt-kits": tensorrt,
    "models": models,
    "quality-gate": quality_gate,
    "embedded-runtime": embedded,
    "training-step": training,
    "ablation": ablation,
    "ablation-backbones": ablation_backbones,
    "ablation-phantom": ablation_phantom,
}


def fill(text: str, folder: Path, where: str) -> str:
    """The page with every marked table written anew.

    Raises:
        EdgeskinError: a marker names no table.
    """

    def one(match: "re.Match[str]") -> str:
        name = match["name"]
        if name not in TABLES:
            raise EdgeskinError(f"unknown table in {where}", got=name, possible=TABLES)
        return f"{match[1]}\n{TABLES[name](folder)}\n{match[3]}"

    return MARKED.sub(one, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages and plots, or check them. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a page is out of date")
    check = parser.parse_args(arguments).check
    stale: list[str] = []
    wanted: dict[Path, tuple[str, str]] = {}
    try:
        for page in PAGES:
            before = page.read_text(encoding="utf-8")
            wanted[page] = (before, fill(before, RESULTS, page.name))
        for file, drawn in pictures(RESULTS).items():
            wanted[file] = (file.read_text(encoding="utf-8") if file.is_file() else "", drawn)
        for file, (before, after) in wanted.items():
            if after != before:
                stale.append(str(file.relative_to(HERE.parent)))
                if not check:
                    write_atomic(file, after)
    except EdgeskinError as problem:
        out.error(problem)
        return 2
    for name in stale:
        out.line(f"{name}: {'out of date; run python benchmarks/tables.py' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
