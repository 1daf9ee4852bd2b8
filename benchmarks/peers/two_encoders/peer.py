"""Two encoders of the checkpoint's backbone, one for each image, in FP32 through OpenVINO. Random weights."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openvino
import steps
from numpy.typing import NDArray


def build(task: dict[str, Any], work: Path) -> list[Path]:
    """Convert a network with untrained weights: its speed is that of a trained one, its answers mean nothing."""
    import timm
    import torch

    class TwoEncoders(torch.nn.Module):
        def __init__(self, backbone: str, logits: int) -> None:
            super().__init__()
            self.clinical = timm.create_model(backbone, pretrained=False, num_classes=0)
            self.dermoscopic = timm.create_model(backbone, pretrained=False, num_classes=0)
            self.head = torch.nn.Linear(2 * self.clinical.num_features, logits)

        def forward(self, clinical: torch.Tensor, dermoscopic: torch.Tensor) -> torch.Tensor:
            return self.head(torch.cat([self.clinical(clinical), self.dermoscopic(dermoscopic)], 1))

    torch.manual_seed(0)
    spec = task["preprocess"]
    network = TwoEncoders(task["backbone"], task["logits"]).eval()
    shape = (1, 3, spec["height"], spec["width"])
    example = (torch.zeros(shape), torch.zeros(shape))
    model = openvino.convert_model(network, example_input=example, input=[shape, shape])
    openvino.save_model(model, work / "model.xml", compress_to_fp16=False)
    return [work / "model.xml", work / "model.bin"]


def open(task: dict[str, Any], work: Path) -> "Peer":
    """Compile in FP32."""
    return Peer(task, work)


class Peer:
    """prepare, network, decide."""

    def __init__(self, task: dict[str, Any], work: Path) -> None:
        self.task = task
        cv2.setNumThreads(task["threads"])
        options = {"INFERENCE_NUM_THREADS": task["threads"], "INFERENCE_PRECISION_HINT": "f32"}
        self.model = openvino.Core().compile_model(work / "model.xml", "CPU", options)

    def prepare(self, clinical: NDArray[np.uint8], dermoscopic: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Two normalised images float32 [1, 3, height, width]."""
        spec = self.task["preprocess"]
        size = (spec["width"], spec["height"])
        resized = [
            cv2.resize(steps.crop(image, spec), size, interpolation=cv2.INTER_AREA) for image in (clinical, dermoscopic)
        ]
        return [steps.normalise(image, spec)[None] for image in resized]

    def network(self, inputs: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Logits [1, K]."""
        return np.asarray(self.model(inputs)[0], np.float32)

    def decide(self, logits: NDArray[np.float32]) -> float:
        """P(target), from the one classifier."""
        return steps.probability(np.repeat(logits, 2, axis=0), self.task["decision"])
