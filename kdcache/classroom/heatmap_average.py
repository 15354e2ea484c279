"""Every mentor with equal weight, on heatmaps (pose, method "average").

    L = mean_i 1/J sum over visible j of
            [ label_weight * e(h_s, g) + kd_weight * 1/M sum_m d(h_s, h_m) ]       heatmap_terms.py

With one mentor and d = e it is the loss of Zhang, Zhu, Ye, "Fast Human Pose Estimation", CVPR 2019
(https://arxiv.org/abs/1811.05419), section 3.2, whose balance of 0.5 is the default here. What is
averaged is the loss; for d = e its gradient is that of one squared error to the mean map.

Shapes: B batch, M mentors, J joints, H, W of a map. Dtypes: any floating point in; float32 inside
and out (float64 for a float64 student).

    out = HeatmapAverageLoss()(student_heatmaps_BJHW, joints_BJ3, mentor_heatmaps_BMJHW)
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from kdcache.classroom.heatmap_inputs import heatmap_inputs
from kdcache.classroom.heatmap_terms import (
    check_divergence,
    maps_seen_by_terms,
    mentor_divergence,
    over_joints,
    squared_error,
)
from kdcache.classroom.needs import Needs
from kdcache.classroom.output import LossOutput
from kdcache.classroom.switches import check_number
from kdcache.classroom.terms import sum_of_terms


@dataclass(frozen=True, kw_only=True)
class HeatmapAverageLoss:
    """Equal weights, no knowledge filter, no gap."""

    needs: ClassVar[Needs] = Needs()

    label_weight: float = 0.5
    """Factor of the task term."""

    kd_weight: float = 0.5
    """Factor of the mean of the mentors' terms."""

    divergence: Literal["mse", "kl"] = "mse"
    """Of the mentors' terms: squared error, or KL of spatial softmaxes."""

    beta: float = 25.0
    """Divergence "kl": what heatmaps are multiplied by before the softmax."""

    temperature: float = 1.0
    """Divergence "kl": softens both sides."""

    def __post_init__(self) -> None:
        check_number("label_weight", self.label_weight)
        check_number("kd_weight", self.kd_weight)
        check_divergence(self.divergence, self.beta)
        check_number("temperature", self.temperature, above=True)
        if self.divergence != "kl" and self.temperature != 1:
            raise ValueError(
                'temperature needs divergence="kl", since a squared error has none; got '
                f"temperature={self.temperature!r} with divergence={self.divergence!r}"
            )

    def __call__(
        self,
        student_heatmaps_BJHW: Tensor,
        joints_BJ3: Tensor,
        mentor_heatmaps_BMJHW: Tensor | None,
    ) -> LossOutput:
        """The loss of one batch. Every mentor is active with weight 1/M; the gap stays 0."""
        given = heatmap_inputs("average", student_heatmaps_BJHW, joints_BJ3, mentor_heatmaps_BMJHW)
        M = given.mentors_BMJHW.shape[1]
        maps = maps_seen_by_terms(given.student_BJHW, M)
        temperature_111 = given.label_BJHW.new_full((1, 1, 1), self.temperature)
        apart_BMJ = mentor_divergence(
            given.mentors_BMJHW,
            maps.mentors_BMJHW,
            temperature_111,
            divergence=self.divergence,
            beta=self.beta,
        )
        task_BJ = squared_error(maps.task_BJHW, given.label_BJHW)
        return sum_of_terms(
            maps.seen,
            self.label_weight * over_joints(task_BJ, given.visible_BJ),
            (self.kd_weight / M) * over_joints(apart_BMJ, given.visible_BJ),
            weight_BM=given.label_BJHW.new_full((1, 1), 1 / M),
            temperature_BM=temperature_111[0],
        )
