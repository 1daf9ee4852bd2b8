import numpy as np
import pytest

from edgeskin import catalog, metrics, scoring
from edgeskin.compared import NO_ECE_INTERVAL, NO_REFERENCE
from edgeskin.spec.manifest import Manifest
from edgeskin.spec.train import Checkpoint, Fusion, Threshold, Thresholds

SCHEMA = catalog.schema("milk10k")
(TASK,) = SCHEMA.tasks
CLASSES = len(TASK.classes)
MEL = TASK.class_names.index("MEL")
OTHER = 0 if MEL else 1


@pytest.fixture
def manifest() -> Manifest:
    """The four fields that scoring reads."""
    limits = Thresholds(pair=Threshold(value=0.4, rule=""), dermoscopic=Threshold(value=0.5, rule=""))
    fusion = {TASK.name: Fusion(dermoscopic_weight=0.5)}
    return Manifest.model_construct(task_schema=SCHEMA, fusion=fusion, thresholds=limits)


def alone(classes: list[int], strength: float = 9.0) -> np.ndarray:
    """Logits [lesions, 1, K] that say these classes."""
    return (np.eye(CLASSES)[classes] * strength)[:, None].astype(np.float32)


def test_flips_are_counted_named_and_split(manifest):
    others = [c for c in range(CLASSES) if c != MEL]
    before = [MEL, MEL, others[0], others[1], others[2]]
    after = [MEL, others[0], MEL, others[0], others[2]]
    found = scoring.parity(manifest, "dermoscopic", list("abcde"), alone(before), alone(after))
    assert (found.predicted.flipped, found.predicted.of, found.predicted.lesions) == (3, 5, ("b", "c", "d"))
    assert (found.predicted.to_target, found.predicted.from_target) == (1, 1)
    assert (found.referral.flipped, found.referral.lesions) == (2, ("b", "c"))
    assert (found.predicted.low, found.predicted.high) == pytest.approx(metrics.wilson_interval(3, 5))
    assert found.argmax_agreement == {TASK.name: pytest.approx(0.4)}
    assert found.max_abs_probability_difference > 0.99


def test_a_referral_flips_without_the_class(manifest):
    before, after = np.zeros((1, 1, CLASSES), np.float32), np.zeros((1, 1, CLASSES), np.float32)
    before[0, 0, [MEL, OTHER]] = 9.9, 9.91  # P(MEL) just under one half
    after[0, 0, [MEL, OTHER]] = 9.95, 9.9
    found = scoring.parity(manifest, "dermoscopic", ["a"], before, after)
    assert found.referral.to_target == 1
    back = scoring.parity(manifest, "dermoscopic", ["a"], after, before)
    assert (back.referral.to_target, back.referral.from_target) == (0, 1)


def test_identical_logits_have_no_sqnr_and_say_why(manifest):
    same = alone([0, 1, 2])
    found = scoring.parity(manifest, "dermoscopic", list("abc"), same, same)
    assert found.sqnr_db.value is None
    assert found.sqnr_db.reason == "the logits are identical"
    assert (found.predicted.flipped, found.predicted.low) == (0, 0.0)
    assert found.predicted.high > 0.5  # three lesions prove little


def test_figures_equal_the_plain_formulas_and_differences_are_paired(manifest):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, CLASSES, 200)
    reference = (np.eye(CLASSES)[truth] * 2 + rng.normal(0, 1, (200, CLASSES)))[:, None].astype(np.float32)
    core = reference + rng.normal(0, 0.2, reference.shape).astype(np.float32)
    groups = [str(i) for i in range(200)]
    found = scoring.accuracy(manifest, "dermoscopic", {TASK.name: truth}, groups, core, reference, repeats=400)
    for side, logits in (("bundle", core), ("fp32", reference)):
        predicted = logits[:, 0].argmax(1)
        rows = {name: getattr(row, side).value for name, row in found.tasks[TASK.name].items()}
        assert rows["accuracy"] == pytest.approx(metrics.accuracy(truth, predicted))
        assert rows["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy(truth, predicted, CLASSES))
        assert rows["macro_f1"] == pytest.approx(metrics.macro_f1(truth, predicted, CLASSES))
    for name, row in (found.tasks[TASK.name] | found.target).items():
        assert row.difference.value == pytest.approx(row.bundle.value - row.fp32.value)
        if name == "ece":
            for one in (row.fp32, row.bundle, row.difference):
                assert (one.low, one.high, one.reason) == (None, None, NO_ECE_INTERVAL)
        else:
            assert row.bundle.low <= row.bundle.value <= row.bundle.high
    row = found.tasks[TASK.name]["accuracy"]
    assert row.difference.high - row.difference.low < (row.bundle.high - row.bundle.low) / 1.5


def test_a_model_against_itself_differs_by_exactly_nothing(manifest):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (60, 2, CLASSES)).astype(np.float32)
    truth = rng.integers(0, CLASSES, 60)
    found = scoring.accuracy(manifest, "pair", {TASK.name: truth}, ["p"] * 30 + ["q"] * 30, logits, logits, repeats=50)
    for name, row in (found.tasks[TASK.name] | found.target).items():
        end = None if name == "ece" else 0
        assert (row.difference.value, row.difference.low, row.difference.high) == (0, end, end)


@pytest.mark.parametrize(
    ("truth", "undefined"),
    [
        ([-1, -1, -1], {"auc", "sensitivity", "specificity", "ece", "accuracy", "balanced_accuracy", "macro_f1"}),
        ([OTHER, OTHER, -1], {"auc", "sensitivity"}),
        ([MEL, MEL, MEL], {"auc", "specificity"}),
    ],
)
def test_what_is_undefined_is_null_with_a_reason(manifest, truth, undefined):
    found = scoring.accuracy(
        manifest, "dermoscopic", {TASK.name: np.array(truth)}, list("abc"), alone([0, 1, 2]), None, repeats=20
    )
    rows = {**found.tasks[TASK.name], **found.target}
    assert {name for name, row in rows.items() if row.bundle.value is None} == undefined
    for row in rows.values():
        assert (row.bundle.value is None) == ("lesion" in row.bundle.reason)
        assert row.fp32.reason == row.difference.reason == NO_REFERENCE


def test_a_mean_over_classes_names_those_it_leaves_out(manifest):
    truth, said = [MEL, MEL, OTHER], [MEL, 2, OTHER]
    found = scoring.accuracy(
        manifest, "dermoscopic", {TASK.name: np.array(truth)}, list("abc"), alone(said), alone(truth), repeats=20
    ).tasks[TASK.name]
    names = [name for k, name in enumerate(TASK.class_names) if k not in truth]
    left = f"mean over 2 of {CLASSES} classes: none is {', '.join(names)}"
    assert found["accuracy"].bundle.reason == ""
    for one in (found["balanced_accuracy"].bundle, found["balanced_accuracy"].difference, found["macro_f1"].fp32):
        assert (one.value is not None, one.reason) == (True, left)
    wrong = TASK.class_names[2]
    assert found["macro_f1"].bundle.reason.startswith(f"mean over 3 of {CLASSES} classes: none is ")
    assert found["macro_f1"].bundle.reason.endswith(f"; none is {wrong} either, but it is answered and counts as 0")
    assert found["macro_f1"].difference.reason == "the two means are over different classes"


def test_the_bins_sum_to_the_calibration_error_and_the_curve_to_the_auc(manifest):
    rng = np.random.default_rng(3)
    truth = rng.integers(0, CLASSES, 150)
    reference = (np.eye(CLASSES)[truth] * 2 + rng.normal(0, 1, (150, CLASSES)))[:, None].astype(np.float32)
    core = reference + rng.normal(0, 0.5, reference.shape).astype(np.float32)
    truth[:10] = -1
    found = scoring.accuracy(
        manifest, "dermoscopic", {TASK.name: truth}, [str(i) for i in range(150)], core, reference, repeats=20
    )
    assert found.reliability is not None
    assert found.roc is not None
    for side in ("bundle", "fp32"):
        bins = getattr(found.reliability, side)
        assert sum(b.lesions for b in bins) == 140
        gap = sum(b.lesions * abs(b.accuracy - b.confidence) for b in bins if b.lesions) / 140
        assert gap == pytest.approx(getattr(found.target["ece"], side).value)
        curve = getattr(found.roc, side)
        x, y = np.array(curve.false_positive), np.array(curve.true_positive)
        area = float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())
        assert area == pytest.approx(getattr(found.target["auc"], side).value)


def test_without_labels_or_positives_there_is_no_curve(manifest):
    def score(truth: list[int]):
        given = {TASK.name: np.array(truth)}
        return scoring.accuracy(manifest, "dermoscopic", given, list("abc"), alone([0, 1, 2]), None, repeats=20)

    none, negatives = score([-1, -1, -1]), score([OTHER, OTHER, -1])
    assert (none.reliability, none.roc, negatives.roc) == (None, None, None)
    assert negatives.reliability is not None
    assert negatives.reliability.fp32 is None
    assert sum(b.lesions for b in negatives.reliability.bundle) == 2


def test_one_task_has_calibration_and_neither_literature_nor_score(manifest):
    rng = np.random.default_rng(2)
    logits, truth = rng.normal(0, 1, (40, 2, CLASSES)).astype(np.float32), rng.integers(0, CLASSES, 40)
    found = scoring.accuracy(manifest, "pair", {TASK.name: truth}, list(map(str, range(40))), logits, None, repeats=20)
    assert (found.literature, found.score) == (None, None)
    assert found.calibration[TASK.name].after["ece"].bundle == found.target["ece"].bundle


def test_a_checkpoint_is_scored_like_its_bundle(manifest):
    record = Checkpoint.model_construct(
        task_schema=manifest.task_schema, fusion=manifest.fusion, thresholds=manifest.thresholds
    )
    rng = np.random.default_rng(1)
    truth = rng.integers(0, CLASSES, 60)
    reference = rng.normal(0, 1, (60, 2, CLASSES)).astype(np.float32)
    core = reference + rng.normal(0, 0.5, reference.shape).astype(np.float32)
    ids = [str(i) for i in range(60)]
    scored = [
        (
            scoring.parity(deciding, "pair", ids, reference, core),
            scoring.accuracy(deciding, "pair", {TASK.name: truth}, ids, core, reference, repeats=20),
        )
        for deciding in (manifest, record)
    ]
    assert scored[0] == scored[1]
    assert scored[0][0].predicted.flipped > 0
