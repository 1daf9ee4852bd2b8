"""Latency statistics against exact oracles, an independent binomial, and streams whose answer is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from edgeskin.benchmark import statistics
from edgeskin.spec.bench import Warmup

WARM = Warmup(queries=40, stationary=True, change=0.0)

# mlcommons/inference, loadgen/early_stopping.cc: queries needed to report the t-th highest latency
# (confidence 0.99, tolerance 0)
LOADGEN = {
    0.90: {1: 64, 2: 81, 5: 127, 10: 197},
    0.95: {1: 130, 2: 165, 5: 259, 10: 398},
    0.97: {1: 219, 2: 277, 5: 433, 10: 667},
    0.99: {1: 662, 2: 838, 5: 1307, 10: 2010},
}


@pytest.mark.parametrize(
    ("percentile", "rank", "queries"), [(p, t, n) for p, r in LOADGEN.items() for t, n in r.items()]
)
def test_early_stopping_equals_the_loadgen_table(percentile: float, rank: int, queries: int) -> None:
    assert statistics.early_stopping_needs(percentile, rank) == queries
    assert statistics.early_stopping_rank(queries, percentile) == rank
    assert statistics.early_stopping_rank(queries - 1, percentile) == rank - 1


@given(n=st.integers(1, 3000), t=st.integers(0, 40), share=st.floats(0.005, 0.6))
@settings(max_examples=60, deadline=None)
def test_binomial_sum_equals_scipy(n: int, t: int, share: float) -> None:
    assert statistics.binomial_cdf(t, n, share) == pytest.approx(binom.cdf(t, n, share), rel=1e-7, abs=1e-12)


@given(n=st.integers(1, 3000), percentile=st.sampled_from([0.9, 0.95, 0.99]))
@settings(max_examples=60, deadline=None)
def test_rank_is_the_largest_that_holds(n: int, percentile: float) -> None:
    rank = statistics.early_stopping_rank(n, percentile)
    if rank:
        assert binom.cdf(rank, n, 1 - percentile) <= 0.01
    assert binom.cdf(rank + 1, n, 1 - percentile) > 0.01


def test_bound_covers_the_true_percentile_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    true_p90 = math.log(10)  # of the exponential distribution
    runs = 600
    held = sum((statistics.bound(generator.exponential(size=200), 0.9).value_ms or 0) >= true_p90 for _ in range(runs))
    assert held / runs >= 0.985  # 99 % promised, less two standard errors


def test_percentiles_of_a_known_stream() -> None:
    found = statistics.latency([float(i) for i in range(1, 1001)], WARM)
    assert (found.p50_ms, found.p90_ms, found.p95_ms, found.p99_ms, found.max_ms) == (500, 900, 950, 990, 1000)
    assert found.min_ms == 1
    assert found.mean_ms == 500.5
    p90, p95, p99 = found.bounds
    assert p90.value_ms is not None
    assert p99.value_ms is not None
    assert found.p90_ms < p90.value_ms < (p95.value_ms or 0) < p99.value_ms < 1000
    assert p99.needs == 662


def test_too_few_queries_have_no_bound_and_do_not_count() -> None:
    found = statistics.latency([1.0] * 100, WARM)
    assert [bound.value_ms for bound in found.bounds] == [1.0, None, None]
    assert statistics.judge("a", found, 662) == ["a: 100 queries of at least 662"]
    assert statistics.judge("a", found, 100) == []


def test_drift_is_found_and_noise_is_not() -> None:
    generator = np.random.default_rng(5)
    noise = generator.gamma(4, 1, 662)
    assert not statistics.drift(noise).drifting
    rising = statistics.drift(noise * np.linspace(1, 1.4, 662))
    assert rising.drifting
    assert rising.change == pytest.approx(0.2, abs=0.1)
    assert not statistics.drift(np.linspace(10, 10.1, 662)).drifting  # certain, but 0.5 % is nothing


def test_no_trend_is_called_drift_no_more_often_than_its_level() -> None:
    generator = np.random.default_rng(7)
    alarms = sum(statistics.drift(generator.exponential(size=100)).drifting for _ in range(400))
    assert alarms <= 10  # level 1 %: 4 expected


def test_warm_up_ends_when_the_median_stands_still() -> None:
    falling = [10.0 * 0.95**i for i in range(60)]
    assert not statistics.is_stationary(falling)
    assert statistics.is_stationary(falling + [0.5] * 40)
    assert statistics.is_stationary([1.0, 100.0] + [1.0] * 38)  # one outlier does not move a median
    assert not statistics.is_stationary([1.0] * 39)


def test_outliers_and_what_they_do_to_validity() -> None:
    values = [10.0, 10.1, 10.2, 10.3] * 25
    assert statistics.outliers(values) == 0
    assert statistics.outliers([*values, 30.0]) == 1
    many = statistics.latency(values + [30.0] * 8, WARM)
    assert statistics.judge("a", many, 10) == ["a: 8 outliers in 108 queries"]


def test_a_warm_up_that_never_settled_is_a_reason() -> None:
    found = statistics.latency([1.0] * 64, Warmup(queries=60, stationary=False, change=-0.2))
    assert statistics.judge("a", found, 64) == ["a: still moving after 60 warm-up queries (-20.0%)"]
    verdict = statistics.verdict(statistics.judge("a", found, 64))
    assert not verdict.valid


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=200))
@settings(max_examples=60, deadline=None)
def test_histogram_loses_no_query(values: list[float]) -> None:
    found = statistics.histogram(values)
    assert sum(found.counts) + found.above == len(values)
    assert len(found.edges_ms) == len(found.counts) + 1


def test_ratio_interval_covers_and_rounds_stay_paired() -> None:
    generator = np.random.default_rng(11)
    machine = generator.gamma(20, 0.5, 400)  # slow and fast moments hit both graphs of a round
    core, reference = 0.4 * machine, machine
    found = statistics.ratio(core.tolist(), reference.tolist(), repeats=300)
    assert found.value == pytest.approx(0.4)
    assert found.low == pytest.approx(0.4)
    assert found.high == pytest.approx(0.4)
    noisy = statistics.ratio((core * generator.gamma(50, 0.02, 400)).tolist(), reference.tolist(), repeats=300)
    assert noisy.low < 0.4 < noisy.high
    with pytest.raises(ValueError, match="rounds differ"):
        statistics.ratio([1.0], [1.0, 2.0], repeats=10)


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=3000))
@settings(max_examples=60, deadline=None)
def test_a_thinned_series_is_short_in_order_and_keeps_its_extremes(values: list[float]) -> None:
    kept = statistics.thin(values)
    assert len(kept) <= 400
    assert kept == sorted(set(kept))
    assert len(values) > 400 or kept == list(range(len(values)))
    assert max(values[i] for i in kept) == max(values)
    assert min(values[i] for i in kept) == min(values)


def test_throttling_is_a_fall_of_more_than_a_tenth() -> None:
    assert statistics.throttled("a", 2000, 1801) == []
    assert statistics.throttled("a", 2000, 1799) == ["a: throttled, the clock fell from 2000 to 1799 MHz under load"]
    assert statistics.throttled("a", 2000, 2400) == []
    assert statistics.throttled("a", None, 900) == statistics.throttled("a", 900, None) == []


def test_idle_cores_do_not_hide_that_the_working_ones_slowed() -> None:
    before = statistics.working_clock([2400, 2400, 800, 800], threads=2)
    after = statistics.working_clock([1800, 1800, 900, 900], threads=2)
    assert (before, after) == (2400, 1800)
    assert statistics.throttled("a", before, after)
