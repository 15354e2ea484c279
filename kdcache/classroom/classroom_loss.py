"""ClassroomKD: each sample is taught by the mentors that know it, as softly as they are ahead.

Sarode, Khan et al., "Classroom-Inspired Multi-Mentor Distillation with Adaptive Learning
Strategies", IntelliSys 2025, https://arxiv.org/abs/2409.20237 (method section: Knowledge Filtering
and Mentoring modules). With a_k the probability of the true label:

    w_k   = M * a_k / (a_s + sum_m a_m)                     confidence.py
    active iff w_m >= w_s                                   knowledge_filter.py
    T_m   = 1 + tau * (w_m - w_s) / w_m                     mentoring.py
    L     = mean_i [ a_s * CE(z_s, y) + sum over active m of w_m * T_m^2 * KL_m ]
    KL_m  = KL(softmax(z_m / T_m) || softmax(z_s / T_m))    divergence.py

Confidences, weights, gate, gap and temperature carry no gradient.

Known properties (tests/classroom/test_properties.py holds them):
- `a_s * CE` with `a_s` detached has the gradient of `1 - p(true)`: about 1/C of CE's at the start,
  so a student without active mentors hardly moves. `task_weight="one"` restores CE.
- a mentor's gradient in the student's logits is at most `sqrt(2) * T_m * w_m` long per sample.
- `w_s + sum_m w_m = M`: the mentors' total weight grows with M, so compare methods at one total.

Shapes: B batch, M mentors, C classes; R is B for granularity "sample" and 1 for "batch".
Dtypes: any floating point in; float32 inside and out (float64 for a float64 student). Logits need
no normalisation. There is no host-device synchronisation and no loop over mentors.

    loss = ClassroomLoss(tau=12.0)
    out = loss(student_logits_BC, labels_B, mentor_logits_BMC)
    out.total.backward()

    ClassroomLoss(gate="off", mentor_weight="one", task_weight="one")   # the paper's "no KF"
    ClassroomLoss(temperature="fixed", fixed_temperature=1.0)           # the paper's "no mentoring"
    ClassroomLoss(granularity="batch", round_shares=2)                  # the authors' numerics
    ClassroomLoss(weighting="rank", teachers=(0,))                      # the first version
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kdcache.classroom.confidence import Confidences, compare_confidences, label_loss
from kdcache.classroom.divergence import tempered_kl
from kdcache.classroom.inputs import given_active, mentor_inputs, student_inputs
from kdcache.classroom.kd_scale import check_kd_scale, scaled_weight
from kdcache.classroom.knowledge_filter import active_mentors, check_gate
from kdcache.classroom.mentoring import check_temperature, chosen_temperature, performance_gap
from kdcache.classroom.needs import Needs
from kdcache.classroom.output import LossOutput
from kdcache.classroom.rank_weighting import (
    checked_positions,
    log_rank_weights,
    mean_confidence_loss,
    require_positions,
)
from kdcache.classroom.standardise import standardise
from kdcache.classroom.switches import check_bool, check_choice, check_number
from kdcache.classroom.terms import seen_by_terms, sum_of_terms


@dataclass(frozen=True, kw_only=True)
class ClassroomLoss:
    """The loss and its switches; the defaults are the paper's for CIFAR-100."""

    tau: float = 12.0
    """How much a full gap adds to the temperature."""

    granularity: Literal["sample", "batch"] = "sample"
    """"batch": one confidence per mentor and batch, `exp(-mean_i l_k)`, as the authors' code."""

    weighting: Literal["confidence", "rank"] = "confidence"
    """What a mentor's weight `w_m` follows: its share of the confidences, or its position among
    them, as in the paper's first version (rank_weighting.py)."""

    rank_scale: float = 10.0
    """Weighting "rank": the position that weighs 1. M + 1 makes the best mentor weigh 1."""

    teachers: tuple[int, ...] = ()
    """Weighting "rank": the columns (from 0) of the mentors that are teachers and not peers; a
    teacher weighs its confidence. Any sequence of ints is taken."""

    gate: Literal["hard", "soft", "off"] = "hard"
    """The knowledge filter. "soft" lets every mentor teach by its weight, of confidence or
    of rank."""

    gate_margin: float = 0.0
    """Hard gate: active iff `a_m - a_s >= gate_margin`, a difference of probabilities."""

    mentor_weight: Literal["confidence", "one"] = "confidence"
    """Factor of each mentor's term: `w_m`, by either weighting, or 1."""

    task_weight: Literal["confidence", "one"] = "confidence"
    """Factor of the task term: `a_s` or 1."""

    temperature: Literal["gap", "fixed"] = "gap"
    """`1 + tau * gap`, or `fixed_temperature` for everyone (tau is then unused)."""

    fixed_temperature: float = 1.0
    """The temperature of `temperature="fixed"`."""

    gap: Literal["ratio", "difference", "absolute"] | None = None
    """`1 - a_s / a_m` or `a_m - a_s`, both 0 for a mentor below the student; or `|a_m - a_s|`.
    None: "ratio", and with weighting "rank" "absolute"."""

    t_max: float | None = None
    """Upper bound of any temperature."""

    kd_scale: Literal["sum", "per-active-weight"] | float = "sum"
    """Factor of a sample's mentor terms: none; one over its active mentors' total weight (their
    weighted mean; 0 when none is active); or a number."""

    round_shares: int | None = None
    """Granularity "batch" only: decimals the shares are rounded to; 2 is the authors' code."""

    standardise: bool = False
    """Mentors' terms only: each row of both sides gets mean 0 and deviation 1 before the
    temperature (standardise.py); confidences are those of the rows as they are."""

    def __post_init__(self) -> None:
        check_number("tau", self.tau)
        check_choice("granularity", self.granularity, ("sample", "batch"))
        check_choice("weighting", self.weighting, ("confidence", "rank"))
        check_number("rank_scale", self.rank_scale, above=True)
        object.__setattr__(self, "teachers", checked_positions("teachers", self.teachers))
        check_choice("mentor_weight", self.mentor_weight, ("confidence", "one"))
        check_gate(self.gate, self.gate_margin, self.mentor_weight)
        check_choice("task_weight", self.task_weight, ("confidence", "one"))
        check_temperature(self.temperature, self.fixed_temperature, self.t_max)
        if self.gap is not None:
            check_choice("gap", self.gap, ("ratio", "difference", "absolute"))
        check_kd_scale(self.kd_scale)
        check_bool("standardise", self.standardise)
        self._check_together()

    def _check_together(self) -> None:
        """Switches that contradict one another, or need another one."""
        if self.weighting != "rank" and (self.rank_scale != 10 or self.teachers):
            given = "teachers" if self.teachers else "rank_scale"
            raise ValueError(
                f'{given} needs weighting="rank", got {given}={getattr(self, given)!r} '
                f"with weighting={self.weighting!r}"
            )
        if self.teachers and self.mentor_weight == "one":
            raise ValueError(
                'teachers needs mentor_weight="confidence", since only weights tell them from '
                f"peers; got teachers={self.teachers!r} with mentor_weight='one'"
            )
        if self.round_shares is None:
            return
        # float32 shares have 7 digits; more decimals would round nothing.
        if type(self.round_shares) is not int or not 1 <= self.round_shares <= 6:
            raise ValueError(
                f"round_shares must be None or an int from 1 to 6, got {self.round_shares!r}"
            )
        if self.granularity != "batch":
            raise ValueError(
                'round_shares needs granularity="batch", got '
                f"round_shares={self.round_shares!r} with granularity={self.granularity!r}"
            )
        if self.weighting == "rank":
            raise ValueError(
                'round_shares needs weighting="confidence": ranks have no shares; got '
                f"round_shares={self.round_shares!r} with weighting='rank'"
            )

    @property
    def filters(self) -> bool:
        """Whether mentors are shut off at all; read by `has_filter`."""
        return self.gate == "hard"

    @property
    def needs(self) -> Needs:
        """Mentors, in an order that is known where some are marked as teachers."""
        return Needs(mentor_order=bool(self.teachers))

    def __call__(
        self,
        student_logits_BC: Tensor,
        labels_B: Tensor,
        mentor_logits_BMC: Tensor | None,
        *,
        active_BM: Tensor | None = None,
    ) -> LossOutput:
        """The loss of one batch; ValueError for shapes, devices and dtypes that do not fit.

        `active_BM`: which mentors teach which sample, decided elsewhere (an oracle, a random
        control) in place of the knowledge filter; weights and temperatures stay as they are.
        """
        student_logits_BC, labels_B = student_inputs("classroom", student_logits_BC, labels_B)
        mentor_logits_BMC = mentor_inputs("classroom", student_logits_BC, mentor_logits_BMC)

        require_positions("classroom", self.teachers, mentor_logits_BMC.shape[1])
        seen = seen_by_terms(student_logits_BC, mentor_logits_BMC.shape[1])
        student_loss_B = label_loss(seen.task_BC, labels_B)
        student_loss_R1 = student_loss_B.detach().unsqueeze(1)
        mentor_loss_RM = label_loss(mentor_logits_BMC, labels_B)
        if self.granularity == "batch":
            student_loss_R1 = self._of_batch(student_loss_R1)
            mentor_loss_RM = self._of_batch(mentor_loss_RM)

        confidences = compare_confidences(student_loss_R1, mentor_loss_RM, self.round_shares)
        active_RM = active_mentors(confidences, gate=self.gate, margin=self.gate_margin)
        if active_BM is not None:
            active_RM = given_active("classroom", active_BM, mentor_logits_BMC)
        gap_RM = performance_gap(confidences, gap=self._gap)
        temperature_RM = chosen_temperature(
            gap_RM,
            temperature=self.temperature,
            tau=self.tau,
            fixed_temperature=self.fixed_temperature,
            t_max=self.t_max,
        )
        log_weight_RM, weight_RM = self._weight(confidences)

        # arXiv 2409.20237, the student's loss: mean_i [ a_s CE + sum_m w_m T_m^2 KL_m ].
        # The factor a_s is the student's own confidence, never a rounded one.
        a_R1 = torch.exp(-student_loss_R1) if self.task_weight == "confidence" else 1.0
        task_B = (a_R1 * student_loss_B.unsqueeze(1)).squeeze(1)
        student_BMC = seen.mentors_BMC
        if self.standardise:
            mentor_logits_BMC, student_BMC = (
                standardise(mentor_logits_BMC),
                standardise(student_BMC),
            )
        kl_BM = tempered_kl(mentor_logits_BMC, student_BMC, temperature_RM)
        factor_RM = scaled_weight(log_weight_RM, weight_RM, active_RM, kd_scale=self.kd_scale)
        return sum_of_terms(
            seen,
            task_B,
            factor_RM * temperature_RM.square() * kl_BM,
            active_BM=active_RM,
            weight_BM=weight_RM,
            gap_BM=gap_RM,
            temperature_BM=temperature_RM,
        )

    @property
    def _gap(self) -> str:
        return self.gap or ("absolute" if self.weighting == "rank" else "ratio")

    def _of_batch(self, loss_BK: Tensor) -> Tensor:
        """(1, K): -ln of a batch's confidence."""
        if self.weighting == "rank":  # the mean of a_ik
            return mean_confidence_loss(loss_BK)
        return loss_BK.mean(dim=0, keepdim=True)  # a_k = exp(-mean_i l_k), the authors' code

    def _weight(self, confidences: Confidences) -> tuple[Tensor, Tensor]:
        """ln of each mentor's weight up to a factor, and the weight; before the filter."""
        if self.mentor_weight == "one":
            log_RM = torch.zeros_like(confidences.mentor_RM)
            return log_RM, torch.ones_like(log_RM)
        if self.weighting == "rank":
            log_RM = log_rank_weights(
                confidences, rank_scale=self.rank_scale, teachers=self.teachers
            )
            return log_RM, log_RM.exp()
        # arXiv 2409.20237, the weights: w_m = M * a_m / (a_s + sum_m a_m).
        log_RM = confidences.log_share_RM
        return log_RM, log_RM.exp() * log_RM.shape[1]
