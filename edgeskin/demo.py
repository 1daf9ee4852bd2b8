"""The main job on drawn lesions, from nothing to a report: phantom data, train, export, verify, benchmark, report."""

from pathlib import Path

from edgeskin import chain, out
from edgeskin.files import pretty_json, write_atomic
from edgeskin.spec.roles import RoleSpec
from edgeskin.spec.train import DataSpec, NetworkSpec, TrainSpec

TARGETS = ("openvino", "onnxruntime")
_PAIRS, _PIXELS, _CALIBRATION = 800, 128, 24
_CONTROL = 0.15  # lesions enough for the gate to tell something
_TRAIN = TrainSpec(
    epochs=14, size=112, train_size=96, start_size=96, batch_pairs=32, learning_rate=1.5e-3, modality_dropout=0.25
)


def demo(folder: Path, backbone: str = "tf_efficientnet_lite0", pairs: int = _PAIRS, seed: int = 0) -> Path:
    """Run the whole chain into `folder`; each part that is already there is not done again.

    Returns:
        The path of the HTML report.
    """
    from edgeskin.data.phantom import MARKER, write_phantom

    phantom, run = folder / "phantom", folder / "run"
    out.note(f"1/6 phantom data: {pairs} drawn pairs (not lesions)")
    if not (phantom / MARKER).is_file():
        write_phantom(phantom, pairs, seed, _PIXELS)
    out.note("2/6 train")
    data = DataSpec(name="derm7pt", root=str(phantom), roles=RoleSpec(control=_CONTROL))
    chain.train(data, NetworkSpec(backbone=backbone), _TRAIN.model_copy(update={"seed": seed}), "", run)
    out.note("3/6 quantise to INT8, bundle")
    bundles = {target: folder / "bundles" / f"phantom-{target}" for target in TARGETS}
    for target, bundle in bundles.items():
        # A network of minutes may fail its gate; the report then says so, in red, which is worth seeing too.
        chain.export(run, target, bundle, root=str(phantom), calibration_pairs=_CALIBRATION, allow_ungated=True)
    out.note("4/6 verify: FP32 beside INT8 on the test role")
    for target, bundle in bundles.items():
        found = chain.verify(bundle, bootstrap=500)
        write_atomic(folder / f"verify-{target}.json", pretty_json(found.to_json()))
    out.note("5/6 benchmark on this machine")
    for target, bundle in bundles.items():
        measured = chain.bench(bundle, "quick", verified=folder / f"verify-{target}.json")
        write_atomic(folder / f"bench-{target}.json", pretty_json(measured.to_json()))
    out.note("6/6 report")
    commands = (f"edgeskin demo --out {folder}", *(f"edgeskin verify {bundle}" for bundle in bundles.values()))
    return chain.report(
        list(bundles.values()),
        [folder / f"verify-{target}.json" for target in TARGETS],
        [folder / f"bench-{target}.json" for target in TARGETS],
        folder / "report.html",
        run=run,
        title="edgeskin demo: drawn lesions",
        commands=commands,
    )
