"""What every mentor loss returns: three scalars to train on and log, four tensors to look into.

The scalars carry the gradient. The (B, M) tensors are detached; they say, per sample and mentor,
what the knowledge filter and the mentoring decided, and cost nothing unless read. Reading a value
(`.item()`) waits for the device: sum over an epoch first.

Shapes: B batch, M mentors.

    out = loss(student_logits_BC, labels_B, mentor_logits_BMC)
    out.total.backward()
    share_active_M = out.active_BM.float().mean(0)
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class LossOutput:
    """The scalars and tensors of one batch, in the dtype the loss computed in.

    That is float32 for float16, bfloat16 and float32 student logits, float64 for float64.
    """

    total: Tensor
    """(), the number to minimise: `task + mentor`."""

    task: Tensor
    """(), the labels' part, with its factor: `mean_i(a_s * CE)` for ClassroomKD."""

    mentor: Tensor
    """(), the mentors' part, with every weight and scale; zero if no mentor is active."""

    active_BM: Tensor
    """(B, M) bool: mentor kept by the knowledge filter for this sample."""

    weight_BM: Tensor
    """(B, M): the mentor's weight, **before** the knowledge filter and `kd_scale`. A weight that
    acted is `weight_BM * active_BM`; unfiltered ones show how near an inactive mentor came."""

    gap_BM: Tensor
    """(B, M): performance difference between mentor and student, 0 where it is not computed."""

    temperature_BM: Tensor
    """(B, M): the temperature both sides are softened with."""


class MentorLoss(Protocol):
    """Any of this package's losses: labels and mentors in, a `LossOutput` out."""

    def __call__(
        self, student_logits_BC: Tensor, labels_B: Tensor, mentor_logits_BMC: Tensor | None, /
    ) -> LossOutput:
        """The loss of one batch. Only `CrossEntropyLoss` takes None for the mentors."""
        ...
