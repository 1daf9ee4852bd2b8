"""Whether a claim holds: an interval that hangs on lesions and on seeds, held against a bound."""

import math

from edgeskin.spec.sweep_result import Figure, Verdict

_NORMAL = 1.96  # arms of a 95 % interval in standard errors


def widened(value: float, low: float, high: float, spread: float, seeds: int) -> tuple[float, float]:
    """The interval of a mean that hangs on lesions and on seeds, from the one over lesions and the seeds' spread.

    Either arm is t * sqrt(b^2 + spread^2 / seeds), b the arm given / 1.96, t Student's 97.5 % quantile at the degrees
    of freedom of such a sum (Satterthwaite, Biometrics Bulletin 2, 1946): seeds - 1 where seeds are all, and without
    end where lesions are. What a seed makes of single lesions is counted in both parts, which makes it wider than need
    be where that is much: a claim about equal networks then holds in 0.5 % of the sweeps, where 2.5 % are meant.

    Args:
        spread: standard deviation over the seeds (n - 1).
        seeds: how many, at least 2.

    >>> low, high = widened(0.02, 0.0, 0.06, spread=0.01, seeds=3)  # below: t of 34 degrees, 2.032, * 0.01172
    >>> round(low, 4), round(high, 4)
    (-0.0038, 0.0617)
    >>> widened(0.5, 0.4, 0.6, spread=0.0, seeds=3)
    (0.4, 0.6)
    """

    def wider(arm: float) -> float:
        from scipy.special import stdtrit

        lesions, of_seeds = (arm / _NORMAL) ** 2, spread**2 / seeds
        if not of_seeds:
            return arm
        freedom = (seeds - 1) * (1 + lesions / of_seeds) ** 2
        return float(stdtrit(freedom, 0.975)) * math.sqrt(lesions + of_seeds)

    return value - wider(value - low), value + wider(high - value)


def decide_on(difference: Figure | None, at_least: float) -> tuple[Verdict | None, str]:
    """Whether a difference lies above a bound: by its interval with the seeds; one seed gives no verdict.

    >>> from edgeskin.spec.result import Estimate
    >>> found = Figure(
    ...     estimate=Estimate(value=0.02, low=0.01, high=0.04), seeds={0: 0.019, 1: 0.021}, spread=0.0014,
    ...     with_seeds=(0.0038, 0.0437))
    >>> decide_on(found, 0.0), decide_on(found, 0.01)
    (('holds', ''), ('undecided at this size', 'the interval with the seeds holds the bound +0.010'))
    """
    if difference is None:
        return None, "one side has no finished run of a common seed"
    if difference.estimate.value is None or difference.estimate.low is None:
        return None, difference.estimate.reason
    if difference.with_seeds is None:
        return None, "one common seed"
    low, high = difference.with_seeds
    if low > at_least:
        return "holds", ""
    if high < at_least:
        return "does not hold", ""
    return "undecided at this size", f"the interval with the seeds holds the bound {at_least:+.3f}"
