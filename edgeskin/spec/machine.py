"""What a measurement ran on: the record of the machine, and readings of its sensors."""

from pydantic import Field, JsonValue

from edgeskin.spec.base import Spec


class Environment(Spec):
    """What the figures were measured on. A field that could not be read is null and named in `absent`."""

    cpu_model: str | None
    board: str | None
    cpu_features: tuple[str, ...]  # of those that matter to INT8 and FP32 inference
    arch: str
    cores_online: int | None
    cores_usable: int
    cpu_quota_cores: float | None  # of the control group
    governor: str | None
    memory_bytes: int | None
    memory_limit_bytes: int | None  # of the control group
    os: str | None
    kernel: str
    python: str
    versions: dict[str, str | None]
    threads: int
    backend: dict[str, JsonValue]  # what the classifier says of itself
    git_revision: str | None
    measured: str  # ISO 8601, UTC
    absent: dict[str, str]  # field -> why it is null
    power_mode: str | None = None  # of nvpmodel on a Jetson
    l4t: str | None = None
    jetpack: str | None = None  # a range where the release does not tell more
    cuda: str | None = None
    tensorrt: str | None = None
    smt: bool | None = None  # two threads a core
    turbo: bool | None = None  # clocks above the nominal one are allowed
    numa_nodes: int | None = None


class Sensors(Spec):
    """One reading of the machine. What is not there is named in `absent` with its reason."""

    peak_rss_bytes: int | None
    cpu_mhz: tuple[float, ...]  # a core each
    thermal_c: dict[str, float]  # zone -> degrees Celsius
    load_1min: float | None
    absent: dict[str, str]
    rss_bytes: int | None = None  # held now
    gpu_mhz: dict[str, float] = Field(default_factory=dict)  # of a GPU on the chip, by clock domain
    gpu_load: float | None = None  # share of time, 0 to 1
    throttle: dict[str, int] = Field(default_factory=dict)  # flags and counters of clocks held back


class Energy(Spec):
    """Energy of a stretch of work, read from the machine's own sensors; never estimated."""

    source: str  # "rapl", "ina3221", "ina238"
    seconds: float
    joules: float  # of the rail or domain that feeds everything the source sees
    idle_w: float | None  # power at rest, measured before the work
    per_examination_mj: float | None  # less what idling for as long would have taken
    rails_j: dict[str, float]
    absent: dict[str, str] = Field(default_factory=dict)
    covers: str = ""  # what the joules are of: the whole board, the module, the processor with its memory
    examinations: int | None = None
    samples: int = 0  # readings that the figure is made of
    period_s: float | None = None  # between readings
