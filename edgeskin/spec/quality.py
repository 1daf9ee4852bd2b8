"""When an image can be judged: a threshold for each fault, measured on the frame that the network sees."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from edgeskin.spec.base import Spec

Flag = Literal["empty", "dark", "bright", "saturated", "blurred", "vignette", "identical", "swapped"]
FLAGS: tuple[Flag, ...] = ("empty", "dark", "bright", "saturated", "blurred", "vignette", "identical", "swapped")
# What `swapped` weighs, clinical minus dermoscopic; see edgeskin.quality.Measures.look.
LOOKS = ("luma", "red_green", "green_blue", "spread", "centre", "sharpness", "fine", "coarse")

Level = Annotated[int, Field(ge=0, le=256)]  # grey levels 0..255; 256 is above all of them
Share = Annotated[int, Field(ge=0, le=10_001)]  # in 1/10,000; 10,001 is above all of them
Weight = Annotated[int, Field(ge=-1_000_000, le=1_000_000)]


class Quality(Spec):
    """Thresholds of the quality gate. Whole numbers, so that every implementation decides alike.

    Grey levels are luma, 0..255; `x16` counts sixteenths of one; shares and ratios count 1/10,000. A frame that is
    empty has no other flag; neither blur nor rim is told of a dark one, nor blur of a bright one. The defaults were
    chosen on the control role of MILK10k, so that at most 0.5 % of its images have each flag that fails.
    """

    black_luma: Level = 12
    black_share: Share = 9_500  # empty: so many pixels are darker than black_luma,
    spread_x16: int = Field(default=12, ge=0, le=4096)  # or the 8 x 8 parts of the frame differ by less from their mean
    dark_luma: Level = 60
    dark_share: Share = 7_500  # dark: so many pixels are darker than dark_luma
    bright_luma: Level = 228
    bright_share: Share = 5_000  # bright: so many pixels have bright_luma or more
    saturated_level: Level = 250
    saturated_share: Share = 2_000  # saturated: so many values of red, green and blue reach saturated_level
    # blurred: differences 2 px apart, over those 4 px apart, along rows or columns, whichever is less
    blurred_clinical: Share = 4_900
    blurred_dermoscopic: Share = 4_780
    rim_luma: Level = 48
    vignette_share: Share = 3_500  # vignette: so many pixels of the four corners are darker than rim_luma
    identical_x16: int = Field(default=96, ge=0, le=4096)  # identical: the mean difference of luma is less
    # swapped: sum of weight * (clinical - dermoscopic) over LOOKS is less than the threshold; all zero: cannot tell
    swapped_weights: tuple[Weight, ...] = (0, 0, 0, 0, 0, 0, 0, 0)
    swapped_threshold: int = Field(default=0, ge=-(2**53), le=2**53)  # whole also for readers with double precision
    # Which flags make a lesion not assessable; the others are only told. Many a dermoscope has a dark rim.
    fails: tuple[Flag, ...] = ("empty", "dark", "bright", "saturated", "blurred", "identical", "swapped")

    @field_validator("swapped_weights")
    @classmethod
    def _one_a_look(cls, weights: tuple[int, ...]) -> tuple[int, ...]:
        if len(weights) != len(LOOKS):
            raise ValueError(f"one weight for each of {', '.join(LOOKS)}")
        return weights

    @field_validator("fails")
    @classmethod
    def _once(cls, fails: tuple[Flag, ...]) -> tuple[Flag, ...]:
        if len(set(fails)) != len(fails):
            raise ValueError("a flag is named twice")
        return fails
