"""Every kind of network and option trains, from the data to a checkpoint that opens as what was trained."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgeskin.data.roles import Roles
from edgeskin.errors import EdgeskinError
from edgeskin.model.checkpoint import load_network, read_record
from edgeskin.model.loss import BiasedLoss
from edgeskin.preprocess import prepare
from edgeskin.training import train as stage
from edgeskin.training.frames import label_array
from edgeskin.training.module import PairTrainer
from edgeskin.training.operating import choose_fusion, choose_thresholds


def run(request, folder):
    return stage.train(**vars(request), folder=folder)


def control_frames(request, preprocess):
    """uint8 [N, 2, H, W, 3]."""
    pairs = request.roles["control"]
    return np.stack(
        [[prepare(p.clinical or p.dermoscopic, preprocess), prepare(p.dermoscopic, preprocess)] for p in pairs]
    )


@pytest.mark.parametrize(
    ("network", "weight"),
    [
        ({"modalities": "dermoscopic"}, 1.0),
        ({"modalities": "clinical"}, 0.0),
        ({"encoders": "separate", "attention_stages": ()}, None),
        ({"encoders": "separate", "attention": "separate"}, None),
        ({"fused_head": True}, None),
    ],
)
def test_networks_to_compare_with(request_of, tmp_path, network, weight):
    """What is on disk gives the answers that thresholds and weights were chosen by."""
    request = request_of(network=network, epochs=1)
    record = run(request, tmp_path)
    assert read_record(tmp_path) == record
    assert record.network == request.network
    pairs, schema = request.roles["control"], request.pairset.schema
    opened = load_network(tmp_path, record)
    both, alone = stage.control_logits(opened, control_frames(request, record.preprocess), pairs)
    labels = label_array(pairs, schema)
    fusion = choose_fusion(both, alone, labels, schema, record.network.modalities)
    assert fusion == record.fusion
    assert choose_thresholds(both, alone, labels, schema, fusion) == record.thresholds
    if weight is not None:
        assert {one.dermoscopic_weight for one in record.fusion.values()} == {weight}
    assert all(0 < one.value < 1 for one in (record.thresholds.pair, record.thresholds.dermoscopic))
    assert record.parameters == sum(value.numel() for value in opened.parameters())


def test_a_network_of_clinical_images_trains_on_pairs_that_have_one(request_of, tmp_path):
    """Batches of two, of which some would hold no clinical image at all."""
    request = request_of(network={"modalities": "clinical"}, epochs=1, batch_pairs=2)
    lone = [replace(pair, clinical=None) for pair in request.roles["train"][:8]]
    train = (*lone, *request.roles["train"][8:])
    request.roles = Roles({**request.roles.pairs, "train": train})
    assert 2 <= sum(pair.clinical is not None for pair in train) < len(train)
    assert np.isfinite(run(request, tmp_path).control_metrics["loss"])


def test_lesions_without_a_clinical_image_are_no_control_of_a_network_of_clinical_images(request_of, tmp_path):
    """Among the others, or in batches of their own, they change nothing that is chosen or scored."""
    request = request_of(network={"modalities": "clinical"}, epochs=1, batch_pairs=2)
    whole = request.roles["control"]
    lone = tuple(replace(pair, clinical=None) for pair in whole[:3])
    found = []
    for place, control in enumerate(((*lone, *whole[3:]), whole[3:])):
        request.roles = Roles({**request.roles.pairs, "control": control})
        found.append(run(request, tmp_path / str(place)))
    mixed, without = found
    assert mixed.control_metrics == without.control_metrics
    assert (mixed.fusion, mixed.thresholds) == (without.fusion, without.thresholds)


@pytest.mark.parametrize("role", ["train", "control"])
def test_a_role_that_a_network_of_clinical_images_cannot_see_is_refused(request_of, tmp_path, role):
    request = request_of(network={"modalities": "clinical"}, epochs=1)
    lone = tuple(replace(pair, clinical=None) for pair in request.roles[role])
    request.roles = Roles({**request.roles.pairs, role: lone})
    with pytest.raises(EdgeskinError, match=f"no lesion of the {role} role has a clinical image: got '{len(lone)} "):
        run(request, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("weighting", ["sqrt", "inverse"])
def test_class_weights_reach_the_loss(request_of, tmp_path, monkeypatch, weighting):
    """1 / lesions^power of the training role's own counts, 1 on average over them; a lesion costs that of its class."""
    seen, branch = [], BiasedLoss.branch

    def watched(self, logits, labels):
        found = branch(self, logits, labels)
        seen.append((logits.detach(), labels, found.item()))
        return found

    monkeypatch.setattr(BiasedLoss, "branch", watched)
    request = request_of(epochs=1, class_weighting=weighting)
    run(request, tmp_path)
    schema, expected = request.pairset.schema, 0.0
    counts = stage.class_counts(label_array(request.roles["train"], schema), schema)
    logits, labels, loss = seen[0]
    for index, (task, part) in enumerate(schema.slices().items()):
        tally = torch.tensor(counts[task]).clamp(min=1).double()
        raw = tally ** {"sqrt": -0.5, "inverse": -1.0}[weighting]
        weights = raw * tally.sum() / (raw * tally).sum()
        adjusted = logits[:, part] + request.spec.logit_adjustment * torch.log(tally / tally.sum())
        smooth = torch.full_like(adjusted, request.spec.label_smoothing / len(tally))
        smooth.scatter_add_(1, labels[:, [index]], torch.full_like(smooth, 1 - request.spec.label_smoothing))
        costs = -(smooth * torch.log_softmax(adjusted, 1)).sum(1)
        expected += float((weights[labels[:, index]] * costs).mean())
    assert len(set(labels[:, 0].tolist())) > 1
    assert loss == pytest.approx(expected, rel=1e-5)


def test_accumulated_batches_step_as_one_large_batch(request_of, tmp_path, monkeypatch):
    """6 pairs at once, 2 x 3 or 3 x 2: the same steps, rates and answers, where no batch norm sees a batch alone.

    All pairs have both images: else a mean of the means of batches is not the mean of all. Classes may have weights.
    """
    plain = {"dropout": 0, "drop_path": 0}
    more = {"modality_dropout": 0, "ema_decay": 0.9, "epochs": 3, "class_weighting": "inverse"}
    request = request_of("test_convnext", network=plain, **more)
    whole = tuple(pair for pair in request.roles["train"] if pair.clinical is not None)
    request.roles = Roles({**request.roles.pairs, "train": whole})
    assert len(whole) // 6 == 2
    rates: list[list[float]] = []
    step = PairTrainer.optimizer_step

    def watched(self, epoch, index, optimizer, closure):
        rates.append([group["lr"] for group in optimizer.param_groups])
        step(self, epoch, index, optimizer, closure)

    monkeypatch.setattr(PairTrainer, "optimizer_step", watched)
    asked, found = request.spec, {}
    for batch, accumulate, seed in ((6, 1, 0), (3, 2, 0), (2, 3, 0), (2, 3, 1)):
        folder = tmp_path / f"{batch}-{seed}"
        change = {"batch_pairs": batch, "accumulate": accumulate, "seed": seed}
        request.spec = asked.model_copy(update=change)
        record = run(request, folder)
        frames = torch.from_numpy(control_frames(request, record.preprocess))
        with torch.inference_mode():
            answers = load_network(folder, record)(torch.cat([frames[:, 0], frames[:, 1]]), len(frames))
        found[batch, seed] = list(rates), answers
        rates.clear()
    steps, expected = found[6, 0]
    assert len(steps) == 2 * 3
    for batch in (3, 2):
        assert found[batch, 0][0] == steps
        torch.testing.assert_close(found[batch, 0][1], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[2, 1][1], expected, atol=1e-2)  # what another seed makes of it
