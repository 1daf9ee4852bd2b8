"""Shared cross-attention: the clinical and the dermoscopic image look at each other through one set of weights.

Method: single-shared network with prior-inspired loss (Tang & Lasser, arXiv 2403.19203). One attention module serves
both directions and every stage; only the 1x1 projections in and out differ by stage, as channel counts do.
"""

from typing import cast

import torch
from torch import Tensor, nn


class Pairing:
    """Which rows of the current batch belong together. The first `clinical` rows are clinical images, the rest
    dermoscopic; clinical row i is of the same lesion as dermoscopic row `rows[i]` (None: row i)."""

    def __init__(self) -> None:
        self.clinical = 0
        self.rows: Tensor | None = None


class CrossAttention(nn.Module):
    """Multi-head attention of tokens [N, T, dim] to tokens [N, T, dim], in plain matmuls that every target takes.

    `dim` is a multiple of `heads`: `NetworkSpec` sees to it.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.scale = (dim // heads) ** -0.5

    def forward(self, asking: Tensor, answering: Tensor) -> Tensor:
        """Tokens of `asking` gather from tokens of `answering`; returns [N, T, dim]."""
        n, t, dim = asking.shape
        split = (n, t, self.heads, dim // self.heads)
        # The scale goes onto the query before the product: smaller activations, which INT8 and FP16 like.
        query = (self.query(self.norm(asking)) * self.scale).view(split).transpose(1, 2)
        key, value = self.key_value(self.norm(answering)).chunk(2, dim=-1)
        key, value = key.reshape(split).transpose(1, 2), value.reshape(split).transpose(1, 2)
        weights = torch.softmax(query @ key.transpose(-2, -1), dim=-1)
        return (weights @ value).transpose(1, 2).reshape(n, t, dim)


class Twin(nn.Module):
    """A part of the encoder and a second one of the same kind: the clinical images go through the one, the dermoscopic
    ones through the other. It makes the network with two encoders that the shared one is compared with."""

    def __init__(self, clinical: nn.Module, dermoscopic: nn.Module, pairing: Pairing) -> None:
        super().__init__()
        self.clinical = clinical
        self.dermoscopic = dermoscopic
        self.pairing = pairing

    def forward(self, x: Tensor) -> Tensor:
        """Any [N, ...] with the clinical images first -> what both parts make of it, in the same order."""
        count = self.pairing.clinical
        if count == 0:
            return cast(Tensor, self.dermoscopic(x))
        return torch.cat([self.clinical(x[:count]), self.dermoscopic(x[count:])])


class Exchange(nn.Module):
    """A stage of the encoder, followed by the exchange between the two images of each lesion.

    Adds gate * project(attention(tokens)) to the stage's features; the gate starts at zero, so that a pretrained
    encoder starts unharmed. Lesions without a clinical image pass through unchanged.
    """

    def __init__(
        self,
        stage: nn.Module,
        channels: int,
        attention: CrossAttention,
        dim: int,
        pairing: Pairing,
        channels_last: bool,
    ) -> None:
        super().__init__()
        self.stage = stage
        self.attention = attention
        self.down = nn.Linear(channels, dim)
        self.up = nn.Linear(dim, channels)
        self.gate = nn.Parameter(torch.zeros(channels))
        self.pairing = pairing
        self.channels_last = channels_last  # features come as [N, H, W, C] instead of [N, C, H, W]

    def added(self) -> list[nn.Parameter]:
        """The exchange's own parameters: those of the stage may have a pretrained start, these have none."""
        return [value for name, value in self.named_parameters() if not name.startswith("stage.")]

    def forward(self, x: Tensor) -> Tensor:
        """Features of all images of the batch -> the same with what each gathered from its partner."""
        x = self.stage(x)
        count, rows = self.pairing.clinical, self.pairing.rows
        if count == 0:
            return x
        features = x if self.channels_last else x.permute(0, 2, 3, 1)
        clinical, dermoscopic = features[:count], features[count:]
        paired = dermoscopic if rows is None else dermoscopic[rows]
        change = self._gather(torch.cat([clinical, paired]))
        if rows is None:
            features = features + change
        else:
            spread = torch.zeros_like(dermoscopic).index_copy(0, rows, change[count:].to(dermoscopic.dtype))
            features = features + torch.cat([change[:count].to(features.dtype), spread])
        return features if self.channels_last else features.permute(0, 3, 1, 2)

    def _gather(self, asking: Tensor) -> Tensor:
        """What each image of [clinical; dermoscopic] gathers from its partner; [N, H, W, C] like what is given."""
        tokens = self._tokens(asking)
        # The partner's tokens are the same ones in the other order: projected once, swapped.
        half = asking.shape[0] // 2
        return self._change(tokens, torch.cat([tokens[half:], tokens[:half]])).reshape(asking.shape)

    def ask(self, asking: Tensor, answering: Tensor) -> Tensor:
        """One direction alone: what `asking` [n, H, W, C] gathers from `answering` of the same shape."""
        return self._change(self._tokens(asking), self._tokens(answering)).reshape(asking.shape)

    def _tokens(self, features: Tensor) -> Tensor:
        """[n, H, W, C] -> [n, H * W, dim]."""
        n, height, width, channels = features.shape
        return cast(Tensor, self.down(features.reshape(n, height * width, channels)))

    def _change(self, asking: Tensor, answering: Tensor) -> Tensor:
        """Tokens [n, T, dim] of both -> what is added to the features, [n, T, C]."""
        return cast(Tensor, self.gate * self.up(self.attention(asking, answering)))


class SeparateExchange(Exchange):
    """The same exchange with weights of its own for each direction, as networks with two encoders have it."""

    def __init__(
        self, stage: nn.Module, channels: int, dim: int, heads: int, pairing: Pairing, channels_last: bool
    ) -> None:
        super().__init__(stage, channels, CrossAttention(dim, heads), dim, pairing, channels_last)
        # What the base class has serves the clinical image, which asks the dermoscopic one; this the other direction.
        self.back = Exchange(nn.Identity(), channels, CrossAttention(dim, heads), dim, pairing, channels_last)

    def _gather(self, asking: Tensor) -> Tensor:
        half = asking.shape[0] // 2
        clinical, dermoscopic = asking[:half], asking[half:]
        return torch.cat([self.ask(clinical, dermoscopic), self.back.ask(dermoscopic, clinical)])
