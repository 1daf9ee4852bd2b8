"""Golden cases: drawn pairs and what a build answers to them. No patient's image travels in a bundle."""

import numpy as np
from numpy.typing import NDArray

from edgeskin import decide, out
from edgeskin.backends import Session
from edgeskin.bundle import Golden
from edgeskin.preprocess import prepare
from edgeskin.scoring import Deciding
from edgeskin.spec.manifest import IMAGES, Mode
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.recipe import Precision

# max |logits - expected| on another machine of the kind. INT8 kernels differ in saturation and rounding between
# instruction sets (up to 0.15 logits seen between x86-64 and aarch64); FP32 only in the order of sums.
TOLERANCE: dict[Precision, float] = {"int8": 0.5, "fp16": 0.1, "fp32": 0.02}
DRAWN, _KEPT = 24, 4


def drawn(how: Preprocess) -> NDArray[np.uint8]:
    """Frames [24, 2, H, W, 3] of drawn pairs, the clinical one first; always the same ones."""
    from edgeskin.data.phantom import cases
    from edgeskin.data.phantom_draw import draw

    return np.stack(
        [
            np.stack([prepare(view, how) for view in draw(case.latent, max(160, how.height))])
            for case in out.track(cases(DRAWN, seed=7), "drawing golden cases")
        ]
    )


def asked(session: Session, frames: NDArray[np.uint8], mode: Mode) -> NDArray[np.float32]:
    """Logits [cases, rows, K] of drawn pairs in one mode."""
    return np.stack([session.run(pair[-IMAGES[mode] :]) for pair in frames])


def surest(
    frames: NDArray[np.uint8], logits: NDArray[np.float32], mode: Mode, deciding: Deciding, precision: Precision
) -> list[Golden]:
    """The four cases of which the decisions are surest: one near a tie would fail on another processor that rounds
    rightly."""
    order = sorted(range(len(frames)), key=lambda case: -margin(logits[case], mode, deciding))
    return [
        Golden(f"{mode}-{case}", mode, frames[case, -IMAGES[mode] :], logits[case], TOLERANCE[precision])
        for case in order[:_KEPT]
    ]


def margin(logits: NDArray[np.float32], mode: Mode, deciding: Deciding) -> float:
    """Smallest gap in probability between a task's first and second class, or between target and threshold."""
    schema = deciding.task_schema
    probabilities = decide.task_probabilities(logits, schema, deciding.fusion, mode)
    gaps = [float(np.diff(np.sort(p)[-2:])[0]) for p in probabilities.values()]
    limit = decide.threshold(deciding.thresholds, mode)
    return min(*gaps, abs(float(decide.target_probability(probabilities, schema)) - limit))
