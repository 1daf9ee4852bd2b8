"""What a timm model is as the encoder of a pair network, counted without its weights and mostly without any sums."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgeskin import catalog
from edgeskin.errors import EdgeskinError
from edgeskin.model.network import PairNetwork, pyramid_of
from edgeskin.model.weights import UnfitError, create_encoder, hub_of
from edgeskin.quiet import quiet
from edgeskin.spec.backbones import Backbone, Stage
from edgeskin.spec.preprocess import Preprocess
from edgeskin.spec.train import NetworkSpec

SIZE = 224
SCHEMA = "milk10k"  # its eleven diagnoses are the classifiers' width


def examine(name: str, size: int = 0) -> Backbone:
    """Pyramid, parameters and products of a timm model as pair network with the default exchange.

    Args:
        name: of the model, with or without the tag of its weights.
        size: side of the frames in pixels; 0: 224, or the size of the model's own weights where 224 does not fit.

    Raises:
        EdgeskinError: timm is not installed, it has no such model, or the model cannot be such an encoder: it says why.

    >>> found = examine("test_resnet", 64)
    >>> found.stages[-1].channels, round(found.share, 3)
    (96, 0.569)
    """
    spec = NetworkSpec(backbone=name)
    refused: list[UnfitError] = []
    for device in ("meta", "cpu"):  # the first takes no memory; older versions of timm ask for values on the way
        for side in (size,) if size else (SIZE, 0):
            try:
                with torch.device(device), quiet():
                    return _counted(spec, side or _own_size(name))
            except UnfitError as error:
                refused.append(error)
            except EdgeskinError:
                raise
            except Exception as error:  # noqa: BLE001 - (of many kinds: whatever a thousand models raise)
                refused.append(UnfitError(name, side or _own_size(name), error))
    raise refused[0]


def count(network: PairNetwork, size: int, images: int) -> int:
    """Multiply-accumulates of convolutions and matrix products for one examination of `images` images.

    torch counts two operations for each of them, and also those that an engine works out once, when it compiles.
    """
    frames = torch.zeros(images, size, size, 3, dtype=torch.uint8)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(frames, images - 1)
    return int(counter.get_total_flops()) // 2


def _counted(spec: NetworkSpec, size: int) -> Backbone:
    encoder = create_encoder(spec, size)
    stages = _stages(encoder, spec.backbone)
    alone = _parameters(encoder)
    schema = catalog.schema(SCHEMA)
    how = Preprocess(height=size, width=size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    network = PairNetwork(encoder, spec, schema, how).eval()
    apart = spec.model_copy(update={"encoders": "separate", "attention_stages": ()})
    return Backbone(
        name=spec.backbone,
        size_px=size,
        stages=stages,
        encoder_parameters=alone,
        parameters=_parameters(network),
        two_encoders_parameters=_parameters(PairNetwork(create_encoder(spec, size), apart, schema, how)),
        pair_macs=count(network, size, 2),
        dermoscopic_macs=count(network, size, 1),
        hub=hub_of(spec.backbone),
    )


def _stages(encoder: nn.Module, backbone: str) -> tuple[Stage, ...]:
    reductions = {str(one["module"]): int(one["reduction"]) for one in encoder.feature_info if one.get("module")}
    return tuple(
        Stage(module=module, channels=channels, reduction=reductions[module])
        for module, channels in pyramid_of(encoder, backbone)
    )


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _own_size(name: str) -> int:
    import timm

    return int(timm.get_pretrained_cfg(name).input_size[-1])
