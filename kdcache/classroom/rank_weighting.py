"""Weights by rank: who is better counts, not by how much (`ClassroomLoss(weighting="rank")`).

"Classroom-Inspired Knowledge Distillation with Adaptive Peer Ranking" (2024), the first version of
ClassroomKD (https://arxiv.org/abs/2409.20237). Student and mentors are sorted by confidence:

    r_k  the ordinal position, 1 = the least sure; in a tie the student comes first, so below
    active iff r_m > r_s                   which is a_m >= a_s, the knowledge filter's own rule
    w_m  = r_m / rank_scale                rank_scale = 10, the released constant
    w_m  = a_m                             for a mentor marked as teacher
    T_m  = 1 + tau * |a_m - a_s|           mentoring.py

Per batch (`granularity="batch"`) the confidence is its mean over the batch. The released code's
"confidence" sums the probability of all classes present in the batch; here it is that of the true
label, as everywhere else.

Shapes: R batch rows or 1, M mentors. Dtype: that of the confidences; no gradient.

    weight_RM = log_rank_weights(confidences, rank_scale=10.0, teachers=(0,)).exp()
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kdcache.classroom.confidence import Confidences


def log_rank_weights(
    confidences: Confidences, *, rank_scale: float, teachers: Sequence[int]
) -> Tensor:
    """(R, M): ln of each mentor's position over `rank_scale`; of a teacher's confidence."""
    # The 2024 version: w_m = r_m / 10.
    log_weight_RM = torch.log(mentor_positions(confidences) / rank_scale)
    if not teachers:
        return log_weight_RM
    teacher_M = torch.zeros(log_weight_RM.shape[1], dtype=torch.bool, device=log_weight_RM.device)
    for position in teachers:  # written on the device: a tensor made of them would be copied to it
        teacher_M[position] = True
    return torch.where(teacher_M, -confidences.mentor_loss_RM, log_weight_RM)


def mentor_positions(confidences: Confidences) -> Tensor:
    """(R, M), from 1 to M + 1: ordinal positions by confidence among student and mentors.

    Compared by loss, which still differs where the confidences underflow. Among tied mentors the
    later column is the higher.
    """
    loss_RM, student_R1 = confidences.mentor_loss_RM, confidences.student_loss_R1
    one_RM1, other_R1M = loss_RM.unsqueeze(2), loss_RM.unsqueeze(1)
    tied_RMM = (other_R1M == one_RM1).tril(diagonal=-1)  # only earlier columns
    below_RM = ((other_R1M > one_RM1) | tied_RMM).sum(dim=2)
    return (1 + below_RM + (loss_RM <= student_R1)).to(loss_RM.dtype)


def mean_confidence_loss(loss_BK: Tensor) -> Tensor:
    """-ln of the batch's mean confidence, (1, K), without the underflow of `exp(-loss)`."""
    return math.log(len(loss_BK)) - torch.logsumexp(-loss_BK, dim=0, keepdim=True)


def checked_positions(name: str, value: object) -> tuple[int, ...]:
    """Columns of mentors as a tuple, from any sequence of ints: TOML has lists only."""
    columns = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else None
    if columns is None or not all(type(column) is int and column >= 0 for column in columns):
        raise ValueError(f"{name} must be columns of mentors, counted from 0, got {value!r}")
    if len(set(columns)) < len(columns):
        raise ValueError(f"{name} must name each column once, got {value!r}")
    return columns


def require_positions(method: str, teachers: Sequence[int], mentors: int) -> None:
    """ValueError for a teacher that is not there."""
    if teachers and max(teachers) >= mentors:
        raise ValueError(
            f"{method}: teachers names mentor {max(teachers)}, but there are {mentors}, "
            f"counted from 0 to {mentors - 1} in their order"
        )
