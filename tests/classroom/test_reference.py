"""Every loss equals its plain-loop float64 reference, in value and gradient, over all switches."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kdcache.classroom import (
    AverageLoss,
    ClassroomLoss,
    CrossEntropyLoss,
    KDLoss,
    LossOutput,
    MentorLoss,
)
from tests.classroom import reference
from tests.classroom.cases import Batch, make_batch, rank_grid, switch_grid

Reference = Callable[..., reference.Expected]
STEP = 1e-5


def assert_equal(out: LossOutput, expected: reference.Expected, where: object) -> None:
    scalars = [out.total.item(), out.task.item(), out.mentor.item()]
    assert scalars == pytest.approx(
        [expected.total, expected.task, expected.mentor], rel=1e-9, abs=1e-11
    ), where
    assert out.active_BM.tolist() == expected.active, where
    for got, want in (
        (out.term_BM, expected.term),
        (out.weight_BM, expected.weight),
        (out.gap_BM, expected.gap),
        (out.temperature_BM, expected.temperature),
    ):
        torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), msg=str(where))


def check(
    loss: MentorLoss, slow: Reference, batch: Batch, directions: Tensor, **switches: object
) -> None:
    """Values, and the gradient along each direction against a central finite difference.

    The gradient of the whole, and what `seen_BKC` keeps of each term alone.
    """
    student_logits_BC = batch.student_logits_BC.clone().requires_grad_()
    labels, mentors = batch.labels_B.tolist(), batch.mentor_logits_BMC.tolist()
    held = batch.student_logits_BC.tolist()
    out = loss(student_logits_BC, batch.labels_B, batch.mentor_logits_BMC)
    assert_equal(out, slow(held, labels, mentors, **switches), (loss, switches))
    torch.autograd.backward(out.total)
    assert student_logits_BC.grad is not None
    assert out.seen_BKC.grad is not None
    gradients = [student_logits_BC.grad, *out.seen_BKC.grad.unbind(1)]
    for direction_BC in directions:
        ends = [
            slow(
                (batch.student_logits_BC + step * direction_BC).tolist(),
                labels,
                mentors,
                held=held,
                **switches,
            )
            for step in (-STEP, STEP)
        ]
        got = [float((gradient_BC * direction_BC).sum()) for gradient_BC in gradients]
        low, high = (
            [
                end.total,
                end.task,
                *(sum(column) / len(held) for column in zip(*end.term, strict=True)),
            ]
            for end in ends
        )
        slopes = [(b - a) / (2 * STEP) for a, b in zip(low, high, strict=True)]
        assert got == pytest.approx(slopes, rel=1e-6, abs=1e-7), (loss, switches)


def random_directions(batch: Batch, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(99)
    return torch.randn(count, *batch.student_logits_BC.shape, generator=generator).double()


def unit_directions(batch: Batch) -> Tensor:
    size = batch.student_logits_BC.numel()
    return torch.eye(size, dtype=torch.float64).view(size, *batch.student_logits_BC.shape)


@pytest.mark.parametrize("granularity", ["sample", "batch"])
def test_classroom_over_all_switches(granularity: str) -> None:
    batch = make_batch(seed=1, B=4, M=3, C=3)
    # A batch's geometric means are close together: tell the mentors apart and from the student.
    batch.mentor_logits_BMC[:, 0] += 2.0 * torch.eye(3)[batch.labels_B]
    batch.mentor_logits_BMC[:, 2] -= 2.0 * torch.eye(3)[batch.labels_B]
    directions = random_directions(batch, 1)
    grid = switch_grid(granularity)
    assert len(grid) == {"sample": 252, "batch": 756}[granularity]
    for switches in grid:
        loss = ClassroomLoss(**switches)  # type: ignore[arg-type]
        check(loss, reference.classroom, batch, directions, **switches)


@pytest.mark.parametrize("granularity", ["sample", "batch"])
def test_the_grid_shows_active_and_inactive_mentors(granularity: str) -> None:
    """Guards the grid above: a gate that nothing passes, or everything, would prove little."""
    batch = make_batch(seed=1, B=4, M=3, C=3)
    batch.mentor_logits_BMC[:, 0] += 2.0 * torch.eye(3)[batch.labels_B]
    batch.mentor_logits_BMC[:, 2] -= 2.0 * torch.eye(3)[batch.labels_B]
    out = ClassroomLoss(granularity=granularity)(*batch)  # type: ignore[arg-type]
    assert 0 < out.active_BM.float().mean() < 1
    assert (out.gap_BM > 0).any()


@pytest.mark.parametrize("granularity", ["sample", "batch"])
def test_rank_weighting_over_all_switches(granularity: str) -> None:
    batch = make_batch(seed=1, B=4, M=3, C=3)
    batch.mentor_logits_BMC[:, 0] += 2.0 * torch.eye(3)[batch.labels_B]
    batch.mentor_logits_BMC[:, 2] -= 2.0 * torch.eye(3)[batch.labels_B]
    directions = random_directions(batch, 1)
    for switches in rank_grid(granularity):
        loss = ClassroomLoss(**switches)  # type: ignore[arg-type]
        check(loss, reference.classroom, batch, directions, **switches)


@pytest.mark.parametrize("granularity", ["sample", "batch"])
@pytest.mark.parametrize("weighting", ["confidence", "rank"])
def test_standardised_classroom(granularity: str, weighting: str) -> None:
    batch = make_batch(seed=3, B=3, M=4, C=5)
    switches = {"granularity": granularity, "weighting": weighting, "standardise": True}
    loss = ClassroomLoss(**switches)  # type: ignore[arg-type]
    check(loss, reference.classroom, batch, unit_directions(batch), **switches)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("M", [1, 4])
@pytest.mark.parametrize("granularity", ["sample", "batch"])
def test_classroom_defaults_with_the_whole_gradient(granularity: str, M: int, seed: int) -> None:
    batch = make_batch(seed=seed, B=3, M=M, C=5)
    loss = ClassroomLoss(granularity=granularity)  # type: ignore[arg-type]
    check(loss, reference.classroom, batch, unit_directions(batch), granularity=granularity)


@pytest.mark.parametrize("seed", range(3))
def test_ce(seed: int) -> None:
    batch = make_batch(seed=seed)
    check(CrossEntropyLoss(), reference.ce, batch, unit_directions(batch))


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"temperature": 1.0},
        {"temperature": 2.5, "ce_weight": 0.7, "kd_weight": 2.0},
        {"standardise": True, "temperature": 2.0},
    ],
    ids=str,
)
def test_average_and_kd(switches: dict[str, Any]) -> None:
    batch = make_batch(seed=5)
    check(AverageLoss(**switches), reference.average, batch, unit_directions(batch), **switches)
    one = batch._replace(mentor_logits_BMC=batch.mentor_logits_BMC[:, :1])
    check(KDLoss(**switches), reference.average, one, unit_directions(one), **switches)


def test_classroom_in_float32_is_near_the_reference() -> None:
    batch = make_batch(seed=2, B=16, M=4, C=20, dtype=torch.float32)
    for granularity in ("sample", "batch"):
        out = ClassroomLoss(granularity=granularity)(*batch)
        expected = reference.classroom(
            batch.student_logits_BC.tolist(),
            batch.labels_B.tolist(),
            batch.mentor_logits_BMC.tolist(),
            granularity=granularity,
        )
        assert out.total.dtype == torch.float32
        assert out.total.item() == pytest.approx(expected.total, rel=1e-5)
        assert out.active_BM.tolist() == expected.active
