"""Every mentor teaches every sample, by its share of confidence (method "soft")."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache.classroom.confidence import label_loss
from kdcache.classroom.divergence import tempered_kl
from kdcache.classroom.inputs import mentor_inputs, student_inputs
from kdcache.classroom.output import LossOutput


@dataclass(frozen=True, kw_only=True)
class SoftLoss:
    temperature: float = 4.0
    ce_weight: float = 0.1
    kd_weight: float = 0.9

    def __call__(
        self, student_logits_BC: Tensor, labels_B: Tensor, mentor_logits_BMC: Tensor | None
    ) -> LossOutput:
        student_logits_BC, labels_B = student_inputs("soft", student_logits_BC, labels_B)
        mentor_logits_BMC = mentor_inputs("soft", student_logits_BC, mentor_logits_BMC)
        task = self.ce_weight * label_loss(student_logits_BC, labels_B).mean()
        temperature_11 = student_logits_BC.new_full((1, 1), self.temperature)
        weight_BM = torch.softmax(-label_loss(mentor_logits_BMC, labels_B), dim=1)
        kl_BM = tempered_kl(mentor_logits_BMC, student_logits_BC, temperature_11)
        mentor = self.kd_weight * (weight_BM * temperature_11.square() * kl_BM).sum(1).mean()
        zeros_BM = torch.zeros_like(weight_BM)
        return LossOutput(total=task + mentor, task=task, mentor=mentor, active_BM=torch.ones_like(zeros_BM, dtype=torch.bool),
            weight_BM=weight_BM, gap_BM=zeros_BM, temperature_BM=temperature_11.expand_as(zeros_BM))
