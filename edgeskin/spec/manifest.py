"""Bundle manifest: what a bundle is, what is in it, and where it came from (manifest.json)."""

from typing import Literal

from pydantic import Field, model_validator

from edgeskin.spec.base import Spec
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.quality import Quality
from edgeskin.spec.recipe import Precision, Recipe
from edgeskin.spec.roles import RoleRecord
from edgeskin.spec.schema import Schema
from edgeskin.spec.train import DataSpec, Fusion, NetworkSpec, Thresholds

Mode = Literal["pair", "dermoscopic"]
MODES: tuple[Mode, ...] = ("pair", "dermoscopic")
IMAGES: dict[Mode, int] = {"pair": 2, "dermoscopic": 1}
FORMAT_VERSION = 1
EVIDENCE = "evidence.json"
MANIFEST, SEAL = "manifest.json", "manifest.sha256"  # the seal is the manifest's own hash, as sha256sum writes it
SIGNATURE = "manifest.sig"  # optional, and not in files: it signs the manifest, see edgeskin/signing.py


def safe_name(name: str) -> bool:
    """Whether a file of a bundle may have this name: a plain relative POSIX path, the same on every system.

    >>> [safe_name(n) for n in ("model/pair.onnx", "../x", "/x", "a//b", "C:x", "")]
    [True, False, False, False, False, False]
    """
    plain = all(c.isprintable() and c not in '\\:*?"<>|' for c in name) and len(name) <= 200
    return plain and all(part not in ("", ".", "..") for part in name.split("/"))


class FileEntry(Spec):
    """A file of the bundle. `group` "reference" (the FP32 graphs and the evidence) may be left out by `pack --lean`."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)
    group: Literal["core", "reference"] = "core"


class GraphEntry(Spec):
    """One model file. Input `frames`: uint8 [images, H, W, 3], the clinical image first; output `logits`:
    float32 [rows, schema.logits], see `Manifest.rows`."""

    file: str
    images: Literal[1, 2]
    precision: Precision


class GoldenCase(Spec):
    """A case whose answer is known: frames in, logits out, in a .npz of the bundle.

    `tolerance` bounds max |logits - expected| on another machine of the same kind; decisions must be equal.
    """

    name: str
    mode: Mode
    file: str
    tolerance: float = Field(gt=0)


class Provenance(Spec):
    """Where the bundle came from."""

    checkpoint_sha256: str
    checkpoint_weights_sha256: str
    git_revision: str
    versions: dict[str, str]
    machine: str
    created: str
    calibration_sha256: str = ""  # of the calibration lesions actually used
    calibration_pairs: int = 0
    request_sha256: str = ""  # of checkpoint, recipe and options asked for: the same request is not built again


class Tuning(Spec):
    """How the core graphs run fastest on one processor: measured there, one examination at a time.

    There is one stream always: two would give each examination half of the threads, which `threads` tries as well.
    """

    processor: str = Field(min_length=1)
    cores: int = Field(ge=1)  # usable ones when it was measured
    engine: str  # and its version
    threads: int = Field(ge=1)
    precision_hint: Literal["f32", "bf16"]
    p50_ms: dict[str, float]  # "2 threads, f32" -> median of the pair graph
    measured: str


class Fallback(Spec):
    """An engine to run a bundle by where the one of its target is missing or fails to load, in the manifest's order.

    It was seen to answer the golden cases within their tolerance. The gate's evidence is the target's, not this one's.
    """

    target: Literal["openvino", "onnxruntime"]
    graphs: Literal["core", "reference"] = "core"  # "reference": the same network in FP32


class Compatibility(Spec):
    """What a TensorRT engine is bound to. Of a kit: what its device has; of an engine: what it was built on."""

    device: str = Field(min_length=1)  # name of the profile
    arch: Literal["x86_64", "aarch64"]
    sm: str = Field(pattern=r"^\d+\.\d+$")  # compute capability, "8.7"
    tensorrt: str = Field(pattern=r"^\d+\.\d+(\.\d+)*$")
    cuda: str = ""
    jetpack: str = ""  # releases with that version of TensorRT, "6.1 to 6.2.2"
    dla_core: int | None = Field(default=None, ge=0)
    gpu: str = ""  # its name; of an engine alone
    driver: str = ""  # highest CUDA version that the driver supports; of an engine alone


class Gated(Spec):
    """Whether the bundle was shown not to be worse than FP32. Details lie in evidence.json."""

    status: Literal["passed", "ungated", "not needed"]  # "not needed": the bundle runs in FP32
    why: str = ""


class Manifest(Spec):
    """The contract between the workstation and the device."""

    format: Literal["edgeskin-bundle"] = "edgeskin-bundle"
    format_version: Literal[1] = 1
    name: str
    target: str
    stage: Literal["ready", "kit"] = "ready"  # a kit holds graphs from which the device builds its engine
    precision: Precision
    phantom: bool
    research_use: Literal["research use only, not a medical device"] = "research use only, not a medical device"
    task_schema: Schema
    preprocess: Preprocess
    fusion: dict[str, Fusion]
    thresholds: Thresholds
    quality: Quality = Quality()  # which images cannot be judged
    recipe: Recipe
    network: NetworkSpec
    parameters: int
    data: DataSpec
    roles: dict[str, RoleRecord]
    lesion_hashes_file: str  # JSON: role -> short hashes of its lesion ids; to refuse scoring on trained lesions
    graphs: dict[Mode, GraphEntry]
    reference: dict[Mode, GraphEntry]  # the same checkpoint in FP32, for verify and bench
    golden: tuple[GoldenCase, ...] = Field(min_length=1)
    files: dict[str, FileEntry]
    provenance: Provenance
    tuning: tuple[Tuning, ...] = ()  # one a processor
    fallback: tuple[Fallback, ...] = ()  # in this order, where the target does not run
    gated: Gated = Gated(status="ungated", why="made before there was a gate")
    compatibility: Compatibility | None = None  # of target tensorrt
    fp16: dict[Mode, GraphEntry] = Field(
        default_factory=dict
    )  # of a kit: the same network in FP16, against which the device times INT8
    answers_file: str = ""  # of target tensorrt: logits that FP32 and the emulation gave, by role and lesion hash
    evidence_file: str = ""  # edgeskin.spec.evidence.Evidence as JSON; "" = none

    @property
    def rows(self) -> dict[Mode, int]:
        """Rows of logits that a graph gives: one an image, and for a pair a third one if there is a fused head."""
        return {"pair": self.network.pair_rows, "dermoscopic": 1}

    @model_validator(mode="after")
    def _complete(self) -> "Manifest":
        core = [g.file for g in self.graphs.values()] + [c.file for c in self.golden] + [self.lesion_hashes_file]
        for name in [*core, *(g.file for g in self.reference.values())]:
            if name not in self.files:
                raise ValueError(f"{name} is used but not listed in files")
        if self.evidence_file and self.evidence_file not in self.files:
            raise ValueError(f"{self.evidence_file} is used but not listed in files")
        for name in self.files:
            if not safe_name(name) or name in (MANIFEST, SEAL):
                raise ValueError(f"unsafe file name {name!r}")
        for name in core:
            if self.files[name].group != "core":
                raise ValueError(f"{name} is needed to run and must be in group core")
        for kind, graphs in (("graphs", self.graphs), ("reference", self.reference)):
            if set(graphs) != set(MODES):
                raise ValueError(f"{kind} must be {list(MODES)}")
            for mode, graph in graphs.items():
                if graph.images != IMAGES[mode]:
                    raise ValueError(f"{kind}.{mode} must take {IMAGES[mode]} image(s)")
        if (self.target == "tensorrt") != (self.compatibility is not None):
            raise ValueError("compatibility is for target tensorrt, which needs it")
        if self.stage == "kit" and self.target != "tensorrt":
            raise ValueError("a kit is for target tensorrt")
        for name in [*(g.file for g in self.fp16.values()), *filter(None, [self.answers_file])]:
            if name not in self.files:
                raise ValueError(f"{name} is used but not listed in files")
        if any(other.target == self.target and other.graphs == "core" for other in self.fallback):
            raise ValueError(f"fallback {self.target} is the target itself")
        if any(g.precision != "fp32" for g in self.reference.values()):
            raise ValueError("reference must be fp32")
        if (self.target, self.precision) != (self.recipe.target, self.recipe.precision):
            raise ValueError("target and precision must be those of the recipe")
        if set(self.fusion) != {t.name for t in self.task_schema.tasks}:
            raise ValueError("fusion must name every task of the schema")
        if self.network.modalities != "both":
            raise ValueError(f"a network for {self.network.modalities} images alone cannot run in a bundle")
        if self.network.pair_rows == 2 and any(
            f.fused_weight or f.temperature_fused != 1 for f in self.fusion.values()
        ):
            raise ValueError("fusion asks a fused head, which the network has not")
        return self
