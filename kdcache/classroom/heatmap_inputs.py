"""What a loss on heatmaps accepts: shapes, devices and dtypes are checked, values are not.

As inputs.py, whose reasons hold here too: no check waits for the device, and the loss computes in
float32, in float64 for a float64 student.

Shapes: B batch, M mentors, J joints, H, W of a map.

    given = heatmap_inputs("classroom", student_heatmaps_BJHW, joints_BJ3, mentor_heatmaps_BMJHW)
"""

from typing import NamedTuple

import torch
from torch import Tensor

from kdcache.classroom.needs import Needs
from kdcache.heatmaps import gaussian_heatmaps


class HeatmapInputs(NamedTuple):
    """Checked, in the dtype to compute in."""

    student_BJHW: Tensor
    """With its gradient."""

    joints_BJ3: Tensor
    """As given, but for the dtype."""

    label_BJHW: Tensor
    """The Gaussians that the labels ask for; empty maps for invisible joints."""

    visible_BJ: Tensor
    """bool: a weight above 0."""

    mentors_BMJHW: Tensor
    """Detached: mentors are frozen. M is 0 where none were given and none are needed."""


def heatmap_inputs(
    method: str,
    student_heatmaps_BJHW: Tensor,
    joints_BJ3: Tensor,
    mentor_heatmaps_BMJHW: Tensor | None,
    needs: Needs = Needs(),  # noqa: B008  # frozen
) -> HeatmapInputs:
    """ValueError for what does not fit; `needs` says how many mentors the method can do with."""
    student, joints = student_heatmaps_BJHW, joints_BJ3
    if student.ndim != 4 or 0 in student.shape:
        raise ValueError(
            f"{method}: student heatmaps must be (B, J, H, W), none empty; got {_shape(student)}"
        )
    B, J, H, W = student.shape
    if joints.shape != (B, J, 3):
        raise ValueError(
            f"{method}: joints must be (B, J, 3) = ({B}, {J}, 3), x and y in view pixels and a "
            f"weight, beside student heatmaps {_shape(student)}; got {_shape(joints)}"
        )
    mentors = mentor_heatmaps_BMJHW
    if mentors is None:
        if needs.least_mentors > 0:
            raise ValueError(
                f"{method}: mentor heatmaps must be (B, M, J, H, W), got None; "
                "only method 'ce' needs no mentor"
            )
        mentors = student.detach().new_zeros(B, 0, J, H, W)
    else:
        shape = tuple(mentors.shape)
        if len(shape) != 5 or (shape[0], *shape[2:]) != (B, J, H, W) or shape[1] == 0:
            raise ValueError(
                f"{method}: mentor heatmaps must be (B, M, J, H, W) with the student's B, J, H and "
                f"W and M >= 1; got {shape} beside student heatmaps {_shape(student)}"
            )
        needs.require(method, shape[1])
    for name, tensor in (
        ("student heatmaps", student),
        ("joints", joints),
        ("mentor heatmaps", mentors),
    ):
        if not tensor.is_floating_point():
            raise ValueError(f"{method}: {name} must be floating point, got {tensor.dtype}")
        if tensor.device != student.device:
            raise ValueError(
                f"{method}: {name} must be on the student heatmaps' device {student.device}, "
                f"got {tensor.device}"
            )
    dtype = torch.promote_types(student.dtype, torch.float32)
    joints = joints.detach().to(dtype)
    return HeatmapInputs(
        student_BJHW=student.to(dtype),
        joints_BJ3=joints,
        label_BJHW=gaussian_heatmaps(joints, H, W),
        visible_BJ=joints[..., 2] > 0,
        mentors_BMJHW=mentors.detach().to(dtype),
    )


def scale_input(method: str, scale_B: Tensor, given: HeatmapInputs) -> Tensor:
    """Each person's squared scale, in the dtype to compute in."""
    expected, device = tuple(given.visible_BJ.shape[:1]), given.visible_BJ.device
    if tuple(scale_B.shape) != expected or not scale_B.is_floating_point():
        raise ValueError(
            f"{method}: scale_B must be floating point {expected}, got {scale_B.dtype} "
            f"{_shape(scale_B)}"
        )
    if scale_B.device != device:
        raise ValueError(
            f"{method}: scale_B must be on the student heatmaps' device {device}, "
            f"got {scale_B.device}"
        )
    return scale_B.detach().to(given.student_BJHW.dtype)


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
