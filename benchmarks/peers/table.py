"""The Markdown table of a side-by-side run, out of its JSON."""

import json
from pathlib import Path

from peers.spec import Figures, PeersResult, Row

from edgeskin.errors import EdgeskinError
from edgeskin.report.text import NONE, ms, size_text
from edgeskin.spec.bench import Ratio

COLUMNS = (
    "two frames of one lesion", "network p50 / p99 ms", "against edgeskin", "frames to decision p50 / p99 ms",
    "against edgeskin", "cold start ms", "against edgeskin", "peak memory", "model",
)  # fmt: skip


def read(path: Path) -> PeersResult:
    """A result file.

    Raises:
        EdgeskinError: missing, no JSON, or of another format or version.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EdgeskinError("no such result", got=str(path), fix="write it with benchmarks/side_by_side.py") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EdgeskinError("not a JSON file", got=f"{path}: {error}", fix="measure again") from None
    found = data.get("format") if isinstance(data, dict) else None
    if found != "edgeskin-peers/1":
        raise EdgeskinError("not a side-by-side result", got=str(found), possible=["edgeskin-peers/1"])
    return PeersResult.parse(data, str(path))


def times(ratio: Ratio | None) -> str:
    """Time over edgeskin's, with its interval: above 1 is slower than edgeskin.

    >>> times(Ratio(value=3.2, low=3.05, high=3.31))
    '3.20x [3.05, 3.31]'
    """
    return NONE if ratio is None else f"{ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]"


def _latency(found: Figures | None) -> str:
    return NONE if found is None else f"{ms(found.p50_ms)} / {ms(found.p99_ms)}"


def _cells(row: Row) -> tuple[str, ...]:
    start = row.cold_start
    return (
        row.title,
        _latency(row.network),
        times(row.network.ratio if row.network else None),
        _latency(row.decision),
        times(row.decision.ratio if row.decision else None),
        ms(start.total_ms if start else None),
        times(start.ratio if start else None),
        size_text(start.peak_rss_bytes if start else None),
        size_text(row.model_bytes),
    )


def render(result: PeersResult) -> str:
    """Table, then what did not run and why, whether answers agree, and the conditions."""
    head = [f"| {' | '.join(COLUMNS)} |", f"|---|{'---:|' * (len(COLUMNS) - 1)}"]
    text = "\n".join([*head, *(f"| {' | '.join(_cells(row))} |" for row in result.rows)]) + "\n"
    text += "\nAgainst edgeskin: time over that of the first row in the same rounds, with its 95 % bootstrap interval; "
    text += "above 1 is slower. Cold start: import, load and first decision in a new process, the disk's cache warm.\n"
    stopped = [f"{row.title}: {row.reason}" for row in result.rows if row.reason]
    if stopped:
        text += f"\nDid not run, or not to the end: {'; '.join(stopped)}.\n"
    untrained = [row.title for row in result.rows if row.weights == "random"]
    if untrained:
        text += f"\nWith random weights, for its speed alone: {'; '.join(untrained)}.\n"
    checked = [
        f"{row.title} {found.same_decision} of {found.lesions} (P differs by {found.max_probability_difference:.2g})"
        for row in result.rows
        if (found := row.agreement) is not None
    ]
    if checked:
        one = next(row.agreement for row in result.rows if row.agreement is not None)
        text += (
            f"\nSame decision as edgeskin, whose P(target) runs from {one.lowest:.2g} to {one.highest:.2g} on these "
        )
        text += f"drawn lesions: {'; '.join(checked)}.\n"
    on = result.environment
    features = ", ".join(name for name in on.cpu_features if "vnni" in name or "amx" in name or "asimddp" in name)
    state = "valid" if result.validity.valid else f"not valid: {'; '.join(result.validity.reasons)}"
    frame = f"{result.frame_width}x{result.frame_height}"
    text += (
        f"\n{on.cpu_model} ({features or 'no INT8 dot product'}), {result.threads} threads, {result.backbone}, camera "
        f"frames {frame}, {result.rounds} rounds in changing order of {result.queries} queries each after "
        f"{result.settle} that do not count, calibrated on {result.calibration_pairs} {result.calibration} pairs; "
        f"{state}.\n"
    )
    return text


def peers_table(folder: Path) -> str:
    """The table for a page, from `peers.json` of a results folder; says so where nothing is measured yet."""
    path = folder / "peers.json"
    if not path.is_file():
        return "Not measured yet: `python benchmarks/side_by_side.py` writes it.\n"
    return render(read(path))
