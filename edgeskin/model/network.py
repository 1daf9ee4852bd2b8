"""The network: one encoder for both images of a lesion, an exchange between them, one classifier a modality."""

import math
from copy import deepcopy

import torch
from torch import Tensor, nn

from edgeskin.errors import EdgeskinError
from edgeskin.model.attention import CrossAttention, Exchange, Pairing, SeparateExchange, Twin
from edgeskin.model.weights import UnfitError
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.schema import Schema
from edgeskin.spec.train import NetworkSpec


class PairNetwork(nn.Module):
    """frames uint8 [clinical + dermoscopic, H, W, 3] -> logits float32 [clinical + dermoscopic, schema.logits].

    Clinical images come first. Both modalities share the encoder, in one pass; each has its own linear classifier. With
    a fused head the logits of the pairs follow, one row for each clinical image.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, spec: NetworkSpec, schema: Schema, preprocess: Preprocess) -> None:
        super().__init__()
        self.spec = spec
        self.side = preprocess.height  # of the frames that it works on; training frames may be smaller
        self.pairing = Pairing()
        stages = _chosen_stages(encoder, spec)
        features = _feature_count(encoder, preprocess, stages, spec.backbone)
        if spec.encoders == "separate" and spec.modalities == "both":
            encoder = _twinned(encoder, list(stages), self.pairing, spec.backbone)
        _insert_exchange(encoder, stages, spec, self.pairing)
        self.encoder = encoder
        self.dropout = nn.Dropout(spec.dropout)
        if spec.modalities != "dermoscopic":
            self.clinical = nn.Linear(features, schema.logits)
        if spec.modalities != "clinical":
            self.dermoscopic = nn.Linear(features, schema.logits)
        if spec.fused_head:
            self.fused = nn.Linear(2 * features, schema.logits)
        # In grey levels, so that uint8 frames are normalised by one subtraction and one product.
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, frames: Tensor, clinical: int, rows: Tensor | None = None) -> Tensor:
        """Logits of every image.

        Args:
            frames: uint8 [N, H, W, 3]; the first `clinical` are clinical images, the rest dermoscopic.
            clinical: how many clinical images there are, 0 for dermoscopic images alone. All of them, if and only if
                the network is for clinical images alone.
            rows: for each clinical image, the index of its lesion among the dermoscopic ones; None: the same index.

        Returns:
            [N, schema.logits]; with a fused head [N + clinical, schema.logits], the pairs last.
        """
        self.pairing.clinical, self.pairing.rows = clinical, rows
        x = (frames.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) * (1 / self.std)
        features = self.dropout(self.encoder(x))
        if clinical == 0:
            return self.dermoscopic(features)
        if self.spec.modalities == "clinical":
            return self.clinical(features)
        own, other = features[:clinical], features[clinical:]
        logits = [self.clinical(own), self.dermoscopic(other)]
        if self.spec.fused_head:
            logits.append(self.fused(torch.cat([own, other if rows is None else other[rows]], dim=1)))
        return torch.cat(logits)

    def fresh(self) -> list[nn.Parameter]:
        """The parameters that pretrained weights do not start: of the classifiers and of the exchange.

        By module, not by name: encoders too call parts of theirs `attention`, `down` or `gate`.
        """
        found = [value for name, value in self.named_parameters() if not name.startswith("encoder.")]
        for part in self.encoder.modules():
            if isinstance(part, Exchange):
                found += part.added()
        return list(dict.fromkeys(found))  # a shared attention is in several


class FixedInput(nn.Module):
    """The network for one examination, as it is exported: 2 images (pair) or 1 (dermoscopic alone).

    A fused head gives the pair a third row of logits.
    """

    def __init__(self, network: PairNetwork, images: int) -> None:
        super().__init__()
        self.network = network
        self.images = images

    def forward(self, frames: Tensor) -> Tensor:
        """uint8 [images, H, W, 3] -> float32 [images or 3, logits]."""
        logits: Tensor = self.network(frames, clinical=self.images - 1)
        return logits


def takes(network: PairNetwork, size: int) -> bool:
    """Whether frames of `size` x `size` pixels go through: windowed Transformers take the size they were made for."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            alone = int(network.spec.modalities == "clinical")
            network(torch.zeros(1, size, size, 3, dtype=torch.uint8, device=network.mean.device), alone)
    except (RuntimeError, ValueError, AssertionError):
        return False
    finally:
        network.train(training)
    return True


def _chosen_stages(encoder: nn.Module, spec: NetworkSpec) -> dict[str, int]:
    """Module name -> channels of the stages of the feature pyramid after which the images exchange."""
    if not spec.attention_stages or spec.modalities != "both":
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
    try:
        with torch.no_grad():
            features = encoder(torch.zeros(1, 3, preprocess.height, preprocess.width))
    except Exception as error:  # (of many kinds: whatever a thousand models raise)
        raise UnfitError(backbone, preprocess.height, error) from error
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
    dim, heads = attention_width(spec, list(stages.values())[-1]), spec.attention_heads
    channels_last = _channels_last(encoder)
    shared = CrossAttention(dim, heads) if spec.attention == "shared" else None
    for name, channels in stages.items():
        stage = encoder.get_submodule(name)
        if shared is None:
            wrapped: Exchange = SeparateExchange(stage, channels, dim, heads, pairing, channels_last)
        else:
            wrapped = Exchange(stage, channels, shared, dim, pairing, channels_last)
        _replace(encoder, name, wrapped)


def attention_width(spec: NetworkSpec, channels: int) -> int:
    """Width of the attention: `attention_dim`, or the coarsest stage's channels divided by `attention_reduction`.

    Rounded up to a multiple of 8 and of the heads, which INT8 kernels like and the split into heads needs.

    >>> attention_width(NetworkSpec(backbone="x", attention_reduction=4), 320)
    80
    """
    if spec.attention_reduction is None:
        return spec.attention_dim
    step = math.lcm(8, spec.attention_heads)
    return max(1, math.ceil(channels / spec.attention_reduction / step)) * step


def _replace(encoder: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(encoder.get_submodule(parent), child, module)


def _twinned(encoder: nn.Module, stages: list[str], pairing: Pairing, backbone: str) -> nn.Module:
    """Two encoders that meet at `stages`: every part between two meetings becomes two, which start alike.

    Raises:
        EdgeskinError: the encoder holds weights outside of its parts, which could not be made two.
    """
    if not stages:
        return Twin(encoder, deepcopy(encoder), pairing)

    def split(module: nn.Module, path: str) -> None:
        own = [name for name, _ in module.named_parameters(recurse=False)]
        if own:
            raise EdgeskinError(
                f"{backbone} cannot be made two encoders that exchange",
                got=f"weights outside of its stages: {path or 'top'}.{own[0]}",
                fix="choose another backbone, or no attention stages",
            )
        for name, child in list(module.named_children()):
            inner = f"{path}.{name}".lstrip(".")
            if any(stage.startswith(f"{inner}.") for stage in stages):
                split(child, inner)
            else:
                setattr(module, name, Twin(child, deepcopy(child), pairing))

    split(encoder, "")
    return encoder


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
