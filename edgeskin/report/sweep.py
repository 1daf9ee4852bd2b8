"""A sweep as tables and as a plot of its figures with their intervals."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from edgeskin.report.text import NONE, duration, estimate, sentences, signed
from edgeskin.spec.result import Estimate
from edgeskin.spec.sweep import Metric, Reading
from edgeskin.spec.sweep_result import Answer, Figure, SweepResult, VariantResult

READING_TITLES: dict[Reading, str] = {
    "pair": "both images",
    "dermoscopic-branch": "both images, dermoscopic branch",
    "clinical-branch": "both images, clinical branch",
    "dermoscopic": "dermoscopic image alone",
    "clinical": "clinical image alone",
}
Rows = list[tuple[str, ...]]


def figure(found: Figure | None, *, difference: bool = False) -> str:
    """A mean over seeds with its interval, and the standard deviation over the seeds.

    >>> given = Estimate(value=0.5, low=0.46, high=0.54)
    >>> figure(Figure(estimate=given, seeds={0: 0.49, 1: 0.51}, spread=0.0141, with_seeds=(0.45, 0.55)))
    '0.500 [0.460, 0.540] ±0.014'
    """
    if found is None or found.estimate.value is None:
        return NONE
    text = signed(found.estimate, 3) if difference else estimate(found.estimate)
    return text if found.spread is None else f"{text} ±{found.spread:.3f}"


def millions(count: int | None) -> str:
    """A count in millions.

    >>> millions(3_412_345), millions(41_900), millions(None)
    ('3.41', '0.042', '–')
    """
    if count is None:
        return NONE
    return f"{count / 1e6:.2f}" if count >= 1e6 else f"{count / 1e6:.3f}"


def columns(result: SweepResult) -> tuple[str, ...]:
    """Titles of `rows`."""
    return ("variant", *result.titles.values(), "M parameters", "M MACs", "seeds")


def brief_columns(result: SweepResult) -> tuple[str, ...]:
    """Titles of `brief_rows`."""
    told = (title.partition(" at ")[0].replace("sensitivity", "sens.") for title in result.titles.values())
    return ("variant", *told, "M param.", "M MACs", "seeds")


def brief_rows(result: SweepResult) -> Rows:
    """`rows` for a terminal: names instead of titles, intervals for the first metric alone."""
    found: Rows = []
    for variant, row in zip(result.variants, rows(result), strict=True):
        rest = [cell.partition(" [")[0] for cell in row[2 : 1 + len(result.titles)]]
        found.append((variant.name, row[1].partition(" ±")[0], *rest, *row[1 + len(result.titles) :]))
    return found


def brief_answers(result: SweepResult) -> Rows:
    """Question, verdict, common seeds and the difference behind it, for a terminal."""
    return [(one.question, _verdict(one), str(len(one.seeds)), difference(result, one)) for one in result.answers]


def _verdict(one: Answer) -> str:
    return one.verdict or f"no verdict: {one.reason}"


def difference(result: SweepResult, one: Answer) -> str:
    """The difference that a verdict stands on with its interval with the seeds, its metric and its bound."""
    bound = f", bound {one.at_least:+.2f}" if one.at_least else ""
    found = one.differences.get(one.metric)
    return f"{result.titles[one.metric]} {_with_seeds(found) if found else NONE}{bound}"


def _with_seeds(found: Figure) -> str:
    """A difference and its interval with the seeds; one seed has a difference alone.

    >>> given = Estimate(value=0.5, low=0.46, high=0.54)
    >>> _with_seeds(Figure(estimate=given, seeds={0: 0.49, 1: 0.51}, spread=0.0141, with_seeds=(0.45, 0.55)))
    '+0.500 [+0.450, +0.550]'
    """
    if found.estimate.value is None:
        return NONE
    low, high = found.with_seeds or (None, None)
    return signed(Estimate(value=found.estimate.value, low=low, high=high), 3)


def rows(result: SweepResult, *, others: bool = False) -> Rows:
    """A row for every variant's first reading; with `others` a row for each reading after it."""
    found: Rows = []
    for variant in result.variants:
        if not variant.readings and not others:
            found.append((variant.title, *[NONE] * (len(result.titles) + 2), _seeds(variant)))
        for one in variant.readings[1:] if others else variant.readings[:1]:
            title = f"{variant.title}: {READING_TITLES[one.reading]}" if others else variant.title
            cells = [figure(one.figures.get(metric)) for metric in result.titles]
            found.append((title, *cells, millions(variant.parameters), millions(one.macs), _seeds(variant)))
    return found


def _seeds(variant: VariantResult) -> str:
    told = str(len(variant.seeds))
    return f"{told}, {len(variant.failed)} failed" if variant.failed else told


def answer_columns(result: SweepResult) -> tuple[str, ...]:
    """Titles of `answer_rows`."""
    judged = ("claim", "verdict", "common seeds", "bound", "with the seeds", "resolves")
    return (*judged, *_told(result).values(), "parameters", "MACs")


def _told(result: SweepResult) -> dict[Metric, str]:
    """The metrics whose differences are shown: all but the sensitivities, which are too coarse at most sizes."""
    return {metric: title for metric, title in result.titles.items() if not metric.startswith("sensitivity_")}


def answer_rows(result: SweepResult) -> Rows:
    """A row for every question: its verdict, the interval that gives it, and the differences over lesions."""
    found: Rows = []
    for one in result.answers:
        bound = f"{result.titles[one.metric]} > {f'{one.at_least:+.2f}' if one.at_least else '0'}"
        judged = one.differences.get(one.metric)
        shown = _with_seeds(judged) if judged and judged.with_seeds else NONE
        resolves = NONE if one.resolvable is None else f"±{one.resolvable:.3f}"
        cells = [figure(one.differences.get(metric), difference=True) for metric in _told(result)]
        shares = [NONE if share is None else f"{share:.2f}x" for share in (one.parameters_ratio, one.macs_ratio)]
        found.append((one.question, _verdict(one), str(len(one.seeds)), bound, shown, resolves, *cells, *shares))
    return found


def failures(result: SweepResult) -> Rows:
    """Variant, seed and reason of every run without a result."""
    return [(v.title, str(seed), why) for v in result.variants for seed, why in v.failed.items()]


def conditions(result: SweepResult) -> str:
    """On what the figures were found, in sentences."""
    seconds = [value for variant in result.variants for value in variant.seconds.values()]
    spent = f"; {duration(sum(seconds) / len(seconds))} a run on average" if seconds else ""
    drawn = "Drawn images: the figures say nothing about lesions. " if result.phantom else ""
    lacking = f" ({result.left_out} more lack an image and are left out)" if result.left_out else ""
    few = sorted((count, name) for name, count in result.classes.items() if count < 10)
    rare = ", ".join(f"{name} {count}" for count, name in few)
    noted = "".join(f"{sentence} " for sentence in sentences((result.suite.note,)))
    return (
        f"{drawn}{noted}{result.data}, {result.lesions:,} lesions of the test role{lacking}, "
        f"{result.roles['train'].lesions:,} pairs to train on, {_trainings(result)}; {result.machine}{spent}."
        + (f" Classes with fewer than 10 lesions, on which macro-F1 hangs: {rare}." if rare else "")
    )


def _trainings(result: SweepResult) -> str:
    """What was trained, for how long and with which seeds: once where all variants agree, else each with its own."""
    networks: dict[str, str] = {}
    seeds: dict[str, str] = {}
    for variant in result.variants:
        if variant.seeds:  # that finished
            network, train = result.suite.trained(result.suite[variant.name], 0)
            networks[variant.title] = f"{network.backbone} at {train.size} px for {train.epochs} epochs"
            word = "seeds" if len(variant.seeds) > 1 else "seed"
            seeds[variant.title] = f"{word} {', '.join(map(str, sorted(variant.seeds)))}"
    return ", ".join(_shared(told) for told in (networks, seeds))


def _shared(told: Mapping[str, str]) -> str:
    """What was told of each variant, with their names where they differ.

    >>> _shared({"a": "seed 0", "b": "seed 0"}), _shared({"a": "seed 0", "b": "seed 0", "c": "seed 1"})
    ('seed 0', 'seed 0 (a; b), seed 1 (c)')
    """
    whose: dict[str, list[str]] = defaultdict(list)
    for title, what in told.items():
        whose[what].append(title)
    if len(whose) == 1:
        return next(iter(whose))
    return ", ".join(f"{what} ({'; '.join(titles)})" for what, titles in whose.items())


def gaps(result: SweepResult) -> list[str]:
    """Why figures are missing from the tables, a sentence for each metric and reason."""
    whose: dict[tuple[Metric, str], list[str]] = defaultdict(list)
    for variant in result.variants:
        for one in variant.readings[:1]:  # a figure that is undefined on these lesions is so in every reading
            for metric, shown in one.figures.items():
                if shown.estimate.reason:
                    whose[metric, shown.estimate.reason].append(variant.title)
    found = []
    for (metric, reason), titles in whose.items():
        every = len(titles) == sum(bool(variant.readings) for variant in result.variants)
        of = "" if every else f" of {'; '.join(titles)}"
        found.append(f"{result.titles[metric]}{of}: {reason}.")
    return found


def markdown(result: SweepResult) -> str:
    """The tables of a sweep, as they stand in a README: variants, how one is asked, questions, failures."""
    parts = [_table(columns(result), rows(result))]
    if any(variant.readings[1:] for variant in result.variants):
        told = "How the networks for both images answer when they are asked otherwise"
        otherwise = _table(columns(result), rows(result, others=True))
        parts.append(f"<details><summary>{told}</summary>\n\n{otherwise}\n</details>\n")
    if result.answers:
        parts.append(_table(answer_columns(result), answer_rows(result)))
    if found := failures(result):
        parts.append(_table(("failed", "seed", "why"), found))
    missing = [f"{NONE} {' '.join(why)}\n"] if (why := gaps(result)) else []
    return "\n".join([*parts, *missing, f"{conditions(result)}\n", f"{result.method}\n"])


def _table(titles: Sequence[str], found: Rows) -> str:
    head = [f"| {' | '.join(titles)} |", f"|---|{'---:|' * (len(titles) - 1)}"]
    body = (f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in found)
    return "\n".join([*head, *body]) + "\n"
