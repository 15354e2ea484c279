"""Joints as the rows that the classroom decides about, and what is told of a sample's joints.

Confidences, knowledge filter and mentoring know rows of one student and M mentors. A joint of a
sample is such a row here, or the sample with all its joints.

Shapes: B batch, M mentors, K = 1 + M with the student first, J joints; R rows, B * J or B.
"""

from typing import TypedDict

from torch import Tensor

from kdcache.classroom.output import JointDecisions


class JointMeans(TypedDict):
    """(B, M), what `LossOutput` has of a loss that decides joint by joint."""

    active_BM: Tensor
    weight_BM: Tensor
    gap_BM: Tensor
    temperature_BM: Tensor


def to_rows(values_BKJ: Tensor) -> Tensor:
    """(B * J, K): a row for each joint."""
    return values_BKJ.transpose(1, 2).flatten(0, 1)


def from_rows(values_RM: Tensor, B: int, J: int) -> Tensor:
    """(B, M, J), from a row for each joint, or repeated from a row for each sample."""
    M = values_RM.shape[1]
    return values_RM.view(B, -1, M).transpose(1, 2).expand(B, M, J)


def joint_means(joints: JointDecisions) -> JointMeans:
    """Shares of the visible joints that were taught, and means over the joints taught."""
    dtype = joints.term_BMJ.dtype
    taught_BMJ = joints.active_BMJ.to(dtype)
    taught_BM = taught_BMJ.sum(dim=2)
    visible_B1 = joints.visible_BJ.sum(dim=1, keepdim=True).clamp(min=1).to(dtype)

    def mean(values_BMJ: Tensor, otherwise: float) -> Tensor:
        mean_BM = (taught_BMJ * values_BMJ).sum(dim=2) / taught_BM.clamp(min=1)
        return mean_BM.masked_fill(taught_BM == 0, otherwise)

    return JointMeans(
        active_BM=taught_BM / visible_B1,
        weight_BM=mean(joints.weight_BMJ, 0.0),
        gap_BM=mean(joints.gap_BMJ, 0.0),
        temperature_BM=mean(joints.temperature_BMJ, 1.0),
    )
