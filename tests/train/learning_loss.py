"""A loss that learns: a trained weight a mentor, one without effect, and a count of batches."""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn

from kdcache.classroom import AverageLoss, LossOutput, LossShapes, Needs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learning:
    """A method, for `METHODS`, whose loss learns."""

    needs: ClassVar[Needs] = Needs()
    more: ClassVar[int] = 0

    def for_shapes(self, shapes: LossShapes, seed: int) -> "LearningLoss":
        return LearningLoss(shapes.num_mentors + self.more)


class LearningOfThree(Learning):
    """The same with a weight too many for two mentors."""

    more = 1


class LearningLoss(nn.Module):
    """The average loss with each mentor's logits scaled by a learned factor; and with dropout."""

    seen: Tensor
    needs = Needs()

    def __init__(self, mentors: int) -> None:
        super().__init__()
        self.scale_M = nn.Parameter(torch.ones(mentors))
        self.idle = nn.Parameter(torch.ones(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self._average = AverageLoss()

    def forward(
        self, student_logits_BC: Tensor, labels_B: Tensor, mentor_logits_BMC: Tensor | None
    ) -> LossOutput:
        assert mentor_logits_BMC is not None
        self.seen += 1
        kept_M = nn.functional.dropout(self.scale_M, 0.3, self.training)
        out = self._average(student_logits_BC, labels_B, mentor_logits_BMC)
        softened = (mentor_logits_BMC.exp() * kept_M[: mentor_logits_BMC.shape[1], None]).mean(1)
        apart_B = ((student_logits_BC.softmax(1) - softened) ** 2).sum(1)
        mentor = out.mentor + apart_B.mean() + 0 * self.idle
        return dataclasses.replace(out, total=out.task + mentor, mentor=mentor)
