"""How a bundle's precision was found: candidates, effects of layers, latency against agreement (in a bundle)."""

from typing import Literal

from pydantic import Field

from edgeskin.spec.base import Spec
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.result import Estimate


class Effect(Spec):
    """How far a quantised network is from FP32 on the control role, both images."""

    divergence: float  # mean Kullback-Leibler divergence of the target task's probabilities from FP32's, in nats
    class_flips: int = Field(ge=0)  # lesions with another predicted class
    target_flips: int = Field(ge=0)  # of them to or from the target
    referral_flips: int = Field(ge=0)  # lesions on another side of the operating point
    balanced_accuracy: Estimate
    auc: Estimate
    lesions: int


class LayerEffect(Spec):
    """A group of layers: what returning it alone to floating point takes away from the divergence."""

    group: str  # module path, e.g. network.encoder.blocks.4.0
    layers: int
    macs_share: float
    divergence: float  # of the network with this group in floating point
    gain: float  # divergence of all INT8 - that; what the group costs
    class_flips: int


class Candidate(Spec):
    """A way to quantise that was built, scored and timed."""

    name: str
    recipe: Recipe
    effect: Effect
    p50_ms: float | None = None  # of the pair graph on this machine
    planned_cost: float | None = None  # where nothing can be timed: 1 in floating point, 0.5 all in INT8; an estimate
    gate: Literal["holds", "fails", "not asked"] = "not asked"
    reverted: tuple[str, ...] = ()  # groups in floating point
    why_not: str = ""  # the reason why it was not chosen; empty for the chosen one


class Speed(Spec):
    """The pair graph against higher precision, all measured in turns in one run. Milliseconds."""

    machine: str
    threads: int
    p50_ms: dict[str, float]  # "int8, f32", "fp32, f32", "fp32, bf16" ...
    ratio: Estimate  # INT8 over the fastest higher precision, paired bootstrap
    int8_is_faster: bool
    why: str = ""


class SearchResult(Spec):
    """What a search tried and why it chose what it chose."""

    format: Literal["edgeskin-search/1"] = "edgeskin-search/1"
    role: str
    role_sha256: str
    lesions: int
    budget_s: float
    spent_s: float
    complete: bool  # False: the budget ended before the search did
    candidates: tuple[Candidate, ...]
    ranking: tuple[LayerEffect, ...] = ()
    slower_groups: dict[str, float] = Field(default_factory=dict)  # group -> latency of INT8 over floating point there
    chosen: str
    notes: tuple[str, ...] = ()
