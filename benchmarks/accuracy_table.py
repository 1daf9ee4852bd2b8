"""The table on the recipe that is trained for accuracy, in benchmarks/README.md."""

from collections.abc import Mapping, Sequence

from edgeskin.report.text import MODE_TITLES, NONE, estimate
from edgeskin.spec.manifest import MODES
from edgeskin.spec.result import Accuracy, VerifyResult


def table(checks: Sequence[VerifyResult], baseline: Mapping[str, object], given: Mapping[str, str]) -> str:
    """Figures of each verified bundle, both images and the dermoscopic one alone, beside a reference.

    Args:
        baseline: the reference: `name`, `what` it is and a `note` on it.
        given: its figures by the titles of the rows.
    """
    from tables import TITLES, lines

    if not checks:
        return "Not measured yet: `edgeskin verify --out` writes the result.\n"
    text = ""
    for verify in checks:
        columns = {mode: _rows_of(verify.accuracy[mode]) for mode in MODES if mode in verify.accuracy}
        titles = list(next(iter(columns.values())))
        rows = [(title, *(one[title] for one in columns.values()), given.get(title, NONE)) for title in titles]
        text += lines(("with 95 % intervals", *(MODE_TITLES[mode] for mode in columns), str(baseline["name"])), rows)
        made = f"{TITLES.get(verify.target, verify.target)} {verify.precision.upper()}"
        text += f"\n{made}, {verify.lesions:,} lesions of role {verify.role}.\n"
    return text + f"\n{baseline['name']}: {baseline['what']}; {baseline['note']}.\n"


def _rows_of(scored: Accuracy) -> dict[str, str]:
    task = next(iter(scored.tasks.values()))
    target = scored.target
    return {
        "lesions": f"{scored.lesions:,}",
        "macro-F1": estimate(task["macro_f1"].bundle),
        "balanced accuracy": estimate(task["balanced_accuracy"].bundle),
        "accuracy": estimate(task["accuracy"].bundle),
        "melanoma AUC": estimate(target["auc"].bundle),
        "sensitivity to melanoma": estimate(target["sensitivity"].bundle),
        "its specificity": estimate(target["specificity"].bundle),
    }
