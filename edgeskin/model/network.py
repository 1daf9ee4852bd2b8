"""The network: one encoder for both images of a lesion, an exchange between them, one classifier a modality."""

import torch
from torch import Tensor, nn

from edgeskin.errors import EdgeskinError
from edgeskin.model.attention import CrossAttention, Exchange, Pairing
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.schema import Schema
from edgeskin.spec.train import NetworkSpec


class PairNetwork(nn.Module):
    """frames uint8 [clinical + dermoscopic, H, W, 3] -> logits float32 [clinical + dermoscopic, schema.logits].

    Clinical images come first. Both modalities share the encoder, in one pass; each has its own linear classifier.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, spec: NetworkSpec, schema: Schema, preprocess: Preprocess) -> None:
        super().__init__()
        self.spec = spec
        self.pairing = Pairing()
        stages = _chosen_stages(encoder, spec)
        features = _feature_count(encoder, preprocess, stages, spec.backbone)
        _insert_exchange(encoder, stages, spec, self.pairing)
        self.encoder = encoder
        self.dropout = nn.Dropout(spec.dropout)
        self.clinical = nn.Linear(features, schema.logits)
        self.dermoscopic = nn.Linear(features, schema.logits)
        # In grey levels, so that uint8 frames are normalised by one subtraction and one product.
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, frames: Tensor, clinical: int, rows: Tensor | None = None) -> Tensor:
        """Logits of every image.

        Args:
            frames: uint8 [N, H, W, 3]; the first `clinical` are clinical images, the rest dermoscopic.
            clinical: how many clinical images there are, 0 for dermoscopic images alone.
            rows: for each clinical image, the index of its lesion among the dermoscopic ones; None: the same index.
        """
        self.pairing.clinical, self.pairing.rows = clinical, rows
        x = (frames.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) * (1 / self.std)
        features = self.dropout(self.encoder(x))
        if clinical == 0:
            return self.dermoscopic(features)
        return torch.cat([self.clinical(features[:clinical]), self.dermoscopic(features[clinical:])])


class FixedInput(nn.Module):
    """The network for one examination, as it is exported: 2 images (pair) or 1 (dermoscopic alone)."""

    def __init__(self, network: PairNetwork, images: int) -> None:
        super().__init__()
        self.network = network
        self.images = images

    def forward(self, frames: Tensor) -> Tensor:
        """uint8 [images, H, W, 3] -> float32 [images, logits]."""
        logits: Tensor = self.network(frames, clinical=self.images - 1)
        return logits


def takes(network: PairNetwork, size: int) -> bool:
    """Whether frames of `size` x `size` pixels go through: windowed Transformers take the size they were made for."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            network(torch.zeros(1, size, size, 3, dtype=torch.uint8), 0)
    except (RuntimeError, ValueError, AssertionError):
        return False
    finally:
        network.train(training)
    return True


def _chosen_stages(encoder: nn.Module, spec: NetworkSpec) -> dict[str, int]:
    """Module name -> channels of the stages of the feature pyramid after which the images exchange."""
    if not spec.attention_stages:
        return {}
    pyramid = pyramid_of(encoder, spec.backbone)
    chosen = set()
    for stage in spec.attention_stages:
        if not -len(pyramid) <= stage < len(pyramid):
            raise EdgeskinError(
                "unknown attention stage",
                got=stage,
                possible=f"{-len(pyramid)}..{len(pyramid) - 1} for {spec.backbone}",
            )
        chosen.add(stage % len(pyramid))
    return dict(pyramid[index] for index in sorted(chosen))


def _feature_count(encoder: nn.Module, preprocess: Preprocess, stages: dict[str, int], backbone: str) -> int:
    """Width of the encoder's pooled output, by trying it; the chosen stages must give one map of features each."""
    training = encoder.training
    maps: dict[str, object] = {}
    hooks = []
    for name in stages:
        try:
            module = encoder.get_submodule(name)
        except AttributeError:
            raise _no_exchange(backbone, f"no module {name!r}") from None
        hooks.append(module.register_forward_hook(lambda _, __, given, name=name: maps.update({name: given})))
    encoder.eval()
    with torch.no_grad():
        features = encoder(torch.zeros(1, 3, preprocess.height, preprocess.width))
    encoder.train(training)
    for hook in hooks:
        hook.remove()
    axis = -1 if _channels_last(encoder) else 1
    for name, channels in stages.items():
        given = maps.get(name)
        if not isinstance(given, Tensor):
            raise _no_exchange(backbone, f"{name} gives {type(given).__name__}")
        if given.ndim != 4 or given.shape[axis] != channels:
            raise _no_exchange(backbone, f"{name} gives {tuple(given.shape)}, not {channels} channels of a map")
    if features.ndim != 2:
        raise EdgeskinError(
            "this backbone gives no pooled features",
            got=str(tuple(features.shape)),
            fix="choose a classification backbone",
        )
    return int(features.shape[1])


def _channels_last(encoder: nn.Module) -> bool:
    return getattr(encoder, "output_fmt", "NCHW") == "NHWC"


def _no_exchange(backbone: str, why: str) -> EdgeskinError:
    return EdgeskinError(
        f"the images cannot exchange in {backbone}",
        got=why,
        fix="choose a CNN or a hierarchical Transformer, e.g. tf_efficientnet_lite0, swin_tiny_patch4_window7_224",
    )


def _insert_exchange(encoder: nn.Module, stages: dict[str, int], spec: NetworkSpec, pairing: Pairing) -> None:
    """Wrap the chosen stages of the encoder's feature pyramid, so that later stages see what was exchanged."""
    if not stages:
        return
    attention = CrossAttention(spec.attention_dim, spec.attention_heads)
    channels_last = _channels_last(encoder)
    for name, channels in stages.items():
        wrapped = Exchange(encoder.get_submodule(name), channels, attention, spec.attention_dim, pairing, channels_last)
        parent, _, child = name.rpartition(".")
        setattr(encoder.get_submodule(parent), child, wrapped)


def pyramid_of(encoder: nn.Module, backbone: str) -> list[tuple[str, int]]:
    """(module name, channels) of each stage of a timm encoder, fine to coarse.

    Raises:
        EdgeskinError: the backbone has no feature pyramid (a plain ViT, say).
    """
    info = getattr(encoder, "feature_info", None) or []
    stages = [(str(f["module"]), int(f["num_chs"])) for f in info if f.get("module")]
    reductions = [f.get("reduction") for f in info]
    if len(stages) < 2 or len(set(reductions)) < len(reductions):
        raise EdgeskinError(
            "this backbone has no feature pyramid",
            got=backbone,
            fix="choose a CNN or a hierarchical Transformer, e.g. tf_efficientnet_lite0, swin_tiny_patch4_window7_224",
        )
    return stages
