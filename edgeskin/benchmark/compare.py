"""Two results of the benchmark compared: the ratio of medians with its interval, where the conditions allow it."""

import json
from collections.abc import Mapping
from pathlib import Path

from edgeskin.benchmark import conditions
from edgeskin.benchmark.medians import LEVEL, interval, sample
from edgeskin.errors import EdgeskinError
from edgeskin.spec.bench import BenchResult, Lane
from edgeskin.spec.comparison import AccuracyComparison, ColdComparison, Comparison, LaneComparison, Question, Side
from edgeskin.spec.manifest import Mode
from edgeskin.spec.result import Compared

FEWEST = 8  # queries; below, an interval would say more than they do
REFERENCE_CHANGE = 0.05  # of the FP32 reference between two runs on one machine, above which it is remarked on
COLD_PARTS = ("process_ms", "import_ms", "load_ms", "first_decision_ms")
FORMAT = str(BenchResult.model_fields["format"].default)


def read(path: Path) -> BenchResult:
    """A result from the file that `edgeskin bench --out` wrote.

    Raises:
        EdgeskinError: no such file, no JSON, another kind of file, another schema version, a field that does not fit.
    """
    return BenchResult.parse(read_json(path, FORMAT), str(path))


def read_json(path: Path, known: str) -> object:
    """Plain data of a result file of the format `known`. Raises EdgeskinError as `read` does."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EdgeskinError("no such result", got=str(path), fix="check the path") from None
    except OSError as error:
        raise EdgeskinError(
            "the result cannot be read", got=f"{path}: {error.strerror}", fix="check the path"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EdgeskinError("not a result file", got=f"{path}: {error}", fix="run verify or bench again") from error
    check_format(data, known, str(path))
    return data


def check_format(data: object, known: str, where: str) -> None:
    """Refuse plain data of another kind or schema version than `known`, before its fields are looked at.

    >>> check_format({"format": "edgeskin-bench/1"}, "edgeskin-bench/2", "a.json")
    Traceback (most recent call last):
    ...
    edgeskin.errors.EdgeskinError: a.json has another schema version: got 'edgeskin-bench/1'; possible: \
edgeskin-bench/2; fix: run `edgeskin bench` again
    """
    family = known.partition("/")[0]
    command = family.removeprefix("edgeskin-")
    found = data.get("format") if isinstance(data, Mapping) else None
    if not isinstance(found, str):
        raise EdgeskinError(
            f"{where} is no result of `edgeskin {command}`", got="a file without format", possible=known,
            fix=f"pass the file that `edgeskin {command} --out` wrote",
        )  # fmt: skip
    if found.partition("/")[0] != family:
        raise EdgeskinError(
            f"{where} is another kind of file", got=found, possible=known,
            fix=f"pass the file that `edgeskin {command} --out` wrote",
        )  # fmt: skip
    if found != known:
        newer = _number(found) > _number(known)
        raise EdgeskinError(
            f"{where} has another schema version",
            got=found,
            possible=known,
            fix="it was written by a newer edgeskin: pip install --upgrade edgeskin"
            if newer
            else f"run `edgeskin {command}` again",
        )


def _number(name: str) -> int:
    version = name.partition("/")[2]
    return int(version) if version.isascii() and version.isdigit() else 0


def compare(a: BenchResult, b: BenchResult, *, anyway: bool = False) -> Comparison:
    """Compare B with A: per lane that both have, the ratio of medians (below 1: B is faster) and its interval.

    A ratio answers one question, so one kind of condition may differ: the bundle (two bundles under the same
    conditions), the machine with its settings (one bundle, two machines, the same software), the settings alone, or
    the software alone. What was asked (the suite) must be equal. The record holds no name of a machine: two of the
    same build are one to it.

    The interval covers the queries of these two runs; another run on another day moves by more than that.

    Args:
        anyway: compare what would be refused; why it would be is in `objections`.

    Raises:
        EdgeskinError: a result is partial or invalid, the conditions differ in more than one kind, or no lane is in
            both.
    """
    found = conditions.differences(a, b)
    against = conditions.objections(a, b, found)
    if against and not anyway:
        raise EdgeskinError(
            "these results do not compare",
            got="; ".join(against),
            fix="measure both under the same conditions, or pass --anyway for the ratio beside what differs",
        )
    pairs = [(one, other) for one in a.lanes if (other := b.lane(one.mode, one.route, one.scenario))]
    if not pairs:
        raise EdgeskinError(
            "no lane is in both results",
            got=", ".join(map(_name, b.lanes)) or "none",
            possible=[_name(lane) for lane in a.lanes],
            fix="measure both with the same suite",
        )
    asked = conditions.question(found)
    control = _same_reference(a, b, asked)
    lanes = tuple(_lane(one, other, control) for one, other in pairs)
    accuracy, missing = _accuracy(a, b)
    names_a, names_b = [_name(lane) for lane in a.lanes], [_name(lane) for lane in b.lanes]
    return Comparison(
        a=_side(a),
        b=_side(b),
        question=asked,
        differences=found,
        objections=against,
        lanes=lanes,
        only_a=tuple(name for name in names_a if name not in names_b),
        only_b=tuple(name for name in names_b if name not in names_a),
        cold_start=_cold(a, b),
        accuracy=accuracy,
        remarks=(*_remarks(a, b, lanes), *missing),
    )


def _name(lane: Lane) -> str:
    return f"{lane.scenario} {lane.mode} {lane.route}"


def _side(result: BenchResult) -> Side:
    return Side(
        bundle=result.bundle,
        bundle_sha256=result.bundle_sha256,
        target=result.target,
        precision=result.precision,
        machine=conditions.machine(result),
        threads=result.environment.threads,
        measured=result.environment.measured,
        valid=result.validity.valid,
        partial=result.partial,
    )


def _lane(one: Lane, other: Lane, control: bool) -> LaneComparison:
    whole = one.series is not None and other.series is not None
    ours, blocks_a = sample(one)
    theirs, blocks_b = sample(other)
    if min(one.core.min_ms, other.core.min_ms) <= 0:
        raise EdgeskinError("a latency of zero or less", got=_name(one), fix="measure again: the clock jumped")
    ratio = other.core.p50_ms / one.core.p50_ms
    low = high = None
    if min(len(ours), len(theirs)) >= FEWEST:
        low, high = interval(ours, theirs, ratio, ordered=(blocks_a, blocks_b))
    if low is None or high is None:
        verdict = "unknown"
    else:
        verdict = "faster" if high < 1 else "slower" if low > 1 else "no difference"
    reference = None
    if control and one.reference and other.reference:
        reference = other.reference.p50_ms / one.reference.p50_ms
    return LaneComparison.model_validate(
        dict(
            scenario=one.scenario,
            mode=one.mode,
            route=one.route,
            a_p50_ms=one.core.p50_ms,
            b_p50_ms=other.core.p50_ms,
            a_p99_ms=one.core.p99_ms,
            b_p99_ms=other.core.p99_ms,
            ratio=ratio,
            low=low,
            high=high,
            level=LEVEL,
            basis="series" if whole else "histogram",
            points=(len(ours), len(theirs)),
            verdict=verdict,
            reference_ratio=reference,
        )
    )


def _same_reference(a: BenchResult, b: BenchResult, asked: Question) -> bool:
    """Whether both ran the same FP32 graph on the same machine; it then measures how the machine itself moved."""
    return (
        asked in ("again", "bundles")
        and (a.target, a.backbone, a.parameters, a.input_height, a.input_width)
        == (b.target, b.backbone, b.parameters, b.input_height, b.input_width)
        and bool(a.reference_bytes)
        and a.reference_bytes == b.reference_bytes
    )


def _cold(a: BenchResult, b: BenchResult) -> tuple[ColdComparison, ...]:
    if a.cold_start is None or b.cold_start is None:
        return ()
    rows = []
    for part in COLD_PARTS:
        one, other = getattr(a.cold_start, part), getattr(b.cold_start, part)
        if one > 0:
            rows.append(ColdComparison(part=part.removesuffix("_ms"), a_ms=one, b_ms=other, ratio=other / one))
    return tuple(rows)


def _accuracy(a: BenchResult, b: BenchResult) -> tuple[tuple[AccuracyComparison, ...], tuple[str, ...]]:
    """Figures of both on the same lesions, or why there are none."""
    one, other = a.verify, b.verify
    if one is None or other is None:
        lacking = " and ".join(label for label, v in (("A", one), ("B", other)) if v is None)
        return (), (f"no accuracy beside the latency: no verify result in {lacking}",)
    if not one.accuracy or not other.accuracy:
        return (), ("no accuracy beside the latency: no lesions were scored",)
    if (one.data, one.role_sha256) != (other.data, other.role_sha256):
        return (), (
            f"accuracy does not compare: other lesions were scored ({one.data} {one.role}, {one.lesions} / "
            f"{other.data} {other.role}, {other.lesions})",
        )
    rows: list[AccuracyComparison] = []
    for mode, left in one.accuracy.items():
        if (right := other.accuracy.get(mode)) is None:
            continue
        rows += _figures(mode, "target", left.target, right.target)
        for task in (name for name in left.tasks if name in right.tasks):
            rows += _figures(mode, task, left.tasks[task], right.tasks[task])
    return tuple(rows), ()


def _figures(mode: Mode, what: str, left: dict[str, Compared], right: dict[str, Compared]) -> list[AccuracyComparison]:
    return [
        AccuracyComparison(mode=mode, name=f"{what} {name}", a=left[name].bundle, b=right[name].bundle)
        for name in left
        if name in right
    ]


def _remarks(a: BenchResult, b: BenchResult, lanes: tuple[LaneComparison, ...]) -> list[str]:
    """What a reader has to know beside the figures."""
    said = []
    if unknown := conditions.unknown(a, b):
        said.append("unknown on both sides, so perhaps not equal: " + ", ".join(unknown))
    if a.environment.git_revision != b.environment.git_revision:
        revisions = [(r.environment.git_revision or "unknown")[:20] for r in (a, b)]
        said.append("measured with two revisions of edgeskin: " + " / ".join(revisions))
    if any(lane.basis == "histogram" for lane in lanes):
        said.append(
            "a result without time series: its interval is drawn from the histogram, as if queries were independent"
        )
    moved = [lane.reference_ratio for lane in lanes if lane.reference_ratio]
    if moved and max(abs(value - 1) for value in moved) > REFERENCE_CHANGE:
        worst = max(moved, key=lambda value: abs(value - 1))
        said.append(
            f"the FP32 reference, the same graph in both, took {worst:.2f} times as long: the machine itself moved"
        )
    return said
