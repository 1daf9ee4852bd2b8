import pytest
import torch

from edgeskin import catalog
from edgeskin.errors import EdgeskinError
from edgeskin.model.backbones import count, examine
from edgeskin.model.network import PairNetwork, pyramid_of
from edgeskin.model.weights import create_encoder
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.train import NetworkSpec


def made(name, size, **options):
    spec = NetworkSpec(backbone=name, **options)
    how = Preprocess(height=size, width=size, mean=(0.5,) * 3, std=(0.5,) * 3)
    return PairNetwork(create_encoder(spec, size), spec, catalog.schema("milk10k"), how).eval()


@pytest.mark.parametrize("name", ["test_efficientnet", "test_coatnet"])
def test_a_backbone_is_counted_as_the_network_that_is_trained(name):
    """The counts, made without memory, against the modules of a real network and the numbers in its pyramid."""
    found, encoder = examine(name, 64), create_encoder(NetworkSpec(backbone=name), 64)
    assert found.size_px == 64
    assert [(one.module, one.channels) for one in found.stages] == pyramid_of(encoder, name)
    for stage, known in zip(found.stages, encoder.feature_info, strict=True):
        assert stage.reduction == known["reduction"]
    assert found.encoder_parameters == sum(p.numel() for p in encoder.parameters())
    assert found.parameters == sum(p.numel() for p in made(name, 64).parameters())
    heads = 2 * 11 * (encoder.num_features + 1)
    assert found.two_encoders_parameters == 2 * found.encoder_parameters + heads
    assert found.pair_macs > 2 * found.dermoscopic_macs > 0  # the exchange is between two


def test_products_against_a_sum_by_hand():
    """Every convolution and linear layer of a CNN without exchange, from the shapes that go through it."""
    network, by_hand = made("test_resnet", 64, attention_stages=()), 0

    def look(module, given, result):
        nonlocal by_hand
        weight = module.weight
        by_hand += result.numel() * (weight[0].numel() if weight.ndim == 4 else weight.shape[1])

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(look)
    assert count(network, 64, 1) == by_hand > 0


def test_a_model_that_refuses_224_is_counted_at_its_own_size():
    assert examine("halonet26t").size_px == 256
    with pytest.raises(EdgeskinError, match="halonet26t does not go into a pair network: got 'frames of 224 px"):
        examine("halonet26t", 224)


def test_a_maker_that_asks_for_values_is_given_memory(monkeypatch):
    """As timm did up to some version: without memory there is no value to give."""
    import timm

    make, wanted = timm.create_model, examine("test_resnet", 64)

    def asks(*names, **options):
        torch.linspace(0, 1, 3)[1].item()
        return make(*names, **options)

    monkeypatch.setattr(timm, "create_model", asks)
    assert examine("test_resnet", 64) == wanted


def test_a_tag_names_the_weights_and_changes_no_count():
    plain, tagged = examine("test_resnet", 64), examine("test_resnet.r160_in1k", 64)
    assert tagged.hub == plain.hub == "timm/test_resnet.r160_in1k"
    assert tagged.model_copy(update={"name": plain.name}) == plain


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vit_tiny_patch16_224", "this backbone has no feature pyramid: got 'vit_tiny_patch16_224'; fix: choose a CNN"),
        ("resnt50", "unknown backbone: got 'resnt50'; possible: resnet50, .*did you mean 'resnet50'"),
        ("resnet50.a1_in1", "unknown weights tag: got 'a1_in1'.*did you mean 'a1_in1k'"),
        ("levit_128s", r"the images cannot exchange in levit_128s: got '.*\(1, 49, 256\)"),
    ],
)
def test_what_cannot_be_an_encoder_says_why_in_one_line(name, said):
    with pytest.raises(EdgeskinError, match=said) as caught:
        examine(name)
    assert "\n" not in str(caught.value)
