import math

import numpy as np
import pytest
import torch

from edgeskin import catalog
from edgeskin.model.loss import BiasedLoss
from edgeskin.model.network import PairNetwork
from edgeskin.model.weights import create_encoder
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.train import NetworkSpec, TrainSpec
from edgeskin.training.module import PairTrainer, stack

SCHEMA = catalog.schema("milk10k5")


def trainer_of(steps=100, network=None, encoder=None, **options) -> PairTrainer:
    torch.manual_seed(0)
    spec = NetworkSpec(
        **{"backbone": "test_efficientnet", "attention_dim": 16, "attention_heads": 2, **(network or {})}
    )
    preprocess = Preprocess(height=32, width=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    network = PairNetwork(encoder or create_encoder(spec, 32), spec, SCHEMA, preprocess)
    wanted = TrainSpec(**options)
    counts = {"DIAG": [5, 5, 5, 5, 5]}
    loss = BiasedLoss(SCHEMA, counts, wanted)
    return PairTrainer(network, loss, SCHEMA, wanted, steps)


def batch_of(has: list[bool], labels: list[int] | None = None):
    frames = torch.arange(len(has) * 2).view(-1, 2, 1, 1, 1).expand(-1, 2, 32, 32, 3).to(torch.uint8)
    labels = labels if labels is not None else [i % 5 for i in range(len(has))]
    return frames, torch.tensor(has), torch.tensor(labels)[:, None]


def test_stack_puts_clinical_images_first():
    batch = batch_of([True, False, True, True])
    frames, clinical, rows = stack(batch)
    assert frames[:, 0, 0, 0].tolist() == [0, 4, 6, 1, 3, 5, 7]  # pair i holds 2 i (clinical) and 2 i + 1
    assert clinical == 3
    assert rows.tolist() == [0, 2, 3]


def test_stack_of_whole_pairs_needs_no_rows():
    frames, clinical, rows = stack(batch_of([True, True]))
    assert (frames[:, 0, 0, 0].tolist(), clinical, rows) == ([0, 2, 1, 3], 2, None)


def test_stack_of_dermoscopic_images_alone():
    frames, clinical, rows = stack(batch_of([False, False]))
    assert (frames[:, 0, 0, 0].tolist(), clinical, rows.tolist()) == ([1, 3], 0, [])


def test_stack_keeps_the_rows_it_is_told():
    frames, clinical, rows = stack(batch_of([True, True, True]), torch.tensor([1]))
    assert (frames[:, 0, 0, 0].tolist(), clinical, rows.tolist()) == ([2, 1, 3, 5], 1, [1])


@pytest.mark.parametrize(
    ("has", "dropout", "kept"),
    [
        ([True] * 20, 0.15, 17),
        ([True] * 20, 0.0, 20),
        ([True] * 5 + [False] * 15, 0.15, 5),
        ([False] * 4, 0.5, 0),
        ([True] * 16, 0.15, 14),
        ([True] * 2, 0.15, 2),
    ],
)
def test_modality_dropout_drops_a_fixed_number(has, dropout, kept):
    module = trainer_of(modality_dropout=dropout)
    rows = module._kept(torch.tensor(has), 0)
    assert len(rows) == kept
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert all(has[r] for r in rows)
    assert torch.equal(rows, module._kept(torch.tensor(has), 0))  # the same step, the same draw


def test_modality_dropout_takes_other_lesions_in_another_run():
    has = torch.ones(20, dtype=torch.bool)
    drawn = {tuple(trainer_of(seed=seed)._kept(has, 0).tolist()) for seed in range(5)}
    assert len(drawn) > 1


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"fused_head": True, "attention": "separate"},
        {"backbone": "cspnext_tiny"},  # which has an `attention` of its own in each stage
        {"modalities": "dermoscopic", "attention_stages": ()},
    ],
)
def test_every_parameter_is_optimised_once_and_in_its_group(asked):
    """What the bare encoder holds may have a pretrained start; all that the pair network adds has none."""
    encoder = create_encoder(NetworkSpec(**{"backbone": "test_efficientnet", **asked}), 32)
    started = {id(value) for value in encoder.parameters()}
    module = trainer_of(network=asked, encoder=encoder, learning_rate=0.01, head_learning_rate=3.0, weight_decay=0.1)
    groups = module.configure_optimizers()["optimizer"].param_groups
    names = {id(v): name for name, v in module.network.named_parameters()}
    assert started < set(names)
    seen = [id(v) for group in groups for v in group["params"]]
    assert sorted(seen) == sorted(names)
    for group in groups:
        for value in group["params"]:
            name = names[id(value)]
            assert group["initial_lr"] == pytest.approx(0.01 if id(value) in started else 0.03), name
            assert group["weight_decay"] == (0.1 if value.ndim > 1 else 0.0), name


def test_warm_up_then_cosine():
    """100 steps, a tenth of them warm-up: 1/10 of the rate at the first step, all of it at the tenth, half of it
    in the middle of what is left, none at the end."""
    schedule = trainer_of(steps=100, warmup=0.1).configure_optimizers()["lr_scheduler"]["scheduler"]
    factor = schedule.lr_lambdas[0]
    assert [factor(s) for s in (0, 4, 9, 10, 55, 100)] == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5, 0.0])
    assert factor(130) == pytest.approx(0.0)
    assert [trainer_of(steps=1).configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas[0](0)] == [1.0]


def test_control_metrics_merge_pairs_and_lone_images():
    """Logits given by hand: even weights fuse pairs, lone images speak for themselves, unlabelled ones are silent."""
    module, logged = trainer_of(), {}
    module.log = lambda name, value, **_: logged.update({name: value})
    given = torch.full((5, 2, 5), 0.0)
    given[0, :, 2] = 9  # both say MEL; is MEL
    given[1, 0, 1], given[1, 1, 0] = 2, 9  # clinical NEV, dermoscopic BCC, surer; is BCC
    given[2, 0, :], given[2, 1, 1] = math.nan, 9  # alone, NEV; is NEV
    given[3, :, 1] = 9  # NEV; is MEL: the one error
    given[4, :, 4] = 9  # unlabelled
    has = torch.tensor([True, True, False, True, True])
    labels = torch.tensor([[2], [0], [1], [2], [-1]])
    module._control = [(given[:2], has[:2], labels[:2]), (given[2:], has[2:], labels[2:])]
    module.on_validation_epoch_end()
    assert logged["control_balanced_accuracy"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert logged["control_macro_f1"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    assert 0.5 <= logged["control_target_auc"] <= 1
    assert module._control == []


def test_validation_collects_logits_lesion_by_lesion():
    module = trainer_of().eval()
    batch = batch_of([True, False, True])
    with torch.inference_mode():
        module.validation_step(batch, 0)
        both, has, labels = module._control[0]
        alone = module.network(batch[0][1:2, 1], 0)
        pair = module.network(batch[0][2], 1)
    assert np.isnan(both[1, 0]).all()
    torch.testing.assert_close(both[1, 1:], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both[2], pair, rtol=1e-4, atol=1e-5)
    assert (has.tolist(), labels[:, 0].tolist()) == ([True, False, True], [0, 1, 2])
