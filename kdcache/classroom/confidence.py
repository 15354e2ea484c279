"""How sure the student and each mentor are of the true label, and what share each one gets.

ClassroomKD (Sarode, Khan et al., https://arxiv.org/abs/2409.20237), the ranking that opens its
knowledge filter:

    task loss   l_k = CE(z_k, y)                       k: the student s, or a mentor m
    confidence  a_k = exp(-l_k)                        the probability of the true label
    share       a_k / (a_s + sum_m a_m)                the student counts; the weight is M * share

The losses are kept rather than the confidences, because `exp(-l)` is 0 in float32 once l > 103, and
the plain ratios are then 0 / 0; every formula here has a form in l that never underflows.

Shapes: B batch, M mentors, C classes; R is B where samples are compared one by one and 1 where a
whole batch is compared at once. Dtype: that of the inputs. Only `label_loss` carries a gradient.

    student_loss_B1 = label_loss(student_logits_BC, labels_B).detach().unsqueeze(1)
    confidences = compare_confidences(student_loss_B1, label_loss(mentor_logits_BMC, labels_B))
    weight_BM = M * confidences.log_share_RM.exp()
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Confidences:
    """The student beside its mentors; `student_*` is (R, 1), so that it broadcasts over mentors."""

    student_loss_R1: Tensor
    mentor_loss_RM: Tensor
    """-ln of the confidences, up to one constant per row, which neither gate nor gap can see."""

    student_R1: Tensor
    mentor_RM: Tensor
    """The confidences themselves, which may underflow to 0."""

    log_share_RM: Tensor
    """ln of the mentors' shares; with the student's share they sum to 1."""


def label_loss(logits: Tensor, labels_B: Tensor) -> Tensor:
    """CE of each row against its sample's label: (B, C) gives (B,), (B, M, C) gives (B, M)."""
    index = labels_B.view(-1, *[1] * (logits.ndim - 1)).expand(*logits.shape[:-1], 1)
    # One definition for student and mentors, and no ignored label (cross_entropy skips -100).
    return -torch.log_softmax(logits, dim=-1).gather(-1, index).squeeze(-1)


def finite_label_loss(logits: Tensor, labels_B: Tensor) -> Tensor:
    """`label_loss` with the largest number for a row that excludes its label, instead of inf.

    A softmax over mentors is NaN where all of its entries are infinite.
    """
    loss = label_loss(logits, labels_B)
    return loss.clamp(max=torch.finfo(loss.dtype).max)


def compare_confidences(
    student_loss_R1: Tensor, mentor_loss_RM: Tensor, round_shares: int | None = None
) -> Confidences:
    """The confidences and shares that belong to these task losses, which the caller detached.

    `round_shares` rounds every share to that many decimals, as the authors' code does with 2; gate,
    gap and weight then follow from the rounded shares, and `share * sum_k a_k` stands for the
    confidence. A rounded share of 0 weighs nothing; two of them are a tie.
    """
    loss_RK = torch.cat([student_loss_R1, mentor_loss_RM], dim=1)  # K = 1 + M, the student first
    # arXiv 2409.20237, the weights: a_k / (a_s + sum_m a_m), as a softmax of negative losses.
    log_share_RK = torch.log_softmax(-loss_RK, dim=1)
    confidence_RK = torch.exp(-loss_RK)
    if round_shares is not None:
        share_RK = torch.round(log_share_RK.exp(), decimals=round_shares)
        log_share_RK = share_RK.log()  # -inf for 0, whose weight is 0 again
        confidence_RK = share_RK * confidence_RK.sum(dim=1, keepdim=True)
        # The floor makes 0 against 0 a tie without a gap; -inf - -inf would be NaN.
        loss_RK = -share_RK.clamp(min=torch.finfo(share_RK.dtype).tiny).log()
    return Confidences(
        student_loss_R1=loss_RK[:, :1],
        mentor_loss_RM=loss_RK[:, 1:],
        student_R1=confidence_RK[:, :1],
        mentor_RM=confidence_RK[:, 1:],
        log_share_RM=log_share_RK[:, 1:],
    )
