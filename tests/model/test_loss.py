import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeskin import catalog
from edgeskin.model.loss import BiasedLoss
from edgeskin.spec.schema import ClassSpec, Schema, Target, Task
from edgeskin.spec.train import TrainSpec

TWO = Schema(
    name="two",
    tasks=(Task(name="DIAG", classes=(ClassSpec(name="NEV"), ClassSpec(name="MEL"))),),
    target=Target(task="DIAG", positive=("MEL",)),
)
EVEN = {"DIAG": [1, 1]}


def loss_of(counts=EVEN, a=0.5, smoothing=0.0, tau=0.0, schema=TWO, **more) -> BiasedLoss:
    return BiasedLoss(
        schema, counts, TrainSpec(clinical_weight=a, label_smoothing=smoothing, logit_adjustment=tau, **more)
    )


def test_biased_sum_by_hand():
    """Dermoscopic p(truth) = 3/4, clinical p(truth) = 1/2: L = ln(4/3) + 0.5 ln 2 = 0.28768 + 0.34657."""
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3)]])  # clinical, dermoscopic
    loss = loss_of()(logits, torch.tensor([[1]]), 1, None)
    assert loss.item() == pytest.approx(math.log(4 / 3) + 0.5 * math.log(2))
    assert loss.item() == pytest.approx(0.63425, abs=1e-5)


def test_without_a_clinical_image_only_dermoscopy_counts():
    logits = torch.tensor([[0.0, math.log(3)]])
    assert loss_of()(logits, torch.tensor([[1]]), 0, None).item() == pytest.approx(math.log(4 / 3))


def test_logit_adjustment_by_hand():
    """9 nevi and 1 melanoma, tau = 1, flat logits: p(MEL) is 0.1, a melanoma's loss ln 10; tau = 0.5: ln 4."""
    flat, melanoma = torch.zeros(1, 2), torch.tensor([[1]])
    assert loss_of({"DIAG": [9, 1]}, tau=1.0).branch(flat, melanoma).item() == pytest.approx(math.log(10))
    assert loss_of({"DIAG": [9, 1]}, tau=0.5).branch(flat, melanoma).item() == pytest.approx(math.log(4))
    assert loss_of({"DIAG": [9, 1]}, tau=0.0).branch(flat, melanoma).item() == pytest.approx(math.log(2))


def test_a_class_without_lesions_counts_as_one():
    assert loss_of({"DIAG": [9, 0]}, tau=1.0).priors.tolist() == pytest.approx([math.log(0.9), math.log(0.1)])


def test_label_smoothing_by_hand():
    """Smoothing 0.1 of two classes: truth 0.95, other 0.05; p = 3/4, 1/4."""
    logits = torch.tensor([[0.0, math.log(3)]])
    expected = -0.95 * math.log(3 / 4) - 0.05 * math.log(1 / 4)
    assert loss_of(smoothing=0.1).branch(logits, torch.tensor([[1]])).item() == pytest.approx(expected)


def test_unlabelled_lesions_do_not_count():
    logits = torch.tensor([[0.0, math.log(3)], [5.0, -5.0]])
    loss = loss_of().branch(logits, torch.tensor([[1], [-1]]))
    assert loss.item() == pytest.approx(math.log(4 / 3))  # the mean over the one that is labelled
    nothing = loss_of().branch(logits, torch.tensor([[-1], [-1]]))
    assert nothing.item() == 0


def test_tasks_are_summed():
    """Flat logits: the sum of ln(classes) over the tasks of the seven-point checklist."""
    schema = catalog.schema("spc")
    counts = {task.name: [1] * len(task.classes) for task in schema.tasks}
    loss = loss_of(counts, schema=schema).branch(torch.zeros(3, schema.logits), torch.zeros(3, 8, dtype=torch.long))
    assert loss.item() == pytest.approx(sum(math.log(len(task.classes)) for task in schema.tasks), rel=1e-6)


def test_each_task_reads_its_own_logits():
    schema = catalog.schema("spc")
    counts = {task.name: [1] * len(task.classes) for task in schema.tasks}
    logits = torch.zeros(1, schema.logits, requires_grad=True)
    labels = torch.full((1, 8), -1)
    labels[0, 2] = 1  # BWV alone
    loss_of(counts, schema=schema).branch(logits, labels).backward()
    touched = logits.grad[0].nonzero()[:, 0].tolist()
    part = schema.slices()["BWV"]
    assert touched == list(range(part.start, part.stop))


def test_rows_give_clinical_images_their_labels():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0], [0.0, 0.0]])  # one clinical, two dermoscopic
    labels = torch.tensor([[0], [1]])
    right = loss_of(a=1.0)(logits, labels, 1, torch.tensor([1]))
    wrong = loss_of(a=1.0)(logits, labels, 1, torch.tensor([0]))
    assert right.item() == pytest.approx(math.log(2) + math.log(4 / 3))
    assert wrong.item() == pytest.approx(math.log(2) + math.log(4))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**31 - 1),
    st.integers(1, 6),
    st.floats(0.01, 1.0),
    st.floats(0, 0.3),
    st.floats(0, 1.5),
)
def test_a_weighs_the_clinical_branch_and_only_it(seed, count, a, smoothing, tau):
    """With a = 0 the clinical logits get no gradient; else a times that of a = 1; dermoscopy is not touched by a."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2 * count, 2, generator=generator)
    labels = torch.randint(0, 2, (count, 1), generator=generator)

    def gradient(weight):
        given_logits = logits.clone().requires_grad_()
        loss_of({"DIAG": [5, 2]}, weight, smoothing, tau)(given_logits, labels, count, None).backward()
        return given_logits.grad

    none, some, full = gradient(0.0), gradient(a), gradient(1.0)
    assert not none[:count].any()
    torch.testing.assert_close(some[:count], a * full[:count], rtol=1e-4, atol=1e-6)
    assert torch.equal(none[count:], full[count:])


def test_the_fused_rows_count_with_their_weight():
    """p(truth): clinical 1/2, dermoscopic 3/4, fused 1/4; L = ln(4/3) + 0.5 ln 2 + 0.25 ln 4."""
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3)], [math.log(3), 0.0]])
    loss = loss_of(fused_weight=0.25)(logits, torch.tensor([[1]]), 1, None)
    assert loss.item() == pytest.approx(math.log(4 / 3) + 0.5 * math.log(2) + 0.25 * math.log(4))


def test_fused_rows_have_the_labels_of_their_lesions():
    """Lesions 0 (NEV) and 1 (MEL); the one clinical image is of lesion 1."""
    logits = torch.tensor([[0.0, 9.0], [9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])
    assert loss_of()(logits, torch.tensor([[0], [1]]), 1, torch.tensor([1])).item() < 0.001
    assert loss_of()(logits, torch.tensor([[0], [1]]), 1, torch.tensor([0])).item() > 9


def test_clinical_images_alone_count_whole():
    logits = torch.tensor([[0.0, math.log(3)]])
    loss = loss_of(a=0.25)(logits, torch.tensor([[0], [1]]), 1, torch.tensor([1]))
    assert loss.item() == pytest.approx(math.log(4 / 3))


@pytest.mark.parametrize(("kind", "rare"), [("none", 1.0), ("sqrt", 3.0), ("inverse", 9.0)])
def test_class_weights_by_hand(kind, rare):
    """9 nevi and 1 melanoma: the melanoma counts 9 or sqrt 9 times a nevus, and 1 on average over the lesions."""
    weights = loss_of({"DIAG": [9, 1]}, class_weighting=kind).class_weights
    assert weights[1] / weights[0] == pytest.approx(rare)
    assert (9 * weights[0] + weights[1]) / 10 == pytest.approx(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_multiply_what_a_lesion_costs(smoothing):
    """A nevus at p = 3/4, counted 5/9, a melanoma at p = 1/4, counted 5; smoothing moves half to each class."""
    logits, truth = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]]), torch.tensor([[0], [1]])
    loss = loss_of({"DIAG": [9, 1]}, smoothing=smoothing, class_weighting="inverse").branch(logits, truth)
    sure, unsure = math.log(4 / 3), math.log(4)
    moved = (sure + unsure) / 2
    nevus, melanoma = ((1 - smoothing) * one + smoothing * moved for one in (sure, unsure))
    assert loss.item() == pytest.approx((5 / 9 * nevus + 5 * melanoma) / 2)


def test_class_weights_of_one_leave_the_loss_as_it_is():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(32, 2, generator=generator), torch.randint(0, 2, (32, 1), generator=generator)
    loss = loss_of(smoothing=0.05).branch(logits, labels)
    expected = torch.nn.functional.cross_entropy(logits, labels[:, 0], label_smoothing=0.05)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("batch", [1, 4, 20, 100])
def test_classes_share_the_gradient_alike_whatever_the_batch(batch):
    """5 classes of 40, 24, 16, 12 and 8 lesions, inverse weights: 20 % for each, over batches of any size."""
    schema, counts = catalog.schema("milk10k5"), [40, 24, 16, 12, 8]
    loss = loss_of({schema.tasks[0].name: counts}, schema=schema, class_weighting="inverse")
    truth = torch.repeat_interleave(torch.arange(5), torch.tensor(counts))
    truth = truth[torch.randperm(100, generator=torch.Generator().manual_seed(1))]
    logits = torch.zeros(100, 5, requires_grad=True)
    parts = zip(logits.split(batch), truth[:, None].split(batch), strict=True)
    sum(loss.branch(*part) * batch / 100 for part in parts).backward()
    own = logits.grad[range(100), truth].abs()
    share = torch.stack([own[truth == one].sum() for one in range(5)]) / own.sum()
    assert share.tolist() == pytest.approx([0.2] * 5)


def test_weighted_batches_accumulate_to_one_large_batch():
    """4 lesions at once, or the mean of 2 and 2: the same gradient, where one half holds all of the rare class."""
    loss = loss_of({"DIAG": [9, 1]}, smoothing=0.05, tau=0.5, class_weighting="inverse")
    start, labels = torch.randn(4, 2, generator=torch.Generator().manual_seed(2)), torch.tensor([[0], [0], [0], [1]])

    def gradient(size):
        logits = start.clone().requires_grad_()
        parts = list(zip(logits.split(size), labels.split(size), strict=True))
        (sum(loss.branch(*part) for part in parts) / len(parts)).backward()
        return logits.grad

    torch.testing.assert_close(gradient(2), gradient(4))


def test_following_another_network_by_hand():
    """0.1308 nats in the dermoscopic branch (doctest of `divergence`), as much in the clinical one, halved."""
    given = torch.zeros(2, 2)
    wanted = torch.log(torch.tensor([[0.75, 0.25], [0.25, 0.75]]))
    assert loss_of().follow(given, wanted, 1, 1, 1.0).item() == pytest.approx(1.5 * 0.1308, abs=1e-4)
    assert loss_of().follow(given[:1], wanted[:1], 1, 0, 1.0).item() == pytest.approx(0.1308, abs=1e-4)
    assert loss_of().follow(given[:1], wanted[:1], 1, 1, 1.0).item() == pytest.approx(
        0.1308, abs=1e-4
    )  # clinical alone
    both = torch.cat([given, given[:1]]), torch.cat([wanted, wanted[:1]])
    assert loss_of(fused_weight=2.0).follow(*both, 1, 1, 1.0).item() == pytest.approx(3.5 * 0.1308, abs=1e-4)
    assert loss_of().follow(both[0], wanted, 1, 1, 1.0).item() == pytest.approx(
        1.5 * 0.1308, abs=1e-4
    )  # it has no third
