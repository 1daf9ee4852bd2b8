"""TensorRT: what an engine is bound to, and what was found while its kit and it were made."""

from typing import Literal

from pydantic import Field

from edgeskin.spec.audit import AuditLayer, ModeAudit
from edgeskin.spec.base import Spec
from edgeskin.spec.manifest import Compatibility, Mode
from edgeskin.spec.result import Accuracy, Parity


class SiblingGraph(Spec):
    """One graph in the sibling builder: what it would compile, never an engine of the device."""

    layers: int = Field(ge=0)  # that the builder would run
    audit: ModeAudit
    plan_bytes: int = Field(ge=0)


class Sibling(Spec):
    """Acceptance of a kit by TensorRT for RTX on the CPU: the same parser and a kindred builder for another GPU."""

    builder: str  # and its version
    sm: str
    modes: dict[Mode, SiblingGraph]


class Emulated(Spec):
    """The kit's graphs on one role in ONNX Runtime without optimisations: rounding as TensorRT defines it."""

    role: str
    role_sha256: str
    lesions: int
    parity: dict[Mode, Parity]  # the kit's precision against FP32
    accuracy: dict[Mode, Accuracy]


class GraphNeeds(Spec):
    """What a graph asks for of whatever builds it. Bytes, in the precision that the graph gives each tensor."""

    weights_bytes: int = Field(ge=0)
    largest_weight_bytes: int = Field(ge=0)
    activation_bytes: int = Field(ge=0)  # of the largest sum of tensors that live together


class KitEvidence(Spec):
    """What was shown about a kit before any device saw it."""

    linted_for: str  # version of TensorRT
    nodes: dict[Mode, int]
    planned: dict[Mode, tuple[AuditLayer, ...]]  # what the graphs ask for, of which nothing is executed yet
    needs: dict[Mode, GraphNeeds]  # of the FP32 graph, the largest that is built
    emulated: tuple[Emulated, ...]
    sibling: Sibling | None = None
    sibling_why_not: str = ""


class MemoryEstimate(Spec):
    """What building one graph needs, and what the machine had. An estimate: builders do not say beforehand."""

    kind: Literal["estimate"] = "estimate"
    weights_bytes: int
    activation_bytes: int  # of the largest layers that live together
    workspace_bytes: int  # the cap that was given to the builder
    overhead_bytes: int  # CUDA context, libraries, kernels
    needed_bytes: int
    available_bytes: int
    swap_bytes: int = 0  # free, of which compressed memory (zram) adds nothing
    zram: bool = False


class Rebuild(Spec):
    """One of several builds of one graph: no two need be equal."""

    sha256: str
    size_bytes: int
    seconds: float
    max_abs_difference: float  # of the logits from the emulated ones, drawn cases
    flips: int  # decisions that differ from the emulated ones, of `cases`
    cases: int
    p50_ms: float
    chosen: bool = False


class Nearness(Spec):
    """The real engine against the emulation on one role."""

    role: str
    lesions: int
    parity: dict[Mode, Parity]


class EngineEvidence(Spec):
    """How an engine was built, on the machine that runs it."""

    compatibility: Compatibility
    kit_sha256: str
    maker: Literal["tensorrt", "trtexec"]
    timing_cache: Literal["new", "used"]
    memory: dict[Mode, MemoryEstimate]
    rebuilds: dict[Mode, tuple[Rebuild, ...]]
    dla_fallback: tuple[str, ...] = ()  # layers that DLA left to the GPU
    nearness: tuple[Nearness, ...] = ()
    notes: tuple[str, ...] = ()
