"""The score of predicted criteria against a second implementation, typed from the checklist and not from the schema."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeskin import bootstrap as boot
from edgeskin import catalog, checklist, decide, metrics

SPC = catalog.schema("spc")
MEL = SPC.task("DIAG").class_names.index("MEL")
# Two points for each major criterion, one for each minor one; nothing for a diagnosis.
MAJOR = {("PN", "ATP"), ("BWV", "PRS"), ("VS", "IR")}
MINOR = {("PIG", "IR"), ("STR", "IR"), ("DaG", "IR"), ("RS", "PRS")}
CASES = st.lists(st.tuples(*(st.integers(0, len(task.classes) - 1) for task in SPC.tasks)), min_size=1, max_size=40)


def by_hand(case: dict[str, int]) -> int:
    named = {(task.name, task.class_names[case[task.name]]) for task in SPC.tasks}
    return 2 * len(named & MAJOR) + len(named & MINOR)


def columns(cases) -> dict[str, np.ndarray]:
    return {task.name: np.array([case[k] for case in cases]) for k, task in enumerate(SPC.tasks)}


def certain(classes: dict[str, np.ndarray], noise: float = 0.0) -> dict[str, np.ndarray]:
    """Probabilities whose most probable class is the one given."""
    rng = np.random.default_rng(0)
    found = {}
    for task in SPC.tasks:
        scores = np.eye(len(task.classes))[classes[task.name]] * 3 + rng.uniform(0, 1 + noise, (1, len(task.classes)))
        found[task.name] = scores / scores.sum(1, keepdims=True)
    return found


def test_the_points_of_every_class():
    for task in SPC.tasks:
        for one in task.classes:
            expected = 2 if (task.name, one.name) in MAJOR else 1 if (task.name, one.name) in MINOR else 0
            assert one.points == expected, (task.name, one.name)
    assert SPC.score is not None
    assert SPC.score.thresholds == (1, 3)


def test_all_combinations_reach_each_score_from_0_to_10():
    every = list(itertools.product(*(range(len(task.classes)) for task in SPC.tasks)))
    found = checklist.scores(columns(every), SPC)
    names = [task.name for task in SPC.tasks]
    assert found.tolist() == [by_hand(dict(zip(names, case, strict=True))) for case in every]
    # 3^5 * 2^2 * 5 cases: as many with each score as the product of the criteria's generating functions says.
    expected = np.array([1])
    for task in SPC.tasks:
        points = [one.points for one in task.classes]
        expected = np.convolve(expected, np.bincount(points))
    assert Counter(found.tolist()) == {score: int(count) for score, count in enumerate(expected) if count}
    assert sorted(set(found.tolist())) == list(range(11))


@given(CASES)
def test_many_at_once_equal_one_at_a_time(cases):
    classes = columns(cases)
    names = [task.name for task in SPC.tasks]
    each = [dict(zip(names, case, strict=True)) for case in cases]
    assert (
        checklist.scores(classes, SPC).tolist() == [by_hand(c) for c in each] == [decide.points(c, SPC) for c in each]
    )


@given(CASES, CASES, st.integers(0, 1000))
def test_figures_equal_a_count_by_hand(truth, answered, seed):
    count = min(len(truth), len(answered))
    labels, predicted = columns(truth[:count]), columns(answered[:count])
    answers = {"core": certain(predicted), "reference": certain(labels)}
    found = checklist.figures(SPC, labels, answers, boot.draws(np.arange(count), 5, seed=seed))
    assert found is not None
    names = [task.name for task in SPC.tasks]
    given_scores, true_scores = (
        [by_hand(dict(zip(names, case, strict=True))) for case in cases[:count]] for cases in (answered, truth)
    )
    away = [abs(a - b) for a, b in zip(given_scores, true_scores, strict=True)]
    assert found.distance.bundle.value == pytest.approx(sum(away) / count)
    assert found.distance.fp32.value == 0
    melanomas = [i for i in range(count) if truth[i][0] == MEL]
    others = [i for i in range(count) if truth[i][0] != MEL]
    for one, limit in zip(found.reached, (1, 3), strict=True):
        assert one.threshold == limit
        for figure, scores in ((one.sensitivity, given_scores), (one.specificity, given_scores)):
            positive = figure is one.sensitivity
            chosen = melanomas if positive else others
            right = sum((scores[i] >= limit) == positive for i in chosen)
            truly = sum((true_scores[i] >= limit) == positive for i in chosen)
            labelled = one.labelled_sensitivity if positive else one.labelled_specificity
            if chosen:
                assert figure.bundle.value == pytest.approx(right / len(chosen))
                # The reference model answers the true criteria: what perfect predictions would reach.
                assert figure.fp32.value == labelled.value == pytest.approx(truly / len(chosen))
            else:
                expected = "no positive lesion" if positive else "no negative lesion"
                assert figure.bundle.value is figure.fp32.value is labelled.value is None
                assert {figure.bundle.reason, figure.difference.reason, labelled.reason} == {expected}


def test_the_published_rates_follow_from_their_counts():
    """Lesions drawn so that 250 and 234 of 252 melanomas and all but 309 and 624 of 759 others reach 1 and 3 points.

    These are the counts behind the rates that Derm7pt gives; its own table is needed to say more.
    """
    rng = np.random.default_rng(0)
    at_least = {MEL: (250, 234), 1: (759 - 309, 759 - 624)}
    cases = []
    for diagnosis, (one, three) in at_least.items():
        of = 252 if diagnosis == MEL else 759
        for number in range(of):
            least, most = (3, 10) if number < three else (1, 2) if number < one else (0, 0)
            while True:
                case = [diagnosis, *(int(rng.integers(len(task.classes))) for task in SPC.tasks[1:])]
                if most == 0:
                    case[1:] = [0] * 7
                if least <= by_hand(dict(zip([t.name for t in SPC.tasks], case, strict=True))) <= most:
                    break
            cases.append(case)
    labels = columns(cases)
    found = checklist.figures(SPC, labels, {"core": certain(labels)}, boot.draws(np.arange(1011), 300))
    rates = [
        round(rate.value, 3) for one in found.reached for rate in (one.labelled_sensitivity, one.labelled_specificity)
    ]
    assert rates == [0.992, 0.407, 0.929, 0.822]
    assert (found.lesions, found.labelled) == (1011, 1011)
    for one in found.reached:
        low, high = metrics.wilson_interval(round(one.labelled_specificity.value * 759), 759)
        assert one.labelled_specificity.low == pytest.approx(low, abs=0.01)
        assert one.labelled_specificity.high == pytest.approx(high, abs=0.01)


def test_the_reference_is_of_lesions_with_every_criterion():
    labels = {task.name: np.zeros(6, np.int64) for task in SPC.tasks}
    labels["DIAG"] = np.array([MEL, MEL, MEL, 1, 1, -1])
    labels["PN"] = np.array([2, 2, -1, 0, 0, 0])
    found = checklist.figures(SPC, labels, {"core": certain(columns([[1] * 8] * 6))}, boot.draws(np.arange(6), 50))
    assert (found.lesions, found.labelled) == (5, 4)
    assert found.reached[0].labelled_sensitivity.value == 1
    labels["PN"][:] = -1
    found = checklist.figures(SPC, labels, {"core": certain(columns([[1] * 8] * 6))}, boot.draws(np.arange(6), 50))
    assert found.labelled == 0
    assert found.reached[0].sensitivity.bundle.value is not None
    for one in (found.reached[0].labelled_sensitivity, found.distance.bundle, found.distance.difference):
        assert one.value is None
    assert found.distance.bundle.reason == "no lesion is labelled for the score"
    assert found.reached[0].labelled_specificity.reason == "no lesion is labelled for the score"
    labels["DIAG"][:] = -1
    found = checklist.figures(SPC, labels, {"core": certain(columns([[1] * 8] * 6))}, boot.draws(np.arange(6), 50))
    assert found.reached[1].sensitivity.bundle.reason == "no lesion is labelled for the target"


def test_a_schema_without_a_score_has_no_figures():
    schema = catalog.schema("milk10k")
    name = schema.tasks[0].name
    assert (
        checklist.figures(schema, {name: np.zeros(1, int)}, {"core": {name: np.eye(11)[:1]}}, np.ones((2, 1))) is None
    )
