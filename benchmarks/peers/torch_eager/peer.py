"""The training network in PyTorch, eager or compiled, with torchvision's antialiased resize before it."""

from pathlib import Path
from typing import Any

import numpy as np
import steps
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2.functional import resize

from edgeskin.model.checkpoint import load_network, read_record


def build(task: dict[str, Any], work: Path) -> list[Path]:
    """Nothing is built: these are the weights. A compiled network is compiled once, which fills its cache."""
    if task["options"].get("compile"):
        spec = task["preprocess"]
        Peer(task).network(torch.zeros(2, spec["height"], spec["width"], 3, dtype=torch.uint8))
    return [Path(task["run"]) / "checkpoint.safetensors"]


def open(task: dict[str, Any], work: Path) -> "Peer":
    """Load the checkpoint."""
    return Peer(task)


class Peer:
    """prepare, network, decide."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.task = task
        torch.set_num_threads(task["threads"])
        run = Path(task["run"])
        network = load_network(run, read_record(run))
        self.model: Any = torch.compile(network) if task["options"].get("compile") else network

    def prepare(self, clinical: NDArray[np.uint8], dermoscopic: NDArray[np.uint8]) -> torch.Tensor:
        """Frames uint8 [2, height, width, 3]; the network normalises them itself."""
        spec = self.task["preprocess"]
        images = [torch.from_numpy(steps.crop(image, spec)).permute(2, 0, 1) for image in (clinical, dermoscopic)]
        size = [spec["height"], spec["width"]]
        return torch.stack([resize(image, size, antialias=True) for image in images]).permute(0, 2, 3, 1)

    def network(self, inputs: torch.Tensor) -> NDArray[np.float32]:
        """Logits [2, K]."""
        with torch.inference_mode():
            return np.asarray(self.model(inputs, 1).numpy(), np.float32)

    def decide(self, logits: NDArray[np.float32]) -> float:
        """P(target)."""
        return steps.probability(logits, self.task["decision"])
