"""Knowledge distillation from exactly one mentor (method "kd").

Hinton, Vinyals, Dean, https://arxiv.org/abs/1503.02531, section 2, with the weights and the
temperature of the CRD benchmark (https://arxiv.org/abs/1910.10699):

    L = ce_weight * mean_i CE(z_s, y)
        + kd_weight * mean_i T^2 * KL(softmax(z_m / T) || softmax(z_s / T))

It is `AverageLoss` of one mentor, and refuses several: which of them would be meant?

Shapes: B batch, M = 1 mentor, C classes. Dtypes: as `AverageLoss`.

    out = KDLoss(temperature=4.0)(student_logits_BC, labels_B, mentor_logits_BMC[:, :1])
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kdcache.classroom.average import AverageLoss
from kdcache.classroom.inputs import mentor_inputs, student_inputs
from kdcache.classroom.needs import Needs
from kdcache.classroom.output import LossOutput


@dataclass(frozen=True, kw_only=True)
class KDLoss:
    """One mentor at one temperature."""

    needs: ClassVar[Needs] = Needs(most_mentors=1)

    temperature: float = 4.0
    """Softens both sides."""

    ce_weight: float = 0.1
    """Factor of the task term."""

    kd_weight: float = 0.9
    """Factor of the mentor's term."""

    def __post_init__(self) -> None:
        self._average()  # its checks are ours

    def __call__(
        self, student_logits_BC: Tensor, labels_B: Tensor, mentor_logits_BMC: Tensor | None
    ) -> LossOutput:
        """The loss of one batch; ValueError unless there is exactly one mentor."""
        student_logits_BC, labels_B = student_inputs("kd", student_logits_BC, labels_B)
        mentor_logits_BMC = mentor_inputs("kd", student_logits_BC, mentor_logits_BMC)
        self.needs.require("kd", mentor_logits_BMC.shape[1])
        return self._average()(student_logits_BC, labels_B, mentor_logits_BMC)

    def _average(self) -> AverageLoss:
        return AverageLoss(
            temperature=self.temperature, ce_weight=self.ce_weight, kd_weight=self.kd_weight
        )
