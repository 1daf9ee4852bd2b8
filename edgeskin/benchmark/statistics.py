"""Statistics of latencies: percentiles with confidence, drift, warm-up, outliers, and when a run counts."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeskin import metrics
from edgeskin.spec.bench import Bound, Drift, Histogram, Latency, Ratio, Validity, Warmup

Floats = NDArray[np.float64]
CONFIDENCE = 0.99  # of the early-stopping bounds, as LoadGen's
WINDOW = 20  # queries in each of the two windows the warm-up compares
STATIONARY = 0.05  # largest change of the median between them
DRIFT_P = 0.01
DRIFT_CHANGE = 0.05  # a change smaller than this is no drift, however certain
OUTLIER_SHARE = 0.05
OTHERS_SHARE = 0.15
BINS = 48
POINTS = 400  # of a series that is kept for a picture
THROTTLED = 0.10  # fall of the clock under load


def _binomial_log_terms(n: int, share: float, t: int) -> list[float]:
    """Logarithms of P[Binomial(n, share) = k] for k = 0..t."""
    return [
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + k * math.log(share)
        + (n - k) * math.log1p(-share)
        for k in range(t + 1)
    ]


def binomial_cdf(t: int, n: int, share: float) -> float:
    """P[Binomial(n, share) <= t], summed exactly.

    >>> round(binomial_cdf(1, 64, 0.1), 5)
    0.00956
    """
    if t < 0:
        return 0.0
    return min(1.0, math.fsum(math.exp(term) for term in _binomial_log_terms(n, share, min(t, n))))


def early_stopping_rank(n: int, percentile: float, confidence: float = CONFIDENCE) -> int:
    """The largest t with P[Binomial(n, 1 - percentile) <= t] <= 1 - confidence; 0 if there is none.

    The t-th highest of n independent latencies bounds the percentile from above with that confidence
    (MLPerf LoadGen, early_stopping.cc, tolerance 0).

    >>> early_stopping_rank(63, 0.9), early_stopping_rank(64, 0.9), early_stopping_rank(662, 0.99)
    (0, 1, 1)
    """
    total, limit = 0.0, 1 - confidence
    for k, term in enumerate(_binomial_log_terms(n, 1 - percentile, n)):
        total += math.exp(term)
        if total > limit:
            return max(0, k - 1)
    return n  # not reached: the terms sum to one


def early_stopping_needs(percentile: float, rank: int = 1, confidence: float = CONFIDENCE) -> int:
    """The fewest queries for which the rank-th highest latency is a bound.

    >>> [early_stopping_needs(0.9, t) for t in (1, 2, 5, 10)]
    [64, 81, 127, 197]
    """
    low, high = rank, 2 * rank
    while binomial_cdf(rank, high, 1 - percentile) > 1 - confidence:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if binomial_cdf(rank, middle, 1 - percentile) <= 1 - confidence:
            high = middle
        else:
            low = middle
    return high


def bound(latencies_ms: Sequence[float] | Floats, percentile: float) -> Bound:
    """The early-stopping bound of a percentile, or how many queries it needs.

    >>> bound([1.0] * 63 + [9.0], 0.9).value_ms, bound([1.0] * 63, 0.9).value_ms, bound([1.0], 0.99).needs
    (9.0, None, 662)
    """
    ranked = np.sort(np.asarray(latencies_ms, np.float64))[::-1]
    rank = early_stopping_rank(len(ranked), percentile)
    value = float(ranked[rank - 1]) if rank else None
    return Bound(percentile=percentile, value_ms=value, needs=early_stopping_needs(percentile))


def warmup_change(latencies_ms: Sequence[float], window: int = WINDOW) -> float | None:
    """Relative change of the median between the last two windows; None before there are two.

    >>> warmup_change([4.0] * 20 + [2.0] * 20), warmup_change([4.0] * 39)
    (-0.5, None)
    """
    if len(latencies_ms) < 2 * window:
        return None
    before = float(np.median(latencies_ms[-2 * window : -window]))
    return float(np.median(latencies_ms[-window:])) / before - 1


def is_stationary(latencies_ms: Sequence[float], window: int = WINDOW) -> bool:
    """Whether the last two windows of a warm-up have medians within STATIONARY of each other."""
    change = warmup_change(latencies_ms, window)
    return change is not None and abs(change) <= STATIONARY


def drift(latencies_ms: Sequence[float] | Floats) -> Drift:
    """Whether latencies rise or fall over a run: Cox-Stuart sign test, two-sided and exact (Cox, Stuart 1955).

    Each query of the first half is paired with its counterpart in the second; under no trend the signs are
    fair coins. It drifts when that is refuted at DRIFT_P and the median moved by more than DRIFT_CHANGE.

    >>> drift([float(i) for i in range(100)]).drifting, drift([1.0, 2.0] * 50).drifting
    (True, False)
    """
    values = np.asarray(latencies_ms, np.float64)
    half = len(values) // 2
    if half < 8:
        return Drift(p_value=None, change=None, drifting=False)
    first, second = values[:half], values[-half:]
    rises, falls = int((second > first).sum()), int((second < first).sum())
    p_value = min(1.0, 2 * binomial_cdf(min(rises, falls), rises + falls, 0.5)) if rises + falls else 1.0
    change = float(np.median(second) / np.median(first) - 1)
    return Drift(p_value=p_value, change=change, drifting=p_value < DRIFT_P and abs(change) > DRIFT_CHANGE)


def outliers(latencies_ms: Sequence[float] | Floats) -> int:
    """How many lie above the third quartile by more than three interquartile ranges (Tukey's outer fence).

    >>> outliers([1.0, 2.0, 3.0, 4.0] * 10 + [100.0])
    1
    """
    values = np.asarray(latencies_ms, np.float64)
    low, high = np.quantile(values, [0.25, 0.75])
    return int((values > high + 3 * (high - low)).sum())


def histogram(latencies_ms: Sequence[float] | Floats, bins: int = BINS) -> Histogram:
    """Counts in equal bins from the minimum to 1.25 times the p99; a long tail is counted, not drawn.

    >>> found = histogram([1.0] * 99 + [50.0], bins=4)
    >>> sum(found.counts), found.above
    (99, 1)
    """
    values = np.asarray(latencies_ms, np.float64)
    low, high = float(values.min()), float(metrics.percentile(values, 0.99)) * 1.25
    counts, edges = np.histogram(values, bins=bins, range=(low, high))
    return Histogram(
        edges_ms=tuple(round(float(edge), 5) for edge in edges),
        counts=tuple(int(count) for count in counts),
        above=int((values > high).sum()),
    )


def latency(latencies_ms: Sequence[float] | Floats, warmup: Warmup) -> Latency:
    """All figures of one series of latencies in milliseconds.

    >>> found = latency([1.0] * 90 + [2.0] * 10, Warmup(queries=0, stationary=True, change=0.0))
    >>> found.p50_ms, found.p90_ms, found.p95_ms, found.max_ms
    (1.0, 1.0, 2.0, 2.0)
    """
    values = np.asarray(latencies_ms, np.float64)
    return Latency(
        queries=len(values),
        min_ms=float(values.min()),
        mean_ms=float(values.mean()),
        p50_ms=metrics.percentile(values, 0.50),
        p90_ms=metrics.percentile(values, 0.90),
        p95_ms=metrics.percentile(values, 0.95),
        p99_ms=metrics.percentile(values, 0.99),
        max_ms=float(values.max()),
        bounds=tuple(bound(values, share) for share in (0.90, 0.95, 0.99)),
        outliers=outliers(values),
        drift=drift(values),
        warmup=warmup,
        histogram=histogram(values),
    )


def ratio(core_ms: Sequence[float], reference_ms: Sequence[float], *, repeats: int, seed: int = 0) -> Ratio:
    """Median over median, with a bootstrap interval over rounds: a round asks both graphs, so it is drawn whole.

    Raises:
        ValueError: the two differ in length or are empty (a fault of the caller).

    >>> ratio([1.0, 1.1, 0.9] * 20, [2.0, 2.2, 1.8] * 20, repeats=200).value
    0.5
    """
    if len(core_ms) != len(reference_ms) or not len(core_ms):
        raise ValueError(f"rounds differ: {len(core_ms)} and {len(reference_ms)}")
    core, reference = np.asarray(core_ms, np.float64), np.asarray(reference_ms, np.float64)

    def of(rounds: NDArray[np.int64]) -> float:
        return float(np.median(core[rounds]) / np.median(reference[rounds]))

    low, high = metrics.bootstrap_interval(of, len(core), repeats=repeats, seed=seed)
    return Ratio(value=of(np.arange(len(core))), low=low, high=high)


def judge(name: str, found: Latency, min_queries: int) -> list[str]:
    """Why a series of latencies does not count; empty when it does."""
    reasons = []
    if found.queries < min_queries:
        reasons.append(f"{name}: {found.queries} queries of at least {min_queries}")
    if not found.warmup.stationary:
        change = "unknown" if found.warmup.change is None else f"{found.warmup.change:+.1%}"
        reasons.append(f"{name}: still moving after {found.warmup.queries} warm-up queries ({change})")
    if found.drift.drifting:
        reasons.append(f"{name}: drifts by {found.drift.change:+.1%} over the run (p = {found.drift.p_value:.1g})")
    if found.outliers > OUTLIER_SHARE * found.queries:
        reasons.append(f"{name}: {found.outliers} outliers in {found.queries} queries")
    return reasons


def verdict(reasons: Sequence[str]) -> Validity:
    """Valid when there is no reason against it."""
    return Validity(valid=not reasons, reasons=tuple(reasons))


def thin(values: Sequence[float] | Floats, points: int = POINTS) -> list[int]:
    """Which of a series to keep for a picture: the lowest and the highest of each stretch, so that no spike is lost.

    Returns:
        Indices in rising order, at most `points`; all of them where the series is that short.

    >>> thin([1.0, 9.0, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0], points=4)
    [0, 1, 4, 5]
    """
    values = np.asarray(values, np.float64)
    if len(values) <= points:
        return list(range(len(values)))
    kept: set[int] = set()
    for stretch in np.array_split(np.arange(len(values)), points // 2):
        kept |= {int(stretch[values[stretch].argmin()]), int(stretch[values[stretch].argmax()])}
    return sorted(kept)


def working_clock(clocks_mhz: Sequence[float], threads: int) -> float | None:
    """Mean clock of the `threads` fastest cores, those that work; None where no clock is known.

    >>> working_clock([800.0, 2400.0, 2200.0, 800.0], threads=2), working_clock([], 2)
    (2300.0, None)
    """
    fastest = sorted(clocks_mhz, reverse=True)[: max(1, threads)]
    return sum(fastest) / len(fastest) if fastest else None


def throttled(name: str, before_mhz: float | None, after_mhz: float | None) -> list[str]:
    """The reason when the clock fell by more than THROTTLED between two readings, both under load.

    >>> throttled("pair network", 2000.0, 1700.0), throttled("pair network", 2000.0, 1900.0), throttled("a", None, None)
    (['pair network: throttled, the clock fell from 2000 to 1700 MHz under load'], [], [])
    """
    if not before_mhz or not after_mhz or after_mhz >= (1 - THROTTLED) * before_mhz:
        return []
    return [f"{name}: throttled, the clock fell from {before_mhz:.0f} to {after_mhz:.0f} MHz under load"]
