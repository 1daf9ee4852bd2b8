"""results/tensorrt-kits.json -> the table of what is known of TensorRT's build kits without a GPU, a row a graph."""

import json
from pathlib import Path
from typing import Any

COLUMNS = (
    "graph", "linter", "kernels", "products in INT8", "planned", "layers in INT8", "reformats",
    "diagnoses that flip, emulated", "to or from melanoma", "SQNR dB",
)  # fmt: skip


def table(folder: Path) -> str:
    """Every network of the file; not measured yet where there is none."""
    path = folder / "tensorrt-kits.json"
    if not path.is_file():
        return "Not measured yet.\n"
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [COLUMNS, ("---", "---", *["---:"] * (len(COLUMNS) - 2))]
    rows += [_row(network, mode) for network in found["networks"] for mode in network["emulated"]]
    fell = [
        f"{network['backbone']}, {mode}: {', '.join(one['fell_back'])}"
        for network in found["networks"]
        for mode, one in network["sibling"]["modes"].items()
        if one["fell_back"]
    ]
    first = found["networks"][0]
    versions = ", ".join(first["linter"])
    return "\n\n".join(
        [
            "\n".join(f"| {' | '.join(row)} |" for row in rows),
            f"Linter: findings for TensorRT {versions} together. Kernels to reformats: {first['sibling']['builder']}, "
            f"for SM {first['sibling']['sm']}, on a CPU; shares are of the multiply-accumulates. Planned in INT8, "
            f"compiled in floating point: {'; '.join(fell) or 'none'}.",
            "Emulated: ONNX Runtime with the rounding of TensorRT against FP32, on lesions of the control role, "
            "with their 95 % Wilson interval. Nothing here ran on TensorRT or on a GPU.",
        ]
    )


def _row(network: dict[str, Any], mode: str) -> tuple[str, ...]:
    built, asked = network["sibling"]["modes"][mode], network["emulated"][mode]
    findings = sum(len(lines) for lines in network["linter"].values())
    low, high = asked["class_flips_interval"]
    return (
        f"{network['backbone']}, {mode}",
        f"{findings} findings" if findings else "clean",
        f"{built['kernels']}",
        f"{built['int8_products']:.1%}",
        f"{built['planned_int8_products']:.1%}",
        f"{built['int8_layers']} of {built['layers']}",
        f"{built['reformats']}",
        f"{asked['class_flips']} of {asked['lesions']} [{max(0.0, low):.1%}, {high:.1%}]",
        f"{asked['target_flips']}",
        "–" if asked["sqnr_db"] is None else f"{asked['sqnr_db']:.1f}",
    )
