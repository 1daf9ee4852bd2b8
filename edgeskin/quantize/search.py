"""Bounded search: which way to quantise, and which parts stay in floating point, until the gate holds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from edgeskin import out
from edgeskin.backends import Session
from edgeskin.data.roles import role_hash
from edgeskin.errors import EdgeskinError
from edgeskin.layers import read_file
from edgeskin.quantize.choice import choose, explained, planned_cost, ranked
from edgeskin.quantize.nodes import block, labels, pattern
from edgeskin.quantize.ptq import is_transformer
from edgeskin.quantize.qdq import Hub
from edgeskin.quantize.trials import Trials, divergence_of
from edgeskin.spec.recipe import Recipe
from edgeskin.spec.search import Candidate, LayerEffect, SearchResult

InTurns = Callable[[Mapping[str, Session], int], Mapping[str, Sequence[float]]]  # sessions, rounds -> milliseconds
SLOWER = 1.03  # INT8 over floating point in a part of the network, from which that part is taken back
ROUNDS = 40
RANKED_LESIONS = 160  # enough to rank parts by a mean over lesions; the gate asks all of them


@dataclass(frozen=True, slots=True)
class Part:
    """A block of the network, and what share of the multiply-accumulates it has."""

    path: str
    nodes: frozenset[str]
    layers: int
    macs_share: float


def candidates(base: Recipe, transformer: bool) -> Iterator[Recipe]:
    """Ways to quantise, the recipe's own first, the slowest to build last.

    >>> base = Recipe(name="r", target="openvino", precision="int8", quantizer="nncf", calibration_pairs=8)
    >>> [r.name for r in candidates(base, transformer=False)][:3]
    ['r', 'r, qdq minmax', 'r, nncf bias correction']
    """

    def other(name: str, **changes: object) -> Recipe:
        return base.model_copy(update={"name": f"{base.name}, {name}", **changes})

    seen: list[Recipe] = []
    ways = [base]
    qdq = {"quantizer": "qdq", "preset": "performance", "smooth_quant": False}
    if base.target == "openvino":
        if transformer:
            ways.append(other("nncf smooth quant", quantizer="nncf", calibrator="minmax", smooth_quant=True))
        ways.append(other("qdq minmax", **qdq, calibrator="minmax", bias_correction=True))
        for bias in (True, False):
            name = "nncf bias correction" if bias else "nncf plain"
            ways.append(other(name, quantizer="nncf", calibrator="minmax", bias_correction=bias))
    else:
        for bias in (True, False):
            name = "qdq bias correction" if bias else "qdq plain"
            ways.append(other(name, **qdq, calibrator="minmax", bias_correction=bias))
    ways.append(other("additions in FP32", **qdq, bias_correction=True, keep_fp32=(*base.keep_fp32, "/Add/")))
    for calibrator in ("percentile", "entropy"):
        ways.append(other(f"qdq {calibrator}", **qdq, calibrator=calibrator, bias_correction=True))
    for way in ways:
        plain = way.model_copy(update={"name": ""})
        if plain not in seen:
            seen.append(plain)
            yield way


def parts(graph: Path) -> list[Part]:
    """Blocks of an FP32 ONNX graph that hold products, in the order of execution."""
    import onnx

    model = onnx.load(graph, load_external_data=False)
    macs: dict[str, int] = {}
    for layer in read_file(graph):
        if layer.macs:
            macs[layer.names[0]] = macs.get(layer.names[0], 0) + layer.macs
    nodes: dict[str, list[str]] = {}
    for name, label in labels(model).items():
        nodes.setdefault(block(label), []).append(name)
    total = sum(macs.values())
    found = [
        Part(
            path=path,
            nodes=frozenset(names),
            layers=sum(name in macs for name in names),
            macs_share=sum(macs.get(name, 0) for name in names) / total,
        )
        for path, names in nodes.items()
    ]
    return [part for part in found if part.layers and part.path]


def search(trials: Trials, base: Recipe, in_turns: InTurns | None) -> tuple[list[Recipe], SearchResult]:
    """Find the recipe with the least divergence from FP32 among those that hold the gate and are as fast as any.

    First ways to quantise the whole network; then its blocks, ranked by what returning each alone to floating point
    gains on the control role, are taken back from the worst on, until the gate holds; then blocks whose INT8 is
    slower than floating point. Every answer is kept, so that a killed search goes on.

    Args:
        in_turns: latencies of sessions asked in turn, e.g. `benchmark.turns.in_turns`; None where this machine does
            not run what the device runs: then a product in INT8 counts as half of one in floating point.

    The gate is asked here of lesions that have both images; the whole gate is for the build to ask.

    Returns:
        Recipes that hold it in the order in which to build and gate them, or the best alone if none does; and the
        record of the search.
    """
    import onnx

    if trials.resumed:
        out.note(f"search: going on after {trials.resumed} answers, {trials.spent_s:.0f} s")
    notes: list[str] = []
    transformer = is_transformer(onnx.load(trials.graph, load_external_data=False))
    tried: list[Candidate] = []
    complete = _try(trials, list(candidates(base, transformer)), tried, notes)
    _time(trials, tried, in_turns)
    best = choose(tried)
    network = parts(trials.graph)
    ranking = _rank(trials, best.recipe, network, notes)
    complete &= len(ranking) == len(network)
    complete &= _revert(trials, best.recipe, ranking, tried, notes)
    slower = _slower(trials, best.recipe, network, in_turns, notes) if in_turns else {}
    taken = [(path,) for path, ratio in slower.items() if ratio > SLOWER]
    complete &= _try(trials, [_keeping(best.recipe, paths) for paths in taken], tried, notes)
    _time(trials, tried, in_turns)
    order = ranked(tried)
    best = order[0]
    worth = [one for one in order if one.gate != "fails"] or [best]
    return [one.recipe.model_copy(update={"name": base.name}) for one in worth], SearchResult(
        role=trials.role,
        role_sha256=role_hash(pair.lesion_id for pair in trials.control.pairs),
        lesions=len(trials.control.pairs),
        budget_s=trials.budget_s,
        spent_s=round(trials.spent_s, 1),
        complete=complete,
        candidates=tuple(explained(tried, best)),
        ranking=tuple(ranking),
        slower_groups=slower,
        chosen=best.name,
        notes=tuple(notes),
    )


def _try(trials: Trials, recipes: Sequence[Recipe], tried: list[Candidate], notes: list[str]) -> bool:
    """Build and score recipes while there is time; the first always. Returns whether all were."""
    if not recipes:
        return True
    with out.progress("search: ways to quantise", len(recipes)) as step:
        for number, recipe in enumerate(recipes):
            if tried and not trials.has_time("effect", trials.effect_key(recipe)):
                notes.append(f"the budget ended before {recipe.name}")
                return False
            try:
                effect, holds = trials.effect(recipe)
            except EdgeskinError as error:
                if not number and not tried:
                    raise
                notes.append(f"{recipe.name}: {error.line()}")
            else:
                gate = "not asked" if holds is None else "holds" if holds else "fails"
                tried.append(
                    Candidate.parse(
                        {
                            "name": recipe.name,
                            "recipe": recipe,
                            "effect": effect,
                            "gate": gate,
                            "reverted": _paths(recipe),
                        },
                        "a candidate",
                    )
                )
            left = max(0.0, trials.budget_s - trials.spent_s)
            step(1, f"search: {recipe.name} ({left / 60:.0f} min of the budget left)")
    return True


def _time(trials: Trials, tried: list[Candidate], in_turns: InTurns | None) -> None:
    """Latency of every candidate, all in turns, so that they compare; kept, so that a resumed search chooses alike."""
    if in_turns is None:
        costs = [planned_cost(trials.model(one.recipe)) for one in tried]
        tried[:] = [one.model_copy(update={"planned_cost": c}) for one, c in zip(tried, costs, strict=True)]
        return
    timer = in_turns

    def ask() -> dict[str, float]:
        sessions = {one.name: trials.session(trials.model(one.recipe), one.recipe) for one in tried}
        spent = timer(sessions, ROUNDS)
        return {name: round(median(series), 4) for name, series in spent.items()}

    found = trials.once("p50", [trials.key(one.recipe) for one in tried], ask)
    tried[:] = [one.model_copy(update={"p50_ms": found[one.name]}) for one in tried]


def _hub(trials: Trials, recipe: Recipe) -> Hub:
    as_qdq = recipe.model_copy(
        update={"quantizer": "qdq", "preset": "performance", "smooth_quant": False, "bias_correction": False}
    )
    if recipe.quantizer != "qdq":
        as_qdq = as_qdq.model_copy(update={"calibrator": "minmax"})
    return trials.hub(as_qdq)


def _variant(trials: Trials, hub: Hub, keep: frozenset[str], recipe: Recipe, name: str) -> Session:
    """The hub with some nodes in floating point, opened by the target."""
    folder = trials.folder / "variants"
    model = hub.write(set(keep), folder / f"{name}.onnx")
    built = trials.backend.build(model, folder / name, recipe, stem="pair")[0]
    return trials.session(folder / name / built, recipe)


def _rank(trials: Trials, recipe: Recipe, network: Sequence[Part], notes: list[str]) -> list[LayerEffect]:
    """Blocks by what returning each alone to floating point gains, the most first.

    Asked of the Q/DQ hub, whose variants take seconds, whatever the quantizer: how much a block suffers from INT8 is
    a property of the block.
    """
    control = trials.control.some(RANKED_LESIONS)

    def key(path: str) -> list[object]:
        return [trials.key(recipe), len(control.pairs), path]

    if not trials.has_time("variant", key("")):
        notes.append("the budget ended before the blocks were ranked")
        return []
    hub = _hub(trials, recipe)

    def ask(keep: frozenset[str], name: str) -> dict[str, float]:
        session = _variant(trials, hub, keep, recipe, name)
        logits = trials.logits(session, control, lambda _: None)
        return divergence_of(trials.deciding, control, logits)

    found: list[LayerEffect] = []
    with out.progress("search: blocks", len(network)) as step:
        whole = trials.once("variant", key(""), lambda: ask(frozenset(), "whole"))
        for number, part in enumerate(network):
            if not trials.has_time("variant", key(part.path)):
                notes.append(f"the budget ended after {len(found)} of {len(network)} blocks were ranked")
                break
            one = trials.once("variant", key(part.path), partial(ask, part.nodes, f"block-{number}"))
            found.append(
                LayerEffect(
                    group=part.path,
                    layers=part.layers,
                    macs_share=part.macs_share,
                    divergence=one["divergence"],
                    gain=whole["divergence"] - one["divergence"],
                    class_flips=int(one["class_flips"]),
                )
            )
            left = max(0.0, trials.budget_s - trials.spent_s)
            step(1, f"search: without {part.path} ({left / 60:.0f} min of the budget left)")
    return sorted(found, key=lambda one: -one.gain)


def _keeping(recipe: Recipe, paths: Sequence[str]) -> Recipe:
    """The recipe with these blocks in floating point."""
    kept = (*recipe.keep_fp32, *(pattern(path) for path in paths))
    what = paths[0] if len(paths) == 1 else f"{len(paths)} blocks"
    return recipe.model_copy(update={"name": f"{recipe.name}, {what} in FP32", "keep_fp32": kept})


def _paths(recipe: Recipe) -> list[str]:
    """Module paths out of keep_fp32, as far as they are plain ones."""
    plain = [one for one in recipe.keep_fp32 if one.startswith("^") and one.endswith("[./]")]
    return [one.removeprefix("^").removesuffix("[./]").replace("\\", "") for one in plain]


def _revert(
    trials: Trials, recipe: Recipe, ranking: Sequence[LayerEffect], tried: list[Candidate], notes: list[str]
) -> bool:
    """Take back the worst 1, 2, 4 ... blocks until the gate holds, then as few as needed; False if the time was over.

    Where the gate held from the start, the worst one and the worst two are tried for their agreement alone.
    """
    worst = [one.group for one in ranking if one.gain > 0]
    known: dict[tuple[str, ...], Candidate] = {}

    def holds(count: int) -> bool | None:
        """Whether the gate holds with so many blocks taken back; None when the time is over."""
        asked = _keeping(recipe, worst[:count])
        if asked.keep_fp32 not in known:
            if not _try(trials, [asked], tried, notes):
                return None
            known.update({one.recipe.keep_fp32: one for one in tried if one.recipe == asked})
        return asked.keep_fp32 in known and known[asked.keep_fp32].gate != "fails"  # one that cannot be built fails

    start = next((one for one in tried if one.recipe == recipe), None)
    held = start is not None and start.gate != "fails"
    failing, count = 0, 1
    while count <= len(worst):
        answer = holds(count)
        if answer is None:
            return False
        if answer and not held:
            break
        if held and count >= 2:
            return True
        failing, count = count, min(2 * count, len(worst)) if count < len(worst) else count + 1
    if held or count > len(worst):
        if not held:
            notes.append(f"the gate fails even with the worst {len(worst)} blocks in floating point")
        return True
    while count - failing > 1:  # the fewest blocks that make it hold
        middle = (failing + count) // 2
        answer = holds(middle)
        if answer is None:
            return False
        failing, count = (failing, middle) if answer else (middle, count)
    return True


def _slower(
    trials: Trials, recipe: Recipe, network: Sequence[Part], in_turns: InTurns, notes: list[str]
) -> dict[str, float]:
    """Latency of the INT8 hub over the hub with one stage in floating point: above 1, INT8 does not pay there."""
    stages: dict[str, set[str]] = {}
    for part in network:
        names = part.path.split(".")
        first = next((i for i, name in enumerate(names) if name.isdigit()), len(names) - 1)
        stages.setdefault(".".join(names[: first + 1]), set()).update(part.nodes)
    key = [trials.key(recipe), sorted(stages)]
    if not trials.has_time("timing", key):
        notes.append("the budget ended before stages were timed in both precisions")
        return {}

    def ask() -> dict[str, float]:
        hub = _hub(trials, recipe)
        sessions = {"": _variant(trials, hub, frozenset(), recipe, "whole")}
        for number, (path, nodes) in enumerate(stages.items()):
            sessions[path] = _variant(trials, hub, frozenset(nodes), recipe, f"stage-{number}")
        spent = in_turns(sessions, ROUNDS)
        whole = median(spent[""])
        return {path: round(whole / median(spent[path]), 4) for path in stages}

    found: dict[str, float] = trials.once("timing", key, ask)
    return found
