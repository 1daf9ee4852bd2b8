"""Is INT8 faster than higher precision here? Both in turns, until their ratio is clear."""

from collections.abc import Callable
from pathlib import Path
from statistics import median

from edgeskin import backends, provenance
from edgeskin.benchmark.statistics import ratio
from edgeskin.benchmark.turns import in_turns
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.result import Estimate
from edgeskin.spec.search import Speed

BATCH, LONGEST = 40, 240  # rounds
Key = tuple[str, str]  # precision of the graph, hint for what is not INT8


def hints(recipe: Recipe) -> tuple[str, ...]:
    """Precisions in which what is not INT8 may run under a recipe."""
    asked = recipe.inference_precision
    return ("f32", "bf16") if asked == "auto" else (asked,)


def speed(
    int8: Path, fp32: Path, recipe: Recipe, *, threads: int = 0, step: Callable[[int], None] = lambda _: None
) -> Speed:
    """Latency of the INT8 pair graph over that of the same network in higher precision, on this machine.

    Each is taken in the precision hint that suits it best. Rounds are added until the 95 % interval of the ratio lies
    on one side of 1, or 240 are done; INT8 counts as faster only where all of the interval lies below 1.

    Raises:
        EdgeskinError: the engine is absent or refuses a file.
    """
    backend = backends.get(recipe.target)
    sessions = {
        (kind, hint): backend.open(path, threads=threads, precision_hint=hint)
        for kind, path in (("int8", int8), ("fp32", fp32))
        for hint in hints(recipe)
    }
    spent: dict[Key, list[float]] = {key: [] for key in sessions}
    while True:
        for key, found in in_turns(sessions, BATCH, warm_up=0 if spent["int8", hints(recipe)[0]] else 10).items():
            spent[key] += found
        step(BATCH)
        p50 = {key: median(series) for key, series in spent.items()}
        best, plain = (min((key for key in p50 if key[0] == kind), key=p50.__getitem__) for kind in ("int8", "fp32"))
        found_ratio = ratio(spent[best], spent[plain], repeats=1000)
        clear = found_ratio.high < 1 or found_ratio.low > 1
        if clear or len(spent[best]) >= LONGEST:
            break
    faster = found_ratio.high < 1
    why = "" if faster else f"{best[0]} takes {found_ratio.value:.2f} times as long as {plain[0]} in {plain[1]}"
    return Speed(
        machine=provenance.processor() or provenance.machine(),
        threads=int(sessions[best].describe()["threads"]),
        p50_ms={f"{kind}, {hint}": round(value, 6) for (kind, hint), value in p50.items()},
        ratio=Estimate(value=found_ratio.value, low=found_ratio.low, high=found_ratio.high),
        int8_is_faster=faster,
        why=why,
    )
