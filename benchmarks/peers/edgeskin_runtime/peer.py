"""The bundle through edgeskin's own runtime: what every other row is held against."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskin import runtime


def build(task: dict[str, Any], work: Path) -> list[Path]:
    """The bundle is built already: these are the files of the graph it runs."""
    return [Path(file) for file in task["bundle_files"]]


def open(task: dict[str, Any], work: Path) -> "Peer":
    """Load the bundle, its hashes verified."""
    return Peer(task)


class Peer:
    """prepare, network, and the runtime's own way from frames to decision."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.classifier = runtime.load(task["bundle"], threads=task["threads"])

    def prepare(self, clinical: NDArray[np.uint8], dermoscopic: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Frames uint8 [2, height, width, 3] of the size the graph takes."""
        return np.stack([self.classifier.prepare(clinical), self.classifier.prepare(dermoscopic)])

    def network(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits [2, K]."""
        return self.classifier.infer(frames, "pair")

    def answer(self, clinical: NDArray[np.uint8], dermoscopic: NDArray[np.uint8]) -> float:
        """P(target), by the call a user makes; every task's probabilities are computed on the way."""
        decision = self.classifier.classify(clinical=clinical, dermoscopic=dermoscopic).decision
        assert decision is not None  # drawn frames pass the quality gate
        return decision.probability
