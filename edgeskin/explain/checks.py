"""How far saliency may be believed: what the network loses with the salient pixels, and what maps of no network are."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeskin import bootstrap, compared, out
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
    explainer: "Explainer",
    lesions: Iterable[NDArray[np.uint8]],
    groups: Ints,
    task: str,
    asked: int | None,
    seed: int,
) -> tuple[Deletion, Randomised]:
    """Both checks on the maps that are shown: of one class in all lesions, or of the most probable one of each.

    Args:
        lesions: frames uint8 [images, H, W, 3] of each, the clinical one first.
        groups: number of the patient of each lesion; whole patients are drawn for the intervals.
        asked: number of the class; None: the most probable one of each lesion.
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
            chosen = int(probabilities.argmax()) if asked is None else asked
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
        salient=mean(salient, groups, weights),
        random=mean(random, groups, weights),
        middle=mean(disc, groups, weights),
        over_random=mean(salient - random, groups, weights),
        over_middle=mean(salient - disc, groups, weights),
    )
    signed, absolute = (mean(column, groups, weights) for column in np.array(correlations).T)
    return deletion, Randomised(lesions=len(groups), networks=NETWORKS, correlation=signed, magnitude=absolute)


def mean(values: Floats, groups: Ints, weights: Floats) -> Estimate:
    """Mean over lesions with its 95 % interval; values that are not known are left out.

    Args:
        groups: number of the patient of each lesion.
        weights: draws of patients, as of `bootstrap.draws`.

    >>> draws = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
    >>> found = mean(np.array([0.2, 0.4]), np.array([0, 1]), draws)
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
    (0.3, 0.205, 0.395)
    >>> mean(np.array([0.2, 0.4]), np.array([0, 0]), np.ones((3, 2))).low is None  # one patient, always the same mean
    True
    """
    known = ~np.isnan(values)
    if not known.any():
        return Estimate(reason="no lesion has a map that varies")
    means = bootstrap.mean(weights[:, known], values[known])
    if len(np.unique(groups[known])) < 2:
        return Estimate(value=float(means[0]), reason="no interval: all lesions are of one patient")
    left_out = int((~known).sum())
    reason = f"{left_out} of {len(values)} lesions left out: a map does not vary" if left_out else ""
    return compared.estimate(means, "", reason)


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
    """Mean rank correlation with other networks' maps over networks and images, and of its absolute value; NaN if no
    two of them vary."""
    from scipy.stats import spearmanr

    both = [(plane, other[kind]) for other in others for kind, plane in maps.items()]
    vary = [(one, other) for one, other in both if np.ptp(one) > 0 and np.ptp(other) > 0]
    found = np.array([spearmanr(one, other, axis=None).statistic for one, other in vary])
    return (float(found.mean()), float(np.abs(found).mean())) if len(found) else (float("nan"), float("nan"))
