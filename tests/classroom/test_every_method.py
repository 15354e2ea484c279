"""What holds for every method: terms, precision, devices, robustness, invariances, needs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdcache.classroom import METHODS, ClassroomLoss, LossOutput, MentorLoss, build_loss
from tests.classroom.cases import Batch, batches, make_batch, quick, seeds

few = settings(quick, max_examples=8)  # of each of some twenty losses

# (method, switches); a loss that learns has tests of its own.
CASES: dict[str, MentorLoss] = {
    method: build_loss(method)
    for method, switches in METHODS.items()
    if not hasattr(switches, "for_shapes")
} | {
    "batch": ClassroomLoss(granularity="batch"),
    "rounded": ClassroomLoss(granularity="batch", round_shares=2),
    "normalised": ClassroomLoss(gate="soft", kd_scale="per-active-weight"),
    "rank": ClassroomLoss(weighting="rank"),
    "rank, teachers": ClassroomLoss(
        weighting="rank", teachers=(1,), kd_scale="per-active-weight", gate="off"
    ),
    "rank, batch": ClassroomLoss(weighting="rank", granularity="batch"),
    "standardised": ClassroomLoss(standardise=True),
    "kd, standardised": build_loss("kd", standardise=True),
    "average, standardised": build_loss("average", standardise=True),
    "divided": build_loss("ca-mkd", divide_by_k=True),
}
every_case = pytest.mark.parametrize("name", CASES)


def fitting(name: str, batch: Batch) -> tuple[MentorLoss, Batch]:
    """The loss, and the batch with as many of its mentors as it can do with."""
    loss = CASES[name]
    most = loss.needs.most_mentors
    return loss, batch._replace(mentor_logits_BMC=batch.mentor_logits_BMC[:, :most])


def gradient(loss: MentorLoss, batch: Batch) -> Tensor:
    student = batch.student_logits_BC.clone().requires_grad_()
    (result,) = torch.autograd.grad(
        loss(student, batch.labels_B, batch.mentor_logits_BMC).total, student
    )
    return result


# --- terms ----------------------------------------------------------------------------------------


@every_case
@few
@given(batches(2))
def test_terms_add_up(name: str, batch: Batch) -> None:
    loss, batch = fitting(name, batch)
    out = loss(*batch)
    B, M, C = batch.mentor_logits_BMC.shape
    assert out.term_BM.shape == (B, M)
    assert out.seen_BKC.shape == (B, 1 + M, C)
    assert not out.term_BM.requires_grad
    torch.testing.assert_close(out.term_BM.sum(1).mean(), out.mentor)
    torch.testing.assert_close(out.task + out.mentor, out.total)


@every_case
def test_slots_keep_the_terms_apart(name: str) -> None:
    """One backward pass of the total against passes of its parts. (test_reference.py and
    test_baselines.py hold each mentor's slot to a finite difference of its term alone.)"""
    loss, batch = fitting(name, make_batch(seed=7, B=4, M=3))
    student = batch.student_logits_BC.clone().requires_grad_()
    out = loss(student, batch.labels_B, batch.mentor_logits_BMC)
    torch.autograd.backward(out.total)
    kept_BKC = out.seen_BKC.grad
    assert kept_BKC is not None
    assert student.grad is not None
    torch.testing.assert_close(kept_BKC.sum(1), student.grad)
    task = loss(student, batch.labels_B, batch.mentor_logits_BMC).task
    (task_BC,) = torch.autograd.grad(task, student)
    torch.testing.assert_close(kept_BKC[:, 0], task_BC)


@every_case
def test_without_a_gradient_nothing_is_kept(name: str) -> None:
    loss, batch = fitting(name, make_batch())
    out = loss(*batch)
    assert not out.seen_BKC.requires_grad
    assert not out.total.requires_grad


# --- precision and devices ------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_half_precision_inputs_are_computed_in_float32(
    name: str, dtype: torch.dtype, scale: float
) -> None:
    """What half precision costs is the rounding of the inputs, and nothing after it."""
    loss, half = fitting(name, make_batch(3, B=16, M=3, C=10, dtype=dtype, scale=scale))
    student = half.student_logits_BC.requires_grad_()
    out = loss(student, half.labels_B, half.mentor_logits_BMC)
    rounded = Batch(student.detach().float(), half.labels_B, half.mentor_logits_BMC.float())
    assert torch.equal(out.total, loss(*rounded).total)
    assert out.total.isfinite()
    for tensor in (out.weight_BM, out.temperature_BM, out.term_BM, out.seen_BKC):
        assert tensor.dtype == torch.float32
    torch.autograd.backward(out.total)
    assert student.grad is not None
    assert student.grad.isfinite().all()


@every_case
def test_float64_and_autocast(name: str) -> None:
    loss, batch = fitting(name, make_batch())
    assert loss(*batch).total.dtype == torch.float64
    _, single = fitting(name, make_batch(dtype=torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = loss(*single)
    assert out.total.dtype == torch.float32
    assert torch.equal(out.total, loss(*single).total)


@every_case
def test_no_loss_waits_for_the_device(name: str) -> None:
    """Meta tensors have no values: `.item()`, `bool(tensor)`, `nonzero` and the like all raise."""
    student = torch.empty(6, 10, device="meta", requires_grad=True)
    labels = torch.empty(6, dtype=torch.int64, device="meta")
    loss, batch = fitting(name, Batch(student, labels, torch.empty(6, 3, 10, device="meta")))
    out = loss(*batch)
    torch.autograd.backward(out.total)
    assert out.total.shape == ()
    assert out.active_BM.shape == batch.mentor_logits_BMC.shape[:2]


# --- robustness -----------------------------------------------------------------------------------


@every_case
@few
@given(batches(2), st.sampled_from([0.0, 1e-6, 100.0, 1e4]))
def test_huge_and_vanishing_logits_stay_finite(name: str, batch: Batch, scale: float) -> None:
    loss, huge = fitting(
        name,
        Batch(
            (batch.student_logits_BC * scale).float(),
            batch.labels_B,
            (batch.mentor_logits_BMC * scale).float(),
        ),
    )
    out = loss(*huge)
    for tensor in (out.total, out.weight_BM, out.gap_BM, out.temperature_BM, out.term_BM):
        assert tensor.isfinite().all()
    assert gradient(loss, huge).isfinite().all()


@every_case
def test_a_student_that_says_nothing_yet_is_not_thrown(name: str) -> None:
    """A head that begins at zero: all rows equal, where a correlation has no slope."""
    loss, batch = fitting(name, make_batch(dtype=torch.float32))
    silent = Batch(
        torch.zeros_like(batch.student_logits_BC), batch.labels_B, batch.mentor_logits_BMC
    )
    assert gradient(loss, silent).norm() < 100


@every_case
def test_classes_that_mentors_exclude(name: str) -> None:
    loss, batch = fitting(name, make_batch(dtype=torch.float32))
    mentors = batch.mentor_logits_BMC.clone()
    mentors[0, 0, batch.labels_B[0]] = -math.inf
    mentors[1, :, (batch.labels_B[1] + 1) % 4] = -math.inf
    mentors[2, :, batch.labels_B[2]] = -math.inf
    mentors[3] = -math.inf
    mentors[3, :, batch.labels_B[3]] = 0.0  # certain, and right
    batch = batch._replace(mentor_logits_BMC=mentors)
    out = loss(*batch)
    for tensor in (out.total, out.weight_BM, out.term_BM):
        assert tensor.isfinite().all()
    assert gradient(loss, batch).isfinite().all()


@every_case
def test_a_mentor_that_is_not_a_number_is_not_hidden(name: str) -> None:
    loss, batch = fitting(name, make_batch(dtype=torch.float32))
    batch.mentor_logits_BMC[0, 0, 0] = math.nan
    assert loss(*batch).total.isnan() == (name != "ce")


@every_case
def test_nothing_flows_to_the_mentors(name: str) -> None:
    loss, batch = fitting(name, make_batch())
    mentors = batch.mentor_logits_BMC.clone().requires_grad_()
    out = loss(batch.student_logits_BC.requires_grad_(), batch.labels_B, mentors)
    torch.autograd.backward(out.total)
    assert mentors.grad is None
    for tensor in (out.active_BM, out.weight_BM, out.gap_BM, out.temperature_BM):
        assert not tensor.requires_grad
        assert tensor.shape == mentors.shape[:2]


# --- invariances ----------------------------------------------------------------------------------


@every_case
@few
@given(batches(2), seeds)
def test_constants_of_a_row_change_nothing(name: str, batch: Batch, seed: int) -> None:
    loss, batch = fitting(name, batch)
    generator = torch.Generator().manual_seed(seed)
    B, M, _ = batch.mentor_logits_BMC.shape
    moved = Batch(
        batch.student_logits_BC + torch.randn(B, 1, generator=generator) * 5,
        batch.labels_B,
        batch.mentor_logits_BMC + torch.randn(B, M, 1, generator=generator) * 5,
    )
    if loss.needs.raw_logits:
        assert not torch.allclose(loss(*moved).total, loss(*batch).total)
        return
    one, other = loss(*batch), loss(*moved)
    for field in ("total", "task", "mentor", "weight_BM", "gap_BM", "temperature_BM", "term_BM"):
        same(getattr(other, field), getattr(one, field), name)
    same(gradient(loss, moved), gradient(loss, batch), name)


@every_case
@few
@given(batches(2), seeds)
def test_the_order_of_mentors_is_irrelevant(name: str, batch: Batch, seed: int) -> None:
    loss, batch = fitting(name, batch)
    M = batch.mentor_logits_BMC.shape[1]
    order = torch.randperm(M, generator=torch.Generator().manual_seed(seed))
    if isinstance(loss, ClassroomLoss) and loss.teachers:
        order = torch.tensor([0, 1, *range(M - 1, 1, -1)])  # the teacher keeps its column
    shuffled = batch._replace(mentor_logits_BMC=batch.mentor_logits_BMC[:, order])
    one, other = loss(*batch), loss(*shuffled)
    torch.testing.assert_close(other.total, one.total)
    assert torch.equal(other.active_BM, one.active_BM[:, order])
    for field in ("weight_BM", "gap_BM", "temperature_BM", "term_BM"):
        torch.testing.assert_close(getattr(other, field), getattr(one, field)[:, order])


def same(got: Tensor, want: Tensor, name: str) -> None:
    """Within rounding: a correlation of rows that hardly vary has its digits from a difference."""
    rtol, atol = (1e-3, 1e-5) if name == "dist" else (1e-7, 1e-7)
    torch.testing.assert_close(got, want, rtol=rtol, atol=atol)


# --- what a loss says it needs --------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_needs_are_what_the_loss_refuses(method: str) -> None:
    if hasattr(METHODS[method], "for_shapes"):
        pytest.skip("a loss that learns has tests of its own")
    loss = build_loss(method)
    for M in (1, 2, 3):
        most = math.inf if loss.needs.most_mentors is None else loss.needs.most_mentors
        if loss.needs.least_mentors <= M <= most:
            assert isinstance(loss(*make_batch(M=M)), LossOutput)
        else:
            with pytest.raises(ValueError, match=rf"{method}: .*got {M}"):
                loss(*make_batch(M=M))
    student, labels, _ = make_batch()
    if loss.needs.least_mentors == 0:
        assert loss(student, labels, None).term_BM.shape == (5, 0)
        assert loss(student, labels, None).seen_BKC.shape == (5, 1, 4)
    else:
        with pytest.raises(ValueError, match="got None"):
            loss(student, labels, None)
