"""Makes the tiny bundle beside this file: a 4,000-parameter pair network, trained for seconds on drawn discs.

    python tests/golden/make.py

It needs edgeskin[export,onnxruntime]. The weights depend on the machine that trains them, so the committed bundle
is the reference; run this only when the bundle format or the network changes.
"""

import itertools
import tempfile
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from torch import Tensor, nn

from edgeskin import __version__, catalog
from edgeskin.bundle import Draft, Golden, write_bundle
from edgeskin.files import sha256_bytes
from edgeskin.spec.manifest import IMAGES, MODES, GraphEntry, Mode, Provenance
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.roles import RoleRecord
from edgeskin.spec.train import Checkpoint, DataSpec, Fusion, NetworkSpec, Threshold, Thresholds, TrainSpec

HERE = Path(__file__).resolve().parent
SIDE = 32
SCHEMA = catalog.schema("spc")
ROLES = {"train": 6, "calibration": 3, "control": 3, "test": 3}  # invented lesions "train-0", "train-1" ...


class Tiny(nn.Module):
    """Frames uint8 [images, H, W, 3] -> logits [images, K]; the two images see each other's features."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.images = images
        widths = (3, 8, 12, 16)
        steps = [nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()) for a, b in itertools.pairwise(widths)]
        self.encoder = nn.Sequential(*steps)
        self.clinical = nn.Linear(32, SCHEMA.logits)
        self.dermoscopic = nn.Linear(32, SCHEMA.logits)

    def forward(self, frames: Tensor) -> Tensor:
        own = self.encoder(frames.permute(0, 3, 1, 2).float() / 127.5 - 1.0).mean((2, 3))
        if self.images == 1:
            return cast(Tensor, self.dermoscopic(torch.cat([own, own], 1)))
        both = torch.cat([own, own.flip(0)], 1)
        return torch.cat([self.clinical(both[:1]), self.dermoscopic(both[1:])])


def draw(rng: np.random.Generator, labels: dict[str, int]) -> NDArray[np.uint8]:
    """A pair of frames whose disc takes colour, size and stripes from the labels."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    frames = np.empty((2, SIDE, SIDE, 3))
    for view in range(2):
        frames[view] = [215, 175, 155]
        inside = np.hypot(x, y) < 0.2 + 0.06 * labels["STR"] + 0.02 * view
        frames[view][inside] = [[90, 60, 40], [40, 30, 60], [130, 70, 30], [20, 20, 20], [160, 110, 90]][labels["DIAG"]]
        stripes = inside & (np.sin(x * (20 + 25 * labels["PN"])) > 0.4) & (view == 1)
        frames[view][stripes] += 30 + 30 * labels["DaG"]
        frames[view][inside & (y > 0.05)] += np.array([-25, -10, 45]) * labels["BWV"]
        frames[view][inside & (x > 0.08)] += np.array([50, -10, -10]) * labels["VS"]
        frames[view][inside & (x < -0.08)] += np.array([-15, -15, 0]) * labels["PIG"]
        frames[view][inside & (y < -0.1)] += 60 * labels["RS"]
    return np.clip(frames + rng.normal(0, 6, frames.shape), 0, 255).astype(np.uint8)


def sample(rng: np.random.Generator, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Frames [count, 2, H, W, 3] and labels [count, tasks]."""
    labels = np.stack([rng.integers(0, len(t.classes), count) for t in SCHEMA.tasks], 1)
    names = [t.name for t in SCHEMA.tasks]
    return np.stack([draw(rng, dict(zip(names, row.tolist(), strict=True))) for row in labels]), labels


def train(rng: np.random.Generator) -> Tiny:
    """A network that has learnt something, so that its answers are neither ties nor saturated."""
    torch.manual_seed(0)
    net, alone = Tiny(2), Tiny(1)
    alone.encoder, alone.dermoscopic = net.encoder, net.dermoscopic
    frames, labels = sample(rng, 600)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _step in range(600):
        index = int(rng.integers(len(frames)))
        batch = [(index + k) % len(frames) for k in range(16)]
        loss = torch.zeros(())
        for i in batch:
            logits = torch.cat([net(torch.from_numpy(frames[i])), alone(torch.from_numpy(frames[i][1:]))])
            for column, part in enumerate(SCHEMA.slices().values()):
                truth = torch.full((3,), int(labels[i, column]))
                loss = loss + nn.functional.cross_entropy(logits[:, part], truth) / len(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.eval()


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration frames, one pair at a time."""

    def __init__(self, frames: NDArray[np.uint8]) -> None:
        self.rest = [{"frames": f} for f in frames]

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return self.rest.pop() if self.rest else None


def export(net: Tiny, folder: Path, calibration: NDArray[np.uint8]) -> None:
    """reference/<mode>.onnx in FP32 and model/<mode>.onnx in INT8."""
    for name in ("reference", "model"):
        (folder / name).mkdir()
    for mode in MODES:
        graph = Tiny(IMAGES[mode])
        graph.load_state_dict(net.state_dict())
        target = folder / "reference" / f"{mode}.onnx"
        example = (torch.zeros(IMAGES[mode], SIDE, SIDE, 3, dtype=torch.uint8),)
        program = torch.onnx.export(
            graph.eval(), example, dynamo=True, opset_version=20, input_names=["frames"], output_names=["logits"]
        )
        model = program.model_proto
        for thing in (*model.graph.node, model.graph, *model.graph.value_info, *model.graph.input, *model.graph.output):
            thing.ClearField("metadata_props")
            thing.ClearField("doc_string")
        onnx.save(model, target)
        quantize_static(
            target,
            folder / "model" / f"{mode}.onnx",
            Reader(calibration[:, -IMAGES[mode] :]),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )


def golden(folder: Path, frames: NDArray[np.uint8]) -> list[Golden]:
    """Of each mode the two cases whose decisions are surest: another machine may round differently."""
    cases = []
    for mode in MODES:
        session = ort.InferenceSession(str(folder / "model" / f"{mode}.onnx"), providers=["CPUExecutionProvider"])
        given = [f[-IMAGES[mode] :] for f in frames]
        answers = [session.run(["logits"], {"frames": f})[0] for f in given]
        surest = sorted(range(len(given)), key=lambda i: -margin(answers[i]))[:2]
        cases += [Golden(f"{mode}-{k}", mode, given[i], answers[i], tolerance=0.25) for k, i in enumerate(surest)]
    return cases


def margin(logits: NDArray[np.float32]) -> float:
    """Smallest gap between the two best classes of any task, over the images."""
    ranked = [np.sort(logits[:, part], axis=1) for part in SCHEMA.slices().values()]
    return float(min((r[:, -1] - r[:, -2]).min() for r in ranked))


def checkpoint(net: Tiny) -> Checkpoint:
    """The record a training run would leave."""
    rule = "by hand, for tests"
    lesions = {role: [f"{role}-{i}" for i in range(count)] for role, count in ROLES.items()}
    return Checkpoint(
        created="2026-01-01T00:00:00+00:00",
        network=NetworkSpec(backbone="tiny", attention_stages=()),
        data=DataSpec(name="drawn", root="tests/golden"),
        train=TrainSpec(size=SIDE),
        task_schema=SCHEMA,
        preprocess=Preprocess(height=SIDE, width=SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        fusion={task.name: Fusion(dermoscopic_weight=0.6) for task in SCHEMA.tasks},
        thresholds=Thresholds(pair=Threshold(value=0.3, rule=rule), dermoscopic=Threshold(value=0.35, rule=rule)),
        roles={
            role: RoleRecord(lesions=len(ids), sha256=sha256_bytes("\n".join(sorted(ids)).encode()))
            for role, ids in lesions.items()
        },
        lesion_hashes={
            role: tuple(sorted(sha256_bytes(i.encode())[:16] for i in ids)) for role, ids in lesions.items()
        },
        phantom=True,
        parameters=sum(p.numel() for p in net.parameters()),
        weights_sha256="0" * 64,
        weights_source="random",
        control_metrics={},
        versions={},
        git_revision="",
    )


def main() -> None:
    rng = np.random.default_rng(0)
    net = train(rng)
    frames, _ = sample(rng, 300)
    recipe = Recipe(
        name="tiny-int8", target="onnxruntime", precision="int8", quantizer="qdq", calibration_pairs=len(frames)
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(net, folder, frames)
        graphs: dict[str, dict[Mode, GraphEntry]] = {
            where: {
                mode: GraphEntry(file=f"{where}/{mode}.onnx", images=IMAGES[mode], precision=precision)  # type: ignore[arg-type]
                for mode in MODES
            }
            for where, precision in (("model", "int8"), ("reference", "fp32"))
        }
        draft = Draft(
            name="tiny",
            folder=folder,
            graphs=graphs["model"],
            reference=graphs["reference"],
            golden=golden(folder, frames),
            recipe=recipe,
            checkpoint=checkpoint(net),
            provenance=Provenance(
                checkpoint_sha256="0" * 64,
                checkpoint_weights_sha256="0" * 64,
                git_revision="",
                versions={"edgeskin": __version__, "onnxruntime": ort.__version__, "torch": torch.__version__},
                machine="",
                created="2026-01-01T00:00:00+00:00",
                calibration_pairs=len(frames),
            ),
        )
        write_bundle(HERE / "tiny-onnxruntime", draft)


if __name__ == "__main__":
    main()
