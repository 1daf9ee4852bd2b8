"""What happens to a photograph before the network sees it; it travels with the weights."""

from typing import Literal

from pydantic import Field

from edgeskin.spec.base import Spec


class Preprocess(Spec):
    """Frame geometry on the host, normalisation in the graph.

    On the host: cut `border_px` from each side, then `fit` ("crop": centred crop to the aspect ratio of the
    input; "stretch": the whole frame), halve each axis while it is at least twice too long, then sample bilinearly
    at `height` x `width`. The result is uint8 RGB [H, W, 3]. In the graph: (x / 255 - mean) / std, NCHW.
    """

    height: int = Field(ge=32, le=4096)
    width: int = Field(ge=32, le=4096)
    fit: Literal["crop", "stretch"] = "crop"
    resize: Literal["halve+bilinear"] = "halve+bilinear"
    border_px: int = Field(default=0, ge=0)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
