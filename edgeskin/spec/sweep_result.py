"""What a sweep found, as a versioned record (edgeskin-sweep/1)."""

from typing import Literal

from pydantic import Field

from edgeskin.spec.base import Spec
from edgeskin.spec.result import Estimate
from edgeskin.spec.roles import RoleRecord
from edgeskin.spec.sweep import Metric, Reading, SweepSpec

Verdict = Literal["holds", "does not hold", "undecided at this size"]


class Figure(Spec):
    """Mean over the seeds with its 95 % interval over lesions; beside it what each seed gave."""

    estimate: Estimate
    seeds: dict[int, float]  # seed -> the same figure of its run alone
    spread: float | None  # standard deviation over the seeds (n - 1); null below two
    with_seeds: tuple[float, float] | None  # 95 % interval over lesions and seeds; null below two

    @property
    def resolvable(self) -> float | None:
        """Half the width of the interval with the seeds: how far a mean must lie from a bound, about, to be told."""
        return None if self.with_seeds is None else (self.with_seeds[1] - self.with_seeds[0]) / 2


class ReadingResult(Spec):
    """One way to ask the networks of a variant."""

    reading: Reading
    macs: int  # multiply-accumulates of one examination
    figures: dict[Metric, Figure]


class VariantResult(Spec):
    """One variant over its seeds. Without a finished run it has failures alone."""

    name: str
    title: str
    group: str
    note: str
    parameters: int | None  # of the whole network
    seeds: tuple[int, ...]  # that finished
    failed: dict[int, str]  # seed -> why its run has no result
    seconds: dict[int, float]  # seed -> of its training and evaluation, where they ran in one piece
    readings: tuple[ReadingResult, ...]  # the first is the one that counts where none is named


class Answer(Spec):
    """One question: a - b in every metric, on the same draws of lesions, and whether the claim holds."""

    question: str
    a: str
    b: str
    a_reading: Reading
    b_reading: Reading
    metric: Metric
    at_least: float
    seeds: tuple[int, ...]  # that both sides finished
    differences: dict[Metric, Figure]
    parameters_ratio: float | None  # of a to b
    macs_ratio: float | None
    resolvable: float | None  # half the width of the interval by which it is judged; null below two seeds
    verdict: Verdict | None  # null: one common seed, or none, or nothing to judge
    reason: str = ""  # why there is no verdict, or what keeps it open


class Column(Spec):
    """A metric and its title, in the order of the table."""

    metric: Metric
    title: str


class SweepResult(Spec):
    """All of a sweep in one record."""

    format: Literal["edgeskin-sweep/1"] = "edgeskin-sweep/1"
    created: str
    suite: SweepSpec
    data: str
    phantom: bool  # drawn images: the figures say nothing about lesions
    roles: dict[str, RoleRecord]
    lesions: int = Field(ge=0)  # of the test role with both images (or all, if none has both): judged by these
    left_out: int = Field(ge=0)  # of the test role: one image is missing
    classes: dict[str, int]  # of these lesions, class of the target's task -> how many
    metrics: tuple[Column, ...]
    method: str  # how figures and intervals came about
    variants: tuple[VariantResult, ...]
    answers: tuple[Answer, ...]
    machine: str
    versions: dict[str, str]
    git_revision: str

    @property
    def titles(self) -> dict[Metric, str]:
        """Metric -> title, in the order of the table."""
        return {column.metric: column.title for column in self.metrics}
