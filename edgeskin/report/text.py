"""Figures as text, and the table that both forms of the report show."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeskin.compared import NO_REFERENCE
from edgeskin.spec.bench import Ratio, Route
from edgeskin.spec.manifest import Mode
from edgeskin.spec.result import Compared, Estimate
from edgeskin.spec.suite import Scenario

NONE = "–"
MODE_TITLES: dict[Mode, str] = {"pair": "clinical + dermoscopic", "dermoscopic": "dermoscopic alone"}
EVERY_LESION = "each by the images it has"
ROUTE_TITLES: dict[Route, str] = {"network": "network only", "decision": "camera frames to decision"}
SCENARIO_TITLES: dict[Scenario, str] = {
    "single": "back to back (single)",
    "sparse": "after an idle gap (sparse)",
    "stream": "camera that does not wait (stream)",
    "offline": "many at once (offline)",
}
TASK_METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1"}
TARGET_METRICS = {
    "auc": "AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ece": "calibration error (low is good)",
}
LOWER_IS_BETTER = {"ece"}


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text; `marked` rows head a group, `note` stands below it. With a `key` the page can sort it.

    `loud`: texts of cells that must not be overlooked.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    marked: frozenset[int] = frozenset()
    key: str = ""
    loud: frozenset[str] = frozenset()

    @property
    def facts(self) -> bool:
        """Whether it is a list of names and values: a table without titles of columns."""
        return not any(self.columns)


def ms(value: float | None) -> str:
    """Milliseconds with three significant digits.

    >>> ms(7.2), ms(0.0512), ms(99.96), ms(1234.5), ms(None)
    ('7.20', '0.0512', '100', '1234', '–')
    """
    if value is None:
        return NONE
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}"


def size_text(size: int | None) -> str:
    """Bytes as kB, MB or GB (powers of 1000).

    >>> size_text(3_412_000), size_text(16_700), size_text(25_276_502_016)
    ('3.41 MB', '16.7 kB', '25.3 GB')
    """
    if size is None:
        return NONE
    unit, factor = next(((u, f) for u, f in (("GB", 1e9), ("MB", 1e6)) if size >= f), ("kB", 1e3))
    return f"{ms(size / factor)} {unit}"


def parameters(count: int) -> str:
    """A count of weights.

    >>> parameters(3_412_345), parameters(1234)
    ('3.41 M parameters', '1,234 parameters')
    """
    return f"{count / 1e6:.2f} M parameters" if count >= 100_000 else f"{count:,} parameters"


def estimate(found: Estimate, *, signed: bool = False, digits: int = 3) -> str:
    """A figure with its interval in brackets.

    >>> estimate(Estimate(value=0.5, low=0.46, high=0.54)), estimate(Estimate(reason="no lesion"))
    ('0.500 [0.460, 0.540]', '–')
    """
    if found.value is None:
        return NONE
    sign = "+" if signed else ""
    text = f"{found.value:{sign}.{digits}f}"
    if found.low is not None and found.high is not None:
        text += f" [{found.low:{sign}.{digits}f}, {found.high:{sign}.{digits}f}]"
    return text


def ratio(found: Ratio | None) -> str:
    """Speed against FP32: the inverse of the ratio of medians, with its interval.

    >>> ratio(Ratio(value=0.5, low=0.4, high=0.625))
    '2.00x [1.60, 2.50]'
    """
    return NONE if found is None else f"{1 / found.value:.2f}x [{1 / found.high:.2f}, {1 / found.low:.2f}]"


def signed(found: Estimate, digits: int = 4) -> str:
    """A difference with its interval; a zero has no sign.

    >>> signed(Estimate(value=-0.00001, low=-0.012, high=0.004))
    '0.0000 [-0.0120, +0.0040]'
    """
    return re.sub(rf"[+-](0\.0{{{digits}}})(?!\d)", r"\1", estimate(found, signed=True, digits=digits))


def remarks(found: Sequence[tuple[str, str, Compared]]) -> str:
    """What is undefined and why, and what is to be said of a figure that is defined: sentences, each reason once.

    Args:
        found: name of a figure, in what it was taken (a mode), the figure. What holds in all of them is said once.

    >>> none = Estimate(reason="no positive lesion")
    >>> lacking = Compared(fp32=none, bundle=none, difference=none)
    >>> remarks([("melanoma AUC", "dermoscopic alone", lacking), ("melanoma AUC", "both", lacking)])
    'Undefined: melanoma AUC (no positive lesion).'
    """
    everywhere = {where for _, where, _ in found}
    absent: dict[str, dict[str, set[str]]] = {}
    narrow: dict[str, dict[str, set[str]]] = {}
    for name, where, compared in found:
        own, other = compared.bundle, compared.fp32
        if own.reason:
            (absent if own.value is None else narrow).setdefault(own.reason, {}).setdefault(name, set()).add(where)
        elif other.value is None and other.reason not in ("", NO_REFERENCE):
            absent.setdefault(other.reason, {}).setdefault(f"{name} of FP32", set()).add(where)

    def names(said: Mapping[str, set[str]]) -> str:
        return ", ".join(n if w == everywhere else f"{n} ({', '.join(sorted(w))})" for n, w in said.items())

    told = [f"Undefined: {names(said)} ({why})." for why, said in absent.items()]
    return " ".join([*told, *sentences([f"{names(said)}: {why}" for why, said in narrow.items()])])


def duration(seconds: float) -> str:
    """A time of work.

    >>> duration(42.4), duration(754), duration(1800), duration(7300)
    ('42 s', '12 min 34 s', '30 min', '2 h 2 min')
    """
    whole = round(seconds)
    if whole >= 3600:
        whole = 60 * round(seconds / 60)
    units = ((whole // 3600, "h"), (whole % 3600 // 60, "min"), (whole % 60, "s"))
    return " ".join(f"{count} {unit}" for count, unit in units if count) or "0 s"


def sentences(notes: Sequence[str]) -> tuple[str, ...]:
    """Remarks of a record with a capital and a full stop.

    >>> sentences(("no lesion moved", ""))
    ('No lesion moved.',)
    """
    return tuple(f"{note[0].upper()}{note[1:].rstrip('.')}." for note in notes if note)


def slug(title: str) -> str:
    """A title as the name of a column in the page's address.

    >>> slug("p99 bound"), slug("Melanoma AUC")
    ('p99-bound', 'melanoma-auc')
    """
    return "-".join(re.findall(r"[a-z0-9]+", title.lower()))
