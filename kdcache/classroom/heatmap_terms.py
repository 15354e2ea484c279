"""How far a heatmap is from another, and how the joints of a sample add up.

Squared errors are counted in labels: the squared sum of a Gaussian of peak 1 is `pi sigma^2` (12.57
for sigma 2), so with

    e(h, g) = ||h - g||^2 / (pi sigma^2)             summed over the H * W pixels

a blank map costs 1 on a visible joint and a map that is right somewhere else 2, at any resolution.
A sample's terms are those of its visible joints, summed and divided by all J joints, invisible ones
included, so that every labelled joint of a run counts alike; a batch's loss is the mean over its
samples. Labels' and mentors' terms are reduced in this one way:

    task_i  = 1/J sum_j v_ij * e(h_s, g)_ij          v: 1 for visible joints, else 0
    term_im = 1/J sum_j v_ij * w_imj * e(h_s, h_m)_ij

It is SimpleBaseline's JointsMSELoss (https://arxiv.org/abs/1804.06208; 1/2, mean over pixels and
joints) times `2 HW / (pi sigma^2)`, 489 for maps of 64 x 48. A factor of the whole loss changes
nothing under Adam, except that gradients must stay above its 1e-8 and above what float16 holds: a
blank map's are 3e-4 a pixel at most here for 17 joints and a batch of 32, and 6e-7 there.

"kl", the other divergence of the mentors' terms: a softmax over the pixels of `beta * h`, since one
over raw values between 0 and 1 is uniform at every temperature. Half of its mass is at the joint
only once `p = beta * peak / T` exceeds 6.4 for 64 x 48 (where `p - ln p = ln(HW / 2 pi sigma^2)`,
about).

    2 HW / (pi sigma^2) * (T / beta)^2 * KL(softmax(beta h_m / T) || softmax(beta h_s / T))

`(T / beta)^2`, not Hinton's T^2 (https://arxiv.org/abs/1503.02531, section 2): the logits are
`beta * h`. In the soft limit `(T / beta)^2 KL` is half the mean squared error of the maps less
their means, so this is then `e` of the centred maps. At beta = 25 and T from 1 to 2.5 the softmax
is peaked instead and the gradient longer than that of "mse", `(T / beta) (q - p)` against
`(h_s - h_m) / HW`: 28 times at T = 1 and 35 times at T = 2.5 for a blank student's map of 64 x 48,
whose term is then 5.7 and 26 where "mse" has 1. `kd_scale` is there to set it.

Shapes: B batch, M mentors, J joints, H, W of a map. Dtype: that of the inputs.
"""

import math
from typing import NamedTuple

from torch import Tensor

from kdcache.classroom.divergence import tempered_kl
from kdcache.classroom.switches import check_choice, check_number
from kdcache.classroom.terms import Seen, seen_by_terms
from kdcache.heatmaps import SIGMA

LABEL_ENERGY = math.pi * SIGMA**2
"""The squared sum of a label's Gaussian."""


class SeenMaps(NamedTuple):
    """The student's heatmaps as each term sees them, views of the rows in `seen`."""

    seen: Seen
    """Each map set a row of J * H * W."""

    task_BJHW: Tensor
    """The task term's."""

    mentors_BMJHW: Tensor
    """The mentors' terms'."""


def maps_seen_by_terms(student_BJHW: Tensor, num_mentors: int) -> SeenMaps:
    """One slot for the task term and one for each mentor's, as in terms.py."""
    B, J, H, W = student_BJHW.shape
    seen = seen_by_terms(student_BJHW.flatten(1), num_mentors)
    return SeenMaps(
        seen, seen.task_BC.view(B, J, H, W), seen.mentors_BMC.view(B, num_mentors, J, H, W)
    )


def squared_error(maps: Tensor, others: Tensor) -> Tensor:
    """(..., H, W) beside the same, or what broadcasts to it: (...), in labels."""
    return (maps - others).square().sum(dim=(-2, -1)) / LABEL_ENERGY


def mentor_divergence(
    mentors_BMJHW: Tensor,
    student_BMJHW: Tensor,
    temperature_BMJ: Tensor,
    *,
    divergence: str,
    beta: float,
) -> Tensor:
    """(B, M, J): "mse", which knows no temperature, or "kl" with its factor.

    `student_BMJHW`: the student's maps as each mentor's term sees them.
    """
    if divergence == "mse":
        return squared_error(student_BMJHW, mentors_BMJHW)
    pixels = mentors_BMJHW.shape[-1] * mentors_BMJHW.shape[-2]
    kl_BMJ = tempered_kl(
        beta * mentors_BMJHW.flatten(-2), beta * student_BMJHW.flatten(-2), temperature_BMJ
    )
    return (2 * pixels / LABEL_ENERGY) * (temperature_BMJ / beta).square() * kl_BMJ


def over_joints(terms: Tensor, visible_BJ: Tensor) -> Tensor:
    """(B, J) or (B, M, J) -> (B,) or (B, M): visible joints' sum over the number of all joints."""
    visible = visible_BJ if terms.ndim == 2 else visible_BJ.unsqueeze(1)
    return (terms * visible.to(terms.dtype)).sum(dim=-1) / terms.shape[-1]


def check_divergence(divergence: str, beta: float) -> None:
    """The switches of `mentor_divergence`."""
    check_choice("divergence", divergence, ("mse", "kl"))
    check_number("beta", beta, above=True)
