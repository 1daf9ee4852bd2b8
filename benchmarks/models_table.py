"""results/models.json -> the table of backbones: size of the pair network, and what comes through to every target."""

import json
from collections.abc import Mapping
from pathlib import Path

from edgeskin.report.text import MODE_TITLES, NONE
from edgeskin.spec.backbones import TARGET_TITLES, Exported, Tried, TriedBackbones
from edgeskin.spec.manifest import MODES, Mode

COLUMNS = ("backbone", "family", "px", "parameters", "of two encoders", "MACs, pair", "MACs, alone", "FP32 under noise")


def table(folder: Path) -> str:
    """Every backbone of the file; not measured yet where there is none."""
    path = folder / "models.json"
    if not path.is_file():
        return "Not measured yet.\n"
    record = TriedBackbones.parse(json.loads(path.read_text(encoding="utf-8")), str(path))
    titles = [f"{title} {what}" for title in TARGET_TITLES.values() for what in ("FP32", "INT8")]
    rows = [(*COLUMNS, *titles), ("---", "---", *["---:"] * (len(COLUMNS) - 2), *["---"] * len(titles))]
    rows += [_row(one) for one in record.backbones]
    refused = [
        f"- {one.name}, {TARGET_TITLES[target]} {precision.upper()}: {status.why}"
        for one in record.backbones
        for target, found in one.exports.items()
        for precision, status in found.items()
        if not status.ok
    ]
    builders = sorted({one.exports["tensorrt"]["int8"].builder for one in record.backbones} - {""})
    steps = [one.steps for one in record.backbones]
    versions = ", ".join(f"{name} {record.versions[name]}" for name in ("timm", "torch", "openvino", "onnxruntime"))
    parts = [
        "\n".join(f"| {' | '.join(row)} |" for row in rows),
        "INT8: share of the products in it, as the engine compiled them (of a kit, as its graphs ask), then SQNR of "
        f"{' / '.join(MODE_TITLES[mode] for mode in MODES)} against FP32 of the same target, on {record.scored_pairs} "
        f"drawn pairs; {record.calibration_pairs} others calibrated. Networks from {record.note}; {min(steps)} to "
        f"{max(steps)} steps. Under noise: the same figure of FP32 when every pixel moves by up to "
        f"{record.noise_grey_levels} grey levels; where it is low, the network is frail before anything is rounded. "
        f"Two encoders: with a classifier each and no exchange. {versions}"
        + (f"; kits compiled by {', '.join(builders)}." if builders else "."),
    ]
    if refused:
        parts.append("Not built, or not near enough:\n\n" + "\n".join(refused))
    return "\n\n".join(parts) + "\n"


def _row(one: Tried) -> tuple[str, ...]:
    return (
        one.name,
        one.family,
        f"{one.size_px}",
        f"{one.parameters / 1e6:.2f} M",
        f"{one.share:.1%}",
        f"{one.pair_macs / 1e9:.2f} G",
        f"{one.dermoscopic_macs / 1e9:.2f} G",
        f"{_both(one.noise_db)} dB" if one.noise_db else NONE,
        *(_cell(one.exports[target][what]) for target in TARGET_TITLES for what in ("fp32", "int8")),
    )


def _cell(found: Exported) -> str:
    word = "ok" if found.ok else "no"
    if not found.sqnr_db:
        return word
    return f"{word}, {min(found.int8_share.values()):.0%}, {_both(found.sqnr_db)} dB"


def _both(found: Mapping[Mode, float]) -> str:
    return " / ".join(f"{found[mode]:.0f}" for mode in MODES)
