"""The non-inferiority gate of a recipe: how much worse than FP32 a built artefact may be, with a reason each."""

from typing import Literal

from pydantic import Field

from edgeskin.spec.base import Spec

GateMetric = Literal["sensitivity", "specificity", "auc", "balanced_accuracy", "macro_f1", "ece"]


class Margin(Spec):
    """How much worse the built artefact may be than FP32, and why that much."""

    value: float = Field(ge=0, le=1)
    reason: str = Field(min_length=10)


class GateSpec(Spec):
    """What must hold on the control role before a bundle is written.

    For each metric the lower end of the 95 % interval of (bundle - FP32) lies above -margin; for "ece", an error, the
    upper end lies below +margin. Intervals by paired bootstrap over patients, or lesions where patients are unknown.
    """

    margins: dict[GateMetric, Margin] = Field(min_length=1)
    class_flips: Margin | None = None  # largest share of lesions with another predicted class
    target_flips: Margin | None = None  # largest share that moves to or from the target, e.g. melanoma
    bootstrap: int = Field(default=2000, ge=200)
    groups: tuple[str, ...] = ()  # metadata columns, e.g. "sex"; a collection may lack them
    smallest_group: int = Field(default=30, ge=1)  # lesions; of smaller groups nothing is said
