"""Sweep: one training varied in named ways and repeated over seeds (benchmarks/suites/*.toml of kind "sweep")."""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from edgeskin.errors import unknown
from edgeskin.spec.base import Spec
from edgeskin.spec.schema import Target
from edgeskin.spec.train import Modalities, NetworkSpec, TrainSpec
from edgeskin.spec.training_recipe import RecipeData

# How a trained network is asked: with both images, their answers fused; with one image alone; and what each branch
# says when the network has both images.
Reading = Literal["pair", "dermoscopic", "clinical", "dermoscopic-branch", "clinical-branch"]
READINGS: dict[Modalities, tuple[Reading, ...]] = {
    "both": ("pair", "dermoscopic-branch", "clinical-branch", "dermoscopic"),
    "dermoscopic": ("dermoscopic",),
    "clinical": ("clinical",),
}
Metric = str  # macro_f1, balanced_accuracy, and auc_X, sensitivity_X of each binary question X
# What a machine has, not what is asked: it neither enters a run's key nor is it a variant's business.
MACHINE = ("threads", "workers", "accelerator", "devices", "allocator")


class SweepBase(Spec):
    """What all variants start from: the content of a training recipe. Its seed gives way to the sweep's."""

    data: RecipeData
    network: NetworkSpec
    train: TrainSpec = TrainSpec()
    weights: str = ""


class Variant(Spec):
    """One way to differ from the base."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")  # names a folder too
    title: str = ""
    group: str = ""  # rows of one group stand together in the table
    note: str = ""
    network: dict[str, Any] = Field(default_factory=dict)  # fields of NetworkSpec
    train: dict[str, Any] = Field(default_factory=dict)  # fields of TrainSpec
    weights: str | None = None
    seeds: tuple[int, ...] = ()  # instead of the sweep's
    evaluate: tuple[Reading, ...] = ()  # instead of the sweep's


class Question(Spec):
    """Whether variant `a` beats `b`, or is not worse: the claim is that a - b lies above `at_least`."""

    question: str = Field(min_length=1)
    a: str
    b: str
    a_reading: Reading | None = None  # None: the variant's first
    b_reading: Reading | None = None
    metric: Metric = "macro_f1"  # the one that answers; the differences of all are told
    at_least: float = Field(default=0.0, ge=-1, le=1)  # below 0: not worse by more than this; 0: better


class SweepSpec(Spec):
    """Seeds x variants, how they are read, and the questions they answer."""

    kind: Literal["sweep"]  # tells it from a suite of `edgeskin bench`
    name: str = Field(min_length=1)
    title: str = ""
    note: str = ""
    base: SweepBase
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    evaluate: tuple[Reading, ...] = Field(
        default=("pair", "dermoscopic", "clinical"), min_length=1
    )  # what of it applies
    target: tuple[Target, ...] = ()  # binary questions beside the schema's own, e.g. malignant
    specificity: float = Field(default=0.9, gt=0, lt=1)  # at which sensitivities are read off
    bootstrap: int = Field(default=2000, ge=100)
    variant: tuple[Variant, ...] = Field(min_length=1)
    comparison: tuple[Question, ...] = ()

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is named twice")
        return seeds

    @model_validator(mode="after")
    def _consistent(self) -> "SweepSpec":
        names = [variant.name for variant in self.variant]
        if len(set(names)) < len(names):
            raise ValueError(f"names of variants repeat: {names}")
        if self.base.train.devices > 1:  # runs stand side by side; none is split
            raise ValueError(f"devices = {self.base.train.devices}: each run of a sweep has one process")
        for variant in self.variant:
            if len(set(variant.seeds)) < len(variant.seeds):
                raise ValueError(f"variant {variant.name}: a seed is named twice")
            if meant := {"seed", *MACHINE} & variant.train.keys():
                raise ValueError(f"variant {variant.name}: {', '.join(sorted(meant))} is no variant of a training")
            self.trained(variant, seed=0)
            if not self.readings(variant):
                raise ValueError(f"variant {variant.name} can be evaluated in none of {list(self.evaluate)}")
        for question in self.comparison:
            for name, reading in ((question.a, question.a_reading), (question.b, question.b_reading)):
                if name not in names:
                    raise unknown(f"variant in the comparison {question.question!r}", name, names)
                if reading and reading not in self.readings(self[name]):
                    raise unknown(f"reading of variant {name!r}", reading, self.readings(self[name]))
        return self

    def __getitem__(self, name: str) -> Variant:
        """The variant of that name."""
        return next(variant for variant in self.variant if variant.name == name)

    def networked(self, variant: Variant) -> NetworkSpec:
        """The variant's network. Raises EdgeskinError where it asks for something unknown."""
        fields = {**self.base.network.model_dump(), **variant.network}
        return NetworkSpec.parse(fields, f"variant {variant.name!r}, network")

    def trained(self, variant: Variant, seed: int) -> tuple[NetworkSpec, TrainSpec]:
        """The variant's network and training. Raises EdgeskinError where it asks for something unknown."""
        train = {**self.base.train.model_dump(), **variant.train, "seed": seed}
        return self.networked(variant), TrainSpec.parse(train, f"variant {variant.name!r}, train")

    def readings(self, variant: Variant) -> tuple[Reading, ...]:
        """How the variant is asked: of what it shall be, what its network can."""
        possible = READINGS[self.networked(variant).modalities]
        return tuple(reading for reading in variant.evaluate or self.evaluate if reading in possible)

    def reduced(self, only: Iterable[str] = (), seeds: int = 0) -> "SweepSpec":
        """The same with some of its variants and its first seeds; comparisons that lack a side fall away.

        Raises:
            EdgeskinError: there is no such variant.
        """
        names = [variant.name for variant in self.variant]
        chosen = list(only) or names
        for name in chosen:
            if name not in names:
                raise unknown("variant", name, names)
        count = seeds or None
        kept = tuple(
            v.model_copy(update={"seeds": v.seeds[:count]}) for v in self.variant if v.name in chosen
        )  # seeds[:None] is all of them
        questions = tuple(q for q in self.comparison if q.a in chosen and q.b in chosen)
        return self.model_copy(update={"variant": kept, "comparison": questions, "seeds": self.seeds[:count]})
