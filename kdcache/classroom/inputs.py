"""What a loss accepts: shapes, devices and dtypes are checked, values are not.

A check of a value (labels in range, logits finite) would make the host wait for the device in
every step, so it is left to whoever made the value; NaN mentor logits make the loss NaN, they are
never masked away. A label outside [0, C) raises in torch on the CPU and is a device assert on CUDA.

Losses compute in float32 whatever the student's precision, in float64 for float64 (tests of
gradients). None of the operations used is one that autocast lowers, so autocast changes nothing.

Shapes: B batch, M mentors, C classes.

    student_logits_BC, labels_B = student_inputs("kd", student_logits_BC, labels_B)
    mentor_logits_BMC = mentor_inputs("kd", student_logits_BC, mentor_logits_BMC)
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def student_inputs(
    method: str, student_logits_BC: Tensor, labels_B: Tensor
) -> tuple[Tensor, Tensor]:
    """The student's logits in the dtype to compute in, and the labels as int64."""
    shapes = f"got {_shape(student_logits_BC)} and {_shape(labels_B)}"
    if student_logits_BC.ndim != 2 or 0 in student_logits_BC.shape:
        raise ValueError(
            f"{method}: student logits must be (B, C) beside labels (B,), none empty; {shapes}"
        )
    if labels_B.shape != student_logits_BC.shape[:1]:
        raise ValueError(f"{method}: labels must be (B,) beside student logits (B, C); {shapes}")
    if not student_logits_BC.is_floating_point():
        raise ValueError(
            f"{method}: student logits must be floating point, got {student_logits_BC.dtype}"
        )
    if labels_B.is_floating_point() or labels_B.is_complex() or labels_B.dtype == torch.bool:
        raise ValueError(f"{method}: labels must be integers, got {labels_B.dtype}")
    _same_device(method, "labels", labels_B, student_logits_BC)
    dtype = torch.promote_types(student_logits_BC.dtype, torch.float32)
    return student_logits_BC.to(dtype), labels_B.long()


def mentor_inputs(
    method: str, student_logits_BC: Tensor, mentor_logits_BMC: Tensor | None
) -> Tensor:
    """The mentors' logits in the student's dtype, detached: mentors are frozen."""
    if mentor_logits_BMC is None:
        raise ValueError(
            f"{method}: mentor logits must be (B, M, C), got None; only method 'ce' needs no mentor"
        )
    B, C = student_logits_BC.shape
    shape = mentor_logits_BMC.shape
    if len(shape) != 3 or (shape[0], shape[2]) != (B, C) or shape[1] == 0:
        raise ValueError(
            f"{method}: mentor logits must be (B, M, C) with the student's B and C and M >= 1; "
            f"got {_shape(mentor_logits_BMC)} beside student logits {_shape(student_logits_BC)}"
        )
    if not mentor_logits_BMC.is_floating_point():
        raise ValueError(
            f"{method}: mentor logits must be floating point (decoded), "
            f"got {mentor_logits_BMC.dtype}"
        )
    _same_device(method, "mentor logits", mentor_logits_BMC, student_logits_BC)
    return mentor_logits_BMC.detach().to(student_logits_BC.dtype)


def feature_inputs(
    method: str,
    name: str,
    student_logits_BC: Tensor,
    features: Sequence[Tensor] | None,
    widths: Sequence[int],
) -> list[Tensor]:
    """Features (B, F), one tensor for each of `widths`, in the student's dtype."""
    B = len(student_logits_BC)
    expected = [(B, width) for width in widths]
    found = None if features is None else [tuple(one.shape) for one in features]
    if features is None or found != expected:
        raise ValueError(
            f"{method}: {name} must be of shape {', '.join(map(str, expected))}; got "
            f"{'None' if found is None else ', '.join(map(str, found)) or 'none'}"
        )
    for one in features:
        if not one.is_floating_point():
            raise ValueError(f"{method}: {name} must be floating point, got {one.dtype}")
        _same_device(method, name, one, student_logits_BC)
    return [one.to(student_logits_BC.dtype) for one in features]


def _same_device(method: str, name: str, tensor: Tensor, student_logits_BC: Tensor) -> None:
    if tensor.device != student_logits_BC.device:
        raise ValueError(
            f"{method}: {name} must be on the student logits' device {student_logits_BC.device}, "
            f"got {tensor.device}"
        )


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
