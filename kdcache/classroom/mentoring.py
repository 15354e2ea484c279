"""Mentoring: the wider the gap between mentor and student, the softer the teaching.

ClassroomKD (https://arxiv.org/abs/2409.20237), the Mentoring module:

    gap_m = (w_m - w_s) / w_m = 1 - a_s / a_m    in [0, 1); 0 for a mentor below the student
    T_m   = 1 + tau * gap_m                      tau = 12 on CIFAR-100, 4 on ImageNet

`gap="difference"` takes `a_m - a_s` instead, also 0 below the student: early in training, when both
confidences are small, the ratio is near 1 for any mentor and the difference is not.
`gap="absolute"` takes `|a_m - a_s|`, the first version's (rank_weighting.py): a mentor below the
student, which teaches only without a gate, then has a gap too.
`temperature="fixed"` ignores the gap; fixed at 1 it is the paper's "no mentoring" ablation.

The ratio rounds to 1 where the student's confidence is below 1e-7 of the mentor's (float32).

Shapes: R batch rows or 1, M mentors. Dtype: that of the confidences; no gradient.

    gap_RM = performance_gap(confidences, gap="ratio")
    temperature_RM = gap_temperature(gap_RM, tau=12.0)
"""

import torch
from torch import Tensor

from kdcache.classroom.confidence import Confidences
from kdcache.classroom.switches import check_choice, check_number


def performance_gap(confidences: Confidences, *, gap: str) -> Tensor:
    """(R, M) in [0, 1]: how far each mentor is above the student."""
    if gap == "absolute":
        return (confidences.mentor_RM - confidences.student_R1).abs()
    if gap == "difference":
        return (confidences.mentor_RM - confidences.student_R1).clamp(min=0)
    # arXiv 2409.20237, Mentoring: 1 - a_s / a_m, with a_s / a_m = exp(l_m - l_s). A mentor far
    # below the student overflows to -inf here, which the clamp takes to 0.
    difference_RM = confidences.mentor_loss_RM - confidences.student_loss_R1
    return (-torch.expm1(difference_RM)).clamp(min=0)


def gap_temperature(gap_RM: Tensor, *, tau: float) -> Tensor:
    """(R, M), 1 to 1 + tau."""
    return 1 + tau * gap_RM  # arXiv 2409.20237, Mentoring: T_m = 1 + tau * gap_m


def chosen_temperature(
    gap_RM: Tensor,
    *,
    temperature: str,
    tau: float,
    fixed_temperature: float,
    t_max: float | None,
) -> Tensor:
    """(R, M): by the gap or the same for all, at most `t_max`."""
    if temperature == "fixed":
        temperature_RM = torch.full_like(gap_RM, fixed_temperature)
    else:
        temperature_RM = gap_temperature(gap_RM, tau=tau)
    return temperature_RM if t_max is None else temperature_RM.clamp(max=t_max)


def check_temperature(temperature: str, fixed_temperature: float, t_max: float | None) -> None:
    """The temperature's switches, but for `tau`."""
    check_choice("temperature", temperature, ("gap", "fixed"))
    check_number("fixed_temperature", fixed_temperature, above=True)
    if t_max is not None:
        check_number("t_max", t_max, minimum=1.0)
    if temperature != "fixed" and fixed_temperature != 1:
        raise ValueError(
            'fixed_temperature needs temperature="fixed", got '
            f"fixed_temperature={fixed_temperature!r} with temperature={temperature!r}"
        )
