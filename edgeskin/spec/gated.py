"""What the non-inferiority gate found (in a bundle)."""

from typing import Literal

from edgeskin.spec.base import Spec
from edgeskin.spec.manifest import Mode
from edgeskin.spec.result import Estimate, Parity

# "fails" of a sub-group means: shown to be worse; few lesions cannot show that a group is not worse.
Verdict = Literal["holds", "fails", "cannot tell"]


class GateCheck(Spec):
    """One line of the gate. `difference` = bundle - FP32 with its 95 % interval."""

    mode: Mode
    metric: str  # a GateMetric, "class_flips" or "target_flips"
    group: str = ""  # "" = all lesions, else "sex = female"
    lesions: int
    positives: int  # lesions of the target, e.g. melanomas, among them
    fp32: Estimate
    bundle: Estimate
    difference: Estimate
    margin: float
    reason: str  # of the margin
    verdict: Verdict
    why: str = ""  # of a verdict that is not "holds"


class GateResult(Spec):
    """What the gate found. Lesions are named by their short hashes: ids do not travel in a bundle."""

    format: Literal["edgeskin-gate/1"] = "edgeskin-gate/1"
    passed: bool
    role: str
    role_sha256: str
    lesions: int
    target: str  # title, e.g. "melanoma"
    bootstrap: int
    checks: tuple[GateCheck, ...]
    parity: dict[Mode, Parity]
    notes: tuple[str, ...] = ()
