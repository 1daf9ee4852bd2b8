"""The interval of a ratio of medians, out of what a result keeps of its latencies."""

import math

import numpy as np
from numpy.typing import NDArray

from edgeskin.spec.bench import Histogram, Lane, Latency

Floats = NDArray[np.float64]
LEVEL = 0.95
REPEATS = 2000
HISTOGRAM_POINTS = 1000


def sample(lane: Lane) -> tuple[Floats, bool]:
    """Latencies in milliseconds to draw from: the thinned series in its order, else what the histogram implies."""
    if lane.series is not None and lane.series.core_ms:
        return np.asarray(lane.series.core_ms, np.float64), True
    return from_histogram(lane.core.histogram, lane.core), False


def from_histogram(histogram: Histogram, latency: Latency, most: int = HISTOGRAM_POINTS) -> Floats:
    """At most `most` latencies [n] as a histogram implies them: spread evenly within each bin, the tail up to the max.

    >>> one = Histogram(edges_ms=(1.0, 2.0, 3.0), counts=(2, 1), above=1)
    >>> from_histogram(one, Latency.model_construct(max_ms=7.0)).tolist()
    [1.25, 1.75, 2.5, 5.0]
    """
    edges = [*histogram.edges_ms, max(latency.max_ms, histogram.edges_ms[-1])]
    pieces = [
        low + (np.arange(count) + 0.5) / count * (high - low)
        for low, high, count in zip(edges[:-1], edges[1:], (*histogram.counts, histogram.above), strict=True)
        if count
    ]
    values = np.concatenate(pieces) if pieces else np.empty(0)
    if len(values) > most:
        values = values[((np.arange(most) + 0.5) / most * len(values)).astype(int)]
    return np.asarray(values, np.float64)


def interval(
    a: Floats, b: Floats, ratio: float, *, ordered: tuple[bool, bool] = (True, True), repeats: int = REPEATS,
    level: float = LEVEL, seed: int = 0,
) -> tuple[float, float]:  # fmt: skip
    """Bootstrap interval of the ratio of medians, B over A, around `ratio`, the one of all queries.

    Neighbours in time resemble each other, so a series is drawn in blocks of n^(1/3) (circular block bootstrap,
    Politis, Romano 1992); what has no order is drawn one by one. The medians of the thinned samples differ a little
    from those of all queries, so their spread is carried over to `ratio` on a logarithmic scale.

    >>> low, high = interval(np.array([1.0, 1.1, 0.9] * 40), np.array([0.5, 0.55, 0.45] * 40), 0.5)
    >>> 0.4 < low <= 0.5 <= high < 0.6
    True
    """
    generator = np.random.default_rng(seed)
    medians = [
        np.median(values[_draws(len(values), repeats, generator, math.ceil(len(values) ** (1 / 3)) if kept else 1)], 1)
        for values, kept in ((a, ordered[0]), (b, ordered[1]))
    ]
    spread = np.log(medians[1] / medians[0]) - math.log(float(np.median(b) / np.median(a)))
    low, high = np.quantile(spread, [(1 - level) / 2, (1 + level) / 2])
    return ratio * math.exp(float(low)), ratio * math.exp(float(high))


def _draws(n: int, repeats: int, generator: np.random.Generator, block: int) -> NDArray[np.int64]:
    """Indices [repeats, n]: blocks of neighbours from random places, the end joined to the beginning."""
    starts = generator.integers(0, n, (repeats, math.ceil(n / block)))
    drawn = (starts[:, :, None] + np.arange(block)) % n
    return np.asarray(drawn.reshape(repeats, -1)[:, :n], np.int64)
