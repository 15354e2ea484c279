"""Decoupled knowledge distillation (method "dkd"), as a mean over mentors.

Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", CVPR 2022,
https://arxiv.org/abs/2203.08679, equation 7. At temperature T, with p_t the probability of the true
class and p^ the softmax over the other classes alone:

    TCKD = KL( (p_t, 1 - p_t) of the mentor || the same of the student )
    NCKD = KL( p^ of the mentor || p^ of the student )
    L    = ce_weight * CE + warm_up * 1/M sum_m T^2 * (alpha * TCKD_m + beta * NCKD_m)

Plain KL is TCKD + (1 - p_t) * NCKD (their equation 6): a mentor that is sure of the true class
then says next to nothing about the others, which `beta` undoes. Their warm-up multiplies the
mentors' part by (epoch + 1) / 20 in the first 20 epochs; it goes by `set_epoch`, and a loop that
never calls that gets the full strength from the start. The paper knows one mentor.

Shapes: B batch, M mentors, C classes. Dtypes: any floating point in; float32 inside and out
(float64 for a float64 student).

    loss = DKDLoss(beta=8.0)
    loss.set_epoch(epoch)
    out = loss(student_logits_BC, labels_B, mentor_logits_BMC)
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kdcache.classroom.confidence import label_loss
from kdcache.classroom.divergence import kl_of_logs
from kdcache.classroom.inputs import mentor_inputs, student_inputs
from kdcache.classroom.needs import Needs
from kdcache.classroom.output import LossOutput
from kdcache.classroom.switches import check_number, check_whole
from kdcache.classroom.terms import seen_by_terms, sum_of_terms


@dataclass(frozen=True, kw_only=True)
class DKDLoss:
    """The switches are frozen; `set_epoch` says where in its warm-up the run stands.

    That place is the object's own, not a switch: take a new one for another run.
    """

    needs: ClassVar[Needs] = Needs()

    alpha: float = 1.0
    """Factor of the true class's part, TCKD."""

    beta: float = 8.0
    """Factor of the other classes' part, NCKD; the paper's differs by pair of networks."""

    temperature: float = 4.0
    """Softens both sides."""

    warm_up: int = 20
    """Epochs over which the mentors' part grows linearly to its full strength; 0: none."""

    ce_weight: float = 1.0
    """Factor of the task term."""

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha)
        check_number("beta", self.beta)
        check_number("temperature", self.temperature, above=True)
        check_whole("warm_up", self.warm_up)
        check_number("ce_weight", self.ce_weight)
        object.__setattr__(self, "_strength", 1.0)

    def set_epoch(self, epoch: int) -> None:
        """Called at each epoch's start, from 0: epoch 0 of 20 teaches with a twentieth."""
        strength = min((epoch + 1) / self.warm_up, 1.0) if self.warm_up else 1.0
        object.__setattr__(self, "_strength", strength)

    def __call__(
        self, student_logits_BC: Tensor, labels_B: Tensor, mentor_logits_BMC: Tensor | None
    ) -> LossOutput:
        """The loss of one batch. Every mentor is active with weight 1/M; the gap stays 0."""
        student_logits_BC, labels_B = student_inputs("dkd", student_logits_BC, labels_B)
        mentor_logits_BMC = mentor_inputs("dkd", student_logits_BC, mentor_logits_BMC)
        M, C = mentor_logits_BMC.shape[1:]
        seen = seen_by_terms(student_logits_BC, M)
        true_B1C = torch.nn.functional.one_hot(labels_B, C).bool().unsqueeze(1)
        mentor_true, mentor_others = _decoupled(mentor_logits_BMC / self.temperature, true_B1C)
        student_true, student_others = _decoupled(seen.mentors_BMC / self.temperature, true_B1C)
        # arXiv 2203.08679, equation 7: alpha * TCKD + beta * NCKD, times T^2 as in plain KD.
        decoupled_BM = self.alpha * kl_of_logs(mentor_true, student_true)
        decoupled_BM = decoupled_BM + self.beta * kl_of_logs(mentor_others, student_others)
        strength: float = self._strength  # type: ignore[attr-defined]  # no switch, so no field
        return sum_of_terms(
            seen,
            self.ce_weight * label_loss(seen.task_BC, labels_B),
            (strength * self.temperature**2 / M) * decoupled_BM,
            weight_BM=student_logits_BC.new_full((1, 1), 1 / M),
            temperature_BM=student_logits_BC.new_full((1, 1), self.temperature),
        )


def _decoupled(softened_BMC: Tensor, true_B1C: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (true class, all others), (B, M, 2), and among the others, (B, M, C).

    The true class is taken out by the lowest finite number instead of -inf, and a class excluded by
    a mentor by half of that: where a mentor excludes all others, -inf would be NaN, and this is
    the uniform distribution over them. Their probabilities are 0 all the same.
    """
    floor = torch.finfo(softened_BMC.dtype).min
    finite_BMC = softened_BMC.clamp(min=floor / 2)
    others_BMC = finite_BMC.masked_fill(true_B1C, floor)
    true_BM = finite_BMC.masked_fill(~true_B1C, 0.0).sum(dim=-1)
    pair_BM2 = torch.stack([true_BM, others_BMC.logsumexp(dim=-1)], dim=-1)
    return torch.log_softmax(pair_BM2, dim=-1), torch.log_softmax(others_BMC, dim=-1)
