"""What verification found, as a versioned record (edgeskin-verify/1)."""

from typing import Literal

from pydantic import Field, JsonValue

from edgeskin.spec.audit import AuditResult
from edgeskin.spec.base import Spec
from edgeskin.spec.manifest import Mode


class Estimate(Spec):
    """A figure with its 95 % interval. What is undefined is null, and `reason` says why.

    Beside a value, `reason` is a reservation: classes that a mean leaves out, an interval that cannot be had.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""


class Compared(Spec):
    """The bundle beside its FP32 reference on the same lesions; `difference` = bundle - fp32, by paired bootstrap."""

    fp32: Estimate
    bundle: Estimate
    difference: Estimate


class Flips(Spec):
    """Lesions for which bundle and reference decide differently, with the Wilson interval of their share.

    `to_target`: the bundle says target (e.g. melanoma) and the reference does not; `from_target`: the reverse.
    """

    flipped: int = Field(ge=0)
    of: int = Field(ge=1)
    share: float
    low: float
    high: float
    to_target: int
    from_target: int
    lesions: tuple[str, ...]


class Parity(Spec):
    """How far the bundle's numbers are from the reference's in one mode of examination."""

    lesions: int
    sqnr_db: Estimate  # of the logits; null where they are identical
    max_abs_probability_difference: float
    argmax_agreement: dict[str, float]  # task -> share of the lesions
    predicted: Flips  # class of the target's task
    referral: Flips  # P(target) >= threshold


class Confusion(Spec):
    """Counts of lesions: a row for each true class, a column for each answer. `fp32` is null for a lean bundle."""

    fp32: tuple[tuple[int, ...], ...] | None
    bundle: tuple[tuple[int, ...], ...]


class ReliabilityBin(Spec):
    """Lesions whose top class has a probability in this bin: their mean, and the share that is right."""

    lesions: int = Field(ge=0)
    confidence: float | None  # null: the bin is empty
    accuracy: float | None


class Reliability(Spec):
    """Equal-width bins of confidence from 0 to 1, those of the calibration error. `fp32` is null for a lean bundle."""

    fp32: tuple[ReliabilityBin, ...] | None
    bundle: tuple[ReliabilityBin, ...]


class Curve(Spec):
    """ROC of the target against the rest from (0, 0) to (1, 1): shares of negatives and of positives above a score."""

    false_positive: tuple[float, ...]
    true_positive: tuple[float, ...]


class Roc(Spec):
    """The curves of both models. `fp32` is null for a lean bundle."""

    fp32: Curve | None
    bundle: Curve


class AgainstRest(Spec):
    """One class against the others of its task. It is decided for where it is the most probable class."""

    title: str  # PN-ATP; of the target MEL alone
    task: str
    classes: tuple[str, ...] = Field(min_length=1)
    lesions: int  # with a label for the task
    positives: int
    auc: Compared
    sensitivity: Compared
    specificity: Compared
    precision: Compared


class Literature(Spec):
    """Figures in the form in which methods for several tasks are published: see edgeskin/literature.py.

    The accuracy of each task stands in `Accuracy.tasks`.
    """

    average_accuracy: Compared  # plain mean of the tasks' accuracies
    classes: tuple[AgainstRest, ...]


class Reached(Spec):
    """The rule "score >= threshold" as a test for the target. `labelled`: by the score of the true criteria."""

    threshold: int
    sensitivity: Compared
    specificity: Compared
    labelled_sensitivity: Estimate
    labelled_specificity: Estimate


class ScoreFigures(Spec):
    """The score of the predicted classes, e.g. the seven-point score. See edgeskin/checklist.py."""

    lesions: int  # labelled for the target
    labelled: int  # of them those with a label for every task that scores; the reference and the distance are theirs
    distance: Compared  # mean |score - score of the true criteria|, in points
    reached: tuple[Reached, ...]


class Calibration(Spec):
    """What temperatures do to a task's calibration error `ece` and negative log likelihood `nll` (nats).

    `before`: every temperature 1, weights of the branches as stored; `after`: as the bundle decides; `change` = after -
    before on the same draws. `ece` is a point: see edgeskin/compared.py, `shown`.
    """

    before: dict[str, Compared]
    after: dict[str, Compared]
    change: dict[str, Compared]


class Accuracy(Spec):
    """Figures in one mode: task -> accuracy, balanced_accuracy, macro_f1; target -> auc, sensitivity ...

    What an older result has not is null or empty.
    """

    lesions: int
    threshold: float
    tasks: dict[str, dict[str, Compared]]
    target: dict[str, Compared]
    confusion: dict[str, Confusion] = Field(default_factory=dict)  # by task
    reliability: Reliability | None = None  # of the target's task; null: no lesion is labelled, or an older result
    roc: Roc | None = None  # of the target; null: no positive or no negative lesion, or an older result
    literature: Literature | None = None  # null: the schema has one task
    score: ScoreFigures | None = None  # null: the schema has no score
    calibration: dict[str, Calibration] = Field(default_factory=dict)  # by task


class EveryLesion(Spec):
    """All lesions as a device answers them: by both images, or by the dermoscopic one where there is no clinical one.

    Methods on Derm7pt are scored on every case of the test list, and some of its cases lack the clinical image.
    """

    lesions: int
    without_clinical: int
    accuracy: dict[str, Compared]  # by task
    literature: Literature
    score: ScoreFigures | None = None


class GoldenResult(Spec):
    """A golden case on this machine. `max_abs_error` is null where the logits are not finite."""

    name: str
    mode: Mode
    max_abs_error: float | None
    tolerance: float
    same_decisions: bool
    passed: bool


class VerifyResult(Spec):
    """One verification of one bundle on one machine and one list of lesions."""

    format: Literal["edgeskin-verify/1"] = "edgeskin-verify/1"
    created: str
    bundle: str
    bundle_sha256: str
    target: str
    precision: str
    phantom: bool
    research_use: str
    passed: bool  # every golden case
    golden: tuple[GoldenResult, ...]
    data: str
    role: str
    role_sha256: str  # of the lesion ids that were scored
    lesions: int
    without_clinical: int
    parity: dict[Mode, Parity]  # a mode that is not here is explained in notes
    accuracy: dict[Mode, Accuracy]
    every_lesion: EveryLesion | None = None  # null: `accuracy` says it, one task, or an older result
    bootstrap: int
    threads: int
    engine: dict[str, JsonValue]
    environment: dict[str, JsonValue] = Field(default_factory=dict)
    audit: AuditResult | None = None  # of what was compiled on this machine; null: `notes` says why, or an older result
    notes: tuple[str, ...] = ()
    seconds: float
