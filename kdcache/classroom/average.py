"""Every mentor with equal weight at one temperature (method "average", AVER in the literature).

Hinton et al. (https://arxiv.org/abs/1503.02531), section 2, averaged over mentors as in You et al.,
"Learning from Multiple Teacher Networks", KDD 2017 (https://doi.org/10.1145/3097983.3098135):

    L = ce_weight * mean_i CE(z_s, y)
        + kd_weight * mean_i 1/M sum_m T^2 * KL(softmax(z_m / T) || softmax(z_s / T))

The two weights and T = 4 are those of the CRD benchmark (https://arxiv.org/abs/1910.10699). What is
averaged is the loss, whose gradient is that of one KL to the mean of the softened mentors.

Shapes: B batch, M mentors, C classes. Dtypes: any floating point in; float32 inside and out
(float64 for a float64 student).

    out = AverageLoss(temperature=4.0)(student_logits_BC, labels_B, mentor_logits_BMC)
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kdcache.classroom.confidence import label_loss
from kdcache.classroom.divergence import tempered_kl
from kdcache.classroom.inputs import mentor_inputs, student_inputs
from kdcache.classroom.needs import Needs
from kdcache.classroom.output import LossOutput
from kdcache.classroom.switches import check_number
from kdcache.classroom.terms import seen_by_terms, sum_of_terms


@dataclass(frozen=True, kw_only=True)
class AverageLoss:
    """Equal weights, no knowledge filter, no gap."""

    needs: ClassVar[Needs] = Needs()

    temperature: float = 4.0
    """Softens both sides."""

    ce_weight: float = 0.1
    """Factor of the task term."""

    kd_weight: float = 0.9
    """Factor of the mean of the mentors' terms."""

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, above=True)
        check_number("ce_weight", self.ce_weight)
        check_number("kd_weight", self.kd_weight)

    def __call__(
        self, student_logits_BC: Tensor, labels_B: Tensor, mentor_logits_BMC: Tensor | None
    ) -> LossOutput:
        """The loss of one batch. Every mentor is active with weight 1/M; the gap stays 0."""
        student_logits_BC, labels_B = student_inputs("average", student_logits_BC, labels_B)
        mentor_logits_BMC = mentor_inputs("average", student_logits_BC, mentor_logits_BMC)

        M = mentor_logits_BMC.shape[1]
        seen = seen_by_terms(student_logits_BC, M)
        temperature_11 = student_logits_BC.new_full((1, 1), self.temperature)
        kl_BM = tempered_kl(mentor_logits_BMC, seen.mentors_BMC, temperature_11)
        weight_11 = student_logits_BC.new_full((1, 1), 1 / M)
        return sum_of_terms(
            seen,
            self.ce_weight * label_loss(seen.task_BC, labels_B),
            # Hinton et al., section 2: T^2 keeps the gradient's size.
            self.kd_weight * weight_11 * temperature_11.square() * kl_BM,
            weight_BM=weight_11,
            temperature_BM=temperature_11,
        )
