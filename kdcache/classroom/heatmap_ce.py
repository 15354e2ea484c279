"""Labels only, on heatmaps (pose, method "ce"): the student without any mentor.

    L = mean_i 1/J sum over visible j of e(h_s, g)          heatmap_terms.py

The name is that of the method for logits, so that a comparison's baseline is called alike in both;
what is computed is a squared error (JointsMSELoss of SimpleBaseline,
https://arxiv.org/abs/1804.06208, up to a factor), no cross entropy. Mentors are ignored; None is
welcome.

Shapes: B batch, M mentors, J joints, H, W of a map. Dtypes: any floating point in; float32 inside
and out (float64 for a float64 student).

    out = HeatmapLabelLoss()(student_heatmaps_BJHW, joints_BJ3)
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kdcache.classroom.heatmap_inputs import heatmap_inputs
from kdcache.classroom.heatmap_terms import maps_seen_by_terms, over_joints, squared_error
from kdcache.classroom.needs import Needs
from kdcache.classroom.output import LossOutput
from kdcache.classroom.terms import sum_of_terms


@dataclass(frozen=True, kw_only=True)
class HeatmapLabelLoss:
    """The task term of `HeatmapClassroomLoss`; it has no switches."""

    needs: ClassVar[Needs] = Needs(least_mentors=0)

    def __call__(
        self,
        student_heatmaps_BJHW: Tensor,
        joints_BJ3: Tensor,
        mentor_heatmaps_BMJHW: Tensor | None = None,
    ) -> LossOutput:
        """The loss of one batch. No mentor is active: weights and gaps are 0, temperatures 1."""
        given = heatmap_inputs(
            "ce", student_heatmaps_BJHW, joints_BJ3, mentor_heatmaps_BMJHW, self.needs
        )
        B, M = given.mentors_BMJHW.shape[:2]
        maps = maps_seen_by_terms(given.student_BJHW, M)
        task_BJ = squared_error(maps.task_BJHW, given.label_BJHW)
        zeros_BM = given.label_BJHW.new_zeros(B, M)
        return sum_of_terms(
            maps.seen,
            over_joints(task_BJ, given.visible_BJ),
            zeros_BM,
            active_BM=torch.zeros_like(zeros_BM, dtype=torch.bool),
            weight_BM=zeros_BM,
            temperature_BM=torch.ones_like(zeros_BM),
        )
