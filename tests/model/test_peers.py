"""The networks that the shared one is compared with: two encoders, attention a direction, one image alone, fused."""

import pytest
import torch
from torch import nn

from edgeskin import catalog
from edgeskin.errors import EdgeskinError
from edgeskin.model.attention import CrossAttention, Exchange, SeparateExchange, Twin
from edgeskin.model.checkpoint import weights_bytes
from edgeskin.model.network import FixedInput, PairNetwork, attention_width, takes
from edgeskin.model.weights import create_encoder
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.train import NetworkSpec

SIDE = 32
CLASSES = catalog.schema("milk10k5").logits


def make(backbone="test_efficientnet", seed=0, gates=0.0, **options):
    torch.manual_seed(seed)
    spec = NetworkSpec(backbone=backbone, attention_dim=16, attention_heads=2, **options)
    preprocess = Preprocess(height=SIDE, width=SIDE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    network = PairNetwork(create_encoder(spec, SIDE), spec, catalog.schema("milk10k5"), preprocess)
    for name, value in network.named_parameters():
        if name.endswith(".gate"):
            nn.init.constant_(value, gates)
    return network.eval()


def size(network):
    return sum(value.numel() for value in network.parameters())


BACKBONES = ["test_efficientnet", "test_resnet", "test_convnext"]


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("stages", [(), (-2, -1), (0, -1)])
def test_two_encoders_start_as_the_shared_one_and_part(backbone, stages, frames):
    """Twice the encoder, the same answer at first; then each image has an encoder of its own."""
    shared, twins = (
        make(backbone, attention_stages=stages, encoders=kind, gates=0.5) for kind in ("shared", "separate")
    )
    encoder = sum(v.numel() for n, v in shared.encoder.named_parameters() if not _exchanges(n))
    assert size(twins) == size(shared) + encoder
    images = frames(6)
    twins.load_state_dict({**twins.state_dict(), **_common(shared, twins)})
    with torch.inference_mode():
        assert torch.allclose(twins(images, 3), shared(images, 3), atol=1e-5)
        before_alone = twins(images[3:], 0)
        for module in twins.modules():
            if isinstance(module, Twin):
                for value in module.clinical.parameters():
                    value.add_(0.05)
        changed = twins(images, 3)
        assert not torch.allclose(changed[:3], shared(images, 3)[:3], atol=1e-3)
        assert torch.equal(twins(images[3:], 0), before_alone)  # dermoscopy alone does not ask the clinical encoder
        if not stages:
            assert torch.allclose(changed[3:], shared(images, 3)[3:], atol=1e-5)


def _exchanges(name):
    return any(part in name.split(".") for part in ("attention", "down", "up", "gate"))


def _common(shared, twins):
    """What the two-encoder network has in common with the shared one: exchange and classifiers."""
    own = twins.state_dict()
    return {n: v for n, v in shared.state_dict().items() if n in own and "encoder" not in n.split(".")[0]} | {
        n: v for n, v in shared.state_dict().items() if n in own and _exchanges(n)
    }


def test_two_encoders_learn_apart(frames):
    """A clinical logit teaches the clinical encoder, and the dermoscopic one through the exchange alone."""
    for stages, reaches in (((), False), ((-2, -1), True)):
        network = make(encoders="separate", attention_stages=stages, gates=0.5)
        network(frames(4), 2)[:2].sum().backward()
        twins = [m for m in network.modules() if isinstance(m, Twin)]
        touched = [
            any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in t.dermoscopic.parameters()) for t in twins
        ]
        assert any(any(p.grad is not None for p in t.clinical.parameters()) for t in twins)
        assert any(touched) is reaches


def test_weights_outside_of_stages_cannot_be_made_two():
    class Held(nn.Module):
        feature_info = [
            {"module": "stages.0", "num_chs": 4, "reduction": 2},
            {"module": "stages.1", "num_chs": 4, "reduction": 4},
        ]

        def __init__(self):
            super().__init__()
            self.offset = nn.Parameter(torch.zeros(1, 3, 1, 1))
            self.stages = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1))

        def forward(self, x):
            return self.stages(x + self.offset).mean((2, 3))

    spec = NetworkSpec(backbone="held", encoders="separate", attention_dim=16)
    preprocess = Preprocess(height=SIDE, width=SIDE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    with pytest.raises(
        EdgeskinError, match=r"held cannot be made two encoders.*weights outside of its stages: top.offset"
    ):
        PairNetwork(Held(), spec, catalog.schema("milk10k5"), preprocess)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_separate_attention_has_its_own_weights_for_each_direction(backbone, frames):
    shared, apart = make(backbone), make(backbone, attention="separate", gates=0.5)
    attentions = [m for m in apart.modules() if isinstance(m, CrossAttention)]
    assert len(attentions) == 4  # two stages, two directions
    assert len({m.query.weight.data_ptr() for m in attentions}) == 4
    one = sum(p.numel() for p in attentions[0].parameters())
    bridges = sum(
        v.numel() for n, v in shared.named_parameters() if n.split(".")[-1] == "gate" or ".down." in n or ".up." in n
    )
    assert size(apart) == size(shared) + 3 * one + bridges
    images = frames(4)
    with torch.inference_mode():
        before = apart(images, 2)
        for module in apart.modules():
            if isinstance(module, SeparateExchange):
                module.back.gate.zero_()  # the dermoscopic images no longer ask
        after = apart(images, 2)
        alone = apart(images[2:], 0)
    assert torch.allclose(after[2:], alone, atol=1e-5)
    assert not torch.allclose(before[2:], alone, atol=1e-4)
    assert not torch.allclose(after[:2], make(backbone)(images, 2)[:2], atol=1e-4)


def test_equal_weights_in_both_directions_are_the_shared_exchange(frames):
    torch.manual_seed(3)
    one = Exchange(nn.Identity(), 6, CrossAttention(8, 2), 8, pairing := _pairing(2), False)
    two = SeparateExchange(nn.Identity(), 6, 8, 2, pairing, False)
    nn.init.constant_(one.gate, 0.7)
    for target in (two, two.back):
        target.load_state_dict(one.state_dict(), strict=False)
    x = torch.randn(4, 6, 5, 5)
    assert torch.allclose(one(x), two(x), atol=1e-6)


def _pairing(clinical):
    from edgeskin.model.attention import Pairing

    found = Pairing()
    found.clinical = clinical
    return found


def test_two_encoders_with_attention_a_direction_run_as_they_are_exported(frames):
    network = make(encoders="separate", attention="separate", gates=0.5)
    images = frames(2)
    with torch.inference_mode():
        assert torch.equal(FixedInput(network, 2)(images), network(images, 1))
        assert torch.equal(FixedInput(network, 1)(images[1:]), network(images[1:], 0))
    assert len(weights_bytes(network)) > 4 * size(network)  # each encoder is stored


def test_one_image_alone_has_one_classifier_and_no_exchange(frames):
    dermoscopic, clinical = make(modalities="dermoscopic"), make(modalities="clinical")
    assert not any(isinstance(m, Exchange) for m in [*dermoscopic.modules(), *clinical.modules()])
    assert not hasattr(dermoscopic, "clinical")
    assert not hasattr(clinical, "dermoscopic")
    assert size(dermoscopic) == size(clinical)
    images = frames(3)
    with torch.inference_mode():
        assert dermoscopic(images, 0).shape == clinical(images, 3).shape == (3, CLASSES)
    assert takes(dermoscopic, 64)
    assert takes(clinical, 64)


def test_the_fused_head_looks_at_both_images_of_each_lesion(frames):
    network = make(fused_head=True)
    images, rows = frames(5), torch.tensor([2, 0])
    with torch.inference_mode():
        pair = network(images, 2, rows)
        assert pair.shape == (7, CLASSES)  # 2 clinical, 3 dermoscopic, 2 pairs
        features = network.encoder((images.permute(0, 3, 1, 2) - network.mean) / network.std)
        wanted = network.fused(torch.cat([features[:2], features[2:][rows]], 1))
        assert torch.allclose(pair[5:], wanted, atol=1e-5)
        assert network(images[:1], 0).shape == (1, CLASSES)
        assert FixedInput(network, 2)(images[:2]).shape == (3, CLASSES)


@pytest.mark.parametrize(("reduction", "width"), [(None, 64), (1, 320), (4, 80), (3, 112), (320, 8), (1000, 8)])
def test_width_by_reduction(reduction, width):
    assert attention_width(NetworkSpec(backbone="x", attention_reduction=reduction), 320) == width


def test_a_reduced_attention_is_built(frames):
    network = make(attention_reduction=2, attention_stages=(-1,))
    exchange = next(m for m in network.modules() if isinstance(m, Exchange))
    assert exchange.down.out_features == attention_width(network.spec, exchange.down.in_features)
    assert network(frames(4), 2).shape == (4, CLASSES)
