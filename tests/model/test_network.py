import pytest
import torch

from edgeskin import catalog
from edgeskin.errors import EdgeskinError
from edgeskin.model.attention import Exchange
from edgeskin.model.network import FixedInput, PairNetwork, pyramid_of, takes
from edgeskin.model.weights import create_encoder
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.train import NetworkSpec


def test_clinical_logits_come_first(build, frames):
    network, images = build(), frames(5)
    with torch.inference_mode():
        logits = network(images, 2, torch.tensor([0, 2]))
        x = (images.permute(0, 3, 1, 2) / 255 - torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)) / torch.tensor(
            [0.2, 0.3, 0.4]
        ).view(1, 3, 1, 1)
        network.pairing.clinical, network.pairing.rows = 2, torch.tensor([0, 2])
        features = network.encoder(x)
        expected = torch.cat([network.clinical(features[:2]), network.dermoscopic(features[2:])])
    assert logits.shape == (5, catalog.schema("milk10k5").logits)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_white_and_black_are_normalised_by_hand(build):
    """(255 / 255 - 0.5) / 0.2 = 2.5 in red, (0 - 0.3) / 0.4 = -0.75 in blue."""
    network, seen = build(stages=()), []
    network.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    frame = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    frame[..., 0] = 255
    network(frame, 0)
    assert seen[0].shape == (1, 3, 32, 32)
    assert seen[0][0, 0].unique().tolist() == pytest.approx([2.5], abs=1e-5)
    assert seen[0][0, 2].unique().tolist() == pytest.approx([-0.75], abs=1e-5)


def test_fixed_input_is_the_network_for_one_lesion(build, frames):
    network, images = build(gates=0.5), frames(2)
    with torch.inference_mode():
        assert torch.equal(FixedInput(network, 2)(images), network(images, 1))
        assert torch.equal(FixedInput(network, 1)(images[1:]), network(images[1:], 0))


@pytest.mark.parametrize("backbone", ["test_efficientnet", "mobilenetv4_conv_small"])
def test_one_encoder_for_both_images(build, backbone):
    """Less than 0.6 of what an encoder an image would take, exchange and classifiers included."""
    network = build(backbone)
    encoder = create_encoder(NetworkSpec(backbone=backbone), 32)
    single = sum(p.numel() for p in encoder.parameters())
    assert single < sum(p.numel() for p in network.parameters()) < 0.6 * 2 * single


def test_stages_are_counted_from_both_ends(build):
    names = [name for name, m in build(stages=(1, -1, 4)).named_modules() if isinstance(m, Exchange)]
    pyramid = [name for name, _ in pyramid_of(create_encoder(NetworkSpec(backbone="test_efficientnet"), 32), "")]
    assert names == [f"encoder.{pyramid[1]}", f"encoder.{pyramid[-1]}"]  # 4 and -1 are the same stage


@pytest.mark.parametrize("stage", [5, -6])
def test_unknown_stage(build, stage):
    with pytest.raises(EdgeskinError, match=r"unknown attention stage: got -?\d; possible: -5..4 for test_efficientne"):
        build(stages=(stage,))


def test_a_plain_vit_has_no_pyramid(build):
    with pytest.raises(EdgeskinError, match=r"no feature pyramid.*test_vit.*choose a CNN"):
        build("test_vit")
    assert build("test_vit", stages=(), side=160).clinical.in_features == 64  # without exchange it will do


def test_a_backbone_whose_stages_give_no_map_is_refused(build):
    with pytest.raises(EdgeskinError, match=r"cannot exchange in levit_128s.*\(1, 49, 256\)"):
        build("levit_128s", side=224)


@pytest.mark.parametrize("backbone", ["test_coatnet", "twins_svt_small"])  # when it is tried, and when it is made
def test_a_size_that_a_backbone_cannot_take_is_refused(build, backbone):
    with torch.device("meta"), pytest.raises(EdgeskinError) as error:
        build(backbone, side=50)
    assert f"{backbone} does not go into a pair network: got 'frames of 50 px: " in str(error.value)
    assert "fix: try another --size" in str(error.value)


def test_an_encoder_without_pooled_features_is_refused():
    encoder = torch.nn.Conv2d(3, 4, 3)
    preprocess = Preprocess(height=32, width=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(EdgeskinError, match=r"gives no pooled features: got '\(1, 4, 30, 30\)'"):
        PairNetwork(encoder, NetworkSpec(backbone="x", attention_stages=()), catalog.schema("milk10k5"), preprocess)


def test_trying_the_encoder_leaves_no_trace():
    """Neither its mode, nor its running means, nor a hook."""
    torch.manual_seed(0)
    encoder = create_encoder(NetworkSpec(backbone="test_efficientnet"), 32).train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    preprocess = Preprocess(height=32, width=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    PairNetwork(encoder, NetworkSpec(backbone="test_efficientnet"), catalog.schema("milk10k5"), preprocess)
    assert encoder.training
    after = {k.replace(".stage.", "."): v for k, v in encoder.state_dict().items()}
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert not any(m._forward_hooks for m in encoder.modules())


def test_takes_tells_convolutions_from_windows(build):
    network = build("test_efficientnet").train()
    assert takes(network, 64)
    assert network.training
    windowed = build("test_coatnet", side=64)
    assert takes(windowed, 64)
    assert not takes(windowed, 32)
