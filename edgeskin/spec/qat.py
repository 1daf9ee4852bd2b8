"""Quantisation-aware training: what it is asked for, and what it leaves beside its checkpoint (qat.json)."""

from typing import Literal

from pydantic import Field

from edgeskin.spec.base import Spec
from edgeskin.spec.evidence import Tuned

QAT = "qat.json"


class QatSpec(Spec):
    """A short fine-tuning of a trained network under fake quantisation, with that network in FP32 as its teacher."""

    epochs: int = Field(default=3, ge=1)
    pairs: int = Field(default=0, ge=0)  # of the train role, drawn by `seed`; 0: all of them
    batch_pairs: int = Field(default=16, ge=1)  # batch norm is frozen: small batches do no harm
    size: int = Field(default=0, ge=0)  # side of the training crops; 0: where the FP32 training ended
    calibration_pairs: int = Field(default=160, ge=1)  # set the activations' ranges; fewer if the role has fewer
    # At its highest; cosine decay to 0. Higher ones scatter weights by more than rounding does.
    learning_rate: float = Field(default=1e-5, gt=0)
    warmup: float = Field(default=0.05, ge=0, lt=1)  # share of the steps
    weight_decay: float = Field(default=0.01, ge=0)  # not of biases and norms
    temperature: float = Field(default=1.0, gt=0)  # of the distillation
    label_weight: float = Field(default=0.0, ge=0)  # of the loss on labels beside it; 0: follow the teacher alone
    weight_bits: int = Field(default=8, ge=2, le=8)  # what targets run is 8; fewer is for studies of the method
    seed: int = 0
    threads: int = Field(default=0, ge=0)  # 0: all cores this process may use
    workers: int = Field(default=1, ge=0)
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    allocator: bool = True  # as in training


class QatRecord(Spec):
    """qat.json: the last file that quantisation-aware training writes. Divergences are KL from the teacher, nats.

    They are means over at most 160 lesions of the control role, evenly spread.
    """

    format: Literal["edgeskin-qat/1"] = "edgeskin-qat/1"
    spec: QatSpec
    tuned: Tuned
    quantised_before: float  # control role, fake-quantised: the teacher's own weights
    quantised_after: float  # and the fine-tuned ones
