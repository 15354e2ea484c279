"""The knowledge filter: a mentor teaches a sample only if it knows it at least as well.

ClassroomKD (https://arxiv.org/abs/2409.20237), the Knowledge Filtering module: mentor m is active
iff `w_m >= w_s`, which is `a_m >= a_s`, which is `l_m <= l_s`. The last form is the one computed:
it still decides where the confidences underflow to 0. A tie is active.

- gate "hard": as above; a `margin` other than 0 asks for `a_m - a_s >= margin` instead, a
  difference of probabilities (a negative margin also admits mentors slightly below the student).
- gate "soft": every mentor teaches and its confidence weight alone decides how much.
- gate "off": every mentor teaches, whatever the weights; the paper's "no KF" ablation.

Shapes: R batch rows or 1, M mentors. The result is bool and has no gradient.

    active_RM = active_mentors(confidences, gate="hard", margin=0.0)
"""

import torch
from torch import Tensor

from kdcache.classroom.confidence import Confidences
from kdcache.classroom.switches import check_choice, check_number


def active_mentors(confidences: Confidences, *, gate: str, margin: float) -> Tensor:
    """(R, M) bool: which mentors teach."""
    if gate != "hard":
        return torch.ones_like(confidences.mentor_loss_RM, dtype=torch.bool)
    if margin == 0:
        # arXiv 2409.20237, Knowledge Filtering: w_m >= w_s.
        return confidences.mentor_loss_RM <= confidences.student_loss_R1
    return confidences.mentor_RM - confidences.student_R1 >= margin


def check_gate(gate: str, gate_margin: float, mentor_weight: str) -> None:
    """The gate's switches, beside that of the weights."""
    check_choice("gate", gate, ("hard", "soft", "off"))
    check_number("gate_margin", gate_margin, minimum=-1.0, maximum=1.0)
    if gate == "soft" and mentor_weight != "confidence":
        raise ValueError(
            'gate="soft" needs mentor_weight="confidence", since only the weights decide; '
            f'got mentor_weight={mentor_weight!r} (gate="off" takes any)'
        )
    if gate != "hard" and gate_margin != 0:
        raise ValueError(
            f'gate_margin needs gate="hard", got gate_margin={gate_margin!r} with gate={gate!r}'
        )
