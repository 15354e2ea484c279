"""Logit standardisation: student and mentor agree on the shape of a row, not on its size.

Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024,
https://arxiv.org/abs/2403.01427, Algorithm 1. Before the temperature, each row becomes

    Z(z) = (z - mean(z)) / deviation(z)        over the row's C classes, deviation with 1/C

so a small student need not reach the size of a large mentor's logits. A row's constant drops out,
so log-probabilities serve. Only the mentors' terms see standardised rows, on both sides;
confidences and the task term see the rows as they are.

Deviations below 0.01 count as 0.01: a constant row stays finite (it becomes 0), and so does its
gradient. A class excluded by a mentor (-inf) stays excluded and the others are standardised among
themselves.

Shapes: any leading ones, C classes last. Dtype: that of the input. Carries the gradient, through
mean and deviation too.

    kl_BM = tempered_kl(standardise(mentor_logits_BMC), standardise(seen.mentors_BMC), temperature)
"""

import torch
from torch import Tensor

LEAST_DEVIATION = 0.01


def standardise(logits: Tensor) -> Tensor:
    """Each row with mean 0 and deviation 1; -inf stays -inf, NaN makes its row NaN."""
    excluded = logits == -torch.inf
    kept = (~excluded).sum(dim=-1, keepdim=True).clamp(min=1)
    finite = logits.masked_fill(excluded, 0.0)
    # Sun et al., Algorithm 1: Z(z) = (z - mean) / deviation.
    centred = (finite - finite.sum(dim=-1, keepdim=True) / kept).masked_fill(excluded, 0.0)
    variance = centred.square().sum(dim=-1, keepdim=True) / kept
    # The variance is clamped, not its root: the root's slope at 0 is infinite.
    scaled = centred / variance.clamp(min=LEAST_DEVIATION**2).sqrt()
    return scaled.masked_fill(excluded, -torch.inf)
