"""Device profile: what a board is and what runs on it (devices/<board>/profile.toml); and estimates made from it."""

from typing import Literal

from pydantic import Field

from edgeskin.spec.base import Spec
from edgeskin.spec.manifest import Mode

Unit = Literal["cpu", "gpu"]


class Software(Spec):
    """One line of releases of a Jetson's software. `l4t`: first numbers of the releases, "36.4" for 36.4.3."""

    jetpack: str = Field(min_length=1)
    l4t: tuple[str, ...] = ()
    cuda: str = ""
    tensorrt: str = Field(min_length=1)
    note: str = ""


class CameraDefault(Spec):
    """Frames that a benchmark of this board takes unless told otherwise. Our choice, not a figure of the board."""

    width: int = Field(default=1920, ge=32)
    height: int = Field(default=1080, ge=32)
    fps: float = Field(default=30, gt=0)
    pixel_format: Literal["RGB24", "NV12", "YUYV"] = "NV12"


class Device(Spec):
    """Published figures of a board, with their sources. Nothing here is a measurement of ours."""

    name: str = Field(min_length=1)
    title: str
    arch: Literal["x86_64", "aarch64"]
    targets: tuple[str, ...] = Field(min_length=1)
    processor: str = ""
    memory_gb: float | None = Field(default=None, gt=0)
    bandwidth_gb_s: float | None = Field(default=None, gt=0)
    int8_tops: float | None = Field(default=None, gt=0)  # as the vendor advertises it
    int8_sparse_tops: float | None = Field(default=None, gt=0)  # of the whole module
    int8_dense_tops: float | None = Field(default=None, gt=0)  # of the whole module
    gpu_int8_dense_tops: float | None = Field(default=None, gt=0)  # without the deep-learning accelerators
    fp16_dense_tops: float | None = Field(default=None, gt=0)  # of the GPU
    fp32_tflops: float | None = Field(default=None, gt=0)  # of the GPU
    cpu_cores: int | None = Field(default=None, ge=1)  # that inference is spread over
    cpu_ghz: float | None = Field(default=None, gt=0)  # the highest published clock
    int8_macs_per_cycle: float | None = Field(default=None, gt=0)  # of one core
    fp32_macs_per_cycle: float | None = Field(default=None, gt=0)  # of one core
    sm: str = ""
    dla_cores: int = Field(default=0, ge=0)
    power_modes_w: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()  # field names above that no public document has confirmed to us
    software: tuple[Software, ...] = ()
    camera: CameraDefault = Field(default_factory=CameraDefault)


class LayerCounts(Spec):
    """What one graph asks of a machine: multiply-accumulates, bytes to move, layers to start. Read off the graph."""

    mode: Mode
    layers: int = Field(ge=1)  # that multiply, pool or normalise; the rest is fused into them
    int8_macs: int = Field(ge=0)
    fp32_macs: int = Field(ge=0)
    weight_bytes: int = Field(ge=0)
    activation_bytes: int = Field(ge=0)  # read and written by these layers, in the precision they run in


class LatencyEstimate(Spec):
    """What a board's published figures let the network's latency be. An estimate, never a measurement.

    Times are null where the profile lacks a figure; `reason` names it.
    """

    kind: Literal["estimate"] = "estimate"
    device: str
    unit: Unit  # what does the work
    targets: tuple[str, ...]  # that run on this unit
    counts: LayerCounts
    compute_ms: float | None
    memory_ms: float | None
    launch_ms: float
    total_ms: float | None
    bound: Literal["compute", "memory", "launch"] | None  # the largest of the three
    unverified: tuple[str, ...] = ()  # figures used that no public document has confirmed to us
    reason: str = ""
    cores: int | None = None  # that an estimate of a CPU counts on


class Beside(Spec):
    """An estimate and what was measured. `reached`: estimate over measured median, 1 where they are equal."""

    estimate: LatencyEstimate
    measured_p50_ms: float | None
    reached: float | None
    reason: str = ""  # why nothing stands beside the estimate, or in what the two differ
