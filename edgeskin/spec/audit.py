"""Which layers of a compiled model really run in INT8, and how that compares with what its file asks for."""

from typing import Literal

from pydantic import Field

from edgeskin.spec.base import Spec
from edgeskin.spec.manifest import Mode


class AuditLayer(Spec):
    """One layer that multiplies (convolution, matrix product) as the engine compiled it."""

    name: str  # of the engine's node
    origin: tuple[str, ...] = ()  # names of the file's layers that it was made of
    kind: str  # the engine's own word: Convolution, QLinearConv ...; "" where the engine does not name the file's layer
    macs: int = Field(ge=0)
    planned: str  # "int8" or "fp32": what the file asks for; "" where the file's node was not found
    executed: str  # "int8", "fp32", "bf16", "fp16"; "unknown" where kind is ""


class ModeAudit(Spec):
    """One compiled graph. Shares are of multiply-accumulates."""

    layers: tuple[AuditLayer, ...]
    macs: int
    int8_macs: int
    planned_int8_macs: int
    reorders: int = Field(ge=0)  # layers that only convert a layout or a type
    fell_back: tuple[str, ...] = ()  # names of layers planned as INT8 that run in another precision
    unasked: tuple[str, ...] = ()  # names of layers planned in floating point that run in INT8 all the same

    @property
    def int8_share(self) -> float:
        """Share of the products that really run in INT8."""
        return self.int8_macs / self.macs if self.macs else 0.0


class AuditResult(Spec):
    """The audit of a bundle's core graphs on one machine."""

    format: Literal["edgeskin-audit/1"] = "edgeskin-audit/1"
    engine: dict[str, str]  # Session.describe()
    floor: float  # the recipe's least share of INT8 products
    passed: bool
    why: str = ""
    modes: dict[Mode, ModeAudit]
