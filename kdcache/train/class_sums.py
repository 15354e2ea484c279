"""What a classroom decided, summed by class: on the device, in the same bits every time.

    sums_CX = sum_by_class(labels_B, taught(out, torch.float64), num_classes)

Shapes: B batch, M mentors, C classes, X any number of columns.
"""

import torch
from torch import Tensor

from kdcache.classroom import LossOutput

TAUGHT = ("active", "weight", "gap", "temperature")


def taught(out: LossOutput, dtype: torch.dtype) -> Tensor:
    """(B, 4 * M): active as 0 or 1; weight, gap and temperature, 0 where the mentor is not active.

    Summed over samples they are counts, and what a mean over the taught samples is made of.
    """
    active_BM = out.active_BM.to(dtype)
    values = (out.weight_BM, out.gap_BM, out.temperature_BM)
    return torch.cat([active_BM, *(active_BM * values_BM.to(dtype) for values_BM in values)], dim=1)


def sum_by_class(labels_B: Tensor, values_BX: Tensor, num_classes: int) -> Tensor:
    """(C, X): each class's sum. No synchronisation.

    A product with the one-hot labels, since `index_add_` adds in any order on CUDA.
    """
    classes_C1 = torch.arange(num_classes, device=labels_B.device)[:, None]
    return (classes_C1 == labels_B[None]).to(values_BX.dtype) @ values_BX
