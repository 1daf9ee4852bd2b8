"""Device profile: what a board is and what runs on it (devices/<board>/profile.toml)."""

from typing import Literal

from pydantic import Field

from edgeskin.spec.base import Spec


class Device(Spec):
    """Published figures of a board, with their sources. Nothing here is a measurement of ours."""

    name: str = Field(min_length=1)
    title: str
    arch: Literal["x86_64", "aarch64"]
    targets: tuple[str, ...] = Field(min_length=1)
    processor: str = ""
    memory_gb: float | None = Field(default=None, gt=0)
    bandwidth_gb_s: float | None = Field(default=None, gt=0)
    int8_tops: float | None = Field(default=None, gt=0)
    sm: str = ""
    dla_cores: int = Field(default=0, ge=0)
    power_modes_w: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()  # field names above that no public document has confirmed to us
