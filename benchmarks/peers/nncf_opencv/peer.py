"""What a user writes first: nncf.quantize and OpenVINO with their defaults, OpenCV and NumPy before them."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openvino
import steps
from numpy.typing import NDArray


def build(task: dict[str, Any], work: Path) -> list[Path]:
    """Quantise the float graph on the calibration pairs, all options at their defaults."""
    import nncf

    pairs = np.load(task["calibration"])
    samples = [np.stack([steps.normalise(image, task["preprocess"]) for image in pair]) for pair in pairs]
    model = nncf.quantize(openvino.convert_model(task["float_onnx"]), nncf.Dataset(samples))
    openvino.save_model(model, work / "model.xml")
    return [work / "model.xml", work / "model.bin"]


def open(task: dict[str, Any], work: Path) -> "Peer":
    """Compile with defaults; only the number of threads is that of the run."""
    return Peer(task, work)


class Peer:
    """prepare, network, decide."""

    def __init__(self, task: dict[str, Any], work: Path) -> None:
        self.task = task
        cv2.setNumThreads(task["threads"])
        options = {"INFERENCE_NUM_THREADS": task["threads"]}
        self.model = openvino.Core().compile_model(work / "model.xml", "CPU", options)

    def prepare(self, clinical: NDArray[np.uint8], dermoscopic: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalised images float32 [2, 3, height, width]."""
        spec = self.task["preprocess"]
        size = (spec["width"], spec["height"])
        resized = [
            cv2.resize(steps.crop(image, spec), size, interpolation=cv2.INTER_AREA) for image in (clinical, dermoscopic)
        ]
        return np.stack([steps.normalise(image, spec) for image in resized])

    def network(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [2, K]."""
        return np.asarray(self.model(inputs)[0], np.float32)

    def decide(self, logits: NDArray[np.float32]) -> float:
        """P(target)."""
        return steps.probability(logits, self.task["decision"])
