"""What must hold for any logits: the properties the losses' docstrings promise."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdcache.classroom import (
    AverageLoss,
    ClassroomLoss,
    CrossEntropyLoss,
    KDLoss,
    LossOutput,
    MentorLoss,
)
from tests.classroom.cases import Batch, batches, granularities, make_batch, quick, seeds

LOSSES: list[MentorLoss] = [
    ClassroomLoss(),
    ClassroomLoss(granularity="batch"),
    ClassroomLoss(granularity="batch", round_shares=2),
    ClassroomLoss(gate="soft", kd_scale="per-active-weight"),
    ClassroomLoss(gap="difference", gate_margin=0.05),
    ClassroomLoss(gate="off", mentor_weight="one", task_weight="one"),
    AverageLoss(),
    CrossEntropyLoss(),
]
losses = st.sampled_from(LOSSES)


def gradient(loss: MentorLoss, batch: Batch, part: str = "total") -> Tensor:
    student_logits_BC = batch.student_logits_BC.clone().requires_grad_()
    out = loss(student_logits_BC, batch.labels_B, batch.mentor_logits_BMC)
    (result,) = torch.autograd.grad(getattr(out, part), student_logits_BC)
    return result


def one_hot(batch: Batch) -> Tensor:
    C = batch.student_logits_BC.shape[1]
    return torch.nn.functional.one_hot(batch.labels_B, C).to(batch.student_logits_BC.dtype)


# --- the knowledge filter -------------------------------------------------------------------------


@quick
@given(batches(), granularities)
def test_no_active_mentor_leaves_only_the_task_term(batch: Batch, granularity: str) -> None:
    worse = batch._replace(
        mentor_logits_BMC=batch.student_logits_BC[:, None] * 0.0
        - 9.0 * one_hot(batch)[:, None].expand_as(batch.mentor_logits_BMC),
        student_logits_BC=batch.student_logits_BC + 30.0 * one_hot(batch),
    )
    loss = ClassroomLoss(granularity=granularity)  # type: ignore[arg-type]
    out = loss(*worse)
    assert not out.active_BM.any()
    assert out.mentor == 0
    assert out.total == out.task
    assert torch.equal(gradient(loss, worse), gradient(loss, worse, "task"))
    scaled = ClassroomLoss(granularity=granularity, kd_scale="per-active-weight")  # type: ignore[arg-type]
    assert scaled(*worse).mentor == 0


@quick
@given(batches(), granularities, st.sampled_from([1.0, 100.0, 1e4]))
def test_a_tie_is_active_without_a_gap(batch: Batch, granularity: str, scale: float) -> None:
    """At a scale of 100 and more the confidences underflow: 0 against 0 is still a tie."""
    student_logits_BC = (batch.student_logits_BC * scale).float()
    tie = student_logits_BC[:, None].expand_as(batch.mentor_logits_BMC).contiguous()
    for round_shares in (None, 2) if granularity == "batch" else (None,):
        loss = ClassroomLoss(granularity=granularity, round_shares=round_shares)  # type: ignore[arg-type]
        out = loss(student_logits_BC, batch.labels_B, tie)
        assert out.active_BM.all()
        assert (out.gap_BM == 0).all()
        assert (out.temperature_BM == 1).all()
        assert out.mentor == 0  # the mentors say what the student says


@quick
@given(batches(), st.floats(-0.5, 0.5))
def test_the_margin_is_a_difference_of_probabilities(batch: Batch, margin: float) -> None:
    out = ClassroomLoss(gate_margin=margin)(*batch)
    p_B = (batch.student_logits_BC.softmax(-1) * one_hot(batch)).sum(-1)
    p_BM = (batch.mentor_logits_BMC.softmax(-1) * one_hot(batch)[:, None]).sum(-1)
    excess_BM = p_BM - p_B[:, None] - margin
    sure = excess_BM.abs() > 1e-9
    assert torch.equal(out.active_BM[sure], (excess_BM >= 0)[sure])


def test_the_gate_decides_where_confidences_underflow() -> None:
    """p(true) is 0 in float32 for all three, yet one mentor is better and one worse."""
    student = torch.tensor([[0.0, 500.0]])
    mentors = torch.tensor([[[0.0, 499.0], [0.0, 501.0]]])
    out = ClassroomLoss()(student, torch.tensor([0]), mentors)
    assert out.active_BM.tolist() == [[True, False]]
    assert out.gap_BM[0].tolist() == pytest.approx([1 - math.exp(-1), 0.0], rel=1e-5)
    assert out.weight_BM.sum().item() == pytest.approx(2 * (1 - 0.2447285), rel=1e-5)


@quick
@given(batches(), granularities)
def test_weights_of_student_and_mentors_sum_to_their_number(batch: Batch, granularity: str) -> None:
    out = ClassroomLoss(granularity=granularity)(*batch)  # type: ignore[arg-type]
    M = out.weight_BM.shape[1]
    loss_B = torch.nn.functional.cross_entropy(
        batch.student_logits_BC, batch.labels_B, reduction="none"
    )
    # w_s, by w_m / w_s = a_m / a_s for the first mentor.
    loss_m_B = torch.nn.functional.cross_entropy(
        batch.mentor_logits_BMC[:, 0], batch.labels_B, reduction="none"
    )
    ratio_B = loss_m_B - loss_B
    ratio_B = ratio_B if granularity == "sample" else ratio_B.mean().expand_as(ratio_B)
    student_weight_B = out.weight_BM[:, 0] * ratio_B.exp()
    total_B = student_weight_B + out.weight_BM.sum(1)
    torch.testing.assert_close(total_B, torch.full_like(total_B, M))


# --- gradients ------------------------------------------------------------------------------------


@quick
@given(batches())
def test_the_task_term_has_the_gradient_of_one_minus_p_true(batch: Batch) -> None:
    student_logits_BC = batch.student_logits_BC.clone().requires_grad_()
    p_true_B = (student_logits_BC.softmax(-1) * one_hot(batch)).sum(-1)
    (expected,) = torch.autograd.grad((1 - p_true_B).mean(), student_logits_BC)
    torch.testing.assert_close(gradient(ClassroomLoss(), batch, "task"), expected)


def test_an_unsupervised_student_hardly_moves() -> None:
    """At the start p(true) = 1/C, and so is the task gradient over that of CE."""
    batch = make_batch(B=8, C=100, scale=0.0)
    slow = gradient(ClassroomLoss(), batch, "task").norm()
    full = gradient(CrossEntropyLoss(), batch).norm()
    assert (slow / full).item() == pytest.approx(0.01)


@quick
@given(batches(), st.floats(0.0, 12.0))
def test_a_mentor_pull_is_bounded(batch: Batch, tau: float) -> None:
    batch = Batch(*(t[:1] for t in batch))
    batch = batch._replace(mentor_logits_BMC=batch.mentor_logits_BMC[:, :1] * 5)
    loss = ClassroomLoss(tau=tau, gate="off")
    out = loss(*batch)
    bound = math.sqrt(2) * out.temperature_BM * out.weight_BM
    assert gradient(loss, batch, "mentor").norm() <= bound.item() * (1 + 1e-9)


@pytest.mark.parametrize("loss", [*LOSSES, KDLoss()], ids=repr)
def test_nothing_flows_to_the_mentors(loss: MentorLoss) -> None:
    batch = make_batch(M=1)
    student = batch.student_logits_BC.requires_grad_()
    mentors = batch.mentor_logits_BMC.requires_grad_()
    out = loss(student, batch.labels_B, mentors)
    torch.autograd.backward(out.total)
    assert mentors.grad is None
    assert student.grad is not None
    for tensor in (out.active_BM, out.weight_BM, out.gap_BM, out.temperature_BM):
        assert not tensor.requires_grad
        assert tensor.shape == (5, 1)


# --- robustness -----------------------------------------------------------------------------------


@quick
@given(batches(), losses, st.sampled_from([100.0, 1e4]))
def test_huge_logits_stay_finite(batch: Batch, loss: MentorLoss, scale: float) -> None:
    huge = Batch(
        (batch.student_logits_BC * scale).float(),
        batch.labels_B,
        (batch.mentor_logits_BMC * scale).float(),
    )
    out = loss(*huge)
    for tensor in (out.total, out.weight_BM, out.gap_BM, out.temperature_BM):
        assert tensor.isfinite().all()
    assert gradient(loss, huge).isfinite().all()


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_class_that_a_mentor_excludes(loss: MentorLoss) -> None:
    batch = make_batch(dtype=torch.float32)
    batch.mentor_logits_BMC[0, 0, batch.labels_B[0]] = -math.inf
    batch.mentor_logits_BMC[1, :, (batch.labels_B[1] + 1) % 4] = -math.inf
    assert loss(*batch).total.isfinite()
    assert gradient(loss, batch).isfinite().all()


@pytest.mark.parametrize("loss", LOSSES[:-1], ids=repr)
def test_a_mentor_that_is_not_a_number_is_not_hidden(loss: MentorLoss) -> None:
    batch = make_batch(dtype=torch.float32)
    batch.mentor_logits_BMC[0, 0, 0] = math.nan
    assert loss(*batch).total.isnan()


@quick
@given(batches(), losses, seeds)
def test_constants_of_a_row_change_nothing(batch: Batch, loss: MentorLoss, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    moved = Batch(
        batch.student_logits_BC + torch.randn(len(batch.labels_B), 1, generator=generator) * 5,
        batch.labels_B,
        batch.mentor_logits_BMC
        + torch.randn(*batch.mentor_logits_BMC.shape[:2], 1, generator=generator) * 5,
    )
    assert_same(loss(*moved), loss(*batch))
    torch.testing.assert_close(gradient(loss, moved), gradient(loss, batch))
    as_log_probabilities = batch._replace(
        mentor_logits_BMC=batch.mentor_logits_BMC.log_softmax(dim=-1)
    )
    assert_same(loss(*as_log_probabilities), loss(*batch))


@quick
@given(batches(), losses, seeds)
def test_the_order_of_mentors_is_irrelevant(batch: Batch, loss: MentorLoss, seed: int) -> None:
    M = batch.mentor_logits_BMC.shape[1]
    order = torch.randperm(M, generator=torch.Generator().manual_seed(seed))
    shuffled = batch._replace(mentor_logits_BMC=batch.mentor_logits_BMC[:, order])
    one, other = loss(*batch), loss(*shuffled)
    torch.testing.assert_close(other.total, one.total)
    assert torch.equal(other.active_BM, one.active_BM[:, order])
    torch.testing.assert_close(other.weight_BM, one.weight_BM[:, order])
    torch.testing.assert_close(other.temperature_BM, one.temperature_BM[:, order])


def assert_same(one: LossOutput, other: LossOutput) -> None:
    for name in ("total", "task", "mentor", "weight_BM", "gap_BM", "temperature_BM"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name))
