"""Labels only (method "ce"): the student without any mentor, the baseline of every comparison.

    L = mean_i CE(z_s, y)

It takes mentors like every other loss, so that a trainer needs no special case, and ignores them;
None is welcome.

Shapes: B batch, M mentors, C classes. Dtypes: any floating point in; float32 inside and out
(float64 for a float64 student).

    out = CrossEntropyLoss()(student_logits_BC, labels_B)
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kdcache.classroom.confidence import label_loss
from kdcache.classroom.inputs import mentor_inputs, student_inputs
from kdcache.classroom.needs import Needs
from kdcache.classroom.output import LossOutput
from kdcache.classroom.terms import seen_by_terms, sum_of_terms


@dataclass(frozen=True, kw_only=True)
class CrossEntropyLoss:
    """The mean cross entropy; it has no switches."""

    needs: ClassVar[Needs] = Needs(least_mentors=0)

    def __call__(
        self, student_logits_BC: Tensor, labels_B: Tensor, mentor_logits_BMC: Tensor | None = None
    ) -> LossOutput:
        """The loss of one batch. No mentor is active: weights and gaps are 0, temperatures 1.

        All tensors have the M of the mentors given, 0 for None (`seen_BKC` then has one slot).
        Mentors of a shape that fits no loss are an error here too: they are a mistake somewhere
        else.
        """
        student_logits_BC, labels_B = student_inputs("ce", student_logits_BC, labels_B)
        M = 0
        if mentor_logits_BMC is not None:
            M = mentor_inputs("ce", student_logits_BC, mentor_logits_BMC).shape[1]
        seen = seen_by_terms(student_logits_BC, M)
        zeros_BM = student_logits_BC.detach().new_zeros(len(labels_B), M)
        return sum_of_terms(
            seen,
            label_loss(seen.task_BC, labels_B),
            zeros_BM,
            active_BM=torch.zeros_like(zeros_BM, dtype=torch.bool),
            weight_BM=zeros_BM,
            temperature_BM=torch.ones_like(zeros_BM),
        )
