"""What is shown of TensorRT's build kits on a machine without a GPU, network by network.

    python benchmarks/tensorrt_kits.py runs/lite0 runs/mnv4 ... --out benchmarks/results/tensorrt-kits.json

For each run, both graphs of recipe tensorrt-int8: what the linter finds for TensorRT 10.3, 10.16 and 11.4, what the
sibling builder (TensorRT for RTX, SM 8.6, on the CPU) compiles, and how far the emulation is from FP32 on lesions of
the control role. No figure here is one of TensorRT, and none is a latency.
"""

import argparse
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeskin import backends, catalog, out, provenance
from edgeskin.building import Source, in_fp32, onnx_graphs, stored
from edgeskin.chain import load_roles
from edgeskin.data.pairs import evenly
from edgeskin.engine import sibling
from edgeskin.files import pretty_json, sha256_file, write_atomic
from edgeskin.model.checkpoint import RECORD, read_record
from edgeskin.proving import answers
from edgeskin.quantize.graph import load
from edgeskin.quantize.lint import lint
from edgeskin.quantize.ptq import quantize
from edgeskin.spec.manifest import MODES, Mode
from edgeskin.verify import scores

VERSIONS = ("10.3.0", "10.16.2", "11.4.1")


def measure(run: Path, lesions: int, work: Path) -> dict[str, Any]:
    """One network."""
    record, identity = read_record(run), sha256_file(run / RECORD)
    plan = catalog.recipe("tensorrt-int8")
    source = Source(run, record, identity, onnx_graphs(run, record, identity, plan.opset))
    _, roles = load_roles(record.data)
    usable = [pair for pair in roles["calibration"] if pair.clinical is not None][: plan.calibration_pairs]
    backend, frames = backends.get(plan.target), stored(source, "calibration", usable)
    int8: dict[Mode, Path] = {}
    fp32: dict[Mode, Path] = {}
    for mode in MODES:
        with out.progress(f"{run.name}: calibrating {mode}", len(frames)) as step:
            hub = quantize(source.graphs[mode], frames, plan, work / "hub", step)
        int8[mode] = work / "int8" / backend.build(hub, work / "int8", plan, stem=mode)[0]
        plain = backend.build(source.graphs[mode], work / "fp32", in_fp32(plan), stem=mode)[0]
        fp32[mode] = work / "fp32" / plain
    found = {v: [one.line() for path in int8.values() for one in lint(load(path), v)] for v in VERSIONS}
    with out.progress(f"{run.name}: TensorRT for RTX", 200) as step:
        accepted = sibling.accept(int8, step)
    control = tuple(roles["control"][i] for i in evenly(len(roles["control"]), lesions))
    shown = stored(source, "control", control, unpaired=True)
    paired = np.array([pair.clinical is not None for pair in control])
    reference, core = (
        answers(models, plan, shown, paired, f"{run.name}: {what}")
        for models, what in ((fp32, "FP32"), (int8, "INT8, emulated"))
    )
    parity, accuracy = scores(record, control, core, reference, bootstrap=1000)
    return {
        "run": run.name,
        "backbone": record.network.backbone,
        "parameters": record.parameters,
        "linter": found,
        "sibling": {"builder": accepted.builder, "sm": accepted.sm, "modes": _compiled(accepted.modes)},
        "emulated": {
            mode: {
                "lesions": parity[mode].lesions,
                "sqnr_db": parity[mode].sqnr_db.value,
                "class_flips": parity[mode].predicted.flipped,
                "class_flips_interval": [parity[mode].predicted.low, parity[mode].predicted.high],
                "target_flips": parity[mode].predicted.to_target + parity[mode].predicted.from_target,
                "auc_difference": accuracy[mode].target["auc"].difference.to_json(),
            }
            for mode in MODES
        },
    }


def _compiled(modes: Mapping[Mode, Any]) -> dict[str, Any]:
    return {
        mode: {
            "kernels": one.layers,
            "int8_products": one.audit.int8_macs / one.audit.macs,
            "planned_int8_products": one.audit.planned_int8_macs / one.audit.macs,
            "int8_layers": sum(layer.executed == "int8" for layer in one.audit.layers),
            "layers": len(one.audit.layers),
            "fell_back": list(one.audit.fell_back),
            "reformats": one.audit.reorders,
            "plan_bytes": one.plan_bytes,
        }
        for mode, one in modes.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--lesions", type=int, default=120, help="of the control role, for the emulation")
    parser.add_argument("--work", type=Path, default=Path("tensorrt-kits-work"), help="folder for what is built")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tensorrt-kits.json"))
    given = parser.parse_args()
    kept = json.loads(given.out.read_text(encoding="utf-8"))["networks"] if given.out.is_file() else []
    for run in given.runs:
        row = measure(run, given.lesions, given.work / run.name)
        kept = [one for one in kept if one["run"] != row["run"]] + [row]
        result = {
            "command": "python benchmarks/tensorrt_kits.py " + " ".join("runs/" + one["run"] for one in kept),
            "note": "linter, sibling builder and emulation on the CPU; nothing here ran on TensorRT or on a GPU",
            "machine": provenance.machine(),
            "python": platform.python_version(),
            "versions": provenance.versions(),
            "networks": kept,
        }
        write_atomic(given.out, pretty_json(result))


if __name__ == "__main__":
    main()
