"""Saliency: at which places of each image the evidence for a class lies, from one backward pass through the network."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeskin import decide
from edgeskin.errors import EdgeskinError
from edgeskin.model.attention import Exchange, Twin
from edgeskin.model.network import PairNetwork, pyramid_of
from edgeskin.model.weights import create_encoder
from edgeskin.spec.explanation import Kind, Method
from edgeskin.spec.manifest import IMAGES, Mode
from edgeskin.spec.schema import Schema
from edgeskin.spec.train import Checkpoint, Fusion

Floats = NDArray[np.float64]
_STEP = 1e-4  # in logits; the error of a central difference is of its square


class Tap(nn.Module):
    """A stage of the encoder whose features pass `seen` as a map [N, C, H, W], whatever their own layout is."""

    def __init__(self, stage: nn.Module, kind: Kind | None, channels_last: bool) -> None:
        super().__init__()
        self.stage = stage
        self.kind = kind  # whose images pass here; None: all, the clinical ones first
        self.channels_last = channels_last
        self.seen = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """What the stage makes of it."""
        features = self.stage(x)
        if not isinstance(features, Tensor) or features.ndim != 4:
            given = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise _no_map(f"features {given}")
        if not self.channels_last:
            return cast(Tensor, self.seen(features))
        return cast(Tensor, self.seen(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class Explainer:
    """A trained network, tapped at one stage of its encoder, and what turns its logits into a decision.

    What is explained is the log-odds of the probability that decides: the branches at their temperatures, fused with
    their weights, as `edgeskin.decide` has it. Log-odds grow with the probability, and still have a slope where that is
    almost 0 or 1. The maps of a lesion are those of the probability itself but for one factor, the same in all of its
    images, since both methods are linear in the gradient.

    hirescam: the sum over channels of gradient x feature at each place (HiResCAM, Draelos & Carin, arXiv 2011.08891).
    gradcam: the same with each channel's gradient averaged over the places first (Selvaraju et al., arXiv 1610.02391).

    The features come after the images' exchange, if there is one at that stage: a place of one image may hold what it
    gathered from the other.
    """

    def __init__(self, network: PairNetwork, record: Checkpoint, method: Method = "hirescam", stage: int = -2) -> None:
        """Taps `network`, which from then on serves this explainer alone.

        Args:
            stage: of the encoder's feature pyramid, fine to coarse.

        Raises:
            EdgeskinError: the encoder has no feature pyramid, no such stage, or no map of places there.
        """
        self.network, self.record, self.method, self.place = network, record, method, stage
        encoder = network.encoder
        holder = encoder.dermoscopic if isinstance(encoder, Twin) else encoder
        self.stage = _stage_of(holder, record.network.backbone, stage)
        channels_last = getattr(holder, "output_fmt", "NCHW") == "NHWC"
        self.taps = []
        for parent, name, kind in list(_holders(network, f"encoder.{self.stage}")):
            tap = Tap(getattr(parent, name), kind, channels_last)
            setattr(parent, name, tap)
            self.taps.append(tap)
        self.grid = self._grid()  # rows and columns of a map

    def logits(self, frames: NDArray[np.uint8]) -> Floats:
        """Logits [N, rows, K] of frames uint8 [N, images, H, W, 3], the clinical image first."""
        with torch.no_grad():
            return self._logits(torch.from_numpy(frames)).numpy().astype(np.float64)

    def probabilities(self, frames: NDArray[np.uint8], task: str) -> Floats:
        """Probabilities [N, classes] of a task, fused as they decide, of frames uint8 [N, images, H, W, 3]."""
        mode: Mode = "pair" if frames.shape[1] == 2 else "dermoscopic"
        found = decide.task_probabilities(self.logits(frames), self.record.task_schema, self.record.fusion, mode)
        return found[task]

    def maps(self, frames: NDArray[np.uint8], task: str, chosen: int) -> dict[Kind, Floats]:
        """Where the evidence for a class lies, for (positive) and against (negative), in the same units in all images.

        Args:
            frames: uint8 [images, H, W, 3], the clinical one first.
            chosen: number of the class.

        Returns:
            kind of image -> [h, w], as fine as the stage.
        """
        mode: Mode = "pair" if len(frames) == IMAGES["pair"] else "dermoscopic"
        slope = log_odds_slope(
            self.logits(frames[None])[0], self.record.task_schema, self.record.fusion, mode, task, chosen
        )
        weights = torch.from_numpy(slope).float()

        def score(images: Tensor) -> Tensor:
            # At these logits it has the gradient of the log-odds, whatever `decide` does to come from one to the other.
            return (self._logits(images[None]) * weights).sum((1, 2))

        found: dict[Kind, Floats] = {}
        for tap in self.taps:
            if tap.kind == "clinical" and mode == "dermoscopic":
                continue  # that encoder sees nothing
            planes = _attribute(self.method, score, tap.seen, torch.from_numpy(frames))
            kinds: tuple[Kind, ...] = ("clinical", "dermoscopic") if mode == "pair" else ("dermoscopic",)
            kinds = kinds if tap.kind is None else (tap.kind,)
            found |= {kind: plane.numpy().astype(np.float64) for kind, plane in zip(kinds, planes, strict=True)}
        return found

    def _grid(self) -> tuple[int, int]:
        """Tries the network on one dark frame."""
        seen: list[Tensor] = []
        hooks = [tap.seen.register_forward_hook(lambda _, __, given: seen.append(given)) for tap in self.taps]
        preprocess = self.record.preprocess
        self.logits(np.zeros((1, 1, preprocess.height, preprocess.width, 3), np.uint8))
        for hook in hooks:
            hook.remove()
        rows, columns = seen[0].shape[2:]
        if min(rows, columns) < 2:
            raise _no_map(f"{rows} x {columns} places at {self.stage}")
        return rows, columns

    def _logits(self, frames: Tensor) -> Tensor:
        """uint8 [N, images, H, W, 3] -> [N, rows, K]. The network takes and gives all clinical images first."""
        count, images = frames.shape[:2]
        logits: Tensor = self.network(frames.transpose(0, 1).flatten(0, 1), count if images == 2 else 0)
        return logits.unflatten(0, (-1, count)).transpose(0, 1)


def log_odds(probabilities: Floats, chosen: int) -> Floats:
    """log(p / (1 - p)) of a class, [...], of probabilities [..., classes]; 1 - p is summed, so that it is never 0.

    >>> log_odds(np.array([0.2, 0.8]), 1).round(4).item()  # log 4
    1.3863
    """
    rest = np.delete(probabilities, chosen, axis=-1).sum(axis=-1)
    tiny = np.finfo(np.float64).tiny
    return np.asarray(np.log(np.maximum(probabilities[..., chosen], tiny)) - np.log(np.maximum(rest, tiny)))


def log_odds_slope(
    logits: Floats, schema: Schema, fusion: Mapping[str, Fusion], mode: Mode, task: str, chosen: int
) -> Floats:
    """Slope of a class's log-odds in each logit, [rows, K], by central differences through `decide` itself.

    So there is no second definition of what is fused with which weight, which could differ from the one that decides.

    Args:
        logits: [rows, K] of one lesion.

    >>> from edgeskin.spec.schema import ClassSpec, Target, Task
    >>> named = Task(name="DIAG", classes=(ClassSpec(name="NEV"), ClassSpec(name="MEL")))
    >>> two = Schema(name="two", tasks=(named,), target=Target(task="DIAG", positive=("MEL",)))
    >>> plain = {"DIAG": Fusion(dermoscopic_weight=0.5)}
    >>> log_odds_slope(np.zeros((2, 2)), two, plain, "pair", "DIAG", 1).round(6).tolist()  # +-p(1-p)/2 over p(1-p)
    [[-0.5, 0.5], [-0.5, 0.5]]
    """
    part = schema.slices()[task]
    places = [(row, column) for row in range(len(logits)) for column in range(part.start, part.stop)]
    moved = np.repeat(logits[None, None], 2, axis=0).repeat(len(places), axis=1)  # [2, places, rows, K]
    for index, (row, column) in enumerate(places):
        moved[:, index, row, column] += (_STEP, -_STEP)
    up, down = log_odds(decide.task_probabilities(moved, schema, fusion, mode)[task], chosen)
    found = np.zeros_like(logits)
    found[tuple(np.transpose(places))] = (up - down) / (2 * _STEP)
    return found


def random_network(record: Checkpoint, seed: int) -> PairNetwork:
    """A network of the same form that has learned nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = create_encoder(record.network, record.preprocess.height)
        return PairNetwork(encoder, record.network, record.task_schema, record.preprocess).eval()


def _stage_of(encoder: nn.Module, backbone: str, stage: int) -> str:
    """Name of the module of a stage."""
    try:
        pyramid = pyramid_of(encoder, backbone)
    except EdgeskinError:
        raise _no_map(f"{backbone}, which has no feature pyramid") from None
    if not -len(pyramid) <= stage < len(pyramid):
        raise EdgeskinError(
            "unknown stage",
            got=stage,
            possible=f"{-len(pyramid)}..{len(pyramid) - 1} for {backbone}",
            fix="pass --stage",
        )
    return pyramid[stage][0]


def _holders(parent: nn.Module, path: str, kind: Kind | None = None) -> Iterator[tuple[nn.Module, str, Kind | None]]:
    """(parent, name, whose images) of each module of that path: two where each modality has an encoder of its own."""
    name, _, rest = path.partition(".")
    if not rest:
        yield parent, name, kind
        return
    inner = getattr(parent, name)
    while isinstance(inner, Exchange):
        inner = inner.stage
    if isinstance(inner, Twin):
        yield from _holders(inner.clinical, rest, "clinical")
        yield from _holders(inner.dermoscopic, rest, "dermoscopic")
    else:
        yield from _holders(inner, rest, kind)


def _attribute(method: Method, score: Any, layer: nn.Module, frames: Tensor) -> Tensor:
    """Maps [N, h, w] of the images that pass a layer."""
    from captum.attr import LayerGradCam, LayerGradientXActivation

    if method == "gradcam":
        return cast(Tensor, LayerGradCam(score, layer).attribute(frames)).detach()[:, 0]
    return cast(Tensor, LayerGradientXActivation(score, layer).attribute(frames)).detach().sum(1)


def _no_map(got: str) -> EdgeskinError:
    return EdgeskinError(
        "this network has no map of places to explain with",
        got=got,
        possible="CNNs and hierarchical Transformers, at a stage of at least 2 x 2 places",
        fix="pass another --stage, or train such a backbone",
    )
