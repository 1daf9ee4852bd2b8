"""Benchmark suite: which queries are put to a bundle, and when its figures count (benchmarks/suites/*.toml)."""

from typing import Literal

from pydantic import Field

from edgeskin.spec.base import Spec


Scenario = Literal["single", "sparse", "stream", "offline"]


class Suite(Spec):
    """One run of the benchmark: warm-up until the latency is stationary, then timed queries."""

    name: str = Field(min_length=1)
    scenario: Literal["single"] = "single"
    note: str = ""
    min_warmup: int = Field(default=20, ge=1)
    max_warmup: int = Field(default=400, ge=1)
    min_queries: int = Field(default=662, ge=1)  # 662: the early-stopping bound of the p99 exists
    min_seconds: float = Field(default=10.0, ge=0)
    max_seconds: float = Field(default=120.0, gt=0)
    frame_height: int = Field(default=1080, ge=32)  # the camera frame of the frame -> decision path
    frame_width: int = Field(default=1920, ge=32)
    threads: int = Field(default=0, ge=0)  # 0: all cores this process may use
    accuracy_lesions: int = Field(default=0, ge=0)  # 0: the whole test role
    cold_starts: int = Field(default=5, ge=0)  # new processes timed to their first decision
    bootstrap: int = Field(default=1000, ge=100)
