"""DIST (method "dist"): the student keeps a mentor's order, not its numbers; a mean over mentors.

Huang, You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022,
https://arxiv.org/abs/2205.10536, the inter-class and intra-class relations and their weighted sum.
With p, q the softmax of mentor and student at temperature T, and rho Pearson's correlation:

    inter = 1 - rho(p_i, q_i)                over the classes of each sample (a row)
    intra = 1 - rho(p_.c, q_.c)              over the batch, for each class (a column); mean over c
    L     = ce_weight * CE + 1/M sum_m T^2 * (beta * inter_m + gamma * intra_m)

Defaults are those of the classification experiments: weights 1, 2, 2, and for CIFAR-100 T = 4 with
the factor T^2 of the released code; `temperature=1` is the equation as printed. As there, 1e-8 is
added to the product of the two norms. A row or column without any variation has rho = 0 and no
gradient; one that hardly varies has a steep one, as a correlation does.

A sample's term is its own row's part and the batch's column part, which is no sample's alone.

Shapes: B batch, M mentors, C classes. Dtypes: any floating point in; float32 inside and out
(float64 for a float64 student).

    out = DISTLoss(temperature=1.0)(student_logits_BC, labels_B, mentor_logits_BMC)
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kdcache.classroom.confidence import label_loss
from kdcache.classroom.inputs import mentor_inputs, student_inputs
from kdcache.classroom.needs import Needs
from kdcache.classroom.output import LossOutput
from kdcache.classroom.switches import check_number
from kdcache.classroom.terms import seen_by_terms, sum_of_terms

LEAST_NORMS = 1e-8
FLAT = 1e-6  # of probabilities, in float32


@dataclass(frozen=True, kw_only=True)
class DISTLoss:
    """Correlations of rows and of columns; a batch of one sample has no columns to compare."""

    needs: ClassVar[Needs] = Needs()

    beta: float = 2.0
    """Factor of the rows' part, the relations between classes."""

    gamma: float = 2.0
    """Factor of the columns' part, the relations between samples."""

    temperature: float = 4.0
    """Softens both sides."""

    ce_weight: float = 1.0
    """Factor of the task term."""

    def __post_init__(self) -> None:
        check_number("beta", self.beta)
        check_number("gamma", self.gamma)
        check_number("temperature", self.temperature, above=True)
        check_number("ce_weight", self.ce_weight)

    def __call__(
        self, student_logits_BC: Tensor, labels_B: Tensor, mentor_logits_BMC: Tensor | None
    ) -> LossOutput:
        """The loss of one batch. Every mentor is active with weight 1/M; the gap stays 0."""
        student_logits_BC, labels_B = student_inputs("dist", student_logits_BC, labels_B)
        mentor_logits_BMC = mentor_inputs("dist", student_logits_BC, mentor_logits_BMC)
        M = mentor_logits_BMC.shape[1]
        seen = seen_by_terms(student_logits_BC, M)
        p_BMC = torch.softmax(mentor_logits_BMC / self.temperature, dim=-1)
        q_BMC = torch.softmax(seen.mentors_BMC / self.temperature, dim=-1)
        # arXiv 2205.10536: beta * inter + gamma * intra, with d = 1 - rho.
        inter_BM = 1 - _pearson(p_BMC, q_BMC, dim=2).squeeze(2)
        intra_1M = 1 - _pearson(p_BMC, q_BMC, dim=0).mean(dim=2)
        return sum_of_terms(
            seen,
            self.ce_weight * label_loss(seen.task_BC, labels_B),
            (self.temperature**2 / M) * (self.beta * inter_BM + self.gamma * intra_1M),
            weight_BM=student_logits_BC.new_full((1, 1), 1 / M),
            temperature_BM=student_logits_BC.new_full((1, 1), self.temperature),
        )


def _pearson(one: Tensor, other: Tensor, dim: int) -> Tensor:
    """Pearson's correlation along `dim`, which is kept with size 1."""
    one = _without_flat(one - one.mean(dim=dim, keepdim=True), dim)
    other = _without_flat(other - other.mean(dim=dim, keepdim=True), dim)
    norms: Tensor = torch.linalg.vector_norm(one, dim=dim, keepdim=True)
    norms = norms * torch.linalg.vector_norm(other, dim=dim, keepdim=True)
    together: Tensor = (one * other).sum(dim=dim, keepdim=True)
    return together / (norms + LEAST_NORMS)


def _without_flat(centred: Tensor, dim: int) -> Tensor:
    """0, without a gradient, where nothing varies beyond rounding: 1 / norm is no slope there."""
    lengths = torch.linalg.vector_norm(centred.detach(), dim=dim, keepdim=True)
    return centred.masked_fill(lengths <= FLAT, 0.0)
