"""results/int8.json -> the table of what INT8 costs and gains, a block a network."""

import json
from pathlib import Path
from typing import Any

TITLES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
SIZES = ("", "MB (of FP32)", "deflated")
COLUMNS = (*SIZES, "p50 ms", "against the fastest FP32", "macro-F1", "balanced accuracy", "melanoma AUC")
MORE = ("diagnoses that flip", "to or from melanoma", "gate")


def table(folder: Path) -> str:
    """Every network of the file, its conditions below."""
    found = json.loads((folder / "int8.json").read_text(encoding="utf-8"))
    parts = []
    for network in found["networks"]:
        rows = [(*COLUMNS, *MORE), ("---", *["---:"] * (len(COLUMNS) + len(MORE) - 2), "---")]
        rows += [_row(model) for model in network["models"]]
        parts += [f"### {network['backbone']}", "\n".join(f"| {' | '.join(row)} |" for row in rows)]
        parts.append(_conditions(network))
    parts.append(
        f"{found['processor']}, {found['cores']} cores, {found['rounds']} rounds in turn; "
        f"openvino {found['versions']['openvino']}, onnxruntime {found['versions']['onnxruntime']}, "
        f"nncf {found['versions']['nncf']}; flips with their 95 % Wilson interval, against FP32 of the same engine."
    )
    return "\n\n".join(parts)


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    against = model["latency_ratio"]
    plain = model["sqnr_db"] is None
    return (
        f"{TITLES[model['target']]} {model['way']}",
        f"{model['bytes'] / 1e6:.1f} ({model['size_ratio']:.2f})",
        f"{model['deflated_ratio']:.2f}",
        f"{model['p50_ms']:.2f}",
        f"{against['value']:.2f} [{against['low']:.2f}, {against['high']:.2f}]",
        f"{model['macro_f1']:.3f}",
        f"{model['balanced_accuracy']:.3f}",
        "–" if model["target_auc"] is None else f"{model['target_auc']:.3f}",
        "–" if plain else _share(model["class_flips"], model["lesions"], model["class_flips_interval"]),
        "–" if plain else _share(model["target_flips"], model["lesions"], model["target_flips_interval"]),
        model["gate"] or "–",
    )


def _share(count: int, of: int, interval: list[float]) -> str:
    return f"{count} = {count / of:.1%} [{max(0.0, interval[0]):.1%}, {interval[1]:.1%}]"


def _conditions(network: dict[str, Any]) -> str:
    training, searched = network["training"], []
    for target, search in network["searches"].items():
        kept = f", in FP32: {', '.join(search['kept_fp32'])}" if search["kept_fp32"] else ""
        whole = "" if search["complete"] else ", cut short by its budget"
        searched.append(f"{TITLES[target]} `{search['chosen']}` after {search['spent_s']:.0f} s{whole}{kept}")
    told = f" Search: {'; '.join(searched)}." if searched else ""
    if tuned := network["qat"]:
        drawn = tuned["options"]["pairs"]
        told += (
            f" QAT: {tuned['epochs']} epochs on {f'{drawn:,} pairs' if drawn else 'all pairs'} of role train, "
            f"learning rate {tuned['learning_rate']:g}."
        )
    for what, why in network["not_built"].items():
        told += f" Not built: {what}: {why}."
    roles, scored = network["roles"], network["models"][0]
    return (
        f"{network['backbone']} at {network['size_px']} px, {network['parameters'] / 1e6:.2f} M parameters, "
        f"first weights: {network['weights_source']}, {training['epochs']} epochs on {roles['train']:,} lesions; "
        f"calibrated on {network['calibration_pairs']} pairs, gated on {roles['control']} lesions of role control, "
        f"scored on {scored['lesions']} unseen ones with {scored['target_lesions']} melanomas. "
        f"Fastest FP32: {network['fastest_fp32']}.{told}"
    )
