"""Figures in the literature's form: against scikit-learn, Derm7pt's published counts, and with classes absent."""

import numpy as np
import pytest
from sklearn import metrics as sk

from edgeskin import bootstrap as boot
from edgeskin import catalog, decide, literature, scoring
from edgeskin.spec.manifest import Manifest
from edgeskin.spec.schema import ClassSpec, Schema, Target, Task
from edgeskin.spec.train import Fusion

SPC = catalog.schema("spc")
# Lesions of each class in the whole of Derm7pt, in the order of the classes, as the data set's description gives them.
COUNTS = {
    "DIAG": (42, 575, 252, 97, 45),
    "PN": (400, 381, 230),
    "BWV": (816, 195),
    "VS": (823, 117, 71),
    "PIG": (588, 118, 305),
    "STR": (653, 107, 251),
    "DaG": (229, 334, 448),
    "RS": (758, 253),
}
BEARING = {
    "MEL": ("DIAG", 2), "PN-ATP": ("PN", 2), "BWV-PRS": ("BWV", 1), "VS-IR": ("VS", 2),
    "PIG-IR": ("PIG", 2), "STR-IR": ("STR", 2), "DaG-IR": ("DaG", 2), "RS-PRS": ("RS", 1),
}  # fmt: skip


def drawn(count: int, seed: int, skill: float = 1.5):
    """Labels, and probabilities of two models that know something of them; the second is the first with noise."""
    rng = np.random.default_rng(seed)
    labels, answers = {}, {"reference": {}, "core": {}}
    for task in SPC.tasks:
        shares = np.array(COUNTS[task.name]) / 1011
        labels[task.name] = rng.choice(len(shares), count, p=shares)
        logits = np.eye(len(shares))[labels[task.name]] * skill + rng.normal(0, 1, (count, len(shares)))
        for name, noise in (("reference", 0.0), ("core", 0.2)):
            powers = np.exp(logits + rng.normal(0, 1, logits.shape) * noise)
            answers[name][task.name] = powers / powers.sum(1, keepdims=True)
    return labels, answers


def weights(count: int, repeats: int = 200):
    return boot.draws(np.arange(count), repeats)


def test_figures_equal_scikit_learn_for_both_models():
    labels, answers = drawn(395, 0)
    found = literature.figures(SPC, labels, answers, weights(395))
    assert [one.title for one in found.classes] == list(BEARING)
    for side, name in (("fp32", "reference"), ("bundle", "core")):
        each = [sk.accuracy_score(labels[t], p.argmax(1)) for t, p in answers[name].items()]
        assert getattr(found.average_accuracy, side).value == pytest.approx(np.mean(each))
        for one in found.classes:
            task, number = BEARING[one.title]
            positive, predicted = labels[task] == number, answers[name][task].argmax(1) == number
            expected = {
                "auc": sk.roc_auc_score(positive, answers[name][task][:, number]),
                "sensitivity": sk.recall_score(positive, predicted),
                "specificity": sk.recall_score(positive, predicted, pos_label=0),
                "precision": sk.precision_score(positive, predicted),
            }
            assert {m: getattr(getattr(one, m), side).value for m in expected} == pytest.approx(expected)
            assert (one.lesions, one.positives) == (395, positive.sum())
            assert one.classes == (SPC.task(task).class_names[number],)
    for one in (found.average_accuracy, *(getattr(c, m) for c in found.classes for m in ("auc", "precision"))):
        assert one.bundle.low <= one.bundle.value <= one.bundle.high
        assert one.difference.value == pytest.approx(one.bundle.value - one.fp32.value)
        assert one.difference.low <= one.difference.value <= one.difference.high


def test_whoever_always_answers_the_commonest_class_has_the_published_average():
    labels = {name: np.repeat(np.arange(len(counts)), counts) for name, counts in COUNTS.items()}
    lazy = {t: np.tile(np.eye(len(c))[np.argmax(c)], (1011, 1)) for t, c in COUNTS.items()}
    found = literature.figures(SPC, labels, {"core": lazy}, weights(1011, 50))
    assert round(100 * found.average_accuracy.bundle.value, 1) == 62.6
    by_name = {one.title: one for one in found.classes}
    assert {name: one.positives for name, one in by_name.items()} == {
        "MEL": 252, "PN-ATP": 230, "BWV-PRS": 195, "VS-IR": 71, "PIG-IR": 305, "STR-IR": 251, "DaG-IR": 448,
        "RS-PRS": 253,
    }  # fmt: skip
    melanoma, globules = by_name["MEL"], by_name["DaG-IR"]
    assert (melanoma.sensitivity.bundle.value, melanoma.specificity.bundle.value) == (0.0, 1.0)
    assert (melanoma.precision.bundle.value, melanoma.auc.bundle.value) == (None, 0.5)
    assert melanoma.precision.bundle.reason == "no lesion is answered with this class"
    assert globules.precision.bundle.value == pytest.approx(448 / 1011)


def test_of_395_cases_all_are_scored_though_five_lack_the_clinical_image():
    labels, _ = drawn(395, 5)
    rng = np.random.default_rng(6)
    known = np.concatenate([np.eye(len(t.classes))[labels[t.name]] for t in SPC.tasks], 1)[:, None]
    logits = {
        mode: (1.5 * known + rng.normal(0, 1, (395, rows, known.shape[2]))).astype(np.float32)
        for mode, rows in (("pair", 2), ("dermoscopic", 1))
    }
    paired = np.arange(395) % 80 != 7
    logits["pair"][~paired] = np.nan
    half = {t.name: Fusion(dermoscopic_weight=0.5, temperature_alone=1.5) for t in SPC.tasks}
    deciding = Manifest.model_construct(task_schema=SPC, fusion=half)
    groups = [str(k) for k in range(395)]
    every = scoring.every_lesion(deciding, labels, groups, paired, logits, None, repeats=50)
    assert (every.lesions, every.without_clinical) == (395, 5)
    assert {one.lesions for one in every.literature.classes} == {every.score.lesions} == {395}
    answered = {}
    for name, part in SPC.slices().items():
        alone = decide.softmax(logits["dermoscopic"][:, 0, part], 1.5)
        both = (decide.softmax(logits["pair"][:, 0, part]) + decide.softmax(logits["pair"][:, 1, part])) / 2
        answered[name] = np.where(paired[:, None], both, alone)
        assert every.accuracy[name].bundle.value == pytest.approx(np.mean(answered[name].argmax(1) == labels[name]))
    mean = np.mean([one.bundle.value for one in every.accuracy.values()])
    assert every.literature.average_accuracy.bundle.value == pytest.approx(mean)
    auc = sk.roc_auc_score(labels["DIAG"] == 2, answered["DIAG"][:, 2])
    assert every.literature.classes[0].auc.bundle.value == pytest.approx(auc)


def test_the_interval_of_an_accuracy_is_as_wide_as_395_cases_allow():
    """The standard error of 77 % on 395 cases is 2.1 points; that of the mean of eight tasks is smaller."""
    rng = np.random.default_rng(3)
    labels = {task.name: rng.integers(0, len(task.classes), 395) for task in SPC.tasks}
    answers = {}
    for task in SPC.tasks:
        wrong = rng.permutation(395) < round(0.23 * 395)
        answers[task.name] = np.eye(len(task.classes))[(labels[task.name] + wrong) % len(task.classes)]
    one = SPC.model_copy(update={"tasks": (SPC.task("DIAG"), SPC.task("DIAG").model_copy(update={"name": "AGAIN"}))})
    double = {"DIAG": answers["DIAG"], "AGAIN": answers["DIAG"]}
    alike = {"DIAG": labels["DIAG"], "AGAIN": labels["DIAG"]}
    single = literature.figures(one, alike, {"core": double}, weights(395, 2000)).average_accuracy.bundle
    assert single.value == pytest.approx(0.77, abs=0.002)
    assert (single.high - single.low) / (2 * 1.96) == pytest.approx(0.021, abs=0.002)
    whole = literature.figures(SPC, labels, {"core": answers}, weights(395, 2000)).average_accuracy.bundle
    assert (whole.high - whole.low) == pytest.approx((single.high - single.low) / np.sqrt(8), rel=0.15)


def test_a_class_without_a_lesion_has_no_sensitivity_and_says_why():
    labels, answers = drawn(60, 1)
    labels["VS"] = np.where(labels["VS"] == 2, 0, labels["VS"])
    labels["RS"] = np.ones(60, np.int64)
    found = {one.title: one for one in literature.figures(SPC, labels, answers, weights(60)).classes}
    none, every = found["VS-IR"], found["RS-PRS"]
    for metric in ("auc", "sensitivity"):
        for side in ("bundle", "fp32", "difference"):
            one = getattr(getattr(none, metric), side)
            assert (one.value, one.low, one.reason) == (None, None, "no lesion has this class")
    assert none.specificity.bundle.value is not None
    assert none.precision.bundle.value == 0  # answered, and wrong each time: that is known
    assert (every.specificity.bundle.value, every.specificity.bundle.reason) == (None, "every lesion has this class")
    assert (every.auc.bundle.value, every.auc.bundle.reason) == (None, "every lesion has this class")
    assert every.precision.bundle.value == 1


def test_an_unlabelled_task_leaves_the_average_undefined_and_is_named():
    labels, answers = drawn(40, 2)
    labels["STR"] = np.full(40, -1)
    labels["DIAG"][:10] = -1
    found = literature.figures(SPC, labels, answers, weights(40))
    assert found.average_accuracy.bundle.value is None
    assert found.average_accuracy.difference.reason == "no lesion is labelled for STR"
    streaks = found.classes[[one.title for one in found.classes].index("STR-IR")]
    assert streaks.lesions == 0
    for metric in ("auc", "sensitivity", "specificity", "precision"):
        assert getattr(streaks, metric).bundle.reason == "no lesion is labelled for STR"
    assert found.classes[0].lesions == 30


def test_a_lean_bundle_has_no_fp32_figures():
    labels, answers = drawn(40, 4)
    found = literature.figures(SPC, labels, {"core": answers["core"]}, weights(40))
    assert found.average_accuracy.fp32.value is None
    assert found.classes[0].auc.bundle.value is not None


def task(name: str, *points: int) -> Task:
    return Task(name=name, classes=tuple(ClassSpec(name=f"c{k}", points=p) for k, p in enumerate(points)))


def test_the_rule_of_score_bearing_classes():
    schema = Schema(
        name="x",
        tasks=(task("A", 0, 3, 3), task("DIAG", 9, 0, 0), task("B", 0, 0), task("C", 1, 2)),
        target=Target(task="DIAG", positive=("c1", "c2")),
    )
    found = [(one.title, one.task, one.indices) for one in literature.score_bearing(schema)]
    assert found == [("c1+c2", "DIAG", (1, 2)), ("A-c1", "A", (1,)), ("A-c2", "A", (2,)), ("C-c1", "C", (1,))]


def test_one_task_has_no_such_literature():
    schema = catalog.schema("milk10k")
    (only,) = schema.tasks
    probabilities = np.eye(len(only.classes))
    labels = {only.name: np.arange(len(only.classes))}
    assert literature.figures(schema, labels, {"core": {only.name: probabilities}}, weights(11)) is None
