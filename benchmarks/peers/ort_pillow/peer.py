"""The FP32 ONNX export in ONNX Runtime with default session options, Pillow before it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import steps
from numpy.typing import NDArray
from PIL import Image


def build(task: dict[str, Any], work: Path) -> list[Path]:
    """Nothing is built: the export is used as it is."""
    return [Path(task["float_onnx"])]


def open(task: dict[str, Any], work: Path) -> "Peer":
    """A default session; only the number of threads is that of the run."""
    return Peer(task)


class Peer:
    """prepare, network, decide."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.task = task
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = task["threads"]
        self.session = onnxruntime.InferenceSession(task["float_onnx"], options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    def prepare(self, clinical: NDArray[np.uint8], dermoscopic: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalised images float32 [2, 3, height, width]."""
        spec = self.task["preprocess"]
        size = (spec["width"], spec["height"])
        images = [Image.fromarray(steps.crop(image, spec)) for image in (clinical, dermoscopic)]
        resized = [np.asarray(image.resize(size, Image.Resampling.BILINEAR)) for image in images]
        return np.stack([steps.normalise(image, spec) for image in resized])

    def network(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [2, K]."""
        return np.asarray(self.session.run(None, {self.input: inputs})[0], np.float32)

    def decide(self, logits: NDArray[np.float32]) -> float:
        """P(target)."""
        return steps.probability(logits, self.task["decision"])
