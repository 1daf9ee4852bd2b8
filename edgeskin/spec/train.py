"""What a training run is asked for: network, data, optimisation. It is stored with the checkpoint."""

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from edgeskin.spec.base import Spec
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.roles import RoleRecord, RoleSpec
from edgeskin.spec.schema import Schema

Modalities = Literal["both", "dermoscopic", "clinical"]


class NetworkSpec(Spec):
    """The shared network: one encoder, shared cross-attention at `attention_stages`, one classifier a modality.

    `encoders`, `attention` and `modalities` also make the networks that it is compared with, of the same parts: with
    two encoders, with a cross-attention for each direction, with one image alone.
    """

    backbone: str = Field(min_length=1)
    modalities: Modalities = "both"  # of one alone: a network to compare with, which no bundle takes
    encoders: Literal["shared", "separate"] = "shared"  # separate: one encoder a modality, of the same kind
    attention_stages: tuple[int, ...] = (-2, -1)  # of the backbone's feature pyramid; () switches it off
    # separate: attention and projections of its own for each direction at each stage.
    attention: Literal["shared", "separate"] = "shared"
    attention_dim: int = Field(default=64, ge=8)
    attention_reduction: float | None = Field(default=None, ge=1)  # instead: channels of the coarsest stage / this
    attention_heads: int = Field(default=4, ge=1)
    fused_head: bool = False  # a third classifier, on the features of both images side by side
    dropout: float = Field(default=0.2, ge=0, lt=1)
    drop_path: float = Field(default=0.1, ge=0, lt=1)

    @property
    def pair_rows(self) -> int:
        """Rows of logits that a pair is given: clinical, dermoscopic, and a third one of a fused head."""
        return 3 if self.fused_head else 2

    @model_validator(mode="after")
    def _consistent(self) -> "NetworkSpec":
        if self.fused_head and self.modalities != "both":
            raise ValueError(f"a fused head looks at both images, modalities are {self.modalities!r}")
        # A width by reduction is rounded to what the heads need; without stages there is no attention.
        free = self.attention_reduction is not None or not self.attention_stages
        if not free and self.attention_dim % self.attention_heads:
            raise ValueError(
                f"attention_dim {self.attention_dim} is not a multiple of attention_heads {self.attention_heads}"
            )
        return self


class DataSpec(Spec):
    """Which data: loader, root, schema, roles."""

    name: str
    root: str
    schema_name: str = ""  # "" = the loader's own
    roles: RoleSpec = RoleSpec()
    border_px: int = Field(default=0, ge=0)


class TrainSpec(Spec):
    """Optimisation. Defaults are what measured best on MILK10k within a CPU budget."""

    epochs: int = Field(default=8, ge=1)
    batch_pairs: int = Field(default=32, ge=2)  # of each process; batch norm needs more than one
    accumulate: int = Field(default=1, ge=1)  # batches whose gradients make one step
    size: int = Field(default=224, ge=32)  # side of the network's frames
    # Random crops enlarge what they show, so a network sees lesions at their size in use when it trains on smaller
    # frames than it works on (Touvron et al., arXiv 1906.06423); smaller frames also train faster.
    train_size: int = Field(default=192, ge=32)  # side of the training crops at the end; `size` if that is smaller
    start_size: int = Field(default=128, ge=32)  # and at the start; grows over the first 60 % of the epochs
    # Random crop, flip and turn of a training pair: the same for both of its images, or each its own. The two cameras
    # never see a lesion at the same place, so that both are true to it; each its own varies more.
    geometry: Literal["pair", "each"] = "pair"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)  # share of the steps
    seed: int = 0
    clinical_weight: float = Field(default=0.5, ge=0, le=1)  # a of L = L_dermoscopic + a * L_clinical
    fused_weight: float = Field(default=1.0, ge=0)  # b of L + b * L_fused, where the network has a fused head
    # Share of the pairs of a batch without their clinical image, in whole pairs: 0.15 are 2 of 16 and none of 2. Those
    # that have none count towards it; the others are drawn.
    modality_dropout: float = Field(default=0.15, ge=0, lt=1)
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    logit_adjustment: float = Field(default=0.5, ge=0)  # tau: adds tau * log(prior) to the training logits
    # Factor on the loss of each lesion of a class: 1 / n or 1 / sqrt(n) of its n training lesions, scaled so that it is
    # 1 on average over all of them. With "inverse" every class has the same share of the gradient.
    class_weighting: Literal["none", "sqrt", "inverse"] = "none"
    teacher: str = ""  # run of a trained network of the same schema whose answers this one also learns from
    distillation: float = Field(default=0.5, ge=0, le=1)  # share of the teacher's part in the loss, if there is one
    distillation_temperature: float = Field(default=2.0, gt=0)
    ema_decay: float = Field(default=0.995, ge=0, lt=1)  # of the averaged weights; less in short runs; 0: no average
    head_learning_rate: float = Field(default=2.0, gt=0)  # factor on learning_rate for what has no pretrained start
    threads: int = Field(default=0, ge=0)  # 0: all cores this process may use
    workers: int = Field(default=1, ge=0)
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = Field(default=1, ge=1)
    allocator: bool = True  # raise glibc's mmap and trim thresholds on the CPU (see benchmarks/training_allocator.py)


class Fusion(Spec):
    """Probability of a task = (1 - f) * (w * dermoscopic + (1 - w) * clinical) + f * fused.

    w and f are chosen on the control role; f is 0 where the network has no fused head. The fields of a fused head are
    written where they say something alone: runtimes from before it read the bundles of all other networks.
    """

    dermoscopic_weight: float = Field(ge=0, le=1)
    temperature_dermoscopic: float = Field(default=1.0, gt=0)
    temperature_clinical: float = Field(default=1.0, gt=0)
    temperature_alone: float = Field(default=1.0, gt=0)  # dermoscopic without a clinical image
    fused_weight: float = Field(default=0.0, ge=0, le=1)
    temperature_fused: float = Field(default=1.0, gt=0)

    @model_serializer(mode="wrap")
    def _sparing(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = whole(self)
        for name in ("fused_weight", "temperature_fused"):
            if found.get(name) == type(self).model_fields[name].default:
                del found[name]
        return found


class Threshold(Spec):
    """Operating point of the target: refer when P(positive) >= value. Chosen on the control role."""

    value: float = Field(ge=0, le=1)
    rule: str  # how it was chosen
    control_sensitivity: float | None = None
    control_specificity: float | None = None


class Thresholds(Spec):
    """One operating point for each mode of examination."""

    pair: Threshold
    dermoscopic: Threshold


class Checkpoint(Spec):
    """checkpoint.json: everything about a trained network but its weights (checkpoint.safetensors)."""

    format: Literal["edgeskin-checkpoint"] = "edgeskin-checkpoint"
    format_version: Literal[1] = 1
    created: str
    network: NetworkSpec
    data: DataSpec
    train: TrainSpec
    task_schema: Schema
    preprocess: Preprocess
    fusion: dict[str, Fusion]  # by task
    thresholds: Thresholds
    roles: dict[str, RoleRecord]
    lesion_hashes: dict[str, tuple[str, ...]]  # by role: 16 hex digits of SHA-256 of each lesion id
    phantom: bool
    parameters: int
    weights_sha256: str
    weights_source: str  # where the encoder's first weights came from
    teacher_sha256: str = ""  # of the weights of the network it was distilled from
    control_metrics: dict[str, float]
    versions: dict[str, str]
    git_revision: str
