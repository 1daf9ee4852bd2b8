"""Roles: which lesions train, calibrate, control and test. Disjoint, hashed."""

from typing import Literal

from pydantic import Field, model_validator

from edgeskin.spec.base import Spec

Role = Literal["train", "calibration", "control", "test"]
ROLES: tuple[Role, ...] = ("train", "calibration", "control", "test")


class RoleSpec(Spec):
    """Fractions of the lesions for each role, and the seed of the draw. What is left trains."""

    seed: int = 0
    calibration: float = Field(default=0.04, ge=0, lt=1)
    control: float = Field(default=0.06, ge=0, lt=1)
    test: float = Field(default=0.09, ge=0, lt=1)

    @model_validator(mode="after")
    def _room(self) -> "RoleSpec":
        if self.calibration + self.control + self.test >= 1:
            raise ValueError("calibration + control + test leave no lesion to train on")
        return self


class RoleRecord(Spec):
    """A role as it travels: how many lesions, and the hash of their sorted ids."""

    lesions: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
