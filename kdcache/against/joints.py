"""Who would teach a student of poses: `HeatmapClassroomLoss` decides joint by joint.

Shapes: B batch, M mentors, J joints, X columns of sums.
"""

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from kdcache.against.outputs import not_finite, student_outputs
from kdcache.against.shares import HARDLY, share, shares
from kdcache.classroom import HeatmapClassroomLoss
from kdcache.classroom.output import JointDecisions
from kdcache.loader import ReplayLoader
from kdcache.train.trained import Trained

BATCH = 64
WINDOW = 4096  # people whose heatmaps are in memory: a view of COCO has 8 GB a mentor, unpacked

_HEAD = ("labelled", "untaught", "student sees", "student confidence")
_MENTOR = ("active", "weight", "gap", "temperature", "sees", "confidence")


def make_loss(tau: float | None) -> HeatmapClassroomLoss:
    """ClassroomKD per joint, hard gate. Raises ValueError for a bad `tau`."""
    return HeatmapClassroomLoss() if tau is None else HeatmapClassroomLoss(tau=tau)


def inspect_joints(
    trained: Trained,
    loader: ReplayLoader,
    views: int,
    loss: HeatmapClassroomLoss,
    progress: Callable[[int, int], None],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is told of the student, and of the classroom, over the loader's first `views` views."""
    sums_JX = _sums(trained, loader, views, loss, progress)
    labelled, _, sees, confidence = sums_JX[:, : len(_HEAD)].sum(0).tolist()
    joints = loader.dataset.person_labels.people.skeleton.joints
    of_student = {"confidence": share(confidence, labelled), "sees": share(100 * sees, labelled)}
    return of_student, _of_classroom(sums_JX, loader.source.mentors, joints)


@torch.inference_mode()
def _sums(
    trained: Trained,
    loader: ReplayLoader,
    views: int,
    loss: HeatmapClassroomLoss,
    progress: Callable[[int, int], None],
) -> Tensor:
    """(J, 4 + 6 M) sums by joint over all people, float64 on the CPU, columns as named above."""
    device = loader.device
    num_joints = loader.dataset.num_classes
    dtype = torch.float32 if device.type == "mps" else torch.float64
    width = len(_HEAD) + len(_MENTOR) * len(loader.source.mentors)
    sums_JX = torch.zeros(num_joints, width, dtype=dtype, device=device)
    finite = torch.ones((), dtype=torch.bool, device=device)
    for batch, heatmaps_BJHW in student_outputs(trained, loader, views, progress):
        assert batch.heatmaps is not None
        finite &= heatmaps_BJHW.isfinite().all()
        decided = loss(heatmaps_BJHW, batch.labels, batch.heatmaps).joints
        assert decided is not None
        sums_JX += _of_batch(decided, dtype)
    sums_JX = sums_JX.cpu().double()
    if not (finite.item() and isfinite(sums_JX.sum().item())):
        raise not_finite(trained, "heatmaps")
    return sums_JX


def _of_batch(decided: JointDecisions, dtype: torch.dtype) -> Tensor:
    """What is summed of one batch: (J, 4 + 6 M). Joints that are not visible add nothing."""
    visible_BJ, active_BMJ = decided.visible_BJ, decided.active_BMJ
    head = (
        visible_BJ,
        visible_BJ & ~active_BMJ.any(dim=1),
        decided.student_BJ > 0,
        decided.student_BJ,
    )
    mentor = (
        active_BMJ,
        *(active_BMJ * value for value in (decided.weight_BMJ, decided.gap_BMJ)),
        active_BMJ * decided.temperature_BMJ,
        decided.mentor_BMJ > 0,
        decided.mentor_BMJ,
    )
    head_J4 = torch.stack([column_BJ.to(dtype).sum(0) for column_BJ in head], dim=1)
    return torch.cat([head_J4, *(column_BMJ.to(dtype).sum(0).T for column_BMJ in mentor)], dim=1)


def _of_classroom(sums_JX: Tensor, names: Sequence[str], joints: Sequence[str]) -> dict[str, Any]:
    labelled_J, untaught_J, sees_J, confidence_J = sums_JX[:, : len(_HEAD)].T.tolist()
    total = sum(labelled_J)
    mentors: list[dict[str, Any]] = []
    for m, name in enumerate(names):
        # Columns of one kind lie side by side, a mentor each.
        of_mentor_JK = sums_JX[:, len(_HEAD) + m :: len(names)]
        whole = dict(zip(_MENTOR, of_mentor_JK.sum(0).tolist(), strict=True))
        by_joint = dict(zip(_MENTOR, of_mentor_JK.T.tolist(), strict=True))
        mentors.append(
            {
                "name": name,
                "confidence": share(whole["confidence"], total),
                "sees": share(100 * whole["sees"], total),
                "active": share(whole["active"], total) or 0.0,
                **{
                    key: share(whole[key], whole["active"])
                    for key in ("weight", "gap", "temperature")
                },
                "active_by_joint": shares(by_joint["active"], labelled_J),
                "weight_by_joint": shares(by_joint["weight"], by_joint["active"]),
            }
        )
    return {
        "untaught": share(sum(untaught_J), total),
        "joints": {
            "names": list(joints),
            "labelled": [int(count) for count in labelled_J],
            "confidence": shares(confidence_J, labelled_J),
            "sees": shares([100 * count for count in sees_J], labelled_J),
            "untaught": shares(untaught_J, labelled_J),
        },
        "mentors": mentors,
        "never": [mentor["name"] for mentor in mentors if mentor["active"] == 0],
        "hardly": [mentor["name"] for mentor in mentors if 0 < mentor["active"] < HARDLY],
    }
