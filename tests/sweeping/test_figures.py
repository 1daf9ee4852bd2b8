"""Figures of a sweep against the same figures worked out lesion by lesion, draw by draw, with scikit-learn."""

import dataclasses
from functools import partial

import numpy as np
import pytest

from edgeskin.errors import EdgeskinError
from edgeskin.spec.result import Estimate
from edgeskin.spec.sweep_result import Figure
from edgeskin.sweeping.figures import METHOD, Judge, metric_titles, probabilities
from edgeskin.sweeping.verdict import decide_on, widened


def softmax(logits, temperature=1.0):
    powers = np.exp(logits.astype(np.float64) / temperature)
    return powers / powers.sum(-1, keepdims=True)


def by_hand(given, reading, places, only=()):
    """Every metric of one run on drawn lesions, by another way: scikit-learn on the repeated rows."""
    from sklearn.metrics import f1_score, recall_score, roc_auc_score, roc_curve

    if reading == "pair":
        found = 0.6 * softmax(given.pair[:, 1]) + 0.4 * softmax(given.pair[:, 0], 1.5)
    else:
        found = softmax(given.dermoscopic)
    truth, found = given.labels[places, 0], found[places]
    top, present = found.argmax(1), np.unique(truth)
    told = {
        "macro_f1": lambda: f1_score(truth, top, average="macro"),
        "balanced_accuracy": lambda: recall_score(truth, top, labels=present, average="macro"),
    }
    for title, classes in (("melanoma", [1]), ("malignant", [1, 2])):
        positive, score = np.isin(truth, classes), found[:, classes].sum(1)
        told[f"auc_{title}"] = partial(roc_auc_score, positive, score)
        false, true, _ = roc_curve(positive, score, drop_intermediate=False)
        told[f"sensitivity_{title}"] = partial(np.max, true[false <= 0.1 + 1e-9])
    return {name: told[name]() for name in only or told}


def drawn_lesions(judge, row):
    return np.repeat(np.arange(len(judge.first.lesions)), judge.weights[row].astype(int))


@pytest.mark.parametrize("reading", ["pair", "dermoscopic"])
def test_every_metric_on_every_draw_is_that_of_the_repeated_lesions(schema, suite_of, answers_of, reading):
    given = answers_of(1.0, 0)
    judge = Judge(suite_of(), schema, given)
    rows = judge.rows("base", 0, given, reading)
    assert list(rows) == list(judge.titles)
    for row in (0, 1, 2, 50, 100):
        expected = by_hand(given, reading, drawn_lesions(judge, row))
        assert {metric: rows[metric][row] for metric in rows} == pytest.approx(expected), row


def test_patients_are_drawn_as_a_whole(schema, suite_of, answers_of):
    judge = Judge(suite_of(), schema, answers_of(1.0, 0))
    assert (judge.weights[:, 0::2] == judge.weights[:, 1::2]).all()  # two lesions each
    assert not (judge.weights[:, 0] == judge.weights[:, 2]).all()


def test_the_interval_is_that_of_the_mean_over_seeds(schema, suite_of, answers_of):
    found = {seed: answers_of(1.0, seed) for seed in (0, 1)}
    judge = Judge(suite_of(), schema, found[0])
    figure = judge.variant("base", found, {}).readings[0].figures["macro_f1"]
    means = []
    for row in range(101):
        places = drawn_lesions(judge, row)
        means.append(np.mean([by_hand(given, "pair", places, ["macro_f1"])["macro_f1"] for given in found.values()]))
    assert figure.estimate.value == pytest.approx(means[0])
    assert (figure.estimate.low, figure.estimate.high) == pytest.approx(tuple(np.quantile(means[1:], [0.025, 0.975])))
    own = [by_hand(given, "pair", np.arange(60))["macro_f1"] for given in found.values()]
    assert list(figure.seeds.values()) == pytest.approx(own)
    assert figure.spread == pytest.approx(np.std(own, ddof=1))
    wide = widened(means[0], *np.quantile(means[1:], [0.025, 0.975]), np.std(own, ddof=1), 2)
    assert figure.with_seeds == pytest.approx(wide)
    assert figure.resolvable == pytest.approx((wide[1] - wide[0]) / 2)
    assert "draw" in METHOD


def test_a_difference_is_paired(schema, suite_of, answers_of):
    """The better half of two equal runs differs by what it is better, draw by draw; of equal ones by nothing at all."""
    suite = suite_of(comparison=[{"question": "?", "a": "base", "b": "other"}])
    good, bad = {s: answers_of(2.0, s) for s in (0, 1)}, {s: answers_of(0.2, s) for s in (0, 1)}
    judge = Judge(suite, schema, good[0])
    better = judge.answer(suite.comparison[0], {"base": good, "other": bad})
    assert better.verdict == "holds"
    assert better.parameters_ratio == 1.0
    pieces, name = [], "auc_melanoma"
    for row in range(101):
        places = drawn_lesions(judge, row)
        auc = [[by_hand(run[s], "pair", places, [name])[name] for s in (0, 1)] for run in (good, bad)]
        pieces.append(np.mean(auc[0]) - np.mean(auc[1]))
    found = better.differences["auc_melanoma"].estimate
    assert (found.value, found.low, found.high) == pytest.approx((pieces[0], *np.quantile(pieces[1:], [0.025, 0.975])))
    worse = judge.answer(suite.comparison[0].model_copy(update={"a": "other", "b": "base"}),
                         {"base": good, "other": bad})  # fmt: skip
    assert worse.verdict == "does not hold"
    same = Judge(suite, schema, good[0]).answer(suite.comparison[0], {"base": good, "other": good})
    assert same.verdict == "undecided at this size"
    assert same.differences["macro_f1"].estimate == Estimate(value=0, low=0, high=0)


def test_only_seeds_of_both_sides_are_compared(schema, suite_of, answers_of):
    suite = suite_of(comparison=[{"question": "?", "a": "base", "b": "other"}])
    judge = Judge(suite, schema, answers_of(1.0, 0))
    runs = {"base": {0: answers_of(1.0, 0), 1: answers_of(1.0, 1)}, "other": {1: answers_of(0.5, 1)}}
    assert judge.answer(suite.comparison[0], runs).seeds == (1,)
    none = judge.answer(suite.comparison[0], {"base": runs["base"]})
    assert none.verdict is None
    assert "no finished run" in none.reason
    assert none.differences == {}


@pytest.mark.parametrize(
    ("wide", "at_least", "verdict", "words"),
    [
        ((0.01, 0.05), 0.0, "holds", ""),
        ((-0.02, 0.05), 0.0, "undecided at this size", "the interval with the seeds holds the bound +0.000"),
        ((-0.009, 0.05), -0.01, "holds", ""),
        ((-0.05, -0.01), 0.0, "does not hold", ""),
        ((-0.05, -0.01), -0.01, "undecided at this size", "holds the bound -0.010"),
        ((-0.05, -0.02), -0.01, "does not hold", ""),
        (None, 0.0, None, "one common seed"),
    ],
)
def test_verdicts(wide, at_least, verdict, words):
    """By the interval with the seeds, never by the one over lesions, which is all above the bounds here."""
    seeds = {0: 0.02, 1: 0.04} if wide else {0: 0.03}
    figure = Figure(estimate=Estimate(value=0.03, low=0.02, high=0.04), seeds=seeds, spread=None, with_seeds=wide)
    told, reason = decide_on(figure, at_least)
    assert told == verdict
    assert words in reason
    assert bool(words) == bool(reason)


def test_one_common_seed_gives_a_difference_and_no_verdict(schema, suite_of, answers_of):
    suite = suite_of(comparison=[{"question": "?", "a": "base", "b": "other"}])
    runs = {"base": {0: answers_of(3.0, 0), 1: answers_of(3.0, 1)}, "other": {1: answers_of(0.1, 1)}}
    found = Judge(suite, schema, runs["base"][0]).answer(suite.comparison[0], runs)
    assert found.differences["macro_f1"].estimate.low > 0.3
    assert (found.verdict, found.reason, found.resolvable) == (None, "one common seed", None)


def test_an_interval_with_seeds_misses_about_as_often_as_it_says():
    """Sweeps of three seeds whose networks are equal: how often a claim of a difference holds."""
    rng, lesions, own, sweeps = np.random.default_rng(3), 0.01, 0.02, 3000
    held = held_by_lesions = 0
    for seeds in rng.normal(0, lesions, (sweeps, 1)) + rng.normal(0, own, (sweeps, 3)):
        value, arm = seeds.mean(), 1.96 * lesions
        held += widened(value, value - arm, value + arm, seeds.std(ddof=1), 3)[0] > 0
        held_by_lesions += value > arm and (seeds > 0).all()
    assert 0.015 < held / sweeps < 0.045
    assert held_by_lesions / sweeps > 0.06


def test_the_wider_interval_is_that_of_students_t_without_lesions_and_the_old_one_without_spread():
    from scipy.stats import t

    low, high = widened(0.5, 0.5, 0.5, spread=0.1, seeds=3)
    assert (low, high) == pytest.approx(t.interval(0.95, 2, loc=0.5, scale=0.1 / np.sqrt(3)))
    assert widened(0.5, 0.4, 0.7, spread=1e-6, seeds=3) == pytest.approx((0.4, 0.7), abs=1e-4)


def test_what_is_undefined_says_so_and_gives_no_verdict(schema, suite_of, answers_of):
    labels = np.zeros((60, 1), np.int64)  # nevi alone
    given = {0: answers_of(1.0, 0, labels=labels)}
    suite = suite_of(comparison=[{"question": "?", "a": "base", "b": "other", "metric": "auc_melanoma"}])
    judge = Judge(suite, schema, given[0])
    figure = judge.variant("base", given, {}).readings[0].figures["auc_melanoma"]
    assert figure.estimate.value is None
    assert "undefined" in figure.estimate.reason
    assert figure.seeds == {}
    answer = judge.answer(suite.comparison[0], {"base": given, "other": given})
    assert answer.verdict is None
    assert "undefined" in answer.reason


def test_each_reading_is_of_its_own_logits(schema, answers_of):
    pair, clinical = answers_of(1.0, 0), answers_of(1.0, 0, "clinical")
    assert probabilities(pair, schema, "clinical-branch")["DIAG"] == pytest.approx(softmax(pair.pair[:, 0], 1.5))
    assert probabilities(pair, schema, "dermoscopic-branch")["DIAG"] == pytest.approx(softmax(pair.pair[:, 1]))
    assert probabilities(clinical, schema, "clinical")["DIAG"] == pytest.approx(softmax(clinical.clinical, 1.5))
    for given, reading in ((pair, "clinical"), (clinical, "pair"), (clinical, "dermoscopic")):
        with pytest.raises(EdgeskinError, match="not asked so"):
            probabilities(given, schema, reading)


def test_runs_on_other_lesions_are_refused(schema, suite_of, answers_of):
    judge = Judge(suite_of(), schema, answers_of(1.0, 0))
    other = dataclasses.replace(answers_of(1.0, 1), lesions=tuple("x" * 60))
    with pytest.raises(EdgeskinError, match="different lesions"):
        judge.rows("other", 1, other, "pair")


def test_runs_on_other_classes_are_refused(schema, suite_of, answers_of):
    given = answers_of(1.0, 0)
    judge = Judge(suite_of(), schema, given)
    more = dataclasses.replace(given, dermoscopic=np.zeros((60, 4), np.float32))
    with pytest.raises(EdgeskinError, match=r"a run answered for other classes: got 'base, seed 0: 4'; .*three with 3"):
        judge.rows("base", 0, more, "dermoscopic")


def test_targets_and_metrics_must_exist(schema, suite_of):
    assert list(metric_titles(schema, suite_of())) == [
        "macro_f1", "balanced_accuracy", "auc_melanoma", "auc_malignant", "sensitivity_melanoma",
        "sensitivity_malignant",
    ]  # fmt: skip
    for fields, words in (
        ({"target": [{"task": "DIAG", "positive": ["MELA"], "title": "x"}]}, "did you mean 'MEL'"),
        ({"target": [{"task": "DIA", "positive": ["MEL"], "title": "x"}]}, "did you mean 'DIAG'"),
        ({"comparison": [{"question": "q", "a": "base", "b": "other", "metric": "macrof1"}]}, "mean 'macro_f1'"),
    ):
        with pytest.raises(EdgeskinError, match=words):
            metric_titles(schema, suite_of(**fields))
