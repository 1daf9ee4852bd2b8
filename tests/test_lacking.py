import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeskin import bootstrap as boot
from edgeskin import catalog
from edgeskin.lacking import reservation, undefined

SPC = catalog.schema("spc")
DIAG = SPC.task("DIAG")


@given(st.integers(0, 2**32 - 1))
def test_a_reservation_names_exactly_the_classes_that_a_mean_leaves_out(seed):
    rng = np.random.default_rng(seed)
    matrix = rng.integers(1, 9, (5, 5)) * (rng.random((5, 1)) < 0.6) * (rng.random((1, 5)) < 0.6).astype(float)
    if not matrix.sum():
        return
    truth, answered = matrix.sum(1) > 0, matrix.sum(0) > 0
    recall = [matrix[k, k] / matrix[k].sum() for k in range(5) if truth[k]]
    assert boot.balanced_accuracy(matrix[None])[0] == pytest.approx(np.mean(recall))
    said = reservation(matrix, DIAG, counts_answers=False)
    assert (said == "") == (len(recall) == 5)
    if said:
        names = [name for k, name in enumerate(DIAG.class_names) if not truth[k]]
        assert said == f"mean over {len(recall)} of 5 classes: none is {', '.join(names)}"
    f1 = [2 * matrix[k, k] / (matrix[k].sum() + matrix[:, k].sum()) for k in range(5) if truth[k] or answered[k]]
    assert boot.macro_f1(matrix[None])[0] == pytest.approx(np.mean(f1))
    said = reservation(matrix, DIAG, counts_answers=True)
    assert (said == "") == truth.all()
    if said:
        assert said.startswith(f"mean over {len(f1)} of 5 classes: none is ")
        for k, name in enumerate(DIAG.class_names):
            left, _, zero = said.partition("; ") if "; " in said else (said, "", "")
            if "counts as 0" in left:
                left, zero = "", left
            assert (name in left) == (not truth[k] and not answered[k])
            assert (name in zero) == (not truth[k] and answered[k])


def test_a_role_with_every_class_has_nothing_to_say():
    labels = np.array([[min(k, len(task.classes) - 1) for task in SPC.tasks] for k in range(5)])
    assert undefined(labels, SPC, "control") == ()


def test_what_a_role_lacks_is_said_with_what_it_costs():
    labels = np.array([[min(k, len(task.classes) - 1) for task in SPC.tasks] for k in range(5)])
    melanoma = DIAG.class_names.index("MEL")
    without = labels[labels[:, 0] != melanoma]
    assert undefined(without, SPC, "test") == (
        "role test has no melanoma: its AUC and sensitivity are undefined",
        "role test has no lesion of DIAG MEL: balanced accuracy leaves them out, macro-F1 those never answered",
    )
    truth = without[:, 0]
    for answered, recall, f1 in ((truth, 1.0, 1.0), (np.array([melanoma, *truth[1:]]), 3 / 4, 3 / 5)):
        matrix = boot.confusion(np.ones((1, 4)), truth, answered, 5)
        assert boot.balanced_accuracy(matrix)[0] == recall  # of 4 classes
        assert boot.macro_f1(matrix)[0] == f1  # of 4 classes, or of 5 where melanoma is answered
    only = np.array([[melanoma, *row[1:]] for row in labels])
    assert (
        undefined(only, SPC, "test")[0] == "role test has nothing but melanoma: its AUC and specificity are undefined"
    )
    nothing = np.full((3, len(SPC.tasks)), -1)
    (said,) = undefined(nothing, SPC, "control")
    assert all(task.name in said for task in SPC.tasks)
    assert said.endswith("its figures are undefined")
    assert undefined(np.zeros((0, len(SPC.tasks)), int), SPC, "control") == (said,)
