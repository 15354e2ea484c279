"""Who would teach a student of classes: `ClassroomLoss` decides sample by sample, told by class.

Shapes: B batch, M mentors, C classes, X columns of sums.
"""

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from kdcache.against.outputs import not_finite, student_outputs
from kdcache.against.shares import HARDLY, share, shares
from kdcache.classroom import ClassroomLoss, LossOutput
from kdcache.classroom.confidence import label_loss
from kdcache.loader import ReplayLoader
from kdcache.train.class_sums import TAUGHT, sum_by_class, taught
from kdcache.train.trained import Trained

BATCH = 256
_HEAD = ("rows", "untaught", "student right", "student confidence")
_MENTOR = (*TAUGHT, "right", "confidence")


def make_loss(tau: float | None) -> ClassroomLoss:
    """ClassroomKD per sample, hard gate. Raises ValueError for a bad `tau`."""
    return ClassroomLoss(tau=12.0 if tau is None else tau)


def inspect_classes(
    trained: Trained,
    loader: ReplayLoader,
    views: int,
    loss: ClassroomLoss,
    progress: Callable[[int, int], None],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is told of the student, and of the classroom, over the loader's first `views` views."""
    sums_CX = _sums(trained, loader, views, loss, progress)
    return _of_student(sums_CX), _of_classroom(sums_CX, loader.source.mentors)


@torch.inference_mode()
def _sums(
    trained: Trained,
    loader: ReplayLoader,
    views: int,
    loss: ClassroomLoss,
    progress: Callable[[int, int], None],
) -> Tensor:
    """(C, 4 + 6 M) sums by class over all rows, float64 on the CPU, columns as named above."""
    device = loader.device
    num_classes = loader.dataset.num_classes
    dtype = torch.float32 if device.type == "mps" else torch.float64
    width = len(_HEAD) + len(_MENTOR) * len(loader.source.mentors)
    sums_CX = torch.zeros(num_classes, width, dtype=dtype, device=device)
    for batch, logits_BC in student_outputs(trained, loader, views, progress):
        assert batch.logits is not None
        out = loss(logits_BC, batch.labels, batch.logits)
        rows_BX = _rows(out, logits_BC, batch.labels, batch.logits, dtype)
        sums_CX += sum_by_class(batch.labels, rows_BX, num_classes)
    sums_CX = sums_CX.cpu().double()
    if not isfinite(sums_CX.sum().item()):
        raise not_finite(trained, "logits")
    return sums_CX


def _rows(
    out: LossOutput, logits_BC: Tensor, labels_B: Tensor, mentor_BMC: Tensor, dtype: torch.dtype
) -> Tensor:
    """What is summed of one batch: (B, 4 + 6 M)."""
    student_p_B = torch.exp(-label_loss(logits_BC, labels_B))
    mentor_p_BM = torch.exp(-label_loss(mentor_BMC, labels_B))
    head = (
        torch.ones_like(student_p_B),
        ~out.active_BM.any(dim=1),
        logits_BC.argmax(dim=1) == labels_B,
        student_p_B,
    )
    head_B4 = torch.stack([column_B.to(dtype) for column_B in head], dim=1)
    right_BM = mentor_BMC.argmax(dim=2) == labels_B[:, None]
    return torch.cat(
        [head_B4, taught(out, dtype), right_BM.to(dtype), mentor_p_BM.to(dtype)], dim=1
    )


def _of_student(sums_CX: Tensor) -> dict[str, Any]:
    rows, _, right, confidence = sums_CX.sum(0)[: len(_HEAD)].tolist()
    return {"accuracy": 100 * right / rows, "confidence": confidence / rows}


def _of_classroom(sums_CX: Tensor, names: Sequence[str]) -> dict[str, Any]:
    rows_C, untaught_C, right_C, confidence_C = sums_CX[:, : len(_HEAD)].T.tolist()
    total = sum(rows_C)
    mentors = []
    for m, name in enumerate(names):
        # Columns of one kind lie side by side, a mentor each.
        of_mentor_CK = sums_CX[:, len(_HEAD) + m :: len(names)]
        whole = dict(zip(_MENTOR, of_mentor_CK.sum(0).tolist(), strict=True))
        by_class = dict(zip(_MENTOR, of_mentor_CK.T.tolist(), strict=True))
        rows_taught = whole["active"]
        mentors.append(
            {
                "name": name,
                "accuracy": 100 * whole["right"] / total,
                "confidence": whole["confidence"] / total,
                "active": rows_taught / total,
                **{key: share(whole[key], rows_taught) for key in ("weight", "gap", "temperature")},
                "active_by_class": shares(by_class["active"], rows_C),
                "weight_by_class": shares(by_class["weight"], by_class["active"]),
            }
        )
    return {
        "untaught": sum(untaught_C) / total,
        "classes": {
            "rows": [int(rows) for rows in rows_C],
            "accuracy": shares([100 * right for right in right_C], rows_C),
            "confidence": shares(confidence_C, rows_C),
            "untaught": shares(untaught_C, rows_C),
        },
        "mentors": mentors,
        "never": [mentor["name"] for mentor in mentors if mentor["active"] == 0],
        "hardly": [mentor["name"] for mentor in mentors if 0 < mentor["active"] < HARDLY],
    }
