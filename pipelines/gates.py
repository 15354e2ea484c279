"""Controls for the knowledge filter: a gate that knows too much, and one that knows nothing.

Both teach by the given ClassroomLoss, whose weights and temperatures stay as they are; only which
mentors are active is decided here. B samples, M mentors, C classes.
"""

import torch
from torch import Tensor

from kdcache import ClassroomLoss, LossOutput


def oracle_gate(
    loss: ClassroomLoss, student_BC: Tensor, labels_B: Tensor, mentors_BMC: Tensor, true_B: Tensor
) -> LossOutput:
    """Active where the mentor's first class is the true one, whatever the student was told."""
    is_right_BM = mentors_BMC.argmax(dim=-1) == true_B.unsqueeze(1)
    return loss(student_BC, labels_B, mentors_BMC, active_BM=is_right_BM)


def random_gate(
    loss: ClassroomLoss,
    student_BC: Tensor,
    labels_B: Tensor,
    mentors_BMC: Tensor,
    draw: torch.Generator,
) -> LossOutput:
    """As many samples for each mentor as the knowledge filter keeps, but any of the batch."""
    with torch.no_grad():
        kept_BM = loss(student_BC, labels_B, mentors_BMC).active_BM
    random_BM = torch.rand(kept_BM.shape, generator=draw, device=draw.device)
    order_BM = random_BM.argsort(dim=0).to(kept_BM.device)
    return loss(student_BC, labels_B, mentors_BMC, active_BM=kept_BM.gather(0, order_BM))
