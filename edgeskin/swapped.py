"""What tells a clinical from a dermoscopic frame in one's own data, for the flag `swapped` of the quality gate."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeskin.quality import flags, measure
from edgeskin.spec.quality import LOOKS, Quality

_FEWEST = 16  # pairs of a role: fewer cannot show anything
_MOST = 1000  # pairs of a role that are looked at, evenly spread
_FLAGGED = 0.005  # share of rightly given pairs that may be flagged
_FOUND, _WANTED = 0.5, 0.95  # shares of exchanged pairs: at least, and as many as the threshold is set for
_RIDGE = 1.0
_LARGEST = 1_000_000  # weight

Pairs = Sequence[NDArray[np.uint8]]


def fitted(calibration: Pairs, control: Pairs, given: Quality | None = None) -> tuple[Quality, str]:
    """Weights of `swapped` from the calibration role, and their threshold from the control role.

    A logistic regression with ridge on clinical minus dermoscopic, without constant: exchanged images have the same
    score with the other sign. The threshold flags at most 0.5 % of the control role; where classes lie well apart it is
    set to find 95 % of exchanged pairs and no more, which leaves room to images from elsewhere.

    Args:
        calibration: frames uint8 [2, H, W, 3], the clinical one first.
        control: the same, of other lesions.

    Returns:
        `given`, or the defaults, with weights and threshold, or without where they would find less than half; and a
        note for people.
    """
    spec = given or Quality()
    train, held = (_differences(pairs, spec) for pairs in (calibration, control))
    if min(len(train), len(held)) < _FEWEST:
        return (
            spec,
            f"swapped images cannot be told: {len(train)} and {len(held)} pairs, {_FEWEST} are needed of each role",
        )
    weights = _weights(train)
    scores = np.sort(held @ weights)
    allowed, wanted = int(_FLAGGED * len(scores)), int((1 - _WANTED) * len(scores))
    threshold = min(int(scores[allowed]), -int(scores[wanted]))
    found, flagged = float((-scores < threshold).mean()), int((scores < threshold).sum())
    told = f"{found:.1%} of the control role's pairs if exchanged, {flagged} of {len(scores)} as they are"
    if found < _FOUND:
        return spec, f"swapped images cannot be told: flagged would be {told}"
    chosen = {"swapped_weights": tuple(int(w) for w in weights), "swapped_threshold": threshold}
    return spec.model_copy(update=chosen), f"swapped images: flagged are {told}"


def _differences(pairs: Pairs, spec: Quality) -> NDArray[np.int64]:
    """LOOKS of the clinical minus those of the dermoscopic frame, int64 [pairs, LOOKS], without empty frames."""
    rows = []
    for place in np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), _MOST)).round().astype(int)):
        clinical, dermoscopic = measure(pairs[int(place)], spec)[0]
        empty = [flags(one, spec, dermoscopic=False) == {"empty"} for one in (clinical, dermoscopic)]
        if not any(empty):
            rows.append(np.subtract(clinical.look, dermoscopic.look))
    return np.array(rows, np.int64).reshape(-1, len(LOOKS))


def _weights(differences: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whole weights, the largest of 1,000,000, by Newton's method.

    >>> _weights(np.eye(8, dtype=np.int64)[:1].repeat(20, axis=0) * 50).tolist()
    [1000000, 0, 0, 0, 0, 0, 0, 0]
    """
    scale = np.maximum(np.sqrt((differences.astype(np.float64) ** 2).mean(0)), 1.0)
    x = differences / scale
    weights = np.zeros(x.shape[1])
    for _ in range(30):
        right = 1 / (1 + np.exp(-np.clip(x @ weights, -50, 50)))
        slope = x.T @ (1 - right) - _RIDGE * weights
        curve = (x.T * (right * (1 - right))) @ x + _RIDGE * np.eye(len(weights))
        weights += np.linalg.solve(curve, slope)
    plain = weights / scale
    return np.asarray(np.rint(plain * (_LARGEST / max(np.abs(plain).max(), 1e-12))), np.int64)
