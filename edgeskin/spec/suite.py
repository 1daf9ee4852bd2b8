"""Benchmark suite: which queries are put to a bundle, and when its figures count (benchmarks/suites/*.toml)."""

import itertools
from typing import Literal

from pydantic import Field, field_validator, model_validator

from edgeskin.spec.base import Spec

Scenario = Literal["single", "sparse", "stream", "offline"]


def _some_queries(count: int) -> int:
    """Refuse a benchmark of nothing in words of our own."""
    if count < 1:
        raise ValueError("zero queries measure nothing; 64 bound the p90, 662 the p99")
    return count


class SparseSpec(Spec):
    """Scenario `sparse`: an idle gap before every examination, as between two lesions."""

    gap_s: float = Field(default=5.0, gt=0, le=600)
    queries: int = 16  # a lane

    _some = field_validator("queries")(_some_queries)


class StreamSpec(Spec):
    """Scenario `stream`: a camera that delivers at its own pace, whether or not the last frame has been answered."""

    fps: float = Field(default=30.0, gt=0, le=1000)
    seconds: float = Field(default=20.0, gt=0)  # a lane

    @model_validator(mode="after")
    def _some_frames(self) -> "StreamSpec":
        if self.fps * self.seconds < 1:
            raise ValueError("a stream of less than one frame: raise fps or seconds")
        return self


class OfflineSpec(Spec):
    """Scenario `offline`: how many examinations a second, with one, two, ... of them in flight."""

    seconds: float = Field(default=5.0, gt=0)  # of each number in flight
    in_flight: tuple[int, ...] = Field(default=(1, 2, 4), min_length=1)

    @field_validator("in_flight")
    @classmethod
    def _rising(cls, numbers: tuple[int, ...]) -> tuple[int, ...]:
        if numbers[0] < 1 or any(b <= a for a, b in itertools.pairwise(numbers)):
            raise ValueError("numbers in flight rise from at least 1, as in [1, 2, 4]")
        return numbers


class Suite(Spec):
    """One run of the benchmark: warm-up until the latency is stationary, then timed queries of each scenario."""

    name: str = Field(min_length=1)
    scenarios: tuple[Scenario, ...] = Field(default=("single",), min_length=1)
    note: str = ""
    min_warmup: int = Field(default=20, ge=1)
    max_warmup: int = Field(default=400, ge=1)
    min_queries: int = 662  # of a lane of `single`; 662: the early-stopping bound of the p99 exists
    min_seconds: float = Field(default=10.0, ge=0)  # of the four lanes of `single` together
    max_seconds: float = Field(default=120.0, gt=0)  # of the same four
    sparse: SparseSpec = SparseSpec()
    stream: StreamSpec = StreamSpec()
    offline: OfflineSpec = OfflineSpec()
    frame_height: int = Field(default=1080, ge=32)  # the camera frame of the frame -> decision path
    frame_width: int = Field(default=1920, ge=32)
    threads: int = Field(default=0, ge=0)  # 0: all cores this process may use
    accuracy_lesions: int = Field(default=0, ge=0)  # 0: the whole test role
    cold_starts: int = Field(default=5, ge=0)  # new processes timed to their first decision
    bootstrap: int = Field(default=1000, ge=100)

    _some = field_validator("min_queries")(_some_queries)

    @field_validator("scenarios")
    @classmethod
    def _once(cls, names: tuple[Scenario, ...]) -> tuple[Scenario, ...]:
        if len(set(names)) < len(names):
            raise ValueError("a scenario is named twice")
        return names

    @model_validator(mode="after")
    def _limits(self) -> "Suite":
        if self.min_warmup > self.max_warmup:
            raise ValueError(f"min_warmup {self.min_warmup} is above max_warmup {self.max_warmup}")
        if self.min_seconds > self.max_seconds:
            raise ValueError(f"min_seconds {self.min_seconds:g} is above max_seconds {self.max_seconds:g}")
        return self
