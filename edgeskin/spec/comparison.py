"""Two benchmark results side by side (`edgeskin-comparison/1`)."""

from typing import Literal

from edgeskin.spec.base import Spec
from edgeskin.spec.bench import Route
from edgeskin.spec.manifest import Mode
from edgeskin.spec.result import Estimate
from edgeskin.spec.suite import Scenario

# What a condition belongs to. "suite": what was asked and how; "setting": threads, governor, power mode.
Kind = Literal["suite", "bundle", "machine", "setting", "software"]
# What the ratio answers. Exactly one kind of condition may differ; "mixed" is what `anyway` lets through.
Question = Literal["again", "bundles", "machines", "settings", "software", "mixed"]


class Difference(Spec):
    """A condition under which the two were not measured alike."""

    kind: Kind
    name: str
    a: str
    b: str


class Side(Spec):
    """What one of the two is."""

    bundle: str
    bundle_sha256: str
    target: str
    precision: str
    machine: str
    threads: int
    measured: str
    valid: bool
    partial: bool


class LaneComparison(Spec):
    """One lane of both: medians, and median of B over median of A; below 1, B is faster."""

    scenario: Scenario
    mode: Mode
    route: Route
    a_p50_ms: float
    b_p50_ms: float
    a_p99_ms: float
    b_p99_ms: float
    ratio: float
    low: float | None  # null: too few queries for an interval
    high: float | None
    level: float
    basis: Literal["series", "histogram"]  # what the interval was drawn from
    points: tuple[int, int]  # how many of A and of B
    verdict: Literal["faster", "slower", "no difference", "unknown"]  # of B; "no difference": the interval holds 1
    reference_ratio: float | None  # FP32 reference of B over that of A, where both ran the same graph


class AccuracyComparison(Spec):
    """A figure of both artefacts on the same lesions, in one mode."""

    mode: Mode
    name: str
    a: Estimate
    b: Estimate


class ColdComparison(Spec):
    """A part of the cold start; medians of few processes, so without an interval."""

    part: str
    a_ms: float
    b_ms: float
    ratio: float


class Comparison(Spec):
    """Result of comparing B with A."""

    format: Literal["edgeskin-comparison/1"] = "edgeskin-comparison/1"
    a: Side
    b: Side
    question: Question
    differences: tuple[Difference, ...]
    objections: tuple[str, ...]  # why it would be refused; empty unless it was forced
    lanes: tuple[LaneComparison, ...]
    only_a: tuple[str, ...]  # lanes that the other lacks
    only_b: tuple[str, ...]
    cold_start: tuple[ColdComparison, ...]
    accuracy: tuple[AccuracyComparison, ...]
    remarks: tuple[str, ...]
