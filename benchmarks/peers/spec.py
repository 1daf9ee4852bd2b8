"""What a peer says of itself (`<peer>/peer.toml`) and what a side-by-side run writes (`edgeskin-peers/1`)."""

from typing import Literal

from pydantic import Field

from edgeskin.spec.base import Spec
from edgeskin.spec.bench import Ratio, Route, Validity, Warmup
from edgeskin.spec.machine import Environment

Need = Literal["float_onnx", "run", "openvino_graph"]
Weights = Literal["checkpoint", "random"]


class PeerSpec(Spec):
    """A pipeline to be measured beside edgeskin. `script` is relative to the folder of the peer.toml."""

    title: str = Field(min_length=1)
    about: str
    weights: Weights
    script: str = "peer.py"
    needs: tuple[Need, ...] = ()
    imports: tuple[str, ...]  # packages that the environment must offer
    packages: tuple[str, ...]  # distributions whose versions are recorded
    routes: tuple[Route, ...] = ("network", "decision")
    cold_start: bool = True
    options: dict[str, bool | int | str] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)  # variables of its processes; {work} is its own folder


class Figures(Spec):
    """Latencies of one route of one peer. `ratio`: its median over edgeskin's of the same rounds; above 1 is slower."""

    queries: int = Field(ge=1)
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    p99_bound_ms: float | None  # early-stopping bound, 99 % confidence; null: too few queries
    warmup: Warmup
    rounds_ms: tuple[float, ...]  # median of each round
    ratio: Ratio | None


class Cold(Spec):
    """New processes to their first decision; medians. `total_ms` is the sum of a run's three parts."""

    runs: int = Field(ge=1)
    import_ms: float
    load_ms: float
    first_decision_ms: float
    total_ms: float
    every_total_ms: tuple[float, ...]
    peak_rss_bytes: int | None
    ratio: Ratio | None


class Agreement(Spec):
    """Its answers beside edgeskin's on drawn lesions. Where edgeskin's own hardly vary, agreement says little."""

    lesions: int
    lowest: float  # of edgeskin's P(target)
    highest: float
    same_decision: int
    max_probability_difference: float


class Row(Spec):
    """One pipeline. `reason` says why it did not run, or what it did not finish."""

    name: str
    title: str
    about: str
    weights: Weights
    reason: str | None = None
    network: Figures | None = None
    decision: Figures | None = None
    cold_start: Cold | None = None
    agreement: Agreement | None = None
    model_bytes: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    idle_cpu_share: float | None = None  # processor time it took, of one core, while others were asked


class PeersResult(Spec):
    """One run of all peers side by side. The first row is what the ratios refer to."""

    format: Literal["edgeskin-peers/1"] = "edgeskin-peers/1"
    bundles: dict[str, str]  # row -> SHA-256 of its bundle
    backbone: str
    phantom: bool
    rounds: int
    queries: int  # of a turn, counted
    settle: int  # of a turn, asked before those and not counted
    frame_height: int
    frame_width: int
    frames: int
    calibration_pairs: int
    calibration: str  # what the pairs were
    threads: int
    environment: Environment
    others_cpu_share: float | None
    rows: tuple[Row, ...]
    partial: bool
    validity: Validity
