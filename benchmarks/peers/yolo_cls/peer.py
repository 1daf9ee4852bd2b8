"""A classification network of Ultralytics, exported to INT8 OpenVINO and asked through its own `predict`.

Built from the package's own description with random weights, so that nothing is downloaded. The package is AGPL-3.0:
it lives in this peer's environment alone.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ultralytics import YOLO

MODEL = "yolo11n-cls"
CLASSES = 2  # folders of the calibration set; its labels are not used


def build(task: dict[str, Any], work: Path) -> list[Path]:
    """Export with the package's own INT8 option, calibrated on the dermoscopic images of the calibration pairs."""
    from PIL import Image

    for number, image in enumerate(np.load(task["calibration"])[:, 1]):
        for split in ("train", "val"):
            folder = work / "data" / split / f"class{number % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number}.png")
    os.chdir(work)  # the export goes where the process stands
    network = YOLO(f"{MODEL}.yaml", task="classify")
    made = network.export(format="openvino", quantize=8, data=str(work / "data"), imgsz=_size(task), batch=2)
    return [path for path in sorted((work / str(made)).resolve().rglob("*")) if path.is_file()]


def open(task: dict[str, Any], work: Path) -> "Peer":
    """Load the export through the package."""
    return Peer(task, work)


def _size(task: dict[str, Any]) -> list[int]:
    return [task["preprocess"]["height"], task["preprocess"]["width"]]


class Peer:
    """The package's predictor, which prepares, infers and post-processes by itself."""

    def __init__(self, task: dict[str, Any], work: Path) -> None:
        self.task = task
        self.model = YOLO(next(work.glob("*_openvino_model")), task="classify")

    def prepare(self, clinical: NDArray[np.uint8], dermoscopic: NDArray[np.uint8]) -> Any:
        """The batch of two as the package's predictor makes it; the predictor is set up at the first call."""
        frames = [clinical, dermoscopic]
        if self.model.predictor is None:
            self._predict(frames)
        return self.model.predictor.preprocess(frames)

    def network(self, inputs: Any) -> Any:
        """The package's inference on a prepared batch."""
        return self.model.predictor.inference(inputs)

    def answer(self, clinical: NDArray[np.uint8], dermoscopic: NDArray[np.uint8]) -> float:
        """The mean of one class's probability over both images: weights are random, the value means nothing."""
        found = self._predict([clinical, dermoscopic])
        return float(np.mean([float(one.probs.data[0]) for one in found]))

    def _predict(self, frames: list[NDArray[np.uint8]]) -> Any:
        # The package takes arrays for BGR. With random weights the order changes nothing, and no swap is charged to it.
        return self.model.predict(frames, imgsz=_size(self.task), verbose=False)
