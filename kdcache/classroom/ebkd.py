"""Entropy-based weights (method "ebkd"): a mentor weighs more the surer it is, right or wrong.

Kwon, Na, Lee, Kim, "Adaptive Knowledge Distillation Based on Entropy", ICASSP 2020
(https://doi.org/10.1109/ICASSP40776.2020.9054698), in the form in which CA-MKD
(https://arxiv.org/abs/2201.00007) compares with it. With H_m the entropy of softmax(z_m) (T = 1),
per sample:

    w_m = 1/(M - 1) * (1 - H_m / sum_j H_j)                           they sum to 1
    L   = ce_weight * CE + kd_weight * sum_m w_m * T^2 * KL_m         weighted.py

The labels have no say in it. (The code released with CA-MKD divides by M instead of M - 1; times
(M - 1) / M on `kd_weight` it is the same.)

Shapes: B batch, M >= 2 mentors, C classes. Dtypes: any floating point in; float32 inside and out
(float64 for a float64 student).

    out = EBKDLoss()(student_logits_BC, labels_B, mentor_logits_BMC)
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kdcache.classroom.inputs import mentor_inputs, student_inputs
from kdcache.classroom.needs import Needs
from kdcache.classroom.output import LossOutput
from kdcache.classroom.weighted import check_weighted, weighted_distillation


@dataclass(frozen=True, kw_only=True)
class EBKDLoss:
    """Weights by the mentors' entropies; there is no such weight for a single mentor."""

    needs: ClassVar[Needs] = Needs(least_mentors=2)

    temperature: float = 4.0
    """Softens both sides; the entropies are taken at 1."""

    ce_weight: float = 0.1
    """Factor of the task term."""

    kd_weight: float = 0.9
    """Factor of the weighted sum of the mentors' terms."""

    def __post_init__(self) -> None:
        check_weighted(self.temperature, self.ce_weight, self.kd_weight)

    def __call__(
        self, student_logits_BC: Tensor, labels_B: Tensor, mentor_logits_BMC: Tensor | None
    ) -> LossOutput:
        """The loss of one batch; ValueError for a single mentor. Every mentor is active."""
        student_logits_BC, labels_B = student_inputs("ebkd", student_logits_BC, labels_B)
        mentor_logits_BMC = mentor_inputs("ebkd", student_logits_BC, mentor_logits_BMC, self.needs)
        share_BM = _entropy_shares(mentor_logits_BMC)
        return weighted_distillation(
            student_logits_BC,
            labels_B,
            mentor_logits_BMC,
            # Kwon et al. as in arXiv 2201.00007: w_m = 1/(M - 1) * (1 - H_m / sum H).
            (1 - share_BM) / (share_BM.shape[1] - 1),
            temperature=self.temperature,
            ce_weight=self.ce_weight,
            kd_weight=self.kd_weight,
        )


def _entropy_shares(mentor_logits_BMC: Tensor) -> Tensor:
    """H_m / sum_m H_m; equal shares where every mentor is so sure that all entropies are 0."""
    log_p_BMC = torch.log_softmax(mentor_logits_BMC, dim=-1)
    limits = torch.finfo(log_p_BMC.dtype)
    # An excluded class (log p of -inf) adds 0, not 0 * -inf.
    entropy_BM = -(log_p_BMC.exp() * log_p_BMC.clamp(min=limits.min)).sum(dim=-1)
    entropy_BM = entropy_BM.clamp(min=limits.tiny)
    return entropy_BM / entropy_BM.sum(dim=1, keepdim=True)
