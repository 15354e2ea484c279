"""What `average`, `soft`, `ca-mkd` and `ebkd` share: they differ in the mentors' weights alone.

    L = mean_i [ ce_weight * CE(z_s, y)
                 + kd_weight * sum_m w_im * T^2 * KL(softmax(z_m / T) || softmax(z_s / T)) ]

Hinton et al. (https://arxiv.org/abs/1503.02531), section 2, with a weight a mentor; 0.1, 0.9 and
T = 4 are the CRD benchmark's (https://arxiv.org/abs/1910.10699), the same for all of them, so that
what is compared is how mentors are weighted.

Shapes: B batch, M mentors, C classes; dtype: that of the inputs, which have been checked.
"""

from torch import Tensor

from kdcache.classroom.confidence import label_loss
from kdcache.classroom.divergence import tempered_kl
from kdcache.classroom.output import LossOutput
from kdcache.classroom.standardise import standardise as standardised
from kdcache.classroom.switches import check_number
from kdcache.classroom.terms import seen_by_terms, sum_of_terms


def weighted_distillation(
    student_logits_BC: Tensor,
    labels_B: Tensor,
    mentor_logits_BMC: Tensor,
    weight_BM: Tensor,
    *,
    temperature: float,
    ce_weight: float,
    kd_weight: float,
    standardise: bool = False,
) -> LossOutput:
    """The loss of one batch; `weight_BM` has no gradient and may have 1 for B or M."""
    seen = seen_by_terms(student_logits_BC, mentor_logits_BMC.shape[1])
    student_BMC = seen.mentors_BMC
    if standardise:
        mentor_logits_BMC, student_BMC = standardised(mentor_logits_BMC), standardised(student_BMC)
    temperature_11 = student_logits_BC.new_full((1, 1), temperature)
    kl_BM = tempered_kl(mentor_logits_BMC, student_BMC, temperature_11)
    return sum_of_terms(
        seen,
        ce_weight * label_loss(seen.task_BC, labels_B),
        # Hinton et al., section 2: T^2 keeps the gradient's size.
        (kd_weight * temperature**2) * weight_BM * kl_BM,
        weight_BM=weight_BM,
        temperature_BM=temperature_11,
    )


def check_weighted(temperature: float, ce_weight: float, kd_weight: float) -> None:
    """The switches of `weighted_distillation`."""
    check_number("temperature", temperature, above=True)
    check_number("ce_weight", ce_weight)
    check_number("kd_weight", kd_weight)
