"""Programs of the runtime's examples, run on drawn photographs, and what Python answers to these."""

import os
import subprocess
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

import edgeskin
from edgeskin import preprocess
from edgeskin.runtime import Result


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    env = {**os.environ, **environment}
    return subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, env=env)


def photo(width: int, height: int, seed: int = 0, mole: float = 0.25) -> NDArray[np.uint8]:
    """A sharp brown disc on skin, nothing that the quality gate refuses."""
    y, x = np.mgrid[:height, :width]
    drawn = np.empty((height, width, 3))
    drawn[:] = (212, 168, 148)
    drawn[np.hypot(x - width / 2, y - height / 2) < mole * height] = (112, 72, 52)
    drawn += (((x // 8 + y // 8) % 2) * 24 - 12)[..., None]
    drawn += np.random.default_rng(seed).normal(0, 8, drawn.shape)
    return np.clip(drawn, 0, 255).astype(np.uint8)


def python(bundle: Path, **images: object) -> Result:
    """What Python answers where it prepares frames itself: with OpenCV they may differ by one grey level."""
    with patch.object(preprocess, "_opencv", lambda: None):
        return edgeskin.load(bundle).classify(**images)
