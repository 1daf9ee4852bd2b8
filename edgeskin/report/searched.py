"""Record of a search -> its part of the page: budget, candidates, sensitivity of layers."""

from collections.abc import Sequence

from edgeskin.report import search_charts
from edgeskin.report.parts import Figure, Part
from edgeskin.report.text import NONE, Table, duration, ms, sentences
from edgeskin.spec.search import Candidate, SearchResult


def part(search: SearchResult) -> Part:
    """What was tried, what was chosen and why."""
    chosen = next((one for one in search.candidates if one.name == search.chosen), None)
    reverted = chosen.reverted if chosen is not None else ()
    what = "planned cost" if search_charts.planned(search.candidates) else "latency"
    scatter = search_charts.search_chart(f"Search: {what} against divergence", search.candidates, search.chosen)
    bars = search_charts.sensitivity_chart("Sensitivity of layers", search.ranking, reverted)
    drawn = (
        []
        if scatter is None
        else [Figure(f"{what.capitalize()} against divergence from FP32: low and left is good", scatter)]
    )
    if bars is not None:
        more = len(search.ranking) - search_charts.MOST_BARS
        told = f", the worst {search_charts.MOST_BARS} of {len(search.ranking)}" if more > 0 else ""
        drawn.append(Figure(f"What INT8 costs in each group of layers{told}", bars))
    folded = [table for table in (_ranking(search, reverted), _stages(search)) if table is not None]
    return Part(
        "Search", tables=(_budget(search, reverted), _candidates(search)), figures=tuple(drawn), folded=tuple(folded),
        notes=sentences(search.notes),
    )  # fmt: skip


def _budget(search: SearchResult, reverted: Sequence[str]) -> Table:
    used = f"{duration(search.spent_s)} of {duration(search.budget_s)}"
    rows = (
        ("chosen", search.chosen),
        ("groups in floating point", ", ".join(reverted) or "none"),
        ("budget used", used + ("" if search.complete else "; it ended before the search did")),
        ("scored on", f"{search.lesions} lesions of role {search.role}, both images"),
    )
    return Table("Search", ("", ""), rows)


def _candidates(search: SearchResult) -> Table:
    planned = search_charts.planned(search.candidates)
    rows = tuple(_candidate(place, one, search.chosen, planned) for place, one in enumerate(search.candidates, 1))
    cost = "planned cost, an estimate" if planned else "p50, ms"
    columns = ("Candidate", "divergence", "flips", "target", "referral", "gate", cost, "why not")
    note = "Divergence: mean Kullback-Leibler divergence from FP32's probabilities, in nats. Flips: of "
    note += f"{search.lesions} lesions those with another diagnosis; target: of them to or from the target; referral: "
    note += "on another side of the operating point."
    if planned:
        note += (
            " Planned cost: nothing could be timed here. Of the products, those in INT8 count half; all in floating "
        )
        note += "point is 1, all in INT8 is 0.5. An estimate from what the graph asks for, not a time."
    return Table("Candidates", columns, rows, note, key="candidates", loud=frozenset({"fails"}))


def _candidate(place: int, one: Candidate, chosen: str, planned: bool) -> tuple[str, ...]:
    effect = one.effect
    counts = (str(count) for count in (effect.class_flips, effect.target_flips, effect.referral_flips))
    cost = (NONE if one.planned_cost is None else f"{one.planned_cost:.3f}") if planned else ms(one.p50_ms)
    why = "chosen" if one.name == chosen else one.why_not or NONE
    return (f"{place}. {one.name}", f"{effect.divergence:.3g}", *counts, one.gate, cost, why)


def _ranking(search: SearchResult, reverted: Sequence[str]) -> Table | None:
    if not search.ranking:
        return None
    rows = tuple(
        (
            one.group,
            str(one.layers),
            f"{one.macs_share:.2%}",
            f"{one.gain:+.3g}",
            f"{one.divergence:.3g}",
            str(one.class_flips),
            "floating point" if one.group in reverted else "INT8",
        )
        for one in sorted(search.ranking, key=lambda one: -one.gain)
    )
    columns = ("Group of layers", "layers", "share of MACs", "gain", "divergence left", "flips left", "runs in")
    note = "Gain: divergence that goes when this group alone is in floating point, the others in INT8."
    return Table("Sensitivity of layers", columns, rows, note, key="sensitivity")


def _stages(search: SearchResult) -> Table | None:
    if not search.slower_groups:
        return None
    rows = tuple(
        (group, f"{ratio:.3f}") for group, ratio in sorted(search.slower_groups.items(), key=lambda item: -item[1])
    )
    note = "Latency of the whole in INT8 over that with this stage in floating point: above 1, INT8 does not pay there."
    return Table("Latency of stages", ("Stage", "INT8 over floating point"), rows, note, key="stages")
