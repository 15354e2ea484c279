"""Heatmap distillation from exactly one mentor (pose, method "kd").

Zhang, Zhu, Ye, "Fast Human Pose Estimation", CVPR 2019 (https://arxiv.org/abs/1811.05419), section
3.2: squared errors to the labels' and to the mentor's heatmaps, half and half. It is
`HeatmapAverageLoss` of one mentor, and refuses several: which of them would be meant?

Shapes: B batch, M = 1 mentor, J joints, H, W of a map. Dtypes: as `HeatmapAverageLoss`.

    out = HeatmapKDLoss()(student_heatmaps_BJHW, joints_BJ3, mentor_heatmaps_BMJHW[:, :1])
"""

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

from torch import Tensor

from kdcache.classroom.heatmap_average import HeatmapAverageLoss
from kdcache.classroom.heatmap_inputs import heatmap_inputs
from kdcache.classroom.needs import Needs
from kdcache.classroom.output import LossOutput


@dataclass(frozen=True, kw_only=True)
class HeatmapKDLoss:
    """One mentor; the switches are `HeatmapAverageLoss`'s."""

    needs: ClassVar[Needs] = Needs(most_mentors=1)

    label_weight: float = 0.5
    """Factor of the task term."""

    kd_weight: float = 0.5
    """Factor of the mentor's term."""

    divergence: Literal["mse", "kl"] = "mse"
    """Of the mentor's term: squared error, or KL of spatial softmaxes."""

    beta: float = 25.0
    """Divergence "kl": what heatmaps are multiplied by before the softmax."""

    temperature: float = 1.0
    """Divergence "kl": softens both sides."""

    def __post_init__(self) -> None:
        HeatmapAverageLoss(**asdict(self))  # its checks are ours

    def __call__(
        self,
        student_heatmaps_BJHW: Tensor,
        joints_BJ3: Tensor,
        mentor_heatmaps_BMJHW: Tensor | None,
    ) -> LossOutput:
        """The loss of one batch; ValueError unless there is exactly one mentor."""
        heatmap_inputs("kd", student_heatmaps_BJHW, joints_BJ3, mentor_heatmaps_BMJHW, self.needs)
        average = HeatmapAverageLoss(**asdict(self))
        return average(student_heatmaps_BJHW, joints_BJ3, mentor_heatmaps_BMJHW)
