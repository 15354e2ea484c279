"""A loss as a sum of terms, one of the labels and one of each mentor, each at its own logits.

Every term sees the student's logits through a slot of its own in `seen_BKC`, which is nothing but
the logits repeated (`expand`: no memory). After one backward pass of the total, the gradient kept
there tells the terms apart, so asking which mentor moves the student costs no second pass.

Shapes: B batch, M mentors, C classes, K = 1 + M slots: the task term's, then each mentor's.

    seen = seen_by_terms(student_logits_BC, num_mentors=M)
    task_B = label_loss(seen.task_BC, labels_B)
    term_BM = tempered_kl(mentor_logits_BMC, seen.mentors_BMC, temperature_BM)
    return sum_of_terms(seen, task_B, term_BM, weight_BM=..., temperature_BM=...)
"""

from typing import NamedTuple

import torch
from torch import Tensor

from kdcache.classroom.output import JointDecisions, LossOutput


class Seen(NamedTuple):
    """The student's logits as each term sees them."""

    seen_BKC: Tensor
    """All slots; keeps its gradient where the student's logits have one."""

    task_BC: Tensor
    """The task term's slot."""

    mentors_BMC: Tensor
    """The mentors' slots."""


def seen_by_terms(student_logits_BC: Tensor, num_mentors: int) -> Seen:
    """One slot for the task term and one for each mentor's."""
    B, C = student_logits_BC.shape
    seen_BKC = student_logits_BC.unsqueeze(1).expand(B, 1 + num_mentors, C)
    if seen_BKC.requires_grad and torch.is_grad_enabled():  # views of a leaf require it regardless
        seen_BKC.retain_grad()
    # One split, whose backward pass is one concatenation; slices would each fill all slots.
    task_B1C, mentors_BMC = torch.split(seen_BKC, [1, num_mentors], dim=1)
    return Seen(seen_BKC, task_B1C.squeeze(1), mentors_BMC)


def sum_of_terms(
    seen: Seen,
    task_B: Tensor,
    term_BM: Tensor,
    *,
    weight_BM: Tensor,
    temperature_BM: Tensor,
    active_BM: Tensor | None = None,
    gap_BM: Tensor | None = None,
    joints: JointDecisions | None = None,
) -> LossOutput:
    """The output of a loss that is `mean_i [ task_i + sum_m term_im ]`.

    The terms come with every factor in them. What describes them may have 1 for B or M, and is
    repeated; without a gate every mentor is active, and a gap that is not computed is 0.
    """
    task, mentor = task_B.mean(), term_BM.sum(dim=1).mean()
    detached_BM = term_BM.detach()
    if active_BM is None:
        active_BM = torch.ones_like(detached_BM, dtype=torch.bool)
    if gap_BM is None:
        gap_BM = torch.zeros_like(detached_BM)
    return LossOutput(
        total=task + mentor,
        task=task,
        mentor=mentor,
        active_BM=active_BM.expand_as(detached_BM),
        weight_BM=weight_BM.expand_as(detached_BM),
        gap_BM=gap_BM.expand_as(detached_BM),
        temperature_BM=temperature_BM.expand_as(detached_BM),
        term_BM=detached_BM,
        seen_BKC=seen.seen_BKC,
        joints=joints,
    )
