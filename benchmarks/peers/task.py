"""What every peer is given: frames, calibration pairs, the checkpoint's graph without its own normalisation."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskin import runtime
from edgeskin.benchmark.camera import Camera
from edgeskin.bundle import Bundle
from edgeskin.data.phantom import cases
from edgeskin.data.phantom_draw import draw
from edgeskin.data.registry import load_pairs
from edgeskin.errors import EdgeskinError
from edgeskin.files import os_errors, staged_file
from edgeskin.preprocess import prepare
from edgeskin.spec.manifest import Manifest

CHECKED, CHECKED_PX = 24, 320  # drawn lesions on which answers are compared: camera frames all look alike
NORMALISING = {"Transpose", "Cast", "Sub", "Mul", "Div", "Add"}


@dataclass(frozen=True)
class Common:
    """Facts and files for all peers (`values`, plain JSON), and why some are lacking (need -> reason)."""

    values: dict[str, Any]
    lacking: dict[str, str] = field(default_factory=dict)


def decision_rule(manifest: Manifest) -> dict[str, Any]:
    """The target's part of the fusion, for `steps.probability`."""
    schema = manifest.task_schema
    share, fusion = schema.slices()[schema.target.task], manifest.fusion[schema.target.task]
    return {
        "first": share.start,
        "last": share.stop,
        "positive": list(schema.target_indices()),
        "temperatures": [fusion.temperature_clinical, fusion.temperature_dermoscopic],
        "dermoscopic_weight": fusion.dermoscopic_weight,
        "threshold": manifest.thresholds.pair.value,
    }


def common(
    bundles: list[Bundle], run: Path | None, work: Path, *, threads: int, height: int, width: int, frames: int,
    calibration_pairs: int, data: str = "", data_root: Path | None = None,
) -> Common:  # fmt: skip
    """Write what all peers share into `work`, unless it is there, and say what cannot be had.

    Raises:
        EdgeskinError: the bundles or the run are not of one checkpoint, or hold no pairs to calibrate on.
    """
    manifest = bundles[0].manifest
    _one_checkpoint(bundles, run)
    if manifest.network.pair_rows != 2:
        raise EdgeskinError(
            "the peers know two branches", got="a network with a fused head", fix="pass bundles of one without"
        )
    with os_errors(work, fix="set EDGESKIN_CACHE to a folder with room"):
        work.mkdir(parents=True, exist_ok=True)
        camera = _frames(work, height, width, frames)
        check = _check(work)
        calibration = _calibration(work, manifest, calibration_pairs, data, data_root)
    values: dict[str, Any] = {
        "threads": threads,
        "frames": str(camera),
        "check": str(check),
        "calibration": str(calibration),
        "preprocess": manifest.preprocess.to_json(),
        "decision": decision_rule(manifest),
        "backbone": manifest.network.backbone,
        "logits": manifest.task_schema.logits,
    }
    lacking: dict[str, str] = {}
    if run is None:
        lacking["run"] = "absent: needs the training run of this checkpoint; pass --run"
    else:
        values["run"] = str(run.resolve())
    for bundle in bundles:
        if bundle.manifest.target == "openvino":
            values["openvino_graph"] = str(bundle.path(bundle.manifest.graphs["pair"].file))
            # As the runtime resolves it here: the recipe may leave the choice to what was measured on this processor.
            session = runtime.load(bundle, threads=threads).session("pair")
            values["openvino_precision"] = session.describe()["precision_hint"]
            break
    else:
        lacking["openvino_graph"] = "absent: needs a bundle for openvino; pass one with --bundle"
    plain = _float_onnx(bundles, run, work)
    if isinstance(plain, Path):
        values["float_onnx"] = str(plain)
    else:
        lacking["float_onnx"] = plain
    return Common(values, lacking)


def bundle_values(bundle: Bundle) -> dict[str, Any]:
    """What edgeskin's own row needs beside that."""
    stem = bundle.manifest.graphs["pair"].file.rpartition(".")[0] + "."  # .xml + .bin, .onnx + .data
    files = [str(bundle.path(name)) for name in bundle.manifest.files if name.startswith(stem)]
    return {"bundle": str(bundle.root), "bundle_files": files}


def _one_checkpoint(bundles: list[Bundle], run: Path | None) -> None:
    found = {str(bundle.root): bundle.manifest.provenance.checkpoint_weights_sha256 for bundle in bundles}
    if run is not None:
        from edgeskin.model.checkpoint import read_record

        found[str(run)] = read_record(run).weights_sha256
    if len(set(found.values())) > 1:
        raise EdgeskinError(
            "these are not of one checkpoint",
            got=", ".join(f"{where}: {sha[:12]}" for where, sha in found.items()),
            fix="export the bundles from one run, and pass that run",
        )


def _frames(work: Path, height: int, width: int, count: int) -> Path:
    path = work / f"frames-{width}x{height}-{count}.npy"
    if not path.is_file():
        camera = Camera(height, width)
        with staged_file(path) as staged:
            stored = np.lib.format.open_memmap(staged, "w+", np.uint8, (count, 2, height, width, 3))
            for number in range(count):
                stored[number] = np.stack(camera.pair(number))
            stored.flush()
    return path


def _check(work: Path) -> Path:
    path = work / f"check-{CHECKED_PX}-{CHECKED}.npy"
    if not path.is_file():
        drawn = [np.stack(draw(case.latent, CHECKED_PX)) for case in cases(CHECKED, seed=13)]
        with staged_file(path) as staged, staged.open("wb") as stream:
            np.save(stream, np.stack(drawn))
    return path


def _calibration(work: Path, manifest: Manifest, count: int, data: str, root: Path | None) -> Path:
    spec = manifest.preprocess
    path = work / f"calibration-{spec.width}x{spec.height}-{count}{f'-{data}' if root else ''}.npy"
    if path.is_file():
        return path
    pairs: list[NDArray[np.uint8]] = []
    if root is None:
        for case in cases(count, seed=11):
            pairs.append(np.stack([prepare(view, spec) for view in draw(case.latent, max(160, spec.height))]))
    else:
        both = [pair for pair in load_pairs(data, root).pairs if pair.clinical is not None]
        for pair in both[:count]:
            assert pair.clinical is not None
            pairs.append(np.stack([prepare(pair.clinical, spec), prepare(pair.dermoscopic, spec)]))
    if len(pairs) < count:
        raise EdgeskinError(
            "too few calibration pairs", got=len(pairs), possible=f"{count} or more", fix="lower --calibration"
        )
    with staged_file(path) as staged, staged.open("wb") as stream:
        np.save(stream, np.stack(pairs))
    return path


def _float_onnx(bundles: list[Bundle], run: Path | None, work: Path) -> Path | str:
    """The FP32 ONNX graph that takes normalised float images, or why it cannot be had."""
    path = work / "float.onnx"
    if path.is_file():
        return path
    try:
        import onnx
    except ModuleNotFoundError:
        return "absent: needs the package onnx; pip install 'edgeskin[export]'"
    source: Path | None = None
    for bundle in bundles:
        if bundle.manifest.target == "onnxruntime" and not bundle.lean:
            source = bundle.path(bundle.manifest.reference["pair"].file)
            break
    if source is None and run is not None:
        from edgeskin.backends import torch as torch_backend
        from edgeskin.model.checkpoint import read_record

        opset = bundles[0].manifest.recipe.opset
        source = torch_backend.build(run, read_record(run), work, opset)["pair"]
    if source is None:
        return (
            "absent: needs the checkpoint as FP32 ONNX; pass --run, or its bundle for onnxruntime as a second --bundle"
        )
    cut = without_normalisation(onnx.load(source))
    with staged_file(path) as staged:
        staged.write_bytes(cut.SerializeToString())
    return path


def without_normalisation(model: Any) -> Any:
    """The ONNX model from behind its normalisation: input float [2, 3, H, W], as a user's own export takes it.

    Raises:
        EdgeskinError: the graph does not begin with a chain of transpose, cast, subtraction and product.
    """
    import onnx

    graph = model.graph
    tensor = graph.input[0].name
    while True:
        readers = [node for node in graph.node if tensor in node.input]
        if len(readers) != 1 or readers[0].op_type not in NORMALISING:
            break
        tensor = readers[0].output[0]
    if tensor == graph.input[0].name:
        raise EdgeskinError(
            "no normalisation at the head of the graph",
            got=[node.op_type for node in readers],
            possible=sorted(NORMALISING),
        )
    return onnx.utils.Extractor(model).extract_model([tensor], [graph.output[0].name])


def write(path: Path, values: dict[str, Any]) -> None:
    """The task file of one peer."""
    with staged_file(path) as staged:
        staged.write_text(json.dumps(values, indent=1), encoding="utf-8")


def load(path: Path) -> dict[str, Any]:
    """A JSON file that `write` wrote."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
