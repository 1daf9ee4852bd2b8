"""Which number of threads, and which precision of what is not INT8, answers an examination fastest here."""

from collections.abc import Callable
from statistics import median

from edgeskin import backends, provenance
from edgeskin.benchmark import sensors
from edgeskin.benchmark.statistics import OTHERS_SHARE
from edgeskin.benchmark.turns import in_turns
from edgeskin.bundle import Bundle
from edgeskin.errors import EdgeskinError
from edgeskin.spec.manifest import Tuning

ROUNDS, WARM_UP = 60, 10
GAIN = 0.03  # a choice must be faster than the plain one by as much; less is noise
Candidate = tuple[int, str]  # threads, precision hint


def candidates(cores: int, hints: tuple[str, ...]) -> list[Candidate]:
    """All cores with the first hint, which is the plain choice; then every power of two with every hint.

    >>> candidates(6, ("f32",))
    [(6, 'f32'), (1, 'f32'), (2, 'f32'), (4, 'f32')]
    """
    threads = [cores, *(2**k for k in range(cores.bit_length()) if 2**k < cores)]
    return [(count, hint) for hint in hints for count in threads]


def tune(bundle: Bundle, step: Callable[[int], None] = lambda _: None, *, anyway: bool = False) -> Tuning:
    """Ask every candidate in turn, round after round, with the pair graph; take the fastest by the median.

    Args:
        step: called once a round.
        anyway: also on a busy machine, where fewer threads seem better than they are.

    Raises:
        EdgeskinError: the bundle's engine is absent, the system does not name its processor, or others used it.
    """
    manifest = bundle.manifest
    backend = backends.get(manifest.target)
    if reason := backend.unsupported(manifest.recipe):
        raise EdgeskinError(f"target {manifest.target} does not run here", got=reason)
    if not (processor := provenance.processor()):
        raise EdgeskinError("this system does not name its processor", fix="pass --threads where you run the bundle")
    asked = manifest.recipe.inference_precision
    hints = ("f32", "bf16") if asked == "auto" else ("bf16",) if asked == "bf16" else ("f32",)
    graph = bundle.path(manifest.graphs["pair"].file)
    cores = backends.usable_cores()
    sessions = {
        (threads, hint): backend.open(graph, threads=threads, precision_hint=hint)
        for threads, hint in candidates(cores, hints)
    }
    first = next(iter(sessions.values()))
    before = sensors.ticks()
    spent = in_turns(sessions, ROUNDS, WARM_UP, step)
    others = sensors.others_share(before, sensors.ticks())
    if others is not None and others > OTHERS_SHARE and not anyway:
        raise EdgeskinError(
            "the machine is too busy to tune",
            got=f"other processes used {others:.0%} of the processor time",
            possible=f"{OTHERS_SHARE:.0%} or less",
            fix="run `edgeskin tune` when it is quiet, or pass --anyway",
        )
    threads, hint = choose({candidate: median(series) for candidate, series in spent.items()})
    return Tuning.parse(
        {
            "processor": processor,
            "cores": cores,
            "engine": " ".join(first.describe()[key] for key in ("backend", "version")),
            "threads": threads,
            "precision_hint": hint,
            "p50_ms": {f"{t} threads, {h}": round(median(series), 4) for (t, h), series in spent.items()},
            "measured": provenance.now(),
        },
        "the tuning",
    )


def choose(p50_ms: dict[Candidate, float]) -> Candidate:
    """The fastest candidate; the first, which is the plain choice, unless another is clearly faster.

    >>> choose({(2, "f32"): 5.0, (1, "f32"): 4.9, (2, "bf16"): 7.0}), choose({(2, "f32"): 5.0, (1, "f32"): 4.0})
    ((2, 'f32'), (1, 'f32'))
    """
    plain = next(iter(p50_ms))
    best = min(p50_ms, key=p50_ms.__getitem__)
    return best if p50_ms[best] < (1 - GAIN) * p50_ms[plain] else plain
