"""AMTML-KD: the mentors' weights are learned, and another for every sample (method "amtml").

Liu et al., "Adaptive Multi-Teacher Multi-level Knowledge Distillation", Neurocomputing 2020
(https://arxiv.org/abs/2103.04062), and the numerics of the authors' notebooks. With `beta_i` the
student's pooled features, `s = softmax(z_s / tau)`, tau = 5:

    mu_i = softmax_m((beta_i * theta_m) W)                       amtml_weights.py
    q_i  = sum_m mu_im * softmax(z_m / tau)
    L    = kd_weight * tau^2 * mean_i KL(q_i || s_i) + ce_weight * mean_i CE(z_s, y)
           + rkd_distance_weight * distance(log s, q) + rkd_angle_weight * angle(log s, q)   rkd.py
           + 0.1 * (||W||^2 + sum_m ||theta_m||^2)               `regularise`, phase 1
           + hint_weight * mean_i sum_m hint_im                  hints.py; needs mentor features

`q` is not detached: KL trains theta and W and, through beta, the student. In phase 1 (80 of the
authors' 280 epochs) theta and W learn beside the student; in phase 2 they stay as they are, while
mu still follows the student's features and their gradient. The student goes on from phase 1 with
its weights and momentum (amtml_phases.py).

Switches are `Amtml`; `for_shapes` makes the loss, a module that learns. What each mentor's term is
(`LossOutput.term_BM`, `seen_BKC`): its exact part of KL(q || s), which is linear in q; its own
hint; its own ||theta_m||^2 and 1/M of ||W||^2; and of the relational terms, which no single mentor
has, the share mu_im, as q itself is made of the mentors in these shares. A hint has no gradient at
the logits.

Shapes: B batch, M mentors, C classes, F student features, G all mentors' features together. Dtypes:
any floating point in; float32 inside and out (float64 for float64 logits). No host-device
synchronisation, no loop over samples, mentors or triples.

    loss = Amtml().for_shapes(
        LossShapes(num_mentors=4, num_classes=100, student_features=64), seed=0
    )
    loss.set_epoch(epoch)
    out = loss(student_logits_BC, labels_B, mentor_logits_BMC, student_features_BF=features_BF)
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from kdcache import philox
from kdcache.classroom.amtml_phases import Phases
from kdcache.classroom.amtml_weights import (
    instance_weights,
    integrated_target,
    mixture_kl,
    softened,
    squared_size,
)
from kdcache.classroom.confidence import label_loss
from kdcache.classroom.hints import hint_losses
from kdcache.classroom.inputs import feature_inputs, mentor_inputs, student_inputs
from kdcache.classroom.needs import Needs
from kdcache.classroom.output import LossOutput
from kdcache.classroom.rkd import relational_loss
from kdcache.classroom.shapes import LossShapes
from kdcache.classroom.switches import check_bool, check_choice, check_number, check_whole
from kdcache.classroom.terms import Seen, seen_by_terms, sum_of_terms

_REGULARISER = 0.1  # the authors' factor
_ADAPTER_BOUND = 0.005  # the authors' U(-0.005, 0.005)


@dataclass(frozen=True, kw_only=True)
class Amtml:
    """The switches; the defaults are the authors'."""

    temperature: float = 5.0
    """tau: softens both sides."""

    ce_weight: float = 0.3
    """Factor of the task term."""

    kd_weight: float = 1.4
    """Factor of `tau^2 * KL`; the authors' 0.7 * 2."""

    reduction: Literal["batchmean", "authors"] = "batchmean"
    """"authors": KL is divided by B * C, as their framework's default did, not by B."""

    rkd_distance_weight: float = 1.0
    """Factor of the relational distance term."""

    rkd_angle_weight: float = 1.0
    """Factor of the relational angle term; 0 spares its B^3 numbers."""

    regularise: bool = False
    """Adds `0.1 * (||W||^2 + sum_m ||theta_m||^2)` in phase 1, as one of the authors' three
    variants does. At their learning rate of 0.1 it outweighs what theta and W learn: within an
    epoch they are near 0, and every mentor weighs the same."""

    phase1_epochs: int | None = None
    """Epochs in which theta and W learn. None: 80 of 280, of however many the run has."""

    hint_weight: float = 0.0
    """Factor of the hints; above 0 the targets must hold the mentors' features."""

    train_adapter: bool = True
    """Whether the hints' adapter learns, at the student's rate. The authors' never did."""

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, above=True)
        check_number("ce_weight", self.ce_weight)
        check_number("kd_weight", self.kd_weight)
        check_choice("reduction", self.reduction, ("batchmean", "authors"))
        check_number("rkd_distance_weight", self.rkd_distance_weight)
        check_number("rkd_angle_weight", self.rkd_angle_weight)
        check_bool("regularise", self.regularise)
        check_number("hint_weight", self.hint_weight)
        check_bool("train_adapter", self.train_adapter)
        if not self.train_adapter and self.hint_weight == 0:
            raise ValueError("train_adapter=False needs hint_weight above 0, got hint_weight=0")
        if self.phase1_epochs is not None:
            check_whole("phase1_epochs", self.phase1_epochs)

    @property
    def needs(self) -> Needs:
        """The student's features; the mentors' too where hints are asked for."""
        return Needs(student_features=True, mentor_features=self.hint_weight > 0)

    def phases(self, epochs: int | None) -> Phases:
        """Of a run of so many epochs."""
        if self.phase1_epochs is None:
            return Phases.of_run(epochs)
        return Phases(phase1_epochs=self.phase1_epochs)

    def for_shapes(self, shapes: LossShapes, seed: int) -> "AmtmlLoss":
        """The loss for these sizes, its weights drawn from `seed` alone."""
        return AmtmlLoss(self, shapes, seed)


class AmtmlLoss(nn.Module):
    """The loss with its learned weights: `theta_MF`, `W_F1`, and `adapter_GF` where it hints.

    ValueError for hints without the mentors' widths, and for a seed outside [0, 2^64).
    """

    def __init__(self, switches: Amtml, shapes: LossShapes, seed: int) -> None:
        super().__init__()
        self.switches, self.shapes = switches, shapes
        M, F = shapes.num_mentors, shapes.student_features
        generator = torch.Generator().manual_seed(
            int(philox.words(seed, philox.Purpose.LOSS_WEIGHTS, 0)[0, 0])
        )
        # W first: it does not depend on M, and neither do the first mentors' rows.
        self.W_F1 = nn.Parameter(torch.randn(F, 1, generator=generator))
        self.theta_MF = nn.Parameter(torch.randn(M, F, generator=generator))
        self._make_adapter(generator)
        self.phases = switches.phases(shapes.epochs)
        self.set_epoch(0)

    def _make_adapter(self, generator: torch.Generator) -> None:
        widths = self.shapes.mentor_features
        if self.switches.hint_weight == 0:
            return
        if widths is None or len(widths) != self.shapes.num_mentors:
            raise ValueError(
                f"hint_weight={self.switches.hint_weight:g} needs the features of "
                f"{self.shapes.num_mentors} mentors; the targets hold "
                f"{'none' if widths is None else f'those of {len(widths)}'}"
            )
        width_M = torch.tensor(widths)
        self.register_buffer("mentor_of_G", torch.arange(len(widths)).repeat_interleave(width_M))
        self.register_buffer("width_M", width_M)
        uniform_GF = torch.rand(sum(widths), self.shapes.student_features, generator=generator)
        self.adapter_GF = nn.Parameter(
            _ADAPTER_BOUND * (2 * uniform_GF - 1), requires_grad=self.switches.train_adapter
        )

    mentor_of_G: Tensor
    width_M: Tensor

    @property
    def needs(self) -> Needs:
        """As the switches'."""
        return self.switches.needs

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch (from 0), which decides the phase.

        In phase 2 theta and W want no gradient, so an optimiser whose gradients are set to None
        before each backward pass touches neither them nor their momentum.
        """
        self._epoch = epoch
        for weights in (self.theta_MF, self.W_F1):
            weights.requires_grad_(self.phases.phase(epoch) == 1)

    def learning_rate_factors(self) -> Mapping[str, float]:
        """Of theta and W in this epoch, of the run's base rate: x0.1 at 40 and 70 of phase 1's 80.

        The adapter is not named: it stands before the student's own layers and learns as they do.
        """
        return dict.fromkeys(("theta_MF", "W_F1"), self.phases.rate_factor(self._epoch))

    def forward(
        self,
        student_logits_BC: Tensor,
        labels_B: Tensor,
        mentor_logits_BMC: Tensor | None,
        *,
        student_features_BF: Tensor,
        mentor_features: Sequence[Tensor] | None = None,
    ) -> LossOutput:
        """The loss of one batch; ValueError for shapes, devices and dtypes that do not fit."""
        student_logits_BC, labels_B = student_inputs("amtml", student_logits_BC, labels_B)
        mentor_logits_BMC = mentor_inputs("amtml", student_logits_BC, mentor_logits_BMC)
        M, F = self.theta_MF.shape
        if mentor_logits_BMC.shape[1] != M:
            raise ValueError(
                f"amtml: the weights are learned for {M} mentors, got "
                f"{mentor_logits_BMC.shape[1]}; make the loss for as many as there are"
            )
        (student_features_BF,) = feature_inputs(
            "amtml", "student features", student_logits_BC, [student_features_BF], [F]
        )
        hints_BG = self._mentor_features(student_logits_BC, mentor_features)
        with _full_precision(student_logits_BC.device):
            return self._loss(
                student_logits_BC, labels_B, mentor_logits_BMC, student_features_BF, hints_BG
            )

    def _mentor_features(
        self, student_logits_BC: Tensor, mentor_features: Sequence[Tensor] | None
    ) -> Tensor | None:
        if not self.needs.mentor_features:
            return None
        assert self.shapes.mentor_features is not None
        checked = feature_inputs(
            "amtml",
            "mentor features",
            student_logits_BC,
            mentor_features,
            self.shapes.mentor_features,
        )
        return torch.cat(checked, dim=1)

    def _loss(
        self,
        student_logits_BC: Tensor,
        labels_B: Tensor,
        mentor_logits_BMC: Tensor,
        student_features_BF: Tensor,
        mentor_features_BG: Tensor | None,
    ) -> LossOutput:
        switches, dtype = self.switches, student_logits_BC.dtype
        theta_MF, W_F1 = self.theta_MF.to(dtype), self.W_F1.to(dtype)
        seen = seen_by_terms(student_logits_BC, len(theta_MF))
        mu_BM = instance_weights(student_features_BF, theta_MF, W_F1)
        p_BMC = softened(mentor_logits_BMC, switches.temperature)

        # arXiv 2103.04062, section 3.2: tau^2 KL(q || s); the authors' code divides by B * C.
        log_s_BMC = torch.log_softmax(seen.mentors_BMC / switches.temperature, dim=-1)
        scale = switches.kd_weight * switches.temperature**2
        if switches.reduction == "authors":
            scale /= student_logits_BC.shape[1]
        term_BM = scale * mixture_kl(mu_BM, p_BMC, log_s_BMC)
        if switches.rkd_distance_weight or switches.rkd_angle_weight:
            mu_BM_fixed = mu_BM.detach()
            term_BM = term_BM + mu_BM_fixed * self._relational(seen, mu_BM_fixed, p_BMC)
        if switches.regularise and self.phases.phase(self._epoch) == 1:
            term_BM = term_BM + _REGULARISER * squared_size(theta_MF, W_F1)
        if mentor_features_BG is not None:
            term_BM = term_BM + switches.hint_weight * hint_losses(
                student_features_BF,
                mentor_features_BG,
                self.adapter_GF.to(dtype),
                self.mentor_of_G,
                self.width_M,
            )
        return sum_of_terms(
            seen,
            switches.ce_weight * label_loss(seen.task_BC, labels_B),
            term_BM,
            weight_BM=mu_BM.detach(),
            temperature_BM=student_logits_BC.new_full((1, 1), switches.temperature),
        )

    def _relational(self, seen: Seen, mu_BM: Tensor, p_BMC: Tensor) -> Tensor:
        # The value is the student's logits to the bit, for the differences are 0; their gradient
        # is dealt out to the mentors' slots in the shares that q is made of.
        apart_BMC = seen.mentors_BMC - seen.mentors_BMC.detach()
        logits_BC = seen.seen_BKC[:, 0].detach() + (mu_BM.unsqueeze(2) * apart_BMC).sum(dim=1)
        return relational_loss(
            torch.log_softmax(logits_BC / self.switches.temperature, dim=-1),
            integrated_target(mu_BM, p_BMC),
            distance_weight=self.switches.rkd_distance_weight,
            angle_weight=self.switches.rkd_angle_weight,
        )


def _full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast would round the products of matrices in here."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
