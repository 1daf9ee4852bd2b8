"""Maps against sums worked another way: torch's own gradient of the probability, and what a map must add up to."""

import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeskin import catalog, decide
from edgeskin.errors import EdgeskinError
from edgeskin.model.network import PairNetwork
from edgeskin.model.saliency import Explainer, log_odds, log_odds_slope, random_network
from edgeskin.model.weights import create_encoder
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.roles import RoleRecord
from edgeskin.spec.train import Checkpoint, DataSpec, Fusion, NetworkSpec, Threshold, Thresholds, TrainSpec

pytestmark = pytest.mark.skipif(importlib.util.find_spec("captum") is None, reason="needs the extra explain")
SIDE = 64
SCHEMA = catalog.schema("milk10k5")
TASK = SCHEMA.target.task
RULE = Fusion(dermoscopic_weight=0.7, temperature_dermoscopic=0.8, temperature_clinical=1.3, temperature_alone=0.6)


def record_of(spec: NetworkSpec, rule: Fusion = RULE) -> Checkpoint:
    none, some = Threshold(value=0.5, rule="none"), RoleRecord(lesions=1, sha256="0" * 64)
    return Checkpoint(
        created="", network=spec, data=DataSpec(name="csv", root="."), train=TrainSpec(), task_schema=SCHEMA,
        preprocess=Preprocess(height=SIDE, width=SIDE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
        fusion={TASK: rule}, thresholds=Thresholds(pair=none, dermoscopic=none), roles={"train": some},
        lesion_hashes={}, phantom=True, parameters=1, weights_sha256="", weights_source="", control_metrics={},
        versions={}, git_revision="",
    )  # fmt: skip


def make(encoder=None, gates=0.5, rule=RULE, **options) -> tuple[PairNetwork, Checkpoint]:
    torch.manual_seed(3)
    spec = NetworkSpec(**{"backbone": "test_efficientnet", "attention_dim": 16, "attention_heads": 2, **options})
    record = record_of(spec, rule)
    encoder = create_encoder(spec, SIDE) if encoder is None else encoder
    network = PairNetwork(encoder, spec, SCHEMA, record.preprocess)
    for name, value in network.named_parameters():
        if name.endswith(".gate"):
            torch.nn.init.constant_(value, gates)
    return network.eval(), record


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def small_swin():
    timm = pytest.importorskip("timm")
    torch.manual_seed(3)
    sizes = dict(img_size=SIDE, embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=2)
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, **sizes)


def by_torch(explainer: Explainer, frames: np.ndarray, chosen: int) -> dict[str, np.ndarray]:
    """Gradient of the probability itself x feature at each place, by autograd through the formula written out."""
    seen = {}
    hooks = [
        tap.seen.register_forward_hook(lambda _, __, given, key=tap.kind: seen.update({key: given}))
        for tap in explainer.taps
    ]
    pair = len(frames) == 2
    logits = explainer.network(torch.from_numpy(frames), int(pair))
    for hook in hooks:
        hook.remove()
    if pair:
        clinical = torch.softmax(logits[0] / RULE.temperature_clinical, 0)[chosen]
        dermoscopic = torch.softmax(logits[1] / RULE.temperature_dermoscopic, 0)[chosen]
        probability = RULE.dermoscopic_weight * dermoscopic + (1 - RULE.dermoscopic_weight) * clinical
    else:
        probability = torch.softmax(logits[0] / RULE.temperature_alone, 0)[chosen]
    slopes = torch.autograd.grad(probability, list(seen.values()))
    kinds = ("clinical", "dermoscopic") if pair else ("dermoscopic",)
    found = {}
    for (kind, feature), slope in zip(seen.items(), slopes, strict=True):
        if explainer.method == "gradcam":
            slope = slope.mean((2, 3), keepdim=True)
        planes = (slope * feature).sum(1).detach().double().numpy()
        found |= dict(zip((kind,) if kind else kinds, planes, strict=True))
    certain = probability.item()
    return {kind: plane / (certain * (1 - certain)) for kind, plane in found.items()}


CASES = {
    "cnn": {},
    "cnn, last stage": {"stage": -1},
    "cnn, gradcam": {"method": "gradcam"},
    "no exchange": {"attention_stages": ()},
    "two encoders": {"encoders": "separate", "attention": "separate"},
    "two encoders that never meet": {"encoders": "separate", "attention_stages": ()},
    "two encoders that meet later": {"encoders": "separate", "attention_stages": (-1,)},
    "convnext": {"backbone": "test_convnext"},
    "swin": {"swin": True},
    "swin, gradcam": {"swin": True, "method": "gradcam"},
}


@pytest.mark.parametrize("pair", [True, False], ids=["pair", "alone"])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_maps_are_those_of_the_probability_that_decides(options, pair):
    options = dict(options)
    how = {key: options.pop(key) for key in ("method", "stage") if key in options}
    encoder = small_swin() if options.pop("swin", False) else None
    network, record = make(encoder, **options)
    frames = images(2)[-1 - pair :]
    before = network(torch.from_numpy(frames), int(pair)).detach()
    explainer = Explainer(network, record, **how)
    torch.testing.assert_close(network(torch.from_numpy(frames), int(pair)).detach(), before)  # taps change nothing
    chosen = 2
    maps = explainer.maps(frames, TASK, chosen)
    assert list(maps) == (["clinical", "dermoscopic"] if pair else ["dermoscopic"])
    expected = by_torch(explainer, frames, chosen)
    for kind, plane in maps.items():
        assert plane.shape == explainer.grid
        assert plane.std() > 0
        np.testing.assert_allclose(plane, expected[kind], rtol=0, atol=8e-3 * np.abs(expected[kind]).max())


def test_a_map_adds_up_to_what_its_image_gives():
    """Pooling and a linear classifier follow the last stage: gradient x feature sums to slope x (logits - bias)."""
    network, record = make(backbone="test_resnet")
    explainer = Explainer(network, record, stage=-1)
    frames = images(2)
    logits = explainer.logits(frames[None])[0]
    slope = log_odds_slope(logits, SCHEMA, record.fusion, "pair", TASK, 1)
    maps = explainer.maps(frames, TASK, 1)
    for row, (kind, head) in enumerate((("clinical", network.clinical), ("dermoscopic", network.dermoscopic))):
        given = slope[row] @ (logits[row] - head.bias.detach().numpy())
        assert maps[kind].sum() == pytest.approx(given, rel=1e-3, abs=1e-4)


def test_the_images_of_a_pair_are_in_their_order():
    """The map of an image stays with it when the other image changes, where they do not exchange."""
    network, record = make(attention_stages=())
    explainer = Explainer(network, record)
    frames, other = images(2), images(2, seed=9)
    first = explainer.maps(frames, TASK, 0)
    for kind, row in (("clinical", 0), ("dermoscopic", 1)):
        mixed = other.copy()
        mixed[row] = frames[row]
        again = explainer.maps(mixed, TASK, 0)
        assert np.corrcoef(first[kind].ravel(), again[kind].ravel())[0, 1] == pytest.approx(1, abs=1e-3)
        changed = "dermoscopic" if kind == "clinical" else "clinical"
        assert np.corrcoef(first[changed].ravel(), again[changed].ravel())[0, 1] < 0.9


def test_a_fused_head_that_decides_is_explained():
    rule = RULE.model_copy(update={"fused_weight": 0.6, "temperature_fused": 0.9})
    network, record = make(fused_head=True, rule=rule, attention_stages=())
    explainer = Explainer(network, record)
    frames = images(2)
    slope = log_odds_slope(explainer.logits(frames[None])[0], SCHEMA, record.fusion, "pair", TASK, 2)
    assert slope.shape == (3, SCHEMA.logits)
    assert np.abs(slope).max(1).min() > 1e-3  # all three heads count
    without = record.model_copy(update={"fusion": {TASK: RULE}})
    maps = explainer.maps(frames, TASK, 2)
    explainer.record = without
    assert np.abs(maps["clinical"] - explainer.maps(frames, TASK, 2)["clinical"]).max() > 1e-4


@given(
    st.lists(st.floats(-6, 6), min_size=2 * SCHEMA.logits, max_size=2 * SCHEMA.logits),
    st.floats(0, 1),
    st.integers(0, SCHEMA.logits - 1),
    st.sampled_from(["pair", "dermoscopic"]),
)
def test_the_slope_is_that_of_the_formula(values, weight, chosen, mode):
    logits = np.array(values).reshape(2, -1)[: 2 if mode == "pair" else 1]
    rule = RULE.model_copy(update={"dermoscopic_weight": weight})
    found = log_odds_slope(logits, SCHEMA, {TASK: rule}, mode, TASK, chosen)
    tensor = torch.tensor(logits, requires_grad=True)
    if mode == "pair":
        clinical = torch.softmax(tensor[0] / rule.temperature_clinical, 0)
        fused = weight * torch.softmax(tensor[1] / rule.temperature_dermoscopic, 0) + (1 - weight) * clinical
    else:
        fused = torch.softmax(tensor[0] / rule.temperature_alone, 0)
    rest = torch.cat([fused[:chosen], fused[chosen + 1 :]]).sum()
    (expected,) = torch.autograd.grad(torch.log(fused[chosen] / rest), tensor)
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-6)


def test_log_odds_stay_finite_where_a_probability_is_certain():
    certain = decide.softmax(np.array([1000.0, 0.0, -5.0]))
    assert certain[0] == 1
    assert np.isfinite(log_odds(certain, 0))
    assert np.isfinite(log_odds(certain, 1))


def test_probabilities_of_many_are_those_of_each():
    explainer = Explainer(*make())
    pairs = images(6).reshape(3, 2, SIDE, SIDE, 3)
    together = explainer.probabilities(pairs, TASK)
    one_by_one = np.concatenate([explainer.probabilities(pair[None], TASK) for pair in pairs])
    np.testing.assert_allclose(together, one_by_one, atol=1e-6)
    np.testing.assert_allclose(together.sum(1), 1)
    assert not np.allclose(together[0], together[1], atol=1e-4)


def test_random_networks_differ_by_seed_alone():
    record = record_of(NetworkSpec(backbone="test_resnet", attention_dim=16, attention_heads=2))
    state = torch.get_rng_state()
    first, again, other = (random_network(record, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    weights = [network.encoder.conv1[0].weight for network in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not first.training


def test_what_has_no_map_is_refused():
    timm = pytest.importorskip("timm")
    network, record = make(timm.create_model("test_vit", num_classes=0, img_size=SIDE), attention_stages=())
    record = record.model_copy(update={"network": record.network.model_copy(update={"backbone": "test_vit"})})
    with pytest.raises(EdgeskinError, match=r"no map of places.*test_vit, which has no feature pyramid.*fix:"):
        Explainer(network, record)
    with pytest.raises(EdgeskinError, match=r"unknown stage: got 5; possible: -5\.\.4 for test_efficientnet"):
        Explainer(*make(), stage=5)
    network, record = make()
    record = record.model_copy(update={"preprocess": record.preprocess.model_copy(update={"height": 32, "width": 32})})
    with pytest.raises(EdgeskinError, match=r"no map of places.*1 x 1 places at blocks\.4"):
        Explainer(network, record, stage=-1)


def test_features_that_are_no_map_are_refused():
    """A stage may give tokens instead of a map: EfficientFormer's last one does."""
    timm = pytest.importorskip("timm")
    sizes = dict(depths=(1, 1, 1, 1), embed_dims=(8, 16, 16, 32), num_vit=1)
    encoder = timm.create_model("efficientformer_l1", num_classes=0, **sizes)  # takes 224 px alone
    spec = NetworkSpec(backbone="efficientformer_l1", attention_stages=())
    record = record_of(spec)
    record = record.model_copy(
        update={"preprocess": record.preprocess.model_copy(update={"height": 224, "width": 224})}
    )
    network = PairNetwork(encoder, spec, SCHEMA, record.preprocess).eval()
    with pytest.raises(EdgeskinError, match=r"no map of places.*got 'features \(1, 49, 32\)'"):
        Explainer(network, record, stage=-1)
