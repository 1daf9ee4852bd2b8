"""A sweep as tables and as a plot of its figures with their intervals."""

from collections.abc import Sequence

from edgeskin.report.text import NONE, duration, estimate, sentences, signed
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

    >>> from edgeskin.spec.result import Estimate
    >>> figure(Figure(estimate=Estimate(value=0.5, low=0.46, high=0.54), seeds={0: 0.49, 1: 0.51}, spread=0.0141))
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
    """Question, verdict and the difference behind it, for a terminal."""
    return [
        (one.question, one.verdict or f"no verdict: {one.reason}", difference(result, one)) for one in result.answers
    ]


def difference(result: SweepResult, one: Answer) -> str:
    """The difference that a verdict stands on, with its metric and its bound."""
    bound = f", bound {one.at_least:+.2f}" if one.at_least else ""
    return f"{result.titles[one.metric]} {figure(one.differences.get(one.metric), difference=True)}{bound}"


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
    return ("claim", "verdict", "bound", *_told(result).values(), "parameters", "MACs")


def _told(result: SweepResult) -> dict[Metric, str]:
    """The metrics whose differences are shown: all but the sensitivities, which are too coarse at most sizes."""
    return {metric: title for metric, title in result.titles.items() if not metric.startswith("sensitivity_")}


def answer_rows(result: SweepResult) -> Rows:
    """A row for every question: its verdict, and the differences behind it."""
    found: Rows = []
    for one in result.answers:
        verdict = one.verdict or f"no verdict: {one.reason}"
        bound = f"{result.titles[one.metric]} > {f'{one.at_least:+.2f}' if one.at_least else '0'}"
        cells = [figure(one.differences.get(metric), difference=True) for metric in _told(result)]
        shares = [NONE if share is None else f"{share:.2f}x" for share in (one.parameters_ratio, one.macs_ratio)]
        found.append((one.question, verdict, bound, *cells, *shares))
    return found


def failures(result: SweepResult) -> Rows:
    """Variant, seed and reason of every run without a result."""
    return [(v.title, str(seed), why) for v in result.variants for seed, why in v.failed.items()]


def conditions(result: SweepResult) -> str:
    """On what the figures were found, in sentences."""
    base = result.suite.base
    _, train = result.suite.trained(result.suite.variant[0], 0)
    seconds = [value for variant in result.variants for value in variant.seconds.values()]
    spent = f"; {duration(sum(seconds) / len(seconds))} a run on average" if seconds else ""
    drawn = "Drawn images: the figures say nothing about lesions. " if result.phantom else ""
    lacking = f" ({result.left_out} more lack an image and are left out)" if result.left_out else ""
    few = sorted((count, name) for name, count in result.classes.items() if count < 10)
    rare = ", ".join(f"{name} {count}" for count, name in few)
    noted = "".join(f"{sentence} " for sentence in sentences((result.suite.note,)))
    return (
        f"{drawn}{noted}{result.data}, {result.lesions:,} lesions of the test role{lacking}, {base.network.backbone} "
        f"at {train.size} px, {train.epochs} epochs on {result.roles['train'].lesions:,} pairs, seeds "
        f"{', '.join(map(str, result.suite.seeds))}; {result.machine}{spent}."
        + (f" Classes with fewer than 10 lesions, on which macro-F1 hangs: {rare}." if rare else "")
    )


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
    return "\n".join([*parts, f"{conditions(result)}\n", f"{result.method}\n"])


def _table(titles: Sequence[str], found: Rows) -> str:
    head = [f"| {' | '.join(titles)} |", f"|---|{'---:|' * (len(titles) - 1)}"]
    body = (f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in found)
    return "\n".join([*head, *body]) + "\n"
