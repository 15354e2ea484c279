"""How a row's mentor terms are scaled together: what each one is multiplied by in the end.

- "sum": by its weight alone, as ClassroomKD (https://arxiv.org/abs/2409.20237) does.
- "per-active-weight": by its weight over that of all active mentors, which makes their weighted
  mean; 0 when none is active.
- a number: by its weight times that number.

Shapes: R rows that are decided about (samples, joints, or 1), M mentors. No gradient.

    factor_RM = scaled_weight(log_weight_RM, weight_RM, active_RM, kd_scale="sum")
"""

import torch
from torch import Tensor

from kdcache.classroom.switches import check_number


def check_kd_scale(kd_scale: str | float) -> None:
    """One of the words, or a number of at least 0."""
    if kd_scale not in ("sum", "per-active-weight"):
        check_number("kd_scale", kd_scale, or_else=("sum", "per-active-weight"))


def scaled_weight(
    log_weight_RM: Tensor, weight_RM: Tensor, active_RM: Tensor, *, kd_scale: str | float
) -> Tensor:
    """(R, M): what each mentor's term is multiplied by, 0 for mentors that are not active.

    `log_weight_RM`: ln of the weights up to a constant of the row.
    """
    if kd_scale == "per-active-weight":
        return _normalised(log_weight_RM.expand_as(active_RM), active_RM)
    factor_RM = weight_RM.where(active_RM, torch.zeros_like(weight_RM))
    return factor_RM if isinstance(kd_scale, str) else factor_RM * kd_scale


def _normalised(log_weight_RM: Tensor, active_RM: Tensor) -> Tensor:
    """exp(log_weight) over its sum, among active mentors; rows whose sum is 0 stay 0.

    From logs, since mentors far below a student that is right all weigh 0 in float32.
    """
    kept_RM = log_weight_RM.masked_fill(~active_RM, -torch.inf)
    some_R1 = kept_RM.amax(dim=1, keepdim=True) > -torch.inf
    # softmax of a row of -inf is NaN; nothing here has a gradient, so the fill is final.
    return torch.softmax(kept_RM, dim=1).masked_fill(~some_R1, 0.0)
