"""What is known of a backbone: its pyramid, its size as a pair network, and how that network exports."""

from typing import Literal

from pydantic import Field

from edgeskin.spec.base import Spec
from edgeskin.spec.manifest import Mode
from edgeskin.spec.recipe import Precision

Family = Literal["CNN", "Transformer"]

# Targets as a reader knows them; for TensorRT this machine makes a kit, the device its engine.
TARGET_TITLES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT kit"}


class Stage(Spec):
    """One stage of a feature pyramid: its module in timm's model, its channels, and how many pixels make one of it."""

    module: str
    channels: int = Field(ge=1)
    reduction: int = Field(ge=1)


class Backbone(Spec):
    """A timm model as the encoder of a pair network with the default exchange, counted."""

    name: str
    size_px: int = Field(ge=1)  # side of the frames that were counted with
    stages: tuple[Stage, ...]  # fine to coarse
    encoder_parameters: int = Field(ge=1)
    parameters: int = Field(ge=1)  # of the pair network: one encoder, exchange, two classifiers
    two_encoders_parameters: int = Field(ge=1)  # of two encoders with a classifier each that never exchange
    pair_macs: int = Field(ge=1)  # multiply-accumulates for both images
    dermoscopic_macs: int = Field(ge=1)  # and for the dermoscopic image alone
    hub: str = ""  # name under which timm fetches its ImageNet weights; "": it knows of none

    @property
    def share(self) -> float:
        """Parameters of the pair network over those of two encoders."""
        return self.parameters / self.two_encoders_parameters


class Exported(Spec):
    """How a network that started from random weights came through one target's build in one precision."""

    ok: bool
    why: str = ""  # where not ok
    sqnr_db: dict[Mode, float] = Field(
        default={}
    )  # of INT8 against the target's FP32, on drawn lesions that did not calibrate
    int8_share: dict[Mode, float] = Field(
        default={}
    )  # of the products: as the engine compiled them; of a kit, as its graphs ask
    builder: str = ""  # that compiled a kit's graphs; never TensorRT itself


class Tried(Backbone):
    """A backbone that was exported for every target."""

    family: Family
    steps: int  # of training on drawn lesions, before it was exported
    noise_db: dict[Mode, float]  # SQNR of its FP32 logits under a little noise in the frames: how frail it is itself
    exports: dict[str, dict[Precision, Exported]]  # by target and precision


class TriedBackbones(Spec):
    """benchmarks/results/models.json, which the package carries."""

    format: Literal["edgeskin-models/1"] = "edgeskin-models/1"
    command: str
    note: str
    calibration_pairs: int
    scored_pairs: int
    noise_grey_levels: int
    machine: str
    processor: str
    versions: dict[str, str]
    backbones: tuple[Tried, ...]
