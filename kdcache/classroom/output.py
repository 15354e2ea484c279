"""What every mentor loss looks like from outside: how it is called, and what it returns.

Three scalars to train on and log, and tensors to look into.

The scalars carry the gradient. The (B, M) tensors are detached; they say, per sample and mentor,
what the knowledge filter and the mentoring decided, and cost nothing unless read. Reading a value
(`.item()`) waits for the device: sum over an epoch first.

Shapes: B batch, M mentors, C classes, K = 1 + M terms (the labels' first, then each mentor's); of
heatmaps J joints.

    out = loss(student_logits_BC, labels_B, mentor_logits_BMC)
    out.total.backward()
    share_active_M = out.active_BM.float().mean(0)
    pull_BM = out.seen_BKC.grad[:, 1:].norm(dim=2)      # how hard each mentor pulls each sample
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from kdcache.classroom.needs import Needs


@dataclass(frozen=True, kw_only=True, eq=False)
class JointDecisions:
    """What a classroom on heatmaps decided, joint by joint; all detached.

    Invisible joints have confidence, weight, gap and term 0, temperature 1, and no active mentor. A
    loss that decides sample by sample has the same decision for all of a sample's visible joints.
    """

    visible_BJ: Tensor
    """(B, J) bool: labelled, and inside the view."""

    student_BJ: Tensor
    """(B, J): the student's confidence, of the joint itself."""

    mentor_BMJ: Tensor
    """(B, M, J): each mentor's."""

    active_BMJ: Tensor
    """(B, M, J) bool: mentor kept by the knowledge filter."""

    weight_BMJ: Tensor
    """(B, M, J): the mentor's weight, before the knowledge filter and `kd_scale`."""

    gap_BMJ: Tensor
    """(B, M, J)."""

    temperature_BMJ: Tensor
    """(B, M, J)."""

    term_BMJ: Tensor
    """(B, M, J): what it adds to the sample's loss, with every factor; summed over J, `term_BM`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LossOutput:
    """The scalars and tensors of one batch, in the dtype the loss computed in.

    That is float32 for float16, bfloat16 and float32 student logits, float64 for float64.
    """

    total: Tensor
    """(), the number to minimise: `task + mentor`."""

    task: Tensor
    """(), the labels' part, with its factor: `mean_i(a_s * CE)` for ClassroomKD."""

    mentor: Tensor
    """(), the mentors' part, with every weight and scale; zero if no mentor is active."""

    active_BM: Tensor
    """(B, M) bool: mentor kept by the knowledge filter for this sample. A loss that decides joint
    by joint: of its dtype, the share of the sample's visible joints that the mentor taught; weight,
    gap and temperature are then means over the joints taught (0, 0 and 1 where there are none)."""

    weight_BM: Tensor
    """(B, M): the mentor's weight, **before** the knowledge filter and `kd_scale`. A weight that
    acted is `weight_BM * active_BM`; unfiltered ones show how near an inactive mentor came."""

    gap_BM: Tensor
    """(B, M): performance difference between mentor and student, 0 where it is not computed."""

    temperature_BM: Tensor
    """(B, M): the temperature both sides are softened with."""

    term_BM: Tensor
    """(B, M): what each mentor's term adds to each sample's loss, with every factor;
    `term_BM.sum(1).mean()` is `mentor`."""

    seen_BKC: Tensor
    """(B, 1 + M, C): the student's logits as the task term (slot 0) and each mentor's term (slot
    1 + m) saw them, in the dtype the loss computed in. After `total.backward()` its `grad[:, k]`
    is the gradient of that term alone at the logits (of its mean over the batch, so with the 1/B
    in it). Without a gradient where the student's logits have none. Heatmaps are one long row of
    J * H * W."""

    joints: JointDecisions | None = None
    """What a loss on heatmaps decided about each joint."""


class MentorLoss(Protocol):
    """Any of this package's losses: labels and mentors in, a `LossOutput` out."""

    @property
    def needs(self) -> Needs:
        """What it must be called with."""
        ...

    def __call__(
        self,
        student_logits_BC: Tensor,
        labels_B: Tensor,
        mentor_logits_BMC: Tensor | None,
        /,
        *args: Any,
        **given: Any,
    ) -> LossOutput:
        """The loss of one batch; None for the mentors only where `needs.least_mentors` is 0.

        `given`: exactly the keyword tensors that `needs` asks for, `student_features_BF` and
        `mentor_features`; there are no further positional ones.
        """
        ...


@runtime_checkable
class ChangesByEpoch(Protocol):
    """A loss that changes over a run. A loop calls `set_epoch` where `isinstance(loss, ...)`."""

    def set_epoch(self, epoch: int) -> None:
        """Called at each epoch's start with its number from 0, when resuming in mid-epoch too."""
        ...


@runtime_checkable
class HasOwnRates(Protocol):
    """A loss that learns (a `torch.nn.Module`) at other rates than the student's."""

    def learning_rate_factors(self) -> Mapping[str, float]:
        """Parameter name -> factor of the run's base learning rate, in the epoch that is set.

        A parameter that is not named learns at the student's rate.
        """
        ...
