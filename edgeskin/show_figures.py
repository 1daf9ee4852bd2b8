"""Figures as text and as tables in the terminal: what `edgeskin verify` found in one mode."""

from collections.abc import Iterator, Mapping

from edgeskin import out
from edgeskin.calibrated import PHASES, TITLES
from edgeskin.compared import NO_REFERENCE, shown
from edgeskin.literature import RATES
from edgeskin.spec.result import Accuracy, AgainstRest, Calibration, Compared, Estimate, EveryLesion, ScoreFigures


def estimate(found: Estimate, signed: bool = False) -> str:
    """A figure with its interval, or why there is none.

    >>> estimate(Estimate(value=0.5, low=0.4, high=0.6))
    '0.500 [0.400, 0.600]'
    >>> estimate(Estimate(reason="no melanoma"))
    'undefined: no melanoma'
    """
    if found.value is None:
        return f"undefined: {found.reason}" if found.reason else "-"
    form = "+.3f" if signed else ".3f"
    if found.low is None or found.high is None:
        return f"{found.value:{form}}"
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"


def accuracy(found: Accuracy, title: str, own: str) -> None:
    """All tables of one mode; `own` heads the bundle's figures, e.g. INT8.

    Of several tasks the target's is shown in full and of the others the accuracy; the record has the rest.
    """
    target_task = found.literature.classes[0].task if found.literature else next(iter(found.tasks))
    columns = ["metric (95 % interval)", "FP32", own, "difference"]
    rows = {f"{task} {name}": value for task, name, value in _shown(found, target_task)}
    if found.literature:
        rows[f"mean accuracy of {len(found.tasks)} tasks"] = found.literature.average_accuracy
    rows |= {f"target {name}": shown(name, value) for name, value in found.target.items()}
    out.table(title, columns, [compared(name, value) for name, value in rows.items()])
    for remark in reservations(rows):
        out.line(f"note: {remark}")
    if found.literature:
        _classes(found.literature.classes, own)
    if found.score:
        _score(found.score, columns)
    if target_task in found.calibration:
        _calibration(target_task, found.calibration[target_task], columns)


def every_lesion(found: EveryLesion, title: str, own: str) -> None:
    """What stands beside the literature where some lesions lack their clinical image: all of them together."""
    columns = ["metric (95 % interval)", "FP32", own, "difference"]
    rows = {f"{task} accuracy": value for task, value in found.accuracy.items()}
    rows[f"mean accuracy of {len(found.accuracy)} tasks"] = found.literature.average_accuracy
    out.table(title, columns, [compared(name, value) for name, value in rows.items()])
    _classes(found.literature.classes, own)
    if found.score:
        _score(found.score, columns)


def _shown(found: Accuracy, target_task: str) -> Iterator[tuple[str, str, Compared]]:
    for task, figures in found.tasks.items():
        for name, value in figures.items():
            if task == target_task or name == "accuracy" or found.literature is None:
                yield task, name, value


def compared(name: str, value: Compared) -> tuple[str, str, str, str]:
    """A row: name, FP32, bundle, difference."""
    return name, estimate(value.fp32), estimate(value.bundle), estimate(value.difference, signed=True)


def reservations(rows: Mapping[str, Compared]) -> list[str]:
    """What is to be said of figures that are defined: the bundle's, and FP32's where they differ.

    >>> narrow = Estimate(value=0.5, low=0.4, high=0.6, reason="mean over 4 of 5 classes: none is SK")
    >>> reservations({"DIAG macro_f1": Compared(fp32=narrow, bundle=narrow, difference=narrow)})
    ['DIAG macro_f1: mean over 4 of 5 classes: none is SK']
    """
    told = []
    for name, value in rows.items():
        own, fp32 = (one.reason if one.value is not None else "" for one in (value.bundle, value.fp32))
        told += [f"{name}: {own}"] if own else []
        told += [f"{name}, FP32: {fp32}"] if fp32 and fp32 != own else []
    return told


def _classes(found: tuple[AgainstRest, ...], own: str) -> None:
    """Two rows a class; decisions are by the most probable class, as in the literature."""
    rows: list[tuple[str, ...]] = []
    absent: dict[str, list[str]] = {}
    for one in found:
        figures = {name: getattr(one, name) for name in RATES}
        for model, side in (("FP32", "fp32"), (own, "bundle")):
            given = {name: getattr(value, side) for name, value in figures.items()}
            if all(value.reason == NO_REFERENCE for value in given.values()):
                continue
            rows.append((one.title, f"{one.positives} of {one.lesions}", model, *map(_short, given.values())))
            for name, value in given.items():
                told = f"{one.title} {RATES[name]}"
                if value.value is None and told not in absent.setdefault(value.reason, []):
                    absent[value.reason].append(told)
    out.table(
        "a class against the rest of its task, by the most probable class (not by the threshold)",
        ["class", "lesions", "", *RATES.values()],
        rows,
    )
    for reason, names in absent.items():
        out.line(f"note: undefined, as {reason}: {', '.join(names)}")


def _short(found: Estimate) -> str:
    return "-" if found.value is None else estimate(found)


def _score(found: ScoreFigures, columns: list[str]) -> None:
    """The score's thresholds as a test for the target, beside the true criteria."""
    rows = []
    for one in found.reached:
        for name, value, true in (
            ("sensitivity", one.sensitivity, one.labelled_sensitivity),
            ("specificity", one.specificity, one.labelled_specificity),
        ):
            rows.append((*compared(f"score >= {one.threshold}: {name}", value), estimate(true)))
    rows.append((*compared("distance to the true score, points", found.distance), "-"))
    title = f"the score as a test for the target, {found.lesions} lesions"
    out.table(title, [*columns, f"true criteria, {found.labelled} lesions"], rows)


def _calibration(task: str, found: Calibration, columns: list[str]) -> None:
    """Calibration of the target's task before and after the temperatures."""
    rows = []
    for metric, name in TITLES.items():
        for phase, words in PHASES.items():
            value = shown(metric, getattr(found, phase)[metric])
            sides = [estimate(one, signed=phase == "change") for one in (value.fp32, value.bundle)]
            rows.append((f"{name}, {words}", *sides, estimate(value.difference, signed=True)))
    out.table(f"calibration of {task}, low is good", columns, rows)
