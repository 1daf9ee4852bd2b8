"""One tiny pair network, exported once: the model that every backend has to answer for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

SIZE = 32
LOGITS = 7


class TinyPair(nn.Module):
    """uint8 [images, 32, 32, 3] -> float32 [images, 7]: convolutions with ReLU6, a residual, attention, two heads."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.images = images
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6()
        )
        self.project = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.narrow = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU6())
        self.norm = nn.LayerNorm(32)
        self.query, self.key, self.value = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.clinical, self.dermoscopic = nn.Linear(32, LOGITS), nn.Linear(32, LOGITS)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        x = (frames.permute(0, 3, 1, 2).float() - 127.5) * (1 / 127.5)
        x = self.stem(x)
        x = self.narrow(x + self.project(self.depthwise(x)))
        tokens = x.flatten(2).transpose(1, 2)
        normed = self.norm(tokens)
        other = torch.cat([normed[1:], normed[:1]]) if self.images == 2 else normed
        query, key, value = self.query(normed) * 32**-0.5, self.key(other), self.value(other)
        tokens = tokens + torch.softmax(query @ key.transpose(-2, -1), -1) @ value
        pooled = tokens.mean(1) * 4  # classes far enough apart that a changed answer means something
        if self.images == 1:
            return self.dermoscopic(pooled)
        return torch.cat([self.clinical(pooled[:1]), self.dermoscopic(pooled[1:])])


@pytest.fixture(scope="session")
def pairs() -> list[np.ndarray]:
    """Smooth colourful pairs, uint8 [2, 32, 32, 3]: blobs of random place, size and colour."""
    rng = np.random.default_rng(7)
    grid = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), -1)
    drawn = []
    for _ in range(48):
        pair = []
        for _ in range(2):
            image = np.full((SIZE, SIZE, 3), rng.uniform(90, 220, 3))
            for _ in range(4):
                distance = ((grid - rng.uniform(4, 28, 2)) ** 2).sum(-1) / rng.uniform(3, 10) ** 2
                image += np.exp(-distance)[..., None] * rng.uniform(-160, 160, 3)
            pair.append(np.clip(image + rng.normal(0, 4, image.shape), 0, 255))
        drawn.append(np.stack(pair).astype(np.uint8))
    return drawn


@pytest.fixture(scope="session")
def networks(pairs: list[np.ndarray]) -> dict[int, TinyPair]:
    """The pair network and the dermoscopic one, of the same weights, by number of images."""
    torch.manual_seed(3)
    pair = TinyPair(2)
    pair.train()
    with torch.no_grad():  # running statistics of the batch norms from real frames
        for frames in pairs:
            pair(torch.from_numpy(frames))
    single = TinyPair(1)
    single.load_state_dict(pair.state_dict())
    return {2: pair.eval(), 1: single.eval()}


@pytest.fixture(scope="session")
def onnx_models(networks: dict[int, TinyPair], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """FP32 ONNX files by number of images."""
    folder = tmp_path_factory.mktemp("onnx")
    paths = {}
    for images, network in networks.items():
        program = torch.onnx.export(
            network,
            (torch.zeros(images, SIZE, SIZE, 3, dtype=torch.uint8),),
            dynamo=True,
            opset_version=20,
            input_names=["frames"],
            output_names=["logits"],
            external_data=False,
            verbose=False,
        )
        paths[images] = folder / f"tiny{images}.onnx"
        program.save(paths[images])
    return paths
