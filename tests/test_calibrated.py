"""Calibration before and after temperatures, against scikit-learn and against scalings that are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from edgeskin import bootstrap as boot
from edgeskin import calibrated, catalog, metrics
from edgeskin.compared import NO_ECE_INTERVAL
from edgeskin.decide import softmax, task_probabilities
from edgeskin.spec.schema import ClassSpec, Schema, Target, Task
from edgeskin.spec.train import Fusion
from edgeskin.training.operating import choose_fusion

SCHEMA = Schema(
    name="x",
    tasks=(
        Task(name="DIAG", classes=tuple(ClassSpec(name=n) for n in ("NEV", "MEL", "BCC"))),
        Task(name="SIDE", classes=tuple(ClassSpec(name=n) for n in ("L", "R"))),
    ),
    target=Target(task="DIAG", positive=("MEL",)),
)


def overconfident(count: int, seed: int = 0, factor: float = 3.0):
    """Logits `factor` times as large as those that the labels were drawn from: their best temperature is `factor`."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 1.5, (count, 5))
    labels = np.stack(
        [[rng.choice(len(p), p=p) for p in softmax(true[:, part])] for part in (slice(3), slice(3, 5))], 1
    )
    return factor * true, labels


def fusion(temperature: float) -> dict[str, Fusion]:
    return {task.name: Fusion(dermoscopic_weight=0.8, temperature_alone=temperature) for task in SCHEMA.tasks}


def score(logits, labels, temperature: float = 3.0, repeats: int = 300, **other):
    models = {"core": logits, **other}
    after, before = (
        {name: task_probabilities(x[:, None], SCHEMA, f, "dermoscopic") for name, x in models.items()}
        for f in (fusion(temperature), calibrated.plain(fusion(temperature)))
    )
    given_labels = {task.name: labels[:, k] for k, task in enumerate(SCHEMA.tasks)}
    return calibrated.figures(SCHEMA, given_labels, before, after, boot.draws(np.arange(len(labels)), repeats))


def test_every_temperature_goes_and_no_weight():
    names = [name for name in Fusion.model_fields if name.startswith("temperature")]
    found = calibrated.plain({"A": Fusion(dermoscopic_weight=0.7, **dict.fromkeys(names, 2.5))})["A"]
    assert [getattr(found, name) for name in names] == [1.0] * len(names)
    assert len(names) >= 3
    assert found.dermoscopic_weight == 0.7


def test_figures_equal_scikit_learn_on_both_sides_of_the_temperatures():
    logits, labels = overconfident(300)
    rng = np.random.default_rng(1)
    int8 = logits + rng.normal(0, 0.5, logits.shape)
    found = score(int8, labels, reference=logits)
    assert set(found) == {"DIAG", "SIDE"}
    for task, part, column in (("DIAG", slice(3), 0), ("SIDE", slice(3, 5), 1)):
        for side, x in (("fp32", logits), ("bundle", int8)):
            for when, temperature in (("before", 1.0), ("after", 3.0)):
                p = softmax(x[:, part], temperature)
                row = getattr(found[task], when)
                assert getattr(row["nll"], side).value == pytest.approx(sk.log_loss(labels[:, column], p))
                expected = metrics.expected_calibration_error(p, labels[:, column])
                assert getattr(row["ece"], side).value == pytest.approx(expected)
            change = getattr(found[task].change["nll"], side)
            gain = getattr(found[task].after["nll"], side).value - getattr(found[task].before["nll"], side).value
            assert change.value == pytest.approx(gain)
            assert change.low < change.value < change.high < 0  # the temperatures help, and that is no chance
        row = found[task].after["nll"]
        assert row.difference.value == pytest.approx(row.bundle.value - row.fp32.value)


def test_intervals_of_the_change_are_paired():
    logits, labels = overconfident(400, 2)
    row = score(logits, labels)["DIAG"]
    width = {when: getattr(row, when)["nll"].bundle for when in ("before", "after", "change")}
    spread = {when: one.high - one.low for when, one in width.items()}
    assert spread["change"] < np.hypot(spread["before"], spread["after"])


def test_a_temperature_of_one_changes_nothing():
    logits, labels = overconfident(50)
    for one in score(logits, labels, temperature=1.0).values():
        nll, ece = one.change["nll"].bundle, one.change["ece"].bundle
        assert (nll.value, nll.low, nll.high) == (0, 0, 0)
        assert (ece.value, ece.low, ece.high) == (0, None, None)


def test_likelihood_has_an_interval_that_covers_and_the_error_none_as_its_would_not():
    rng = np.random.default_rng(7)
    logits = 3 * rng.normal(0, 1.5, (40_000, 5))
    p = softmax(logits[:, :3], 3.0)  # calibrated
    truth = (p.cumsum(1) > rng.random((len(p), 1))).argmax(1)
    labels = np.stack([truth, np.full(len(p), -1)], 1)
    true = {"nll": sk.log_loss(truth, p), "ece": metrics.expected_calibration_error(p, truth)}
    change = true["nll"] - sk.log_loss(truth, softmax(logits[:, :3]))
    covered = {"nll": 0, "change of nll": 0, "ece": 0}
    for _ in range(120):
        some = rng.integers(0, len(truth), 250)
        one = score(logits[some], labels[some], repeats=200)["DIAG"]
        nll, gain, ece = one.after["nll"].bundle, one.change["nll"].bundle, one.after["ece"].bundle
        covered["nll"] += nll.low <= true["nll"] <= nll.high
        covered["change of nll"] += gain.low <= change <= gain.high
        weights = boot.draws(np.arange(250), 200)
        drawn = boot.interval(boot.expected_calibration_error(weights, p[some], truth[some]))
        covered["ece"] += drawn[1] <= true["ece"] <= drawn[2]
        assert (ece.value, ece.low, ece.high) == (pytest.approx(drawn[0]), None, None)
        assert ece.reason == NO_ECE_INTERVAL
    assert covered["nll"] >= 0.88 * 120
    assert covered["change of nll"] >= 0.88 * 120
    assert covered["ece"] <= 0.05 * 120


def test_an_unlabelled_task_says_so_and_is_not_zero():
    logits, labels = overconfident(30)
    labels[:, 1] = -1
    found = score(logits, labels, reference=logits)["SIDE"]
    for part in (found.before, found.after, found.change):
        for one in part.values():
            for side in (one.fp32, one.bundle, one.difference):
                assert (side.value, side.low, side.reason) == (None, None, calibrated.UNLABELLED)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.floats(0.4, 3.0))
def test_on_the_role_it_was_fitted_on_a_temperature_never_costs_likelihood(seed, factor):
    logits, labels = overconfident(80, seed, factor)
    both = np.stack([logits + 1, logits], 1)
    both[:20, 0] = np.nan
    chosen = choose_fusion(both, logits, labels, SCHEMA)
    found = calibrated.on_control(both, logits, labels, SCHEMA, chosen)
    assert [(one.mode, one.task, one.lesions) for one in found] == [
        (mode, task, count) for mode, count in (("pair", 60), ("dermoscopic", 80)) for task in ("DIAG", "SIDE")
    ]
    for one in found:
        if one.mode == "dermoscopic":  # one branch, one temperature, the minimum of this very figure
            assert one.nll_after <= one.nll_before + 1e-6
            column = ("DIAG", "SIDE").index(one.task)
            part = SCHEMA.slices()[one.task]
            assert one.nll_before == pytest.approx(sk.log_loss(labels[:, column], softmax(logits[:, part])))


def test_what_a_training_says():
    logits, labels = overconfident(200, 5)
    both = np.stack([logits, logits], 1)
    chosen = choose_fusion(both, logits, labels, SCHEMA)
    found = calibrated.on_control(both, logits, labels, SCHEMA, chosen)
    told = calibrated.lines(found, SCHEMA)
    assert [line.partition(":")[0] for line in told] == [
        "mode pair, DIAG", "mode pair, mean of 2 tasks", "mode dermoscopic, DIAG", "mode dermoscopic, mean of 2 tasks",
    ]  # fmt: skip
    one = next(one for one in found if (one.mode, one.task) == ("dermoscopic", "DIAG"))
    assert f"{one.ece_before:.3f} -> {one.ece_after:.3f}, negative log likelihood {one.nll_before:.3f} -> " in told[2]
    assert told[2].endswith("200 control lesions")
    mean = np.mean([one.nll_after for one in found if one.mode == "dermoscopic"])
    assert f"-> {mean:.3f} by the temperatures" in told[3]


def test_a_control_role_without_labels_or_clinical_images_is_told_and_not_zero():
    logits, labels = overconfident(30)
    labels[:, 1] = -1
    both = np.stack([np.full_like(logits, np.nan), logits], 1)
    found = calibrated.on_control(both, logits, labels, SCHEMA, fusion(2.0))
    assert [one.lesions for one in found] == [0, 0, 30, 0]
    assert all(np.isnan(one.nll_after) and np.isnan(one.ece_before) for one in found if not one.lesions)
    told = calibrated.lines(found, SCHEMA)
    assert told[0].endswith("undefined, no control lesion with these images is labelled for DIAG")
    assert told[3].endswith("is labelled for SIDE")


def test_one_task_has_no_mean_of_tasks():
    schema = catalog.schema("milk10k")
    name = schema.tasks[0].name
    logits = np.random.default_rng(0).normal(0, 1, (20, 11))
    found = calibrated.on_control(
        np.stack([logits, logits], 1), logits, np.zeros((20, 1), int), schema, {name: Fusion(dermoscopic_weight=0.5)}
    )
    assert len(calibrated.lines(found, schema)) == 2
