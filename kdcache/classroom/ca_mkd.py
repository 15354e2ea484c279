"""CA-MKD, its part on logits (method "ca-mkd"): mentors weigh less the further they miss the label.

Zhang, Chen, Wang, "Confidence-Aware Multi-Teacher Knowledge Distillation", ICASSP 2022,
https://arxiv.org/abs/2201.00007, the loss of teacher predictions. Per sample, l_m = CE(z_m, y):

    w_m = 1/(M - 1) * (1 - exp(l_m) / sum_j exp(l_j))                 they sum to 1
    L   = ce_weight * CE + kd_weight * sum_m w_m * T^2 * KL_m         weighted.py

The released code divides by M once more, which `divide_by_k` does. The paper's own weights of the
two parts are 1 and 1; the defaults here are those of the other baselines. Its term on intermediate
features is left out.

Shapes: B batch, M >= 2 mentors, C classes. Dtypes: any floating point in; float32 inside and out
(float64 for a float64 student).

    out = CAMKDLoss()(student_logits_BC, labels_B, mentor_logits_BMC)
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kdcache.classroom.confidence import finite_label_loss
from kdcache.classroom.inputs import mentor_inputs, student_inputs
from kdcache.classroom.needs import Needs
from kdcache.classroom.output import LossOutput
from kdcache.classroom.switches import check_bool
from kdcache.classroom.weighted import check_weighted, weighted_distillation


@dataclass(frozen=True, kw_only=True)
class CAMKDLoss:
    """Weights by the mentors' own losses; there is no such weight for a single mentor."""

    needs: ClassVar[Needs] = Needs(least_mentors=2)

    temperature: float = 4.0
    """Softens both sides."""

    ce_weight: float = 0.1
    """Factor of the task term."""

    kd_weight: float = 0.9
    """Factor of the weighted sum of the mentors' terms."""

    divide_by_k: bool = False
    """Divide the weights by M, as the released code; they then sum to 1/M."""

    def __post_init__(self) -> None:
        check_weighted(self.temperature, self.ce_weight, self.kd_weight)
        check_bool("divide_by_k", self.divide_by_k)

    def __call__(
        self, student_logits_BC: Tensor, labels_B: Tensor, mentor_logits_BMC: Tensor | None
    ) -> LossOutput:
        """The loss of one batch; ValueError for a single mentor. Every mentor is active."""
        student_logits_BC, labels_B = student_inputs("ca-mkd", student_logits_BC, labels_B)
        mentor_logits_BMC = mentor_inputs(
            "ca-mkd", student_logits_BC, mentor_logits_BMC, self.needs
        )
        M = mentor_logits_BMC.shape[1]
        # arXiv 2201.00007: w_m = 1/(M - 1) * (1 - softmax_m(l_m)).
        share_BM = torch.softmax(finite_label_loss(mentor_logits_BMC, labels_B), dim=1)
        weight_BM = (1 - share_BM) / (M - 1)
        return weighted_distillation(
            student_logits_BC,
            labels_B,
            mentor_logits_BMC,
            weight_BM / M if self.divide_by_k else weight_BM,
            temperature=self.temperature,
            ce_weight=self.ce_weight,
            kd_weight=self.kd_weight,
        )
