"""Biased loss: dermoscopy first, L = L_dermoscopic + a * L_clinical, with logit adjustment for rare classes."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeskin.spec.schema import Schema


class BiasedLoss(nn.Module):
    """Sum over tasks of the cross-entropy of both branches, the clinical one weighted by a <= 1.

    Logit adjustment (Menon et al., arXiv 2007.07314): tau * log(prior of the class) is added to the logits in
    training only, so that rare classes are not drowned. Labels of -1 (unlabelled) do not count.
    """

    priors: Tensor

    def __init__(
        self, schema: Schema, counts: dict[str, list[int]], clinical_weight: float, smoothing: float, tau: float
    ) -> None:
        super().__init__()
        self.slices = list(schema.slices().values())
        self.clinical_weight = clinical_weight
        self.smoothing = smoothing
        adjustment = torch.zeros(schema.logits)
        for task, part in zip(schema.tasks, self.slices, strict=True):
            tally = torch.tensor(counts[task.name], dtype=torch.float32).clamp(min=1)
            adjustment[part] = tau * torch.log(tally / tally.sum())
        self.register_buffer("priors", adjustment)

    def branch(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of one branch: logits [N, schema.logits], labels int64 [N, tasks]; a scalar."""
        adjusted = logits.float() + self.priors
        total = adjusted.new_zeros(())
        for index, part in enumerate(self.slices):
            known = labels[:, index] >= 0
            if bool(known.any()):
                total = total + functional.cross_entropy(
                    adjusted[known, part], labels[known, index], label_smoothing=self.smoothing
                )
        return total

    def forward(self, logits: Tensor, labels: Tensor, clinical: int, rows: Tensor | None) -> Tensor:
        """Biased loss of a batch as the network gives it: clinical logits first, then dermoscopic ones."""
        loss = self.branch(logits[clinical:], labels)
        if clinical:
            paired = labels if rows is None else labels[rows]
            loss = loss + self.clinical_weight * self.branch(logits[:clinical], paired)
        return loss
