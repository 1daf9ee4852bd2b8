import pytest
import torch
from timm.models.swin_transformer import SwinTransformer

from edgeskin.model.attention import CrossAttention, Exchange, Pairing
from edgeskin.model.network import PairNetwork

CLOSE = dict(rtol=1e-4, atol=1e-5)


def run(network: PairNetwork, frames, clinical: int, rows=None):
    with torch.inference_mode():
        return network(frames, clinical, rows)


def tiny_swin():
    torch.manual_seed(0)
    return SwinTransformer(
        img_size=32, patch_size=4, window_size=2, embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8),
        num_classes=0,
    )  # fmt: skip


def exchange(channels: int = 6, dim: int = 8, channels_last: bool = False) -> Exchange:
    torch.manual_seed(0)
    found = Exchange(torch.nn.Identity(), channels, CrossAttention(dim, 2), dim, Pairing(), channels_last)
    torch.nn.init.normal_(found.gate)
    return found


def test_attention_equals_torchs_own():
    """softmax(Q K^T / sqrt(dim of a head)) V, a head at a time, by torch's fused function."""
    torch.manual_seed(0)
    attention = CrossAttention(12, 3)
    asking, answering = torch.randn(2, 5, 12), torch.randn(2, 5, 12)
    query = attention.query(attention.norm(asking))
    key, value = attention.key_value(attention.norm(answering)).chunk(2, -1)
    heads = [x.view(2, 5, 3, 4).transpose(1, 2) for x in (query, key, value)]
    expected = torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(2, 5, 12)
    torch.testing.assert_close(attention(asking, answering), expected, **CLOSE)


def test_both_directions_share_their_weights():
    """Clinical and dermoscopic swapped in, their changes come out swapped."""
    stage = exchange()
    clinical, dermoscopic = torch.randn(3, 6, 4, 4), torch.randn(3, 6, 4, 4)
    stage.pairing.clinical = 3
    one = stage(torch.cat([clinical, dermoscopic]))
    other = stage(torch.cat([dermoscopic, clinical]))
    torch.testing.assert_close(one[:3], other[3:], **CLOSE)
    torch.testing.assert_close(one[3:], other[:3], **CLOSE)


def test_stages_share_one_attention(build):
    network = build()
    stages = [m for m in network.modules() if isinstance(m, Exchange)]
    assert len(stages) == 2
    assert stages[0].attention is stages[1].attention
    assert stages[0].down is not stages[1].down


def test_each_image_gathers_from_its_partner_only():
    stage = exchange()
    stage.pairing.clinical = 2
    images = torch.randn(4, 6, 4, 4)
    changed = images.clone()
    changed[2] += 1  # the dermoscopic image of the first lesion
    before, after = stage(images), stage(changed)
    assert not torch.allclose(before[0], after[0], **CLOSE)
    torch.testing.assert_close(before[[1, 3]], after[[1, 3]], **CLOSE)


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_resnet", "test_mambaout"])
def test_closed_gates_leave_the_plain_encoder(build, frames, backbone):
    """At the start of a training the network says what the pretrained encoder says, image by image."""
    with_exchange, plain = build(backbone, gates=0.0), build(backbone, stages=())
    shared = {k.replace(".stage.", "."): v for k, v in with_exchange.state_dict().items()}
    plain.load_state_dict({k: shared[k] for k in plain.state_dict()})
    images = frames(6)
    assert torch.equal(run(with_exchange, images, 3), run(plain, images, 3))


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_mambaout"])
def test_open_gates_change_both_branches(build, frames, backbone):
    images = frames(4)
    closed, opened = run(build(backbone), images, 2), run(build(backbone, gates=0.5), images, 2)
    assert (closed - opened).abs().amax(1).min() > 1e-4


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_mambaout"])
def test_a_lesion_without_clinical_image_is_as_if_alone(build, frames, backbone):
    network = build(backbone, gates=0.5)
    clinical, dermoscopic = frames(2, seed=1), frames(5, seed=2)
    logits = run(network, torch.cat([clinical, dermoscopic]), 2, torch.tensor([1, 3]))[2:]
    alone = run(network, dermoscopic, 0)
    torch.testing.assert_close(logits[[0, 2, 4]], alone[[0, 2, 4]], **CLOSE)
    assert (logits[[1, 3]] - alone[[1, 3]]).abs().amax(1).min() > 1e-4


def test_rows_name_each_clinical_images_lesion(build, frames):
    """A lesion's logits in a mixed batch are its logits in a batch of its own."""
    network = build(gates=0.5)
    clinical, dermoscopic = frames(2, seed=1), frames(4, seed=2)
    rows = torch.tensor([3, 1])  # in no order
    mixed = run(network, torch.cat([clinical, dermoscopic]), 2, rows)
    for k, row in enumerate(rows.tolist()):
        own = run(network, torch.stack([clinical[k], dermoscopic[row]]), 1)
        torch.testing.assert_close(torch.stack([mixed[k], mixed[2 + row]]), own, **CLOSE)


def test_rows_none_is_row_i_with_row_i(build, frames):
    network, images = build(gates=0.5), frames(6)
    torch.testing.assert_close(run(network, images, 3), run(network, images, 3, torch.arange(3)), **CLOSE)


def test_the_order_of_lesions_does_not_matter(build, frames):
    network, images = build(gates=0.5), frames(6)
    order = torch.tensor([2, 0, 1])
    straight = run(network, images, 3)
    turned = run(network, torch.cat([images[:3][order], images[3:][order]]), 3)
    torch.testing.assert_close(turned[:3], straight[:3][order], **CLOSE)
    torch.testing.assert_close(turned[3:], straight[3:][order], **CLOSE)


def test_channels_last_features_are_the_same_computation():
    first, last = exchange(), exchange(channels_last=True)
    last.load_state_dict(first.state_dict())
    images = torch.randn(4, 6, 4, 4)
    first.pairing.clinical = last.pairing.clinical = 2
    expected = first(images).permute(0, 2, 3, 1)
    torch.testing.assert_close(last(images.permute(0, 2, 3, 1)), expected, **CLOSE)


def test_a_swin_exchanges_on_its_channels_last_maps(build, frames):
    network = build("swin", gates=0.5, encoder=tiny_swin())
    stages = [m for m in network.modules() if isinstance(m, Exchange)]
    assert [s.channels_last for s in stages] == [True, True]
    assert [s.down.in_features for s in stages] == [64, 128]
    clinical, dermoscopic = frames(1, seed=1), frames(3, seed=2)
    logits = run(network, torch.cat([clinical, dermoscopic]), 1, torch.tensor([2]))
    alone = run(network, dermoscopic, 0)
    torch.testing.assert_close(logits[1:3], alone[:2], **CLOSE)
    assert not torch.allclose(logits[3], alone[2], **CLOSE)


def test_gradients_reach_the_gates_at_the_start(build, frames):
    """A zero gate shuts the exchange, not its own learning; the projections learn once it is open."""
    network = build(gates=0.0)
    network(frames(4), 2).square().sum().backward()
    gates = [v for name, v in network.named_parameters() if name.endswith(".gate")]
    assert len(gates) == 2
    assert all(gate.grad.abs().max() > 0 for gate in gates)
