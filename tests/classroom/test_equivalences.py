"""Switches whose result another method, or a plain calculation, must meet."""

import pytest
import torch
from hypothesis import given

from kdcache.classroom import AverageLoss, ClassroomLoss, CrossEntropyLoss
from tests.classroom.cases import Batch, batches, granularities, quick


@quick
@given(batches())
def test_the_ablations_of_the_paper(batch: Batch) -> None:
    """No KF at a fixed temperature is CE plus M times the mean of AverageLoss's mentor terms."""
    M = batch.mentor_logits_BMC.shape[1]
    no_filter = ClassroomLoss(
        gate="off",
        mentor_weight="one",
        task_weight="one",
        temperature="fixed",
        fixed_temperature=4.0,
    )
    average = AverageLoss(temperature=4.0, ce_weight=1.0, kd_weight=1.0)
    torch.testing.assert_close(no_filter(*batch).mentor, M * average(*batch).mentor)
    torch.testing.assert_close(no_filter(*batch).task, average(*batch).task)
    torch.testing.assert_close(no_filter(*batch).task, CrossEntropyLoss()(*batch).total)

    no_mentoring = ClassroomLoss(temperature="fixed", fixed_temperature=1.0)
    out, full = no_mentoring(*batch), ClassroomLoss()(*batch)
    assert (out.temperature_BM == 1).all()
    assert torch.equal(out.active_BM, full.active_BM)
    assert torch.equal(out.weight_BM, full.weight_BM)
    torch.testing.assert_close(out.total, ClassroomLoss(tau=0.0)(*batch).total)


@quick
@given(batches(), granularities)
def test_soft_gate_is_no_gate_with_confidence_weights(batch: Batch, granularity: str) -> None:
    soft = ClassroomLoss(gate="soft", granularity=granularity)(*batch)  # type: ignore[arg-type]
    off = ClassroomLoss(gate="off", granularity=granularity)(*batch)  # type: ignore[arg-type]
    assert torch.equal(soft.total, off.total)
    assert soft.active_BM.all()


@quick
@given(batches())
def test_one_sample_is_its_own_batch(batch: Batch) -> None:
    single = Batch(*(t[:1] for t in batch))
    torch.testing.assert_close(
        ClassroomLoss(granularity="batch")(*single).total, ClassroomLoss()(*single).total
    )


@quick
@given(batches())
def test_the_loss_of_a_batch_is_the_mean_of_its_samples(batch: Batch) -> None:
    parts = [
        ClassroomLoss()(*(t[i : i + 1] for t in batch)).total for i in range(len(batch.labels_B))
    ]
    torch.testing.assert_close(ClassroomLoss()(*batch).total, torch.stack(parts).mean())


def test_soft_weights_far_below_a_student_that_is_right() -> None:
    """Weights that underflow are still normalised among themselves: 1 : e^-1 here."""
    student = torch.tensor([[0.0, -900.0]])
    mentors = torch.tensor([[[-500.0, 0.0], [-501.0, 0.0]]])
    switches = {"gate": "soft", "temperature": "fixed", "kd_scale": "per-active-weight"}
    loss = ClassroomLoss(**switches)  # type: ignore[arg-type]
    out = loss(student, torch.tensor([0]), mentors)
    assert out.weight_BM.tolist() == [[0.0, 0.0]]
    assert out.mentor.item() == pytest.approx(900.0)


def test_rounded_shares_of_zero_tie_and_weigh_nothing() -> None:
    """Student and first mentor round to 0, the second mentor to 1."""
    loss = ClassroomLoss(granularity="batch", round_shares=2)
    student = torch.tensor([[-9.0, 0.0]], requires_grad=True)
    out = loss(student, torch.tensor([0]), torch.tensor([[[-8.0, 0.0], [8.0, 0.0]]]))
    assert out.active_BM.tolist() == [[True, True]]
    assert out.weight_BM.tolist() == [[0.0, 2.0]]
    assert out.gap_BM.tolist() == [[0.0, 1.0]]
    (gradient_BC,) = torch.autograd.grad(out.total, student)
    assert gradient_BC.isfinite().all()


def test_rounded_shares_of_zero_weigh_nothing_without_a_gate() -> None:
    student = torch.tensor([[9.0, 0.0]])
    mentors = torch.tensor([[[-9.0, 0.0], [-8.0, 0.0]]])
    for scale in ("sum", "per-active-weight"):
        loss = ClassroomLoss(granularity="batch", round_shares=2, gate="off", kd_scale=scale)
        out = loss(student, torch.tensor([0]), mentors)
        assert out.weight_BM.tolist() == [[0.0, 0.0]]
        assert out.gap_BM.tolist() == [[0.0, 0.0]]
        assert out.mentor == 0
