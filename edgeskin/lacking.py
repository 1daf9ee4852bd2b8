"""What a list of lesions lacks, and what that does to its metrics: which are undefined, which leave classes out."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeskin.spec.schema import Schema, Task

Ints = NDArray[np.int64]
_LEFT_OUT = "balanced accuracy leaves them out, macro-F1 those never answered"  # an answered one counts as 0


def reservation(counts: NDArray[np.float64], task: Task, *, counts_answers: bool) -> str:
    """Which classes a mean over classes leaves out on this confusion matrix; "" where it leaves out none.

    Args:
        counts: confusion matrix [truth, answer].
        counts_answers: whether a class without a lesion still counts, as 0, once it is answered (macro-F1); else it is
            left out in any case (balanced accuracy).

    >>> from edgeskin import catalog
    >>> task = catalog.schema("spc").task("PN")
    >>> matrix = np.array([[5.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> reservation(matrix, task, counts_answers=False)
    'mean over 1 of 3 classes: none is TYP, ATP'
    >>> reservation(matrix, task, counts_answers=True)
    'mean over 2 of 3 classes: none is ATP; none is TYP either, but it is answered and counts as 0'
    """
    absent = counts.sum(1) == 0
    wrong = absent & (counts.sum(0) > 0) & counts_answers
    if not absent.any():
        return ""
    names = np.array(task.class_names)
    left = absent & ~wrong
    parts = [f"none is {', '.join(names[left])}"] if left.any() else []
    if wrong.any():
        either = " either" if parts else ""
        parts.append(f"none is {', '.join(names[wrong])}{either}, but it is answered and counts as 0")
    return f"mean over {len(names) - int(left.sum())} of {len(names)} classes: {'; '.join(parts)}"


def undefined(labels: Ints, schema: Schema, role: str) -> tuple[str, ...]:
    """What cannot be said on a role, a sentence for each reason; empty where every class has a lesion.

    Args:
        labels: class numbers [lesions, tasks] in the order of the schema, -1 unlabelled.

    >>> from edgeskin import catalog
    >>> labels = np.array([[1, 0, 0, 0, 0, 0, 0, -1], [1, 1, 1, 1, 1, 1, 1, -1], [3, 2, 0, 2, 2, 2, 2, -1]])
    >>> for sentence in undefined(labels, catalog.schema("spc"), "control"):
    ...     print(sentence)
    role control has no melanoma: its AUC and sensitivity are undefined
    role control has no lesion labelled for RS: its figures are undefined
    role control has no lesion of DIAG BCC, MEL, SK: balanced accuracy leaves them out, macro-F1 those never answered
    """
    found: list[str] = []
    unlabelled, absent = [], []
    for index, task in enumerate(schema.tasks):
        known = labels[labels[:, index] >= 0, index]
        if not len(known):
            unlabelled.append(task.name)
            continue
        if task.name == schema.target.task:
            found += _one_sided(np.isin(known, schema.target_indices()), schema.target.title, role)
        if missing := [name for number, name in enumerate(task.class_names) if number not in known]:
            absent.append(f"{task.name} {', '.join(missing)}")
    if unlabelled:
        found.append(f"role {role} has no lesion labelled for {', '.join(unlabelled)}: its figures are undefined")
    if absent:
        found.append(f"role {role} has no lesion of {'; '.join(absent)}: {_LEFT_OUT}")
    return tuple(found)


def _one_sided(positive: NDArray[np.bool_], title: str, role: str) -> Sequence[str]:
    if not positive.any():
        return [f"role {role} has no {title}: its AUC and sensitivity are undefined"]
    if positive.all():
        return [f"role {role} has nothing but {title}: its AUC and specificity are undefined"]
    return []
