"""Fake quantisation of a torch network: NNCF says where, the modules below round.

NNCF places quantisers as its post-training quantisation does for OpenVINO: before every convolution and product, at
residual sums and poolings, none between a convolution and its batch norm or activation. Its quantiser modules are then
replaced, because they train their ranges, which no later export would see, and need a C++ compiler. What replaces them
adds nothing to the network's state.

A weight is rounded before its batch norm is folded. That is the grid of the folded weight: folding multiplies each
output channel by a number, and with it that channel's greatest weight, which is the scale.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeskin import out
from edgeskin.errors import EdgeskinError, missing_extra
from edgeskin.model.network import PairNetwork
from edgeskin.quiet import quiet


def fake_quantised(network: PairNetwork, frames: Sequence[NDArray[np.uint8]], weight_bits: int = 8) -> PairNetwork:
    """A copy of the network that computes with rounded weights and activations, and passes gradients through.

    Weights: symmetric, a scale for each output channel, taken anew from the weights at every step. Activations:
    symmetric a tensor (unsigned where nothing is negative), the range fixed by the extremes over `frames`.

    Args:
        network: in evaluation mode; not changed.
        frames: uint8 [2, H, W, 3] each, the clinical image first.
        weight_bits: 8, or fewer to study the method.

    Raises:
        EdgeskinError: NNCF is not installed, no frames, or activations that are not finite.
    """
    if find_spec("nncf") is None:
        raise missing_extra("nncf", "export")
    if not frames:
        raise EdgeskinError("no calibration pairs", got=0, fix="enlarge the calibration role")
    with quiet(), out.progress("calibrating", len(frames)) as step:
        import nncf
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            AdvancedSmoothQuantParameters,
            QuantizationParameters,
        )
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        seen: set[int] = set()

        def feed(item: tuple[int, NDArray[np.uint8]]) -> tuple[Tensor, int]:
            number, pair = item
            if number not in seen:  # the first one is also traced
                seen.add(number)
                step(1)
            return torch.from_numpy(pair), 1

        placed: PairNetwork = nncf.quantize(
            network,
            nncf.Dataset(list(enumerate(frames)), feed),
            subset_size=len(frames),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            model_type=nncf.ModelType.TRANSFORMER if is_transformer(network) else None,
            advanced_parameters=AdvancedQuantizationParameters(
                # Both change weights, and every export decides on them anew.
                disable_bias_correction=True,
                smooth_quant_alphas=AdvancedSmoothQuantParameters(convolution=-1.0, matmul=-1.0),
                activations_quantization_params=QuantizationParameters(per_channel=False),
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
            ),
        )
    _replace(placed, weight_bits)
    return placed.eval()


def is_transformer(network: nn.Module) -> bool:
    """Whether linear layers outnumber convolutions, as `quantize.ptq.is_transformer` asks of the exported graph."""
    kinds = [type(module) for module in network.modules()]
    return sum(issubclass(k, nn.Linear) for k in kinds) > sum(issubclass(k, nn.Conv2d) for k in kinds)


class RoundedWeight(nn.Module):
    """A weight on its grid: symmetric integers times a scale for each output channel, greatest weight = last step."""

    def __init__(self, axis: int, bits: int = 8) -> None:
        super().__init__()
        self.axis, self.last = axis, 2 ** (bits - 1) - 1

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape as `weight`; the gradient goes through as if nothing were rounded."""
        others = [axis for axis in range(weight.ndim) if axis != self.axis]
        greatest = weight.detach().abs().amax(others, keepdim=True)
        rounded: Tensor = _RoundWeight.apply(weight, greatest.clamp(min=1e-12) / self.last)
        return rounded


class RoundedActivation(nn.Module):
    """An activation on a fixed grid; what lies outside is clipped and passes no gradient."""

    def __init__(self, scale: float, low: int, high: int) -> None:
        super().__init__()
        self.scale, self.low, self.high = scale, low, high

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x`."""
        rounded: Tensor = _RoundActivation.apply(x, self.scale, self.low, self.high)
        return rounded


# torch.fake_quantize_per_tensor_affine gives the same numbers and gradients, but on the CPU in 16 times the time, four
# times that of the convolution before it: it has no vector code there.
class _RoundActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, low: int, high: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.ends = (low - 0.5) * scale, (high + 0.5) * scale
        return (x * (1 / scale)).round_().clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return torch.ops.aten.hardtanh_backward(gradients[0], ctx.saved_tensors[0], *ctx.ends), None, None, None


class _RoundWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor) -> Tensor:
        return (weight / scale).round_().mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


def _replace(network: PairNetwork, weight_bits: int) -> None:
    """Put the modules above in the place of NNCF's quantisers."""
    from nncf.torch.function_hook.hook_storage import decode_hook_name
    from nncf.torch.function_hook.wrapper import get_hook_storage

    storage = get_hook_storage(network)
    made: dict[int, nn.Module] = {}  # inputs of a concatenation, say, share a quantiser
    for name, quantiser in list(storage.named_hooks(remove_duplicate=False)):
        if decode_hook_name(name)[1].rsplit("/", 2)[-2] == "layer_norm" and name.startswith("pre_"):
            storage.delete_hook(name)  # NNCF takes its factors, which no target rounds, for an activation
            continue
        if id(quantiser) not in made:
            made[id(quantiser)] = _rounded(quantiser, name, weight_bits)
        storage.set_submodule(name, made[id(quantiser)])


def _rounded(quantiser: Any, name: str, weight_bits: int) -> nn.Module:
    if quantiser.narrow_range:  # only weights
        return RoundedWeight(int(np.argmax(quantiser.scale_shape)), weight_bits)
    scale = quantiser.scale.detach().abs().reshape(-1)
    if not bool(torch.isfinite(scale).all()):
        raise EdgeskinError(
            "activations are not finite",
            got=name.split(".", 1)[1].rsplit("__", 1)[0],
            fix="train again with a lower --learning-rate",
        )
    low, high = int(quantiser.level_low), int(quantiser.level_high)
    return RoundedActivation(max(float(scale.max()), 1e-12) / high, low, high)
