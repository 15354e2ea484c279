"""Regression of raw logits (method "logit-mse"), a mean over mentors.

Ba and Caruana, "Do Deep Nets Really Need to be Deep?", NeurIPS 2014,
https://arxiv.org/abs/1312.6184, equation 1: half the squared distance of the logits, before any
softmax, so that nothing is lost in it.

    L = ce_weight * CE + kd_weight * 1/M sum_m 1/(2 C) * ||z_s - z_m||^2

It is the one method here to which a row's constant matters: the mentors' logits must be raw ones,
the stored log-probabilities with the row's logsumexp added. Two departures from the paper, whose
student sees the logits only: the labels' term (`ce_weight=0` is theirs), and the division by C,
which keeps the term's gradient in proportion to the other methods' (`kd_weight=C` undoes it).

A class that a mentor excludes (a logit of -inf) asks for nothing.

Shapes: B batch, M mentors, C classes. Dtypes: any floating point in; float32 inside and out
(float64 for a float64 student).

    out = LogitMSELoss()(student_logits_BC, labels_B, raw_mentor_logits_BMC)
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


@dataclass(frozen=True, kw_only=True)
class LogitMSELoss:
    """The student's logits themselves are pulled to the mentors'."""

    needs: ClassVar[Needs] = Needs(raw_logits=True)

    ce_weight: float = 0.1
    """Factor of the task term."""

    kd_weight: float = 0.9
    """Factor of the mean of the mentors' terms."""

    def __post_init__(self) -> None:
        check_number("ce_weight", self.ce_weight)
        check_number("kd_weight", self.kd_weight)

    def __call__(
        self, student_logits_BC: Tensor, labels_B: Tensor, mentor_logits_BMC: Tensor | None
    ) -> LossOutput:
        """The loss of one batch. Every mentor is active with weight 1/M at temperature 1."""
        student_logits_BC, labels_B = student_inputs("logit-mse", student_logits_BC, labels_B)
        mentor_logits_BMC = mentor_inputs("logit-mse", student_logits_BC, mentor_logits_BMC)
        M, C = mentor_logits_BMC.shape[1:]
        seen = seen_by_terms(student_logits_BC, M)
        excluded_BMC = mentor_logits_BMC == -torch.inf
        apart_BMC = seen.mentors_BMC - mentor_logits_BMC.masked_fill(excluded_BMC, 0.0)
        # arXiv 1312.6184, equation 1: 1/2 ||z_s - z_m||^2, here over C.
        half_BM = apart_BMC.masked_fill(excluded_BMC, 0.0).square().sum(dim=-1) / (2 * C)
        return sum_of_terms(
            seen,
            self.ce_weight * label_loss(seen.task_BC, labels_B),
            (self.kd_weight / M) * half_BM,
            weight_BM=student_logits_BC.new_full((1, 1), 1 / M),
            temperature_BM=student_logits_BC.new_ones((1, 1)),
        )
