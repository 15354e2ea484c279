"""Relational distillation: the student's rows lie to one another as the targets' do.

Park et al., "Relational Knowledge Distillation", CVPR 2019 (https://arxiv.org/abs/1904.05068),
equations 4 to 9, which AMTML-KD (https://arxiv.org/abs/2103.04062) applies between
`log_softmax(z_s / tau)` and its integrated target:

    distance   d_ij = ||x_i - x_j|| / mean over pairs       smooth L1, mean over B^2
    angle      cos of the angle at j between i and k        smooth L1, mean over B^3

Both follow from the rows' inner products `G = x x^T` alone, so a batch costs B^2 C multiply-adds
and a few passes over B^3 numbers (C = 100, one core: 1.3 ms for B = 64, 13 ms for B = 128; a
product of unit differences, B^3 C, 6 and 34 ms). Memory is a few B^3 numbers: 2.5 GB for B = 512.
Rows are centred first, which changes neither term and keeps G as small as the distances; what is
still lost in float32 is 4e-7 of a gradient, 1e-4 where rows lie 30 times closer than the mean. A
distance that rounding cannot tell from 0 is 0 and has no gradient: equal rows, a student that still
gives every sample the same.

Shapes: B batch (2 for a distance, 3 for an angle; less is 0), D any number of columns. Dtypes:
float32 or float64, equal on both sides. The targets get no gradient.

    loss = relational_loss(student_BD, target_BD, distance_weight=1.0, angle_weight=1.0)
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

_ROUNDINGS = 16  # units in the last place that a squared distance may be wrong by


def relational_loss(
    student_BD: Tensor, target_BD: Tensor, *, distance_weight: float, angle_weight: float
) -> Tensor:
    """The weighted sum of both terms, (). A term of weight 0 costs nothing.

    Products of matrices are taken: call it outside autocast. ValueError unless both have as many
    rows.
    """
    if len(student_BD) != len(target_BD):
        raise ValueError(
            "relational terms need as many student rows as target rows, got "
            f"{len(student_BD)} and {len(target_BD)}"
        )
    student = _lie_of(student_BD)
    with torch.no_grad():
        target = _lie_of(target_BD)
    loss = student_BD.new_zeros(())
    # arXiv 1904.05068, equations 6 and 9, with the Huber loss of equation 7.
    if distance_weight:
        loss = loss + distance_weight * smooth_l1_loss(_distances(student), _distances(target))
    if angle_weight:
        with torch.no_grad():
            target_BBB = _angles(target)
        loss = loss + angle_weight * smooth_l1_loss(_angles(student), target_BBB)
    return loss


class _Lie(NamedTuple):
    """How rows lie to one another: their inner products, and which pairs are apart."""

    gram_BB: Tensor
    squared_BB: Tensor  # 1 where two rows are not apart: its root has a finite gradient
    together_BB: Tensor


def _lie_of(rows_BD: Tensor) -> _Lie:
    centred_BD = rows_BD - rows_BD.detach().mean(dim=0)
    gram_BB = centred_BD @ centred_BD.T
    norm_B = gram_BB.diagonal()
    both_BB = norm_B.unsqueeze(1) + norm_B
    squared_BB = both_BB - 2 * gram_BB
    same_BB = torch.eye(len(rows_BD), dtype=torch.bool, device=rows_BD.device)
    lost_BB = squared_BB <= _ROUNDINGS * torch.finfo(rows_BD.dtype).eps * both_BB
    together_BB = same_BB | lost_BB
    return _Lie(gram_BB, squared_BB.masked_fill(together_BB, 1.0), together_BB)


def _distances(lie: _Lie) -> Tensor:
    """Over their mean, (B, B)."""
    distance_BB = lie.squared_BB.sqrt().masked_fill(lie.together_BB, 0.0)
    # Equation 5: mu, the mean over pairs of different samples.
    B = len(distance_BB)
    mean = distance_BB.sum() / max(1, B * (B - 1))
    return distance_BB / mean.masked_fill(mean == 0, 1.0)


def _angles(lie: _Lie) -> Tensor:
    """The cosine of the angle at j between i and k, as [j, i, k]."""
    inverse_BB = lie.squared_BB.rsqrt().masked_fill(lie.together_BB, 0.0)
    # Equation 8: cos = <x_i - x_j, x_k - x_j> / (d_ij d_jk), opened into inner products:
    # (G_jj - G_ji) - G_jk + G_ik.
    from_BB = lie.gram_BB.diagonal().unsqueeze(1) - lie.gram_BB
    cross_BBB = from_BB.unsqueeze(2) - lie.gram_BB.unsqueeze(1) + lie.gram_BB
    return cross_BBB * (inverse_BB.unsqueeze(2) * inverse_BB.unsqueeze(1))
