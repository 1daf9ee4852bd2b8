"""What the peers share: plain NumPy, nothing of edgeskin, so that a peer's start costs what it would cost a user."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
Floats = NDArray[np.float32]


def crop(frame: Frame, preprocess: Mapping[str, Any]) -> Frame:
    """The part of a camera frame that the checkpoint was trained to see, as a view in whole pixels.

    >>> spec = {"border_px": 0, "fit": "crop", "height": 224, "width": 224}
    >>> crop(np.zeros((1080, 1920, 3), np.uint8), spec).shape
    (1080, 1080, 3)
    """
    border = preprocess["border_px"]
    inner = frame[border : frame.shape[0] - border, border : frame.shape[1] - border]
    if preprocess["fit"] == "stretch":
        return inner
    height, width = inner.shape[:2]
    aspect = preprocess["width"] / preprocess["height"]
    if width > height * aspect:
        kept = round(height * aspect)
        left = (width - kept) // 2
        return inner[:, left : left + kept]
    kept = round(width / aspect)
    top = (height - kept) // 2
    return inner[top : top + kept]


def normalise(image: Frame, preprocess: Mapping[str, Any]) -> Floats:
    """(x / 255 - mean) / std of an image uint8 [H, W, 3], as float32 [3, H, W]: the lines of every tutorial."""
    scaled = image.astype(np.float32) / 255.0
    mean, std = np.array(preprocess["mean"], np.float32), np.array(preprocess["std"], np.float32)
    return np.asarray(((scaled - mean) / std).transpose(2, 0, 1), np.float32)


def probability(logits: Floats, decision: Mapping[str, Any]) -> float:
    """P(target) of a pair from logits [2, K], the clinical row first: softmax at each temperature, weighted mean.

    >>> rule = {"first": 0, "last": 2, "positive": [1], "temperatures": [1.0, 1.0], "dermoscopic_weight": 0.8}
    >>> round(probability(np.log([[1.0, 1.0], [1.0, 3.0]]), rule), 6)
    0.7
    """
    both = np.asarray(logits, np.float64)[:, decision["first"] : decision["last"]]
    scaled = both / np.array(decision["temperatures"])[:, None]
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    shares = (powers / powers.sum(axis=1, keepdims=True))[:, decision["positive"]].sum(axis=1)
    weight = decision["dermoscopic_weight"]
    return float(weight * shares[1] + (1 - weight) * shares[0])
