"""Where a network's evidence lies, with the checks of the maps: a chapter of the page, figures alone in its twins."""

from dataclasses import dataclass

from edgeskin.report.parts import Look, State
from edgeskin.report.text import MODE_TITLES, NONE, Table, estimate
from edgeskin.spec.explanation import KINDS, UNASKED, Deletion, Explained, Explanation, Randomised

LITTLE = 0.3  # of a rank correlation
LEGEND = (
    "Blue to yellow: what speaks for the class, little to most in each image by itself. White line: the smallest area "
    "that holds half of it. Left the frame as the network saw it."
)


@dataclass(frozen=True, slots=True)
class Chapter:
    """Explanations by one network."""

    title: str
    caution: str
    states: tuple[State, ...]
    looks: tuple[Look, ...]
    legend: str
    tables: tuple[Table, ...]


def chapter(record: Explained, number: int) -> Chapter:
    """What `edgeskin explain` found; the chapter with that number, counted from 1."""
    return Chapter(
        title=f"Saliency, {record.run}",
        caution=record.caution,
        states=(*_states(record), *_unasked(record)),
        looks=tuple(_look(one) for one in record.lesions if one.pictures),
        legend=LEGEND,
        tables=(*_lesions(record, number), *_checks(record), _facts(record)),
    )


def _states(record: Explained) -> list[State]:
    """What the checks say of the maps."""
    if record.deletion is None or record.randomised is None:
        return [State("The maps are not checked: nothing is known of how far they may be believed", False)]
    gone = record.deletion
    found = []
    for what, difference in (("random patches", gone.over_random), ("a disc in the middle", gone.over_middle)):
        shown = difference.low is not None and difference.low > 0
        fall = f"the probability of {_explained(record)} falls by {estimate(difference)} more"
        words = f"without the {gone.share:.0%} most salient pixels {fall} than without {what} of as many"
        found.append(State(_capital(words) if shown else f"Not shown to be better than {what}: {words}", shown))
    return [*found, _learned(record.randomised)]


def _unasked(record: Explained) -> list[State]:
    return [State(UNASKED, None)] if any(one.unasked for one in record.lesions) else []


def _explained(record: Explained) -> str:
    return record.chosen or "the most probable class"


def _learned(found: Randomised) -> State:
    size = found.magnitude.high
    words = f"Rank correlation with maps of {found.networks} networks with random weights: "
    words += f"{estimate(found.correlation)}, absolute {estimate(found.magnitude)}"
    if size is None:
        return State(f"Not known whether the maps come from what was learned: {found.magnitude.reason}", False)
    if size < LITTLE:
        return State(f"{words}: the maps come from what was learned", True)
    return State(f"{words}: the maps hang on the image or the network's form as well", False)


def _look(found: Explanation) -> Look:
    images = []
    for kind in KINDS:
        if kind in found.pictures:
            share = None if found.share is None else found.share[kind]
            told = f"{kind}: {f'{share:.0%} of the saliency' if share else 'no saliency for this class'}"
            images.append((kind, found.pictures[kind].frame, found.pictures[kind].saliency, told))
    lines = [(f"{found.explained}: {found.probability:.3f}", False)]
    if found.truth is not None:
        lines.append((f"truth: {found.truth}", False))
    if found.explained != found.predicted:
        lines.append((f"most probable: {found.predicted}", False))
    if not found.assessable:
        lines.append(("not assessable: no answer would be given", False))
    return Look(found.lesion, tuple(images), tuple(lines))


def _lesions(record: Explained, number: int) -> tuple[Table, ...]:
    if not record.lesions:
        return ()
    rows = []
    for one in record.lesions:
        shares = [NONE if one.share is None or kind not in one.share else f"{one.share[kind]:.0%}" for kind in KINDS]
        answers = (one.truth or NONE, one.predicted, one.explained, f"{one.probability:.3f}")
        rows.append((one.lesion, MODE_TITLES[one.mode], *answers, *shares))
    table = Table(
        "Lesions explained",
        ("Lesion", "mode", "truth", "most probable", "explained", "P", "saliency clinical", "dermoscopic"),
        tuple(rows),
        f"{record.rule}." if record.rule else "",
        key=f"explained-{number}" if number > 1 else "explained",
    )
    return (table,)


def _checks(record: Explained) -> tuple[Table, ...]:
    gone: Deletion | None = record.deletion
    if gone is None:
        return ()
    rows = (
        (f"{gone.share:.0%} of the pixels, the most salient", estimate(gone.salient)),
        (f"as many in random patches (mean of {gone.patches})", estimate(gone.random)),
        ("as many in a disc in the middle", estimate(gone.middle)),
        ("most salient minus random", estimate(gone.over_random, signed=True)),
        ("most salient minus the middle", estimate(gone.over_middle, signed=True)),
    )
    note = (
        f"Pixels take the image's mean colour. Mean fall of the probability of {_explained(record)}, which is "
        f"{gone.probability:.3f} with all pixels, on {gone.lesions} lesions; 95 % intervals by bootstrap over patients."
    )
    return (Table("Deletion test", ("What is taken away", "fall of the probability"), rows, note),)


def _facts(record: Explained) -> Table:
    method = {"hirescam": "HiResCAM", "gradcam": "Grad-CAM"}[record.method]
    rows = (
        ("network", f"{record.backbone}, as trained, in FP32"),
        ("method", f"{method} at {record.stage}, {record.grid[0]} x {record.grid[1]} places"),
        ("of", record.score),
        ("class", f"{record.task}: {_explained(record)}"),
        ("images judged by", f"the quality gate of {record.bundle}" if record.bundle else "thresholds by default"),
        ("checkpoint SHA-256", record.checkpoint_sha256),
    )
    return Table("How the maps were made", ("", ""), rows)


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]
