"""What proves a bundle: the gate, the audit, the search, the speed (evidence.json in the bundle)."""

from typing import Literal

from edgeskin.spec.audit import AuditResult
from edgeskin.spec.base import Spec
from edgeskin.spec.engine import EngineEvidence, KitEvidence
from edgeskin.spec.gated import GateResult
from edgeskin.spec.search import SearchResult, Speed


class Tuned(Spec):
    """Quantisation-aware training that the built network went through."""

    epochs: int
    teacher_sha256: str  # checkpoint.json of the FP32 checkpoint: first weights and teacher
    checkpoint_sha256: str
    learning_rate: float
    control_divergence: float  # of the fine-tuned network before it was quantised, from its teacher, nats


class Evidence(Spec):
    """Everything found while a bundle was made. What was not asked for is null."""

    format: Literal["edgeskin-evidence/1"] = "edgeskin-evidence/1"
    bundle: str  # its name
    gate: GateResult | None = None
    audit: AuditResult | None = None
    search: SearchResult | None = None
    speed: Speed | None = None
    qat: Tuned | None = None
    kit: KitEvidence | None = None  # target tensorrt
    engine: EngineEvidence | None = None  # target tensorrt, once it is built
