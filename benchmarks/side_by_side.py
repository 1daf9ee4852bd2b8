"""edgeskin beside other ways to run the same checkpoint, all asked in turn in one run.

    python benchmarks/side_by_side.py --bundle bundles/B --run runs/R --out benchmarks/results/peers.json

Give the checkpoint's OpenVINO bundle first and its ONNX Runtime bundle second, or one bundle and its run. What the
peers are, what each needs, and how they are asked: benchmarks/peers/README.md. `--install` lets peers that need
packages of their own make an environment in the cache; without it they are rows with a reason.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

from peers import environments, measure, table, task  # noqa: E402
from peers.process import BUILD_S, PeerError, Program  # noqa: E402
from peers.spec import PeersResult, Row  # noqa: E402

from edgeskin import out  # noqa: E402
from edgeskin.backends import usable_cores  # noqa: E402
from edgeskin.benchmark import environment, sensors, statistics  # noqa: E402
from edgeskin.bundle import Bundle, open_bundle  # noqa: E402
from edgeskin.env import cache_dir  # noqa: E402
from edgeskin.errors import EdgeskinError, unknown  # noqa: E402
from edgeskin.files import canonical_json, os_errors, pretty_json, sha256_bytes, sha256_file, write_atomic  # noqa: E402

TITLES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT"}
IDLE_SHARE = 0.05  # of one core: an idle worker that takes more disturbs the others
REPEATS = 2000


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, action="append", required=True, help="the first is what ratios refer to")
    parser.add_argument("--run", type=Path, help="training run of the same checkpoint, for the torch peers")
    parser.add_argument("--peers", default="", help="comma-separated names; default: all")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--queries", type=int, default=10, help="counted queries of a turn")
    parser.add_argument("--settle", type=int, default=3, help="queries of a turn before those")
    parser.add_argument("--max-warmup", type=int, default=200, help="warm-up queries at most, on each route")
    parser.add_argument("--cold-starts", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: all usable cores")
    parser.add_argument("--frame", default="1920x1080", help="camera frame, WIDTHxHEIGHT")
    parser.add_argument("--frames", type=int, default=16, help="different pairs of camera frames")
    parser.add_argument("--calibration", type=int, default=64, help="calibration pairs for peers that quantise")
    parser.add_argument("--data", default="milk10k", help="data set at --data-root")
    parser.add_argument("--data-root", type=Path, help="calibrate on these pairs; default: drawn ones")
    parser.add_argument("--cache", type=Path, help="environments and built files; default: EDGESKIN_CACHE/peers")
    parser.add_argument("--install", action="store_true", help="make the environments that are lacking")
    parser.add_argument("--out", type=Path, help="result JSON")
    given = parser.parse_args(arguments)
    for name in ("rounds", "queries", "max_warmup", "frames", "calibration"):
        if getattr(given, name) < 1:
            raise EdgeskinError(f"wrong --{name.replace('_', '-')}", got=getattr(given, name), possible="1 or more")
    for name in ("settle", "cold_starts", "threads"):
        if getattr(given, name) < 0:
            raise EdgeskinError(f"wrong --{name.replace('_', '-')}", got=getattr(given, name), possible="0 or more")
    return given


def _frame(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and min(int(width), int(height)) >= 32):
        raise EdgeskinError("wrong --frame", got=text, possible="WIDTHxHEIGHT of 32 or more, e.g. 1920x1080")
    return int(width), int(height)


def chosen(names: str) -> tuple[str, ...]:
    """The peers asked for, or all."""
    known = environments.names()
    asked = tuple(name.strip() for name in names.split(",") if name.strip()) or known
    for name in asked:
        if name not in known:
            raise unknown("peer", name, known)
    return asked


def own_runners(bundles: Sequence[Bundle], common: task.Common, work: Path) -> list[measure.Runner]:
    """A row of edgeskin for each bundle."""
    spec = environments.read("edgeskin_runtime")
    found = []
    for bundle in bundles:
        target, precision = bundle.manifest.target, bundle.manifest.precision
        runner = measure.Runner(f"edgeskin-{target}", f"edgeskin, {TITLES[target]} {precision.upper()}", spec)
        prepare(runner, "edgeskin_runtime", {**common.values, **task.bundle_values(bundle)}, work, Path(sys.executable))
        found.append(runner)
    return found


def peer_runner(name: str, common: task.Common, work: Path, cache: Path, install: bool) -> measure.Runner:
    """A peer, built and ready to start, or with the reason why not."""
    spec = environments.read(name)
    runner = measure.Runner(name, spec.title, spec)
    runner.reason = next((common.lacking[need] for need in spec.needs if need in common.lacking), None)
    if runner.reason is None:
        python = environments.python_for(name, spec, cache, install=install)
        if isinstance(python, str):
            runner.reason = python
        else:
            prepare(runner, name, common.values, work, python)
    return runner


def prepare(runner: measure.Runner, folder: str, values: dict[str, object], work: Path, python: Path) -> None:
    """Let a peer build its files, unless the same were built before."""
    spec, home = runner.spec, work / runner.name
    home.mkdir(parents=True, exist_ok=True)
    script = environments.script(folder, spec)
    variables = {key: value.replace("{work}", str(home)) for key, value in spec.environment.items()}
    mine = {**values, "options": spec.options, "packages": spec.packages}
    program = Program(runner.name, python, script, home / "task.json", home, variables)
    built = home / "built.json"
    identity = [mine, spec.to_json(), sha256_file(script), str(python), environment.versions()]
    key = sha256_bytes(canonical_json(identity).encode())
    try:
        if not (built.is_file() and (found := task.load(built)).get("key") == key):
            out.note(f"building: {runner.title}")
            built.unlink(missing_ok=True)
            task.write(program.task, mine)
            found = {"key": key, **program.once("build", BUILD_S)}
            task.write(built, found)
        runner.model_bytes = sum(Path(file).stat().st_size for file in found["files"])
        runner.program = program
    except PeerError as fault:
        runner.reason = f"failed: {fault}"


def row(runner: measure.Runner, base: measure.Runner, threshold: float) -> Row:
    """What a run found of one pipeline."""
    return Row(
        name=runner.name,
        title=runner.title,
        about=runner.spec.about,
        weights=runner.weights,
        reason=runner.reason,
        network=measure.figures(runner, base, "network", REPEATS),
        decision=measure.figures(runner, base, "decision", REPEATS),
        cold_start=measure.cold(runner, base, REPEATS),
        agreement=measure.agreement(runner, base, threshold),
        model_bytes=runner.model_bytes,
        versions=runner.versions,
        idle_cpu_share=runner.idle_cpu_share,
    )


def verdict(rows: Sequence[Row], others: float | None, partial: bool) -> list[str]:
    """Why the figures do not count; empty when they do."""
    reasons = ["interrupted"] if partial else []
    if others is not None and others > statistics.OTHERS_SHARE:
        reasons.append(f"other processes used {others:.0%} of the processors")
    for one in rows:
        if one.idle_cpu_share is not None and one.idle_cpu_share > IDLE_SHARE:
            reasons.append(f"{one.title}: took {one.idle_cpu_share:.0%} of a core while idle")
        for route, found in (("network", one.network), ("decision", one.decision)):
            if found is not None and not found.warmup.stationary:
                reasons.append(f"{one.title}, {route}: still moving after {found.warmup.queries} warm-up queries")
    return reasons


def run(given: argparse.Namespace) -> PeersResult:
    """Build, measure, and put the result together.

    Raises:
        EdgeskinError: faulty arguments, bundles of several checkpoints, or edgeskin itself did not run.
    """
    bundles = [open_bundle(path) for path in given.bundle]
    if len({bundle.manifest.target for bundle in bundles}) < len(bundles):
        raise EdgeskinError("two bundles for one target", got=[str(b.root) for b in bundles], fix="pass one a target")
    width, height = _frame(given.frame)
    threads = given.threads or usable_cores()
    if threads > usable_cores():
        raise EdgeskinError("more threads than cores", got=threads, possible=f"1..{usable_cores()}")
    names, cache = chosen(given.peers), given.cache or cache_dir() / "peers"
    cache = Path(cache).resolve()
    work = cache / f"work-{bundles[0].manifest.provenance.checkpoint_weights_sha256[:12]}"
    common = task.common(
        bundles, given.run, work, threads=threads, height=height, width=width, frames=given.frames,
        calibration_pairs=given.calibration, data=given.data, data_root=given.data_root,
    )  # fmt: skip
    runners = own_runners(bundles, common, work)
    if runners[0].reason is not None:
        raise EdgeskinError("edgeskin itself did not run", got=runners[0].reason, fix="run `edgeskin verify` first")
    runners += [peer_runner(name, common, work, cache, given.install) for name in names]
    plan = measure.Plan(given.rounds, given.queries, given.settle, given.cold_starts, given.max_warmup)
    partial = False
    try:
        for runner in out.track(runners, "starting and warming up"):
            measure.start(runner, plan)
        before = measure.own_ticks(runners)
        with out.progress("rounds", plan.rounds) as step:
            partial = measure.rounds(runners, plan, step)
        others = sensors.others_share(before, measure.own_ticks(runners))
    finally:
        measure.stop(runners)
    if runners[0].reason is not None or not runners[0].lanes["network"].rounds:
        reason = runners[0].reason or "interrupted before it was asked"
        raise EdgeskinError("edgeskin itself was not measured", got=reason, fix="run `edgeskin bench` to see why")
    if not partial:
        with out.progress("cold starts", plan.cold_starts) as step:
            partial = measure.cold_starts(runners, plan, step)
    rows = tuple(row(runner, runners[0], common.values["decision"]["threshold"]) for runner in runners)
    manifest = bundles[0].manifest
    return PeersResult(
        bundles={f"edgeskin-{bundle.manifest.target}": bundle.sha256 for bundle in bundles},
        backbone=f"{manifest.network.backbone} at {manifest.preprocess.width}x{manifest.preprocess.height}",
        phantom=manifest.phantom,
        rounds=given.rounds,
        queries=given.queries,
        settle=given.settle,
        frame_height=height,
        frame_width=width,
        frames=given.frames,
        calibration_pairs=given.calibration,
        calibration=given.data if given.data_root else "drawn",
        threads=threads,
        environment=environment.record(threads=threads),
        others_cpu_share=others,
        rows=rows,
        partial=partial,
        validity=statistics.verdict(verdict(rows, others, partial)),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write the JSON and show the table. Returns the exit code."""
    try:
        given = parse(arguments)
        if given.out is not None:
            with os_errors(given.out):  # an unwritable place is found before the measuring, not after
                given.out.parent.mkdir(parents=True, exist_ok=True)
                tempfile.NamedTemporaryFile(dir=given.out.parent).close()
        result = run(given)
        if given.out is not None:
            write_atomic(given.out, pretty_json(result.to_json()))
    except EdgeskinError as problem:
        out.error(problem)
        return 2
    except KeyboardInterrupt:
        out.error(EdgeskinError("interrupted before anything was measured", fix="run the same command again"))
        return 130
    out.line(table.render(result))
    if given.out is not None:
        out.line(f"written: {given.out}")
    return 130 if result.partial else 0


if __name__ == "__main__":
    raise SystemExit(main())
