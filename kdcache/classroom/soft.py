"""Weights by confidence, without a gate (method "soft"): is it the knowledge filter that helps?

    w_m = a_m / sum_m a_m,    a_m = softmax(z_m)[y], the probability of the true label
    L   = ce_weight * CE + kd_weight * sum_m w_m * T^2 * KL_m               weighted.py

The control of a comparison with `classroom`: it ranks mentors by the same confidence
(https://arxiv.org/abs/2409.20237), but the student has no say, nobody is shut off, the temperature
is fixed and the weights sum to 1.

Shapes: B batch, M mentors, C classes. Dtypes: any floating point in; float32 inside and out
(float64 for a float64 student).

    out = SoftLoss(temperature=4.0)(student_logits_BC, labels_B, mentor_logits_BMC)
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kdcache.classroom.confidence import finite_label_loss
from kdcache.classroom.inputs import mentor_inputs, student_inputs
from kdcache.classroom.needs import Needs
from kdcache.classroom.output import LossOutput
from kdcache.classroom.weighted import check_weighted, weighted_distillation


@dataclass(frozen=True, kw_only=True)
class SoftLoss:
    """Each mentor weighs as its confidence does among the mentors'."""

    needs: ClassVar[Needs] = Needs()

    temperature: float = 4.0
    """Softens both sides."""

    ce_weight: float = 0.1
    """Factor of the task term."""

    kd_weight: float = 0.9
    """Factor of the weighted sum of the mentors' terms."""

    def __post_init__(self) -> None:
        check_weighted(self.temperature, self.ce_weight, self.kd_weight)

    def __call__(
        self, student_logits_BC: Tensor, labels_B: Tensor, mentor_logits_BMC: Tensor | None
    ) -> LossOutput:
        """The loss of one batch. Every mentor is active; the gap stays 0."""
        student_logits_BC, labels_B = student_inputs("soft", student_logits_BC, labels_B)
        mentor_logits_BMC = mentor_inputs("soft", student_logits_BC, mentor_logits_BMC)
        # a_m / sum_m a_m with a = exp(-l), as a softmax: defined where every a underflows, too.
        weight_BM = torch.softmax(-finite_label_loss(mentor_logits_BMC, labels_B), dim=1)
        return weighted_distillation(
            student_logits_BC,
            labels_B,
            mentor_logits_BMC,
            weight_BM,
            temperature=self.temperature,
            ce_weight=self.ce_weight,
            kd_weight=self.kd_weight,
        )
