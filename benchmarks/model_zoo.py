"""Which backbones come through to every target: counts, FP32 and INT8 builds, and how near INT8 is to FP32.

    python benchmarks/model_zoo.py
    python benchmarks/model_zoo.py --backbone resnet50   # that one again

For each backbone the pair network with the default exchange, from random weights, so that nothing is fetched, after a
few steps of training on drawn lesions: exported as ONNX, quantised for each target by that target's own recipe on a few
drawn pairs, and opened in the real engine (of a TensorRT kit: linter, emulation, and the sibling builder where it is
installed). It tells whether a backbone's layers come through and how they round; what INT8 costs in diagnoses, an
export's gate tells, on real lesions. A backbone that is in the file is not done again: a killed run goes on.
"""

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskin import audit, backends, catalog, kits, out, provenance
from edgeskin.backends import torch as torch_backend
from edgeskin.building import in_fp32
from edgeskin.data.phantom import SHARES, cases
from edgeskin.data.phantom_draw import draw
from edgeskin.engine import sibling
from edgeskin.errors import EdgeskinError
from edgeskin.files import pretty_json, write_atomic
from edgeskin.layers import count_file
from edgeskin.metrics import sqnr_db
from edgeskin.preprocess import prepare
from edgeskin.quantize.ptq import quantize
from edgeskin.spec.backbones import Backbone, Exported, Family, Tried, TriedBackbones
from edgeskin.spec.manifest import IMAGES, MODES, Mode
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.recipe import Precision, Recipe
from edgeskin.spec.train import NetworkSpec

# Family, and steps of the short training: a convolutional network soon stops making noise of the least rounding.
BACKBONES: dict[str, tuple[Family, int]] = {
    "mobilevitv2_050": ("Transformer", 100),
    "mobilenetv4_conv_small": ("CNN", 20),
    "efficientformerv2_s0": ("Transformer", 20),
    "tf_efficientnet_lite0": ("CNN", 20),
    "tf_efficientnet_lite1": ("CNN", 20),
    "tf_efficientnet_lite2": ("CNN", 20),
    "resnet50": ("CNN", 20),
    "swin_tiny_patch4_window7_224": ("Transformer", 20),
    "convnext_tiny": ("CNN", 20),
}
VERSIONS = ("10.3.0", "10.16.2", "11.4.1")  # of TensorRT, that the linter holds a kit against
CALIBRATION, SCORED, SEED = 16, 16, 3
LESIONS, BATCH = 64, 8  # of the short training
TRAINING_PX = 128  # where a network takes frames of that size
NOISE = 2  # grey levels either way on every pixel: what a camera adds, and what INT8 is held beside
LEAST_DB = 10.0  # below it the error has a third of the logits' size, and the build is of no use
FP32_LEAST_DB = 60.0
RESULTS = Path(__file__).resolve().parent / "results" / "models.json"
NOTE = (
    "random weights after a few steps on drawn lesions: tells what comes through, not what a trained network loses; "
    "nothing here ran on TensorRT or on a GPU"
)

Graphs = dict[Mode, Path]
Frames = NDArray[np.uint8]  # [2, H, W, 3]
Logits = dict[Mode, NDArray[np.float32]]  # [pairs, images, K]


def drawn(how: Preprocess) -> list[Frames]:
    """Prepared pairs of lesions: those that train, the first of which calibrate, then those that are scored."""
    return [
        np.stack([prepare(view, how) for view in draw(case.latent, max(160, how.height))])
        for case in out.track(cases(LESIONS + SCORED, seed=SEED), "drawing lesions")
    ]


def network_of(found: Backbone, how: Preprocess, pairs: Sequence[Frames], steps: int) -> Any:
    """The pair network from random weights, its gates open, after a short training.

    Fresh from its maker it would not do: branches that start at zero hide whatever their layers do, and a deep network
    of random numbers makes noise of the least rounding.
    """
    import torch

    from edgeskin.model.backbones import SCHEMA
    from edgeskin.model.network import PairNetwork, takes
    from edgeskin.model.weights import create_encoder

    torch.manual_seed(SEED)
    spec = NetworkSpec(backbone=found.name)
    network = PairNetwork(create_encoder(spec, found.size_px), spec, catalog.schema(SCHEMA), how)
    for name, value in network.named_parameters():
        gain = value.squeeze().ndim <= 1 and not name.endswith("bias")
        if gain and float(value.detach().abs().max()) < 1e-2:
            torch.nn.init.normal_(value, mean=0.3, std=0.1)
    small = how.model_copy(update={"height": TRAINING_PX, "width": TRAINING_PX})
    shown = drawn(small)[: len(pairs)] if takes(network, TRAINING_PX) else pairs
    frames, seen = (torch.from_numpy(np.stack(one)) for one in (pairs[:CALIBRATION], shown))
    groups = [case.latent.group for case in cases(len(pairs), seed=SEED)]
    labels = torch.tensor([sorted(SHARES).index(group) for group in groups])
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    for _ in out.track(range(steps), f"{found.name}: a short training"):
        some = torch.randperm(len(pairs))[:BATCH]
        logits = network(torch.cat([seen[some, 0], seen[some, 1]]), BATCH)
        loss = torch.nn.functional.cross_entropy(logits, labels[some].repeat(2))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    network.eval()
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over what comes
            norm.train()
    with torch.no_grad():
        network(torch.cat([frames[:, 0], frames[:, 1]]), len(frames))
    return network.eval()


def truths(network: Any, pairs: Sequence[Frames]) -> Logits:
    """What torch answers to the pairs."""
    import torch

    with torch.inference_mode():
        return {
            mode: np.stack(
                [network(torch.from_numpy(pair[-IMAGES[mode] :]), IMAGES[mode] - 1).numpy() for pair in pairs]
            )
            for mode in MODES
        }


def noised(pairs: Sequence[Frames]) -> list[Frames]:
    """The same with noise on every pixel, evenly from -NOISE to NOISE grey levels."""
    rng = np.random.default_rng(SEED)
    levels = (pair + rng.integers(-NOISE, NOISE + 1, pair.shape) for pair in pairs)
    return [np.clip(level, 0, 255).astype(np.uint8) for level in levels]


def answers(files: Graphs, plan: Recipe, pairs: Sequence[Frames]) -> Logits:
    """Logits of the pairs in the target's engine, or in the emulation of a kit."""
    found = {}
    for mode, path in files.items():
        session = backends.get(plan.target).open(path, threads=1, precision_hint=plan.precision_hint)
        found[mode] = np.stack([session.run(pair[-IMAGES[mode] :]) for pair in pairs])
        if not np.isfinite(found[mode]).all():
            raise EdgeskinError(f"logits of the {mode} graph that are not finite", got=path.name)
    return found


def fp32(graphs: Graphs, plan: Recipe, scored: Sequence[Frames], truth: Logits, work: Path) -> Logits:
    """Build and open in FP32; what it answers.

    Raises:
        EdgeskinError: it cannot be built, or does not answer what torch answers.
    """
    plain, build = in_fp32(plan), backends.get(plan.target).build
    given = answers({mode: work / build(graphs[mode], work, plain, stem=mode)[0] for mode in MODES}, plain, scored)
    for mode in MODES:
        if (near := sqnr_db(truth[mode], given[mode])) < FP32_LEAST_DB:
            raise EdgeskinError(f"the {mode} graph does not give what torch gives", got=f"{near:.0f} dB")
    return given


def int8(
    graphs: Graphs, plan: Recipe, pairs: Sequence[Frames], reference: Logits, scored: Sequence[Frames], work: Path
) -> Exported:
    """Quantise, build, audit or lint, open, and compare with FP32 of the same target."""
    sqnr: dict[Mode, float] = {}
    share: dict[Mode, float] = {}
    builder = ""
    try:
        backend, files = backends.get(plan.target), {}
        for mode in MODES:
            with out.progress(f"{plan.target}: calibrating {mode}", CALIBRATION) as step:
                hub = quantize(graphs[mode], pairs[:CALIBRATION], plan, work / "hub", step)
            files[mode] = work / backend.build(hub, work, plan, stem=mode)[0]
        if plan.target == "tensorrt":
            asked = {mode: count_file(path, mode) for mode, path in files.items()}
            share = {mode: round(one.int8_macs / (one.int8_macs + one.fp32_macs), 4) for mode, one in asked.items()}
            for version in VERSIONS:
                kits.refuse_unfit(files, version)
            kits.refuse_overflow(files, np.stack(scored))
        else:
            found = {
                mode: audit.audit_session(backend.open(path, threads=1, precision_hint=plan.precision_hint), path)
                for mode, path in files.items()
            }
            share = {mode: round(one.int8_share, 4) for mode, one in found.items()}
            audit.refuse(audit.check(found, plan.int8_macs_floor, {}))
        given = answers(files, plan, scored)
        sqnr = {mode: round(sqnr_db(reference[mode], given[mode]), 1) for mode in MODES}
        if min(sqnr.values()) < LEAST_DB:
            raise EdgeskinError("INT8 is far from FP32", got=f"{min(sqnr.values())} dB", possible=f"{LEAST_DB} or more")
        if plan.target == "tensorrt" and sibling.unsupported() is None:
            with out.progress("TensorRT for RTX", 100 * len(files)) as step:
                builder = sibling.accept(files, step).builder
    except Exception as error:  # noqa: BLE001 - (of many kinds: the engines' own too; each is the reason of this row)
        return Exported(ok=False, why=reason(error), sqnr_db=sqnr, int8_share=share)
    return Exported(ok=True, sqnr_db=sqnr, int8_share=share, builder=builder)


def reason(error: Exception) -> str:
    """Why something could not be built, in one line."""
    said = str(error).strip() or type(error).__name__
    return said if isinstance(error, EdgeskinError) else f"{type(error).__name__}: {said.splitlines()[0][:200]}"


def measure(name: str, family: Family, steps: int, work: Path) -> Tried:
    """One backbone."""
    from edgeskin.model.backbones import examine

    found = examine(name)
    rows: dict[str, dict[Precision, Exported]] = {}
    how = preprocess(name, found.size_px)
    pairs = drawn(how)
    pairs, scored = pairs[:LESIONS], pairs[LESIONS:]
    plans = {
        target: catalog.recipe(f"{target}-int8").model_copy(update={"calibration_pairs": CALIBRATION})
        for target in backends.NAMES
    }
    try:
        network = network_of(found, how, pairs, steps)
        out.note(f"{name}: exporting ONNX")
        graphs = torch_backend.build_network(network, how, work, plans["openvino"].opset)
        counted = count_file(graphs["pair"], "pair").fp32_macs
        if counted != found.pair_macs:
            out.note(f"{name}: {found.pair_macs:,} products in torch, {counted:,} in the exported graph")
        found = found.model_copy(update={"pair_macs": counted})
        alone = count_file(graphs["dermoscopic"], "dermoscopic").fp32_macs
        found = found.model_copy(update={"dermoscopic_macs": alone})
        truth, noisy = truths(network, scored), truths(network, noised(scored))
    except Exception as error:  # noqa: BLE001 - (of many kinds: the exporter's own too; it is the reason of every row)
        refused = Exported(ok=False, why=reason(error))
        return Tried(
            **found.to_json(),
            family=family,
            steps=steps,
            noise_db={},
            exports={target: {"fp32": refused, "int8": refused} for target in plans},
        )
    noise_db = {mode: round(sqnr_db(truth[mode], noisy[mode]), 1) for mode in MODES}
    out.note(f"{name}: {noise_db} under noise of {NOISE} grey levels")
    for target, plan in plans.items():
        started = time.monotonic()
        try:
            reference = fp32(graphs, plan, scored, truth, work / f"{target}-fp32")
            rows[target] = {"fp32": Exported(ok=True)}
        except Exception as error:  # noqa: BLE001 - (as above)
            reference = truth
            rows[target] = {"fp32": Exported(ok=False, why=reason(error))}
        rows[target]["int8"] = int8(graphs, plan, pairs, reference, scored, work / target)
        told = rows[target]["int8"]
        out.note(f"{name}, {target}: {told.why or told.sqnr_db} ({time.monotonic() - started:.0f} s)")
    return Tried(**found.to_json(), family=family, steps=steps, noise_db=noise_db, exports=rows)


def preprocess(name: str, size: int) -> Preprocess:
    """As the weights of this backbone were trained."""
    import timm

    known = timm.get_pretrained_cfg(name)
    return Preprocess(height=size, width=size, mean=tuple(known.mean), std=tuple(known.std))


def header() -> TriedBackbones:
    """What would stand over rows that are measured here and now; no row."""
    return TriedBackbones(
        command="python benchmarks/model_zoo.py",
        note=NOTE,
        calibration_pairs=CALIBRATION,
        scored_pairs=SCORED,
        noise_grey_levels=NOISE,
        machine=provenance.machine(),
        processor=provenance.processor(),
        versions=provenance.versions(),
        backbones=(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=BACKBONES, nargs="*", help="do these again; default: those not done yet")
    parser.add_argument("--work", type=Path, default=Path("model-zoo-work"), help="folder for what is built")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    over = header()
    kept: dict[str, Tried] = {}
    if given.out.is_file():
        before = TriedBackbones.parse(json.loads(given.out.read_text(encoding="utf-8")), str(given.out))
        changed = [name for name, value in over if name != "backbones" and getattr(before, name) != value]
        if not changed:
            kept = {one.name: one for one in before.backbones}
        elif given.backbone:
            cure = "all again without --backbone, or --out FILE"
            refused = EdgeskinError("the other rows were made otherwise", got=f"other {', '.join(changed)}", fix=cure)
            raise SystemExit(refused.line())
        else:
            out.note(f"other {', '.join(changed)} than last time: all are done again")
    for name in given.backbone or [name for name in BACKBONES if name not in kept]:
        kept[name] = measure(name, *BACKBONES[name], given.work / name)
        shutil.rmtree(given.work / name, ignore_errors=True)
        rows = tuple(kept[one] for one in BACKBONES if one in kept)
        write_atomic(given.out, pretty_json(over.model_copy(update={"backbones": rows}).to_json()))


if __name__ == "__main__":
    main()
