"""Precision, autocast and devices: float32 inside, and never a wait for the device."""

import pytest
import torch

from kdcache.classroom import AverageLoss, ClassroomLoss, CrossEntropyLoss, KDLoss, MentorLoss
from tests.classroom.cases import Batch, make_batch, switch_grid

LOSSES: list[MentorLoss] = [
    ClassroomLoss(),
    ClassroomLoss(granularity="batch", round_shares=2),
    ClassroomLoss(gate="soft", kd_scale="per-active-weight"),
    AverageLoss(),
    KDLoss(),
    CrossEntropyLoss(),
]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_computed_in_float32(
    loss: MentorLoss, dtype: torch.dtype
) -> None:
    """What half precision costs is the rounding of the inputs, and nothing after it."""
    half = make_batch(3, B=16, M=1, C=10, dtype=dtype)
    rounded = Batch(half.student_logits_BC.float(), half.labels_B, half.mentor_logits_BMC.float())
    student = half.student_logits_BC.requires_grad_()
    out = loss(student, half.labels_B, half.mentor_logits_BMC)
    assert torch.equal(out.total, loss(*rounded).total)
    assert {out.total.dtype, out.weight_BM.dtype, out.temperature_BM.dtype} == {torch.float32}
    assert out.active_BM.dtype == torch.bool
    torch.autograd.backward(out.total)
    assert student.grad is not None
    assert student.grad.dtype == dtype


@pytest.mark.parametrize("loss", [AverageLoss(), CrossEntropyLoss(), ClassroomLoss(gate="off")])
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_is_near_full(loss: MentorLoss, dtype: torch.dtype, rel: float) -> None:
    full = make_batch(4, B=64, M=3, C=10, dtype=torch.float32)
    half = make_batch(4, B=64, M=3, C=10, dtype=dtype)
    assert loss(*half).total.item() == pytest.approx(loss(*full).total.item(), rel=rel)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_autocast_changes_nothing(loss: MentorLoss) -> None:
    batch = make_batch(M=1, dtype=torch.float32)
    plain = loss(*batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = loss(*batch)
    assert out.total.dtype == torch.float32
    assert out.temperature_BM.dtype == torch.float32
    assert torch.equal(out.total, plain.total)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_float64_stays_float64(loss: MentorLoss) -> None:
    batch = make_batch(M=1)
    assert loss(*batch).total.dtype == torch.float64
    mixed = batch._replace(mentor_logits_BMC=batch.mentor_logits_BMC.half())
    assert loss(*mixed).weight_BM.dtype == torch.float64


def test_the_student_decides_the_dtype() -> None:
    batch = make_batch(dtype=torch.float32)
    mixed = batch._replace(
        mentor_logits_BMC=batch.mentor_logits_BMC.double(), labels_B=batch.labels_B.int()
    )
    assert torch.equal(ClassroomLoss()(*mixed).total, ClassroomLoss()(*batch).total)


def test_no_loss_waits_for_the_device() -> None:
    """Meta tensors have no values: `.item()`, `bool(tensor)`, `nonzero` and the like all raise."""
    grid = switch_grid("sample")[::5] + switch_grid("batch")[::7]
    everything = LOSSES + [ClassroomLoss(**switches) for switches in grid]  # type: ignore[arg-type]
    student_logits_BC = torch.empty(6, 10, device="meta", requires_grad=True)
    labels_B = torch.empty(6, dtype=torch.int64, device="meta")
    mentor_logits_BMC = torch.empty(6, 1, 10, device="meta")
    for loss in everything:
        out = loss(student_logits_BC, labels_B, mentor_logits_BMC)
        torch.autograd.backward(out.total)
        assert out.total.shape == ()
        assert out.active_BM.shape == (6, 1)


def test_meta_tensors_do_catch_a_wait() -> None:
    scalar = torch.empty((), device="meta")
    with pytest.raises(RuntimeError):
        scalar.item()
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(scalar)
