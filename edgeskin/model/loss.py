"""Biased loss: dermoscopy first, L = L_dermoscopic + a * L_clinical, with what helps rare classes."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeskin.spec.schema import Schema
from edgeskin.spec.train import TrainSpec


class BiasedLoss(nn.Module):
    """Sum over tasks of the cross-entropy of both branches, the clinical one weighted by a <= 1.

    L = L_dermoscopic + a * L_clinical, + b * L_fused where the network has a fused head. a = 1 treats both alike.

    Logit adjustment (Menon et al., arXiv 2007.07314): tau * log(prior of the class) is added to the logits in
    training only, so that rare classes are not drowned. Class weights do the same by counting rare lesions more: a
    lesion's loss is multiplied by the weight of its true class, and the mean is over lesions, not over weights, so that
    a lesion counts the same in every batch. Labels of -1 (unlabelled) do not count.
    """

    priors: Tensor
    class_weights: Tensor

    def __init__(self, schema: Schema, counts: dict[str, list[int]], spec: TrainSpec) -> None:
        """counts: training lesions of each class, by task."""
        super().__init__()
        self.slices = list(schema.slices().values())
        self.clinical_weight = spec.clinical_weight
        self.fused_weight = spec.fused_weight
        self.smoothing = spec.label_smoothing
        adjustment, weights = torch.zeros(schema.logits), torch.ones(schema.logits)
        for task, part in zip(schema.tasks, self.slices, strict=True):
            tally = torch.tensor(counts[task.name], dtype=torch.float32).clamp(min=1)
            adjustment[part] = spec.logit_adjustment * torch.log(tally / tally.sum())
            weights[part] = class_weights(tally, {"none": 0.0, "sqrt": 0.5, "inverse": 1.0}[spec.class_weighting])
        self.register_buffer("priors", adjustment)
        self.register_buffer("class_weights", weights, persistent=False)

    def branch(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of one branch: logits [N, schema.logits], labels int64 [N, tasks]; a scalar.

        Label smoothing comes first, the weight of the true class after it. torch's own `weight` would weigh each
        smoothed class by itself, and divide by the sum of the weights in the batch, which undoes their scale.
        """
        adjusted = logits.float() + self.priors
        total = adjusted.new_zeros(())
        for index, part in enumerate(self.slices):
            known = labels[:, index] >= 0
            if bool(known.any()):
                truth = labels[known, index]
                each = functional.cross_entropy(
                    adjusted[known, part], truth, reduction="none", label_smoothing=self.smoothing
                )
                total = total + (self.class_weights[part][truth] * each).mean()
        return total

    def forward(self, logits: Tensor, labels: Tensor, clinical: int, rows: Tensor | None) -> Tensor:
        """Biased loss of a batch as the network gives it: logits of clinical images, dermoscopic ones, then pairs.

        Args:
            logits: [clinical + lesions, K], or [clinical + lesions + clinical, K] with a fused head, or [clinical, K]
                of a network for clinical images alone.
            labels: int64 [lesions, tasks].
            clinical: how many clinical images there are.
            rows: the lesion of each clinical image; None: the same index.
        """
        paired = labels if rows is None else labels[rows]
        if len(logits) == clinical:
            return self.branch(logits, paired)
        end = clinical + len(labels)
        loss = self.branch(logits[clinical:end], labels)
        if clinical:
            loss = loss + self.clinical_weight * self.branch(logits[:clinical], paired)
        if len(logits) > end:
            loss = loss + self.fused_weight * self.branch(logits[end:], paired)
        return loss

    def follow(self, logits: Tensor, wanted: Tensor, lesions: int, clinical: int, temperature: float) -> Tensor:
        """Divergence from another network's logits of the same images, the branches weighted as in the loss.

        Args:
            logits, wanted: as in `forward`; rows of a fused head count where both networks have one.
            lesions: dermoscopic images.
        """
        if len(logits) == clinical:
            return divergence(logits, wanted, self.slices, temperature)
        end = clinical + lesions
        loss = divergence(logits[clinical:end], wanted[clinical:end], self.slices, temperature)
        if clinical:
            loss = loss + self.clinical_weight * divergence(
                logits[:clinical], wanted[:clinical], self.slices, temperature
            )
        if len(logits) > end and len(wanted) == len(logits):
            loss = loss + self.fused_weight * divergence(logits[end:], wanted[end:], self.slices, temperature)
        return loss


def divergence(logits: Tensor, wanted: Tensor, slices: list[slice], temperature: float = 1.0) -> Tensor:
    """KL(wanted || given) in nats, mean over rows, summed over tasks, times temperature squared (Hinton et al. 2015).

    Args:
        logits, wanted: [N, K].
        slices: columns of each task.

    >>> given, wanted = torch.tensor([[0.0, 0.0]]), torch.log(torch.tensor([[0.75, 0.25]]))
    >>> round(divergence(given, wanted, [slice(0, 2)]).item(), 4)  # 0.75 ln 1.5 + 0.25 ln 0.5
    0.1308
    """
    total = logits.new_zeros(())
    for part in slices:
        given = functional.log_softmax(logits[:, part] / temperature, 1)
        target = functional.log_softmax(wanted[:, part] / temperature, 1)
        total = total + functional.kl_div(given, target, reduction="batchmean", log_target=True)
    return total * temperature**2


def class_weights(tally: Tensor, power: float) -> Tensor:
    """1 / n^power for classes of n lesions each, scaled so that the mean over all lesions is 1.

    >>> class_weights(torch.tensor([9.0, 1.0]), 1.0)  # 9 lesions of 5/9 and one of 5
    tensor([0.5556, 5.0000])
    """
    weights = tally**-power
    return weights * (tally.sum() / (weights * tally).sum())
