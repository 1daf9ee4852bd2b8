"""A verification of several tasks -> tables: one class against the rest, the score as a test, calibration."""

from edgeskin.calibrated import PHASES, TITLES
from edgeskin.compared import NO_ECE_INTERVAL, shown
from edgeskin.literature import RATES
from edgeskin.report.inputs import BundleInput
from edgeskin.report.text import EVERY_LESION, MODE_TITLES, NONE, Table, estimate, remarks, signed
from edgeskin.report.view import label, modes_of
from edgeskin.spec.result import Accuracy, Compared, Estimate, EveryLesion, VerifyResult


def tables(bundle: BundleInput) -> tuple[Table, ...]:
    """What stands beside the accuracies; nothing without a verification, or of a record from before these figures."""
    if bundle.verify is None:
        return ()
    return tuple(table for table in (_classes(bundle), _score(bundle), calibration(bundle)) if table is not None)


def folded(bundle: BundleInput) -> tuple[Table, ...]:
    """Calibration of every task, where there are several."""
    if bundle.verify is None or len(bundle.manifest.task_schema.tasks) == 1:
        return ()
    table = calibration(bundle, every=True)
    return () if table is None else (table,)


def _groups(found: VerifyResult) -> list[tuple[str, int, Accuracy | EveryLesion]]:
    """What is scored as in the literature: both modes, and where some lack an image, each lesion by those it has."""
    groups: list[tuple[str, int, Accuracy | EveryLesion]] = [
        (MODE_TITLES[mode], scored.lesions, scored) for mode, scored in modes_of(found.accuracy)
    ]
    if every := found.every_lesion:
        groups.append((EVERY_LESION, every.lesions, every))
    return groups


def _classes(bundle: BundleInput) -> Table | None:
    """Two rows a class: FP32, and what was built."""
    assert bundle.verify is not None  # the caller has looked
    rows: list[tuple[str, ...]] = []
    marked: set[int] = set()
    found: list[tuple[str, str, Compared]] = []
    for where, count, scored in _groups(bundle.verify):
        if scored.literature is None:
            continue
        marked.add(len(rows))
        rows.append((f"{where}, {count} lesions", *[""] * 5))
        for one in scored.literature.classes:
            figures: dict[str, Compared] = {name: getattr(one, name) for name in RATES}
            head = f"{one.title}, {one.positives} lesions"
            for model, side in (("FP32", "fp32"), (label(bundle), "bundle")):
                rows.append((head, model, *(estimate(getattr(value, side)) for value in figures.values())))
            found += [(f"{one.title} {RATES[n]}", where, value) for n, value in figures.items()]
    if not rows:
        return None
    note = (
        "As the literature gives them: the diagnosis asked for, and of every other task the class with the most "
        "points. Sensitivity, specificity and precision are those of the most probable class; those of the operating "
        f"point that refers stand in the table of accuracies. {remarks(found)}"
    )
    columns = ("Class", "Model", *(f"{name[0].upper()}{name[1:]}" for name in RATES.values()))
    caption = "A class against the rest of its task"
    return Table(caption, columns, tuple(rows), note.strip(), frozenset(marked), key="classes")


def _score(bundle: BundleInput) -> Table | None:
    """The score's thresholds as a test for the target, beside the true criteria."""
    schema = bundle.manifest.task_schema
    assert bundle.verify is not None
    rows: list[tuple[str, ...]] = []
    marked, labelled = set(), set()
    found: list[tuple[str, str, Compared]] = []
    for where, _, scored in _groups(bundle.verify):
        if scored.score is None:
            continue
        marked.add(len(rows))
        labelled.add(scored.score.labelled)
        rows.append((f"{where}, {scored.score.lesions} lesions", "", "", "", ""))
        for one in scored.score.reached:
            for name, value, true in (
                ("sensitivity", one.sensitivity, one.labelled_sensitivity),
                ("specificity", one.specificity, one.labelled_specificity),
            ):
                rows.append((f"score ≥ {one.threshold}: {name}", *_three(value), estimate(true)))
                found.append((f"score ≥ {one.threshold}, {name}", where, value))
        rows.append(("mean distance to the true score, points", *_three(scored.score.distance), NONE))
        found.append(("distance to the true score", where, scored.score.distance))
    if not rows or schema.score is None:
        return None
    counts = " and ".join(str(count) for count in sorted(labelled))
    note = (
        f"The {schema.score.title} of the predicted classes as a test for {schema.target.title}. True criteria: the "
        f"same rule on the labels of {counts} lesions, which is what perfect predictions of the criteria would reach. "
        f"{remarks(found)}"
    )
    title = f"{schema.score.title[0].upper()}{schema.score.title[1:]}"
    columns = ("Rule", "FP32", label(bundle), "Difference, paired", "True criteria")
    return Table(title, columns, tuple(rows), note.strip(), frozenset(marked), key="score")


def calibration(bundle: BundleInput, *, every: bool = False) -> Table | None:
    """Calibration before and after the temperatures: of the target's task, or of every task."""
    schema = bundle.manifest.task_schema
    assert bundle.verify is not None
    rows: list[tuple[str, ...]] = []
    marked: set[int] = set()
    found: list[tuple[str, str, Compared]] = []
    for mode, scored in modes_of(bundle.verify.accuracy):
        for task in schema.tasks if every else [schema.task(schema.target.task)]:
            if task.name not in scored.calibration:
                continue
            marked.add(len(rows))
            rows.append((f"{task.title or task.name}, {MODE_TITLES[mode]}", "", "", ""))
            for metric, name in TITLES.items():
                for phase, words in PHASES.items():
                    value = shown(metric, getattr(scored.calibration[task.name], phase)[metric])
                    rows.append((f"{name}, {words}", *_three(value, turned=phase == "change")))
                    pointed = value.bundle.reason == NO_ECE_INTERVAL  # said once, for all tasks
                    label_of = name if pointed else f"{task.name} {name}, {words}"
                    found.append((label_of, MODE_TITLES[mode], value))
    if not rows:
        return None
    note = (
        "Low is good. The temperatures were fitted on the control role; the branches keep their weights in all rows, "
        f"so a change below zero is what the temperatures gain on these lesions. {remarks(found)}"
    )
    columns = ("Figure", "FP32", label(bundle), "Difference, paired")
    key = "calibration-of-every-task" if every else "calibration"
    caption = "Calibration of every task" if every else "Calibration before and after the temperatures"
    return Table(caption, columns, tuple(rows), note.strip(), frozenset(marked), key=key)


def _three(found: Compared, *, turned: bool = False) -> tuple[str, str, str]:
    """FP32, bundle, difference; `turned`: the figures are differences themselves."""

    def text(one: Estimate) -> str:
        return signed(one, digits=3) if turned else estimate(one)

    return text(found.fp32), text(found.bundle), signed(found.difference)
