"""ClassroomKD on heatmaps: each joint is taught by the mentors that see it (pose, "classroom").

Sarode, Khan et al., https://arxiv.org/abs/2409.20237, whose knowledge filter and mentoring decide
here about each visible joint of each sample, from confidences of heatmaps (heatmap_confidence.py):

    w_m   = M * a_m / (a_s + sum_m a_m)                      confidence.py
    active iff a_m > 0 and w_m >= w_s                        knowledge_filter.py
    T_m   = 1 + tau * (w_m - w_s) / w_m                      mentoring.py
    L     = mean_i 1/J sum over visible j of
                [ c * e(h_s, g) + sum over active m of w_m * e(h_s, h_m) ]      heatmap_terms.py

with `e` the squared error in units of a label's Gaussian, and c = 1. Confidences, weights, gate,
gap and temperature carry no gradient. Invisible joints (weight 0) carry no weight in anything.

What differs from the classroom on logits, and why:
- The task term's factor c is 1 by default. `task_weight="confidence"` takes `a_s` as for logits,
  where it is about 1/C at the start; that of a heatmap is exactly 0 until the map's peak reaches
  `min_peak`. The labels then teach nothing, and a student whose mentors do not see a joint can
  never begin to learn it (tests/classroom/test_heatmap_facts.py runs such a student).
- A mentor of confidence 0 does not see the joint: the hard gate shuts it off and its weight is 0,
  against a student of confidence 0, too, where a tie would be active and teach blank maps.
- The gap to a student of confidence 0 is 1 and T_m = 1 + tau, as soft as it gets. Any mentor with a
  confidence above 0 is then active, a poor one too, and the mentors' weights sum to M, as the
  formulas have it; `gate_margin` asks for a confidence of its own (tests in the same file).
- A temperature needs a softmax. `divergence="mse"` (default, what published heatmap distillation
  uses) has none: `temperature`, `tau`, `fixed_temperature`, `gap` and `t_max` are then recorded and
  change nothing of the loss; `divergence="kl"` softens both sides by `T_m`.

Shapes: B batch, M mentors, J joints, H, W of a map; R rows that are decided about, B * J for
granularity "joint" and B for "sample". Dtypes: any floating point in; float32 inside and out
(float64 for a float64 student). There is no host-device synchronisation and no loop over mentors.

    loss = HeatmapClassroomLoss()
    out = loss(student_heatmaps_BJHW, joints_BJ3, mentor_heatmaps_BMJHW)
    out.total.backward()
    out.joints.active_BMJ                                    # who taught which joint

    HeatmapClassroomLoss(granularity="sample")               # one decision a person
    HeatmapClassroomLoss(divergence="kl", tau=1.5, kd_scale=0.03)
    HeatmapClassroomLoss(confidence="oks", sigmas=skeleton.sigmas)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from kdcache.classroom.confidence import compare_confidences
from kdcache.classroom.heatmap_confidence import mean_over_joints, oks_loss, peak_loss
from kdcache.classroom.heatmap_inputs import HeatmapInputs, heatmap_inputs, scale_input
from kdcache.classroom.heatmap_rows import from_rows, joint_means, to_rows
from kdcache.classroom.heatmap_terms import (
    check_divergence,
    maps_seen_by_terms,
    mentor_divergence,
    over_joints,
    squared_error,
)
from kdcache.classroom.kd_scale import check_kd_scale, scaled_weight
from kdcache.classroom.knowledge_filter import active_mentors, check_gate
from kdcache.classroom.mentoring import check_temperature, chosen_temperature, performance_gap
from kdcache.classroom.needs import Needs
from kdcache.classroom.output import JointDecisions, LossOutput
from kdcache.classroom.switches import check_choice, check_number
from kdcache.classroom.terms import sum_of_terms


@dataclass(frozen=True, kw_only=True)
class HeatmapClassroomLoss:
    """The loss and its switches; where one has a namesake in `ClassroomLoss`, it means the same."""

    granularity: Literal["joint", "sample"] = "joint"
    """What is decided about: each joint, or each sample, whose confidence is the mean of `a_j` over
    its visible joints (one swapped joint of 17 barely moves it)."""

    confidence: Literal["peak", "oks"] = "peak"
    """How a map's confidence is measured (heatmap_confidence.py)."""

    min_peak: float = 0.1
    """A map whose highest value is below has confidence 0, by either measure."""

    sigmas: tuple[float, ...] | None = None
    """Confidence "oks" only, which needs it: the J joints' constants (`Skeleton.sigmas`). Any
    sequence of numbers is taken."""

    divergence: Literal["mse", "kl"] = "mse"
    """Of the mentors' terms: squared error, or KL of spatial softmaxes (heatmap_terms.py)."""

    beta: float = 25.0
    """Divergence "kl": what heatmaps are multiplied by before the softmax."""

    tau: float = 1.5
    """How much a full gap adds to the temperature."""

    gate: Literal["hard", "soft", "off"] = "hard"
    """The knowledge filter. "soft" lets every mentor teach by its weight."""

    gate_margin: float = 0.0
    """Hard gate: active iff `a_m - a_s >= gate_margin` (and `a_m > 0`)."""

    mentor_weight: Literal["confidence", "one"] = "confidence"
    """Factor of each mentor's term: `w_m` or 1."""

    task_weight: Literal["confidence", "one"] = "one"
    """Factor of the task term: 1, or `a_s`, with which a blank student learns nothing from labels
    (see above); per joint or per sample, as `granularity` says."""

    temperature: Literal["gap", "fixed"] = "gap"
    """`1 + tau * gap`, or `fixed_temperature` for everyone (tau is then unused)."""

    fixed_temperature: float = 1.0
    """The temperature of `temperature="fixed"`."""

    gap: Literal["ratio", "difference"] = "ratio"
    """`1 - a_s / a_m` or `a_m - a_s`, both 0 for a mentor below the student."""

    t_max: float | None = None
    """Upper bound of any temperature."""

    kd_scale: Literal["sum", "per-active-weight"] | float = "sum"
    """Factor of a row's mentor terms: none; one over its active mentors' total weight; a number."""

    def __post_init__(self) -> None:
        check_choice("granularity", self.granularity, ("joint", "sample"))
        check_choice("confidence", self.confidence, ("peak", "oks"))
        check_number("min_peak", self.min_peak)
        check_divergence(self.divergence, self.beta)
        check_number("tau", self.tau)
        check_choice("mentor_weight", self.mentor_weight, ("confidence", "one"))
        check_gate(self.gate, self.gate_margin, self.mentor_weight)
        check_choice("task_weight", self.task_weight, ("confidence", "one"))
        check_temperature(self.temperature, self.fixed_temperature, self.t_max)
        check_choice("gap", self.gap, ("ratio", "difference"))
        check_kd_scale(self.kd_scale)
        if self.sigmas is not None:
            object.__setattr__(self, "sigmas", _checked_sigmas(self.sigmas))
            if self.confidence != "oks":
                raise ValueError(
                    f'sigmas needs confidence="oks", got sigmas={self.sigmas!r} '
                    f"with confidence={self.confidence!r}"
                )

    @property
    def filters(self) -> bool:
        """Whether mentors are shut off at all; read by `has_filter`."""
        return self.gate == "hard"

    @property
    def needs(self) -> Needs:
        """Mentors, in any order."""
        return Needs()

    def __call__(
        self,
        student_heatmaps_BJHW: Tensor,
        joints_BJ3: Tensor,
        mentor_heatmaps_BMJHW: Tensor | None,
        *,
        scale_B: Tensor | None = None,
    ) -> LossOutput:
        """The loss of one batch; ValueError for shapes, devices and dtypes that do not fit.

        `joints_BJ3`: x, y in view pixels (4 of them a heatmap pixel) and a weight, 0 or 1.
        `scale_B`: each person's squared scale (area) in view pixels, for confidence "oks" alone;
        None: 0.34 of the view's area (heatmap_confidence.py), the same for all samples. It moves
        weights and temperatures; whose point is nearer does not depend on it.
        """
        given = heatmap_inputs(
            "classroom", student_heatmaps_BJHW, joints_BJ3, mentor_heatmaps_BMJHW
        )
        B, M, J = given.mentors_BMJHW.shape[:3]
        maps = maps_seen_by_terms(given.student_BJHW, M)

        # Joints that are not visible: a tie without a gap, before they are masked out.
        loss_BKJ = self._confidence_losses(given, scale_B)
        hidden_B1J = ~given.visible_BJ.unsqueeze(1)
        loss_BKJ = loss_BKJ.masked_fill(hidden_B1J, 0.0)
        loss_RK = (
            to_rows(loss_BKJ)
            if self.granularity == "joint"
            else mean_over_joints(loss_BKJ, given.visible_BJ)
        )
        # A student that sees nothing is below all who see anything, and not 0 / 0 beside others.
        student_loss_R1 = loss_RK[:, :1].clamp(max=torch.finfo(loss_RK.dtype).max)
        confidences = compare_confidences(student_loss_R1, loss_RK[:, 1:])
        active_RM = active_mentors(confidences, gate=self.gate, margin=self.gate_margin)
        if self.gate == "hard":
            active_RM = active_RM & (confidences.mentor_loss_RM < torch.inf)
        gap_RM = performance_gap(confidences, gap=self.gap)
        temperature_RM = chosen_temperature(
            gap_RM,
            temperature=self.temperature,
            tau=self.tau,
            fixed_temperature=self.fixed_temperature,
            t_max=self.t_max,
        )
        # arXiv 2409.20237, the weights: w_m = M * a_m / (a_s + sum_m a_m).
        log_weight_RM, weight_RM = confidences.log_share_RM, confidences.log_share_RM.exp() * M
        if self.mentor_weight == "one":
            log_weight_RM, weight_RM = torch.zeros_like(weight_RM), torch.ones_like(weight_RM)
        factor_RM = scaled_weight(log_weight_RM, weight_RM, active_RM, kd_scale=self.kd_scale)
        active_BMJ, weight_BMJ, gap_BMJ, temperature_BMJ, factor_BMJ = (
            from_rows(x_RM, B, J)
            for x_RM in (active_RM, weight_RM, gap_RM, temperature_RM, factor_RM)
        )

        task_BJ = squared_error(maps.task_BJHW, given.label_BJHW)
        if self.task_weight == "confidence":
            task_BJ = task_BJ * from_rows(confidences.student_R1, B, J).squeeze(1)
        term_BMJ = factor_BMJ * mentor_divergence(
            given.mentors_BMJHW,
            maps.mentors_BMJHW,
            temperature_BMJ,
            divergence=self.divergence,
            beta=self.beta,
        )
        confidence_BKJ = torch.exp(-loss_BKJ).masked_fill(hidden_B1J, 0.0)
        decisions = JointDecisions(
            visible_BJ=given.visible_BJ,
            student_BJ=confidence_BKJ[:, 0],
            mentor_BMJ=confidence_BKJ[:, 1:],
            active_BMJ=active_BMJ & ~hidden_B1J,
            weight_BMJ=weight_BMJ.masked_fill(hidden_B1J, 0.0),
            gap_BMJ=gap_BMJ.masked_fill(hidden_B1J, 0.0),
            temperature_BMJ=temperature_BMJ.masked_fill(hidden_B1J, 1.0),
            term_BMJ=term_BMJ.detach().masked_fill(hidden_B1J, 0.0) / J,
        )
        return sum_of_terms(
            maps.seen,
            over_joints(task_BJ, given.visible_BJ),
            over_joints(term_BMJ, given.visible_BJ),
            **joint_means(decisions),
            joints=decisions,
        )

    def _confidence_losses(self, given: HeatmapInputs, scale_B: Tensor | None) -> Tensor:
        """(B, 1 + M, J): -ln of the confidences, the student's first."""
        measure: Callable[[Tensor], Tensor]
        if self.confidence == "peak":
            measure = partial(peak_loss, label_BJHW=given.label_BJHW, min_peak=self.min_peak)
        else:
            measure = partial(
                oks_loss,
                joints_BJ3=given.joints_BJ3,
                sigmas=self._sigmas_of(given),
                scale_B=None if scale_B is None else scale_input("classroom", scale_B, given),
                min_peak=self.min_peak,
            )
        student_B1JHW = given.student_BJHW.detach().unsqueeze(1)
        return torch.cat([measure(student_B1JHW), measure(given.mentors_BMJHW)], dim=1)

    def _sigmas_of(self, given: HeatmapInputs) -> tuple[float, ...]:
        J = given.visible_BJ.shape[1]
        if self.sigmas is None or len(self.sigmas) != J:
            raise ValueError(
                f'classroom: confidence="oks" needs sigmas, one for each of the {J} joints; got '
                f"{'none' if self.sigmas is None else len(self.sigmas)}"
            )
        return self.sigmas


def _checked_sigmas(value: object) -> tuple[float, ...]:
    """As a tuple, from any sequence of numbers: TOML has lists only."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ValueError(f"sigmas must be a number > 0 for each joint, got {value!r}")
    for sigma in value:
        check_number("each of sigmas", sigma, above=True)
    return tuple(float(sigma) for sigma in value)
