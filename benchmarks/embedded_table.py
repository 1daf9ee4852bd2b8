"""results/embedded-runtime.json -> the table of the runtime in C beside Python."""

import json
from pathlib import Path
from typing import Any


def table(folder: Path) -> str:
    """Decisions, latency, opening, memory and size, the conditions below."""
    found = json.loads((folder / "embedded-runtime.json").read_text(encoding="utf-8"))
    rows = [("", "measured"), ("---", "---")]
    rows += [row for frames, modes in found["parity"].items() for row in _parity(frames, modes)]
    speed, opening = found["speed"], found["opening"]
    steps = ", ".join(f"{name} {us / 1e3:.2f}" for name, us in speed["c_steps_us"].items() if name != "total")
    ratio = speed["c_over_python"]
    rows += [
        (f"two {speed['frames']} RGB frames to decision, C", f"p50 {_ms(speed['c_ms'])} ms: {steps}"),
        ("the same, Python", f"p50 {_ms(speed['python_ms'])} ms"),
        ("Python over C, in turns", f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"),
        ("the same, C, NV12 frames", f"p50 {_ms(speed['c_nv12_ms'])} ms"),
        (
            f"es_open of a lean bundle of {opening['bundle_bytes'] / 1e6:.1f} MB",
            f"{opening['verify_ms']:.0f} ms to verify, {opening['engine_load_ms']:.0f} ms the engine's own",
        ),
        ("new process, opened and self-tested", f"{opening['process_with_selftest_ms']:.0f} ms"),
        ("library, stripped", f"{found['size']['stripped_bytes'] / 1e3:.0f} kB"),
    ]
    rows += [_soak(one, "a tiny network" if number else "the bundle") for number, one in enumerate(found["soak"])]
    shown = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    versions = found["versions"]
    return (
        f"{shown}\n\n{found['bundle']['name']}, {found['processor']}, {speed['queries']} examinations in turns; "
        f"openvino {versions['openvino']}. `{found['command']}`\n"
    )


def _ms(times: dict[str, float]) -> str:
    return f"{times['p50']:.2f}, p90 {times['p90']:.2f}"


def _parity(frames: str, modes: dict[str, Any]) -> list[tuple[str, str]]:
    what = {"frames_by_opencv": "Python with OpenCV", "frames_without_opencv": "Python without OpenCV"}[frames]
    return [
        (
            f"C against {what}, {'pairs' if mode == 'pair' else 'dermoscopic images alone'}",
            f"{row['lesions']} lesions: {row['predicted']} diagnoses, {row['refer']} referrals, {row['quality']} "
            f"quality flags differ; probabilities by {row['probability_difference']['max']:.1g} at most; "
            f"{row['not_assessable']} not assessable",
        )
        for mode, row in sorted(modes.items(), reverse=True)
    ]


def _soak(one: dict[str, Any], network: str) -> tuple[str, str]:
    return (
        f"{one['classifications']:,} pairs in one process, {network}, threads: {one['threads']}",
        f"memory {one['growth_kb']:+,} kB after warm-up, {one['allocations']} allocations of ours; "
        f"p50 {one['p50_us'] / 1e3:.2f} ms, p99 {one['p99_over_p50']:.2f} times that",
    )
