import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeskin import metrics
from edgeskin.decide import softmax, target_probability, task_probabilities
from edgeskin.spec.schema import ClassSpec, Schema, Target, Task
from edgeskin.spec.train import Fusion
from edgeskin.training.operating import (
    choose_fusion,
    choose_thresholds,
    control_metrics,
    doubts,
    temperature,
)

SCHEMA = Schema(
    name="x",
    tasks=(
        Task(name="DIAG", classes=tuple(ClassSpec(name=n) for n in ("NEV", "MEL", "BCC"))),
        Task(name="SIDE", classes=tuple(ClassSpec(name=n) for n in ("L", "R"))),
    ),
    target=Target(task="DIAG", positive=("MEL",)),
)


def drawn(rng, logits):
    """Labels drawn from the softmax of these logits: their temperature is 1."""
    probabilities = softmax(logits)
    return np.array([rng.choice(probabilities.shape[1], p=row) for row in probabilities])


def control(rng, count=400, clinical_noise=2.0, lacking=0.2):
    """Lesions whose dermoscopic logits know the labels and whose clinical ones know less."""
    true = rng.normal(0, 2, (count, 5))
    labels = np.stack([drawn(rng, true[:, :3]), drawn(rng, true[:, 3:])], axis=1)
    clinical = true + rng.normal(0, clinical_noise, true.shape)
    both = np.stack([clinical, true], axis=1)
    both[rng.random(count) < lacking, 0] = np.nan
    return both, true + rng.normal(0, 0.5, true.shape), labels


@pytest.mark.parametrize("known", [0.5, 1.0, 2.5])
def test_temperature_recovers_a_known_scaling(known):
    rng = np.random.default_rng(0)
    true = rng.normal(0, 2, (4000, 4))
    assert temperature(known * true, drawn(rng, true)) == pytest.approx(known, rel=0.1)


def test_temperature_stays_in_its_range():
    sure = np.array([[9.0, 0.0]] * 50)
    assert temperature(sure, np.zeros(50, int)) == pytest.approx(0.25, abs=0.01)  # never wrong: as cold as allowed
    assert temperature(sure, np.arange(50) % 2) == pytest.approx(4.0, abs=0.05)  # a coin: as warm as allowed
    assert temperature(np.zeros((0, 3)), np.zeros(0, int)) == 1.0


def test_a_handful_of_lesions_gives_no_temperature():
    """Nine lucky answers would make it as cold as it gets; of ten it is fitted."""
    sure = np.array([[9.0, 0.0]] * 10)
    assert temperature(sure[:9], np.zeros(9, int)) == 1.0
    assert temperature(sure, np.zeros(10, int)) < 0.3


def test_temperatures_that_are_no_minimum_are_told():
    rng = np.random.default_rng(4)
    both, alone, labels = control(rng, 60, lacking=0)
    both[:, 0, :3] = 3 * np.eye(3)[labels[:, 0]]  # the clinical branch is never wrong on DIAG
    labels[9:, 1] = -1
    found = doubts(both, labels, SCHEMA, choose_fusion(both, alone, labels, SCHEMA))
    few = "SIDE clinical (n = 9), SIDE dermoscopic (n = 9), SIDE alone (n = 9)"
    assert found == [
        f"temperatures left at 1, fewer than 10 control lesions: {few}",
        "temperatures at a bound of 0.25..4, their best may lie beyond: DIAG clinical 0.25 (n = 60)",
    ]
    plain, alone, labels = control(rng, 60)
    assert doubts(plain, labels, SCHEMA, choose_fusion(plain, alone, labels, SCHEMA)) == []


@pytest.mark.parametrize("modality", ["clinical", "dermoscopic"])
def test_a_branch_that_the_network_lacks_has_no_temperature(modality):
    both, alone, labels = control(np.random.default_rng(5), lacking=0)
    both[:, int(modality == "clinical")] = 0
    alone = np.zeros_like(alone) if modality == "clinical" else both[:, 1]
    fusion = choose_fusion(both, alone, labels, SCHEMA, modality)
    other = {"clinical": ("dermoscopic", "alone"), "dermoscopic": ("clinical",)}[modality]
    assert all(getattr(fusion["DIAG"], f"temperature_{name}") == 1.0 for name in other)
    assert getattr(fusion["DIAG"], f"temperature_{modality}") != 1.0
    assert doubts(both, labels, SCHEMA, fusion, modality) == []


def test_figures_of_the_control_role_are_those_of_the_fusion():
    """By hand: the clinical image overrules where it has all the weight; alone, the dermoscopic one speaks."""
    both = np.zeros((4, 2, 5))
    both[:, 0, [1, 1, 0, 0]] = np.array([[4, 4, 0, 0]] * 4)  # clinical: MEL
    both[:, 1, 0] = 4  # dermoscopic: NEV
    both[3, 0] = np.nan
    alone = both[:, 1].copy()
    alone[3, 2] = 9  # the last one has no clinical image: BCC
    labels = np.array([[1, -1], [0, -1], [-1, -1], [2, -1]])
    rule = Fusion(dermoscopic_weight=0.9)
    rules = {"DIAG": rule, "SIDE": rule}
    found = control_metrics(both, alone, labels, SCHEMA, rules, {"loss": 0.5, "control_macro_f1": 0.123})
    assert found["loss"] == 0.5
    assert found["control_balanced_accuracy"] == pytest.approx(2 / 3)  # NEV, NEV, BCC for MEL, NEV, BCC
    assert found["control_macro_f1"] == pytest.approx((0 + 2 / 3 + 1) / 3)
    clinical = {name: rule.model_copy(update={"dermoscopic_weight": 0.0}) for name in rules}
    found = control_metrics(both, alone, labels, SCHEMA, clinical, {})
    assert found["control_macro_f1"] == pytest.approx((2 / 3 + 0 + 1) / 3)  # MEL, MEL, BCC
    labels[0] = -1
    assert "control_target_auc" not in control_metrics(both, alone, labels, SCHEMA, rules, {})  # no melanoma


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 6), st.floats(0, 0.9))
def test_weights_lie_on_a_grid_from_one_half(seed, noise, lacking):
    both, alone, labels = control(np.random.default_rng(seed), 60, noise, lacking)
    for fusion in choose_fusion(both, alone, labels, SCHEMA).values():
        assert 0.5 <= fusion.dermoscopic_weight <= 1.0
        assert fusion.dermoscopic_weight * 20 == pytest.approx(round(fusion.dermoscopic_weight * 20))


def test_weight_follows_what_the_clinical_branch_knows():
    rng = np.random.default_rng(1)
    both, alone, labels = control(rng)
    useless = both.copy()
    useless[:, 0] = np.where(np.isnan(useless[:, 0]), np.nan, rng.normal(0, 3, useless[:, 0].shape))
    useful = both[:, ::-1].copy()  # the branches swapped: now the clinical one knows
    useful[np.isnan(useful[:, 1, 0])] = np.nan
    assert choose_fusion(useless, alone, labels, SCHEMA)["DIAG"].dermoscopic_weight >= 0.95
    assert choose_fusion(useful, alone, labels, SCHEMA)["DIAG"].dermoscopic_weight == 0.5  # dermoscopy first


def test_the_weight_is_the_best_of_the_grid():
    both, alone, labels = control(np.random.default_rng(2), lacking=0)
    fusion = choose_fusion(both, alone, labels, SCHEMA)

    def cost(weight):
        changed = {t: f.model_copy(update={"dermoscopic_weight": weight}) for t, f in fusion.items()}
        fused = task_probabilities(both, SCHEMA, changed, "pair")["DIAG"]
        return metrics.negative_log_likelihood(fused, labels[:, 0])

    best = cost(fusion["DIAG"].dermoscopic_weight)
    assert all(best <= cost(w) + 1e-12 for w in np.arange(0.5, 1.001, 0.05))


def with_head(both, head):
    """Logits of a fused head beside the others, missing where the clinical image is."""
    head = np.where(np.isnan(both[:, :1, 0]), np.nan, head)
    return np.concatenate([both, head[:, None]], axis=1)


def test_the_weight_of_a_fused_head_follows_what_it_knows():
    rng = np.random.default_rng(7)
    both, alone, labels = control(rng)
    useless = with_head(both, rng.normal(0, 3, both[:, 1].shape))
    knowing = with_head(np.stack([both[:, 0], np.where(np.isnan(both[:, 0]), both[:, 1], 0)], 1), 2 * both[:, 1])
    found = choose_fusion(useless, alone, labels, SCHEMA)["DIAG"]
    plain = choose_fusion(both, alone, labels, SCHEMA)["DIAG"]
    assert found.fused_weight <= 0.05
    assert found.temperature_dermoscopic == plain.temperature_dermoscopic
    assert (plain.fused_weight, plain.temperature_fused) == (0.0, 1.0)
    found = choose_fusion(knowing, alone, labels, SCHEMA)["DIAG"]
    assert found.fused_weight >= 0.9
    assert found.temperature_fused == pytest.approx(2, rel=0.25)


def test_both_weights_are_the_best_of_the_grid_together():
    rng = np.random.default_rng(8)
    both, alone, labels = control(rng, lacking=0.1)
    given_logits = with_head(both, both[:, 1] + rng.normal(0, 1.5, both[:, 1].shape))
    fusion = choose_fusion(given_logits, alone, labels, SCHEMA)
    paired = ~np.isnan(both[:, 0, 0])

    def cost(weight, third):
        changed = {
            t: f.model_copy(update={"dermoscopic_weight": weight, "fused_weight": third}) for t, f in fusion.items()
        }
        fused = task_probabilities(given_logits[paired], SCHEMA, changed, "pair")["DIAG"]
        return metrics.negative_log_likelihood(fused, labels[paired, 0])

    best = cost(fusion["DIAG"].dermoscopic_weight, fusion["DIAG"].fused_weight)
    costs = [cost(w, f) for w in np.arange(0.5, 1.001, 0.05) for f in np.arange(0, 1.001, 0.05)]
    assert best <= min(costs) + 1e-12
    thresholds = choose_thresholds(given_logits, alone, labels, SCHEMA, fusion)
    assert thresholds.pair.control_sensitivity >= 0.9


def test_unlabelled_lesions_and_lone_images_do_not_count():
    """Nonsense in rows that are unlabelled, or in the clinical slot of lesions without one, changes nothing."""
    rng = np.random.default_rng(3)
    both, alone, labels = control(rng, 200)
    extra = rng.normal(0, 50, (20, 2, 5))
    more = (
        np.concatenate([both, extra]),
        np.concatenate([alone, rng.normal(0, 50, (20, 5))]),
        np.concatenate([labels, np.full((20, 2), -1)]),
    )
    fusion = choose_fusion(both, alone, labels, SCHEMA)
    assert choose_fusion(*more, SCHEMA) == fusion
    assert choose_thresholds(*more, SCHEMA, fusion) == choose_thresholds(both, alone, labels, SCHEMA, fusion)


def test_no_clinical_image_at_all():
    both, alone, labels = control(np.random.default_rng(4), 50)
    both[:, 0] = np.nan
    fusion = choose_fusion(both, alone, labels, SCHEMA)
    assert all((f.temperature_clinical, f.dermoscopic_weight) == (1.0, 0.5) for f in fusion.values())
    thresholds = choose_thresholds(both, alone, labels, SCHEMA, fusion)
    assert thresholds.pair.value == 0.5
    assert "no melanoma in the control role" in thresholds.pair.rule
    assert thresholds.dermoscopic.control_sensitivity >= 0.9


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(5, 120))
def test_thresholds_reach_the_sensitivity_and_no_positive_more(seed, count):
    both, alone, labels = control(np.random.default_rng(seed), count)
    fusion = choose_fusion(both, alone, labels, SCHEMA)
    thresholds = choose_thresholds(both, alone, labels, SCHEMA, fusion)
    for mode in ("pair", "dermoscopic"):
        usable = ~np.isnan(both[:, 0, 0]) if mode == "pair" else np.ones(count, bool)
        logits = both[usable] if mode == "pair" else alone[:, None]
        score = target_probability(task_probabilities(logits, SCHEMA, fusion, mode), SCHEMA)
        positive = labels[usable, 0] == 1
        chosen = getattr(thresholds, mode)
        if not positive.any():
            assert chosen.value == 0.5
            assert chosen.control_sensitivity is None
            continue
        flagged = score >= chosen.value
        assert flagged[positive].mean() >= 0.9
        assert chosen.control_sensitivity == pytest.approx(flagged[positive].mean())
        if (~positive).any():
            assert chosen.control_specificity == pytest.approx((~flagged[~positive]).mean())
        else:
            assert chosen.control_specificity is None
        last = score[positive & flagged].min()
        assert (score > last)[positive].mean() < 0.9


def test_no_target_lesion_in_the_control_role():
    both, alone, labels = control(np.random.default_rng(5), 50)
    labels[:, 0] = 0
    fusion = choose_fusion(both, alone, labels, SCHEMA)
    thresholds = choose_thresholds(both, alone, labels, SCHEMA, fusion)
    for chosen in (thresholds.pair, thresholds.dermoscopic):
        assert chosen.value == 0.5
        assert chosen.rule == "0.5: no melanoma in the control role to choose by"
        assert chosen.control_sensitivity is None
