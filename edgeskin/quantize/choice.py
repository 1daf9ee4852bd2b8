"""Which of the ways to quantise that were tried is built: the nearest to FP32 among those that cost about the least."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from edgeskin.layers import read_file
from edgeskin.spec.search import Candidate

SLACK = 0.05  # of latency: what a candidate may cost more than the fastest and still be chosen for its agreement


def choose(tried: Sequence[Candidate]) -> Candidate:
    """Of those that hold the gate (of all, if none does) and are within 5 % of the fastest: the least divergence.

    >>> def made(name, nats, p50, gate):
    ...     recipe = Recipe(name=name, target="openvino", precision="int8", quantizer="nncf", calibration_pairs=8)
    ...     unknown = Estimate(reason="-")
    ...     effect = Effect(divergence=nats, class_flips=0, target_flips=0, referral_flips=0,
    ...                     balanced_accuracy=unknown, auc=unknown, lesions=9)
    ...     return Candidate(name=name, recipe=recipe, effect=effect, p50_ms=p50, gate=gate)
    >>> from edgeskin.spec.recipe import Recipe
    >>> from edgeskin.spec.result import Estimate
    >>> from edgeskin.spec.search import Effect
    >>> choose([made("a", 3.0, 5.0, "holds"), made("b", 1.0, 5.2, "holds"), made("c", 0.1, 9.0, "holds")]).name
    'b'
    """
    holding = [one for one in tried if one.gate != "fails"] or list(tried)
    least = min((cost for one in holding if (cost := _cost(one)) is not None), default=None)
    near = [one for one in holding if least is None or (_cost(one) or least) <= (1 + SLACK) * least]
    return min(near, key=lambda one: one.effect.divergence)


def _cost(one: Candidate) -> float | None:
    return one.p50_ms if one.p50_ms is not None else one.planned_cost


def ranked(tried: Sequence[Candidate]) -> list[Candidate]:
    """All candidates in the order in which they would be chosen: the best, the best of the rest, and so on."""
    left, order = list(tried), []
    while left:
        order.append(choose(left))
        left.remove(order[-1])
    return order


def explained(tried: Sequence[Candidate], best: Candidate) -> Iterator[Candidate]:
    """The candidates, each with the reason why it was not chosen."""
    holding = any(one.gate != "fails" for one in tried)
    for one in tried:
        if one.name == best.name:
            why = ""
        elif holding and one.gate == "fails":
            why = "the gate fails"
        elif one.p50_ms is not None and best.p50_ms is not None and one.p50_ms > (1 + SLACK) * best.p50_ms:
            why = f"{one.p50_ms / best.p50_ms - 1:.0%} slower"
        elif (_cost(one) or 0.0) > (1 + SLACK) * (_cost(best) or 1.0):
            why = "less of it in INT8"
        else:
            why = "further from FP32" if one.effect.divergence > best.effect.divergence else "slower"
        yield one.model_copy(update={"why_not": why})


def planned_cost(model: Path) -> float:
    """What a graph asks for against the same in floating point alone, where a product in INT8 takes half the time.

    The ratio is that of the peak rates that vendors publish for FP16 and INT8 (`edgeskin devices`): an estimate.
    """
    layers = read_file(model)
    total = sum(layer.macs for layer in layers)
    return round(1 - sum(layer.macs for layer in layers if layer.int8) / total / 2, 4)
