"""How far saliency may be believed: what the network loses with the salient pixels, and what maps of no network are."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeskin import bootstrap, out
from edgeskin.explain.masks import SHARE, Mask, blanked, enlarged, middle, most_salient
from edgeskin.spec.explanation import KINDS, Deletion, Kind, Randomised
from edgeskin.spec.result import Estimate

if TYPE_CHECKING:
    from edgeskin.model.saliency import Explainer

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
PATCHES = 4  # random maps for each lesion
NETWORKS = 3  # with random weights
REPEATS = 2000  # bootstrap draws


def check(
    explainer: "Explainer", lesions: Iterable[NDArray[np.uint8]], groups: Ints, task: str, seed: int
) -> tuple[Deletion, Randomised]:
    """Both checks on the predicted class of each lesion.

    Args:
        lesions: frames uint8 [images, H, W, 3] of each, the clinical one first.
        groups: number of the patient of each lesion; whole patients are drawn for the intervals.
        seed: of random maps, random weights and draws.
    """
    from edgeskin.model.saliency import Explainer, random_network

    strangers = [
        Explainer(random_network(explainer.record, seed + number), explainer.record, explainer.method, explainer.place)
        for number in range(NETWORKS)
    ]
    before, falls, correlations = [], [], []
    with out.progress("checking the maps", len(groups)) as step:
        for number, frames in enumerate(lesions):
            probabilities = explainer.probabilities(frames[None], task)[0]
            chosen = int(probabilities.argmax())
            maps = explainer.maps(frames, task, chosen)
            before.append(float(probabilities[chosen]))
            falls.append(_falls(explainer, frames, maps, task, chosen, np.random.default_rng([seed, number])))
            correlations.append(_alike(maps, [one.maps(frames, task, chosen) for one in strangers]))
            step()
    fallen = np.array(falls)  # [lesions, 3]
    weights = bootstrap.draws(groups, REPEATS, seed=seed)
    salient, random, disc = fallen.T
    deletion = Deletion(
        lesions=len(groups),
        share=SHARE,
        patches=PATCHES,
        probability=float(np.mean(before)),
        salient=mean(salient, weights),
        random=mean(random, weights),
        middle=mean(disc, weights),
        over_random=mean(salient - random, weights),
        over_middle=mean(salient - disc, weights),
    )
    signed, absolute = (mean(column, weights) for column in np.array(correlations).T)
    return deletion, Randomised(lesions=len(groups), networks=NETWORKS, correlation=signed, magnitude=absolute)


def mean(values: Floats, weights: Floats) -> Estimate:
    """Mean over lesions with its 95 % interval; values that are not known are left out.

    >>> mean(np.array([0.2, 0.4]), np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]])).value
    0.3
    """
    known = ~np.isnan(values)
    if not known.any():
        return Estimate(reason="no lesion has a map that varies")
    count = weights[:, known].sum(1)
    means = np.full(len(weights), np.nan)
    np.divide(weights[:, known] @ values[known], count, out=means, where=count > 0)
    value, low, high = (round(float(number), 6) for number in bootstrap.interval(means))
    reason = "" if known.all() else f"{int((~known).sum())} of {len(values)} lesions left out: a map does not vary"
    return Estimate(value=value, low=low, high=high, reason=reason)


def rank_correlation(one: Floats, other: Floats) -> float:
    """Spearman's rank correlation of two maps of equal shape; NaN where one of them does not vary.

    >>> rank_correlation(np.array([[1.0, 2.0], [3.0, 9.0]]), np.array([[0.1, 0.2], [0.4, 0.3]])).round(3).item()
    0.8
    """
    from scipy.stats import rankdata

    a, b = rankdata(one), rankdata(other)
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return np.float64(a @ b / scale) if scale > 0 else np.float64("nan")


def _falls(
    explainer: "Explainer",
    frames: NDArray[np.uint8],
    maps: Mapping[Kind, Floats],
    task: str,
    chosen: int,
    rng: np.random.Generator,
) -> tuple[float, float, float]:
    """Fall of the probability without the salient pixels, without random ones (mean), without the middle."""
    height, width = frames.shape[1:3]
    kinds = KINDS[-len(frames) :]

    def without(masks: Sequence[Mask]) -> NDArray[np.uint8]:
        return np.stack([blanked(frame, mask) for frame, mask in zip(frames, masks, strict=True)])

    def salient(planes: Sequence[Floats]) -> list[Mask]:
        return [most_salient(enlarged(plane, height, width)) for plane in planes]

    # A random map of the same grain, enlarged alike: as many pixels in patches of the same size.
    random = [salient([rng.normal(size=maps[kind].shape) for kind in kinds]) for _ in range(PATCHES)]
    cases = [salient([maps[kind] for kind in kinds]), *random, [middle(height, width)] * len(frames)]
    found = explainer.probabilities(np.stack([frames, *(without(masks) for masks in cases)]), task)[:, chosen]
    falls = found[0] - found[1:]
    return float(falls[0]), float(falls[1:-1].mean()), float(falls[-1])


def _alike(maps: Mapping[Kind, Floats], others: Sequence[Mapping[Kind, Floats]]) -> tuple[float, float]:
    """Mean rank correlation with other networks' maps over networks and images, and of its absolute value; NaN if none
    can be told."""
    found = np.array([rank_correlation(plane, other[kind]) for other in others for kind, plane in maps.items()])
    known = found[~np.isnan(found)]
    return (float(known.mean()), float(np.abs(known).mean())) if len(known) else (float("nan"), float("nan"))
