"""Relational terms: the triple loop's numbers, in float32 too, and rest where nothing is apart."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdcache.classroom.rkd import relational_loss
from tests.classroom import amtml_reference as reference
from tests.classroom.cases import quick, seeds


def rows(seed: int, B: int, D: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, D, generator=generator, dtype=torch.float64).to(dtype)


@quick
@given(seeds, st.integers(1, 6), st.integers(1, 5), st.sampled_from([1e-3, 1.0, 1e3]))
def test_both_terms_are_the_triple_loops(seed: int, B: int, D: int, scale: float) -> None:
    student, target = rows(seed, B, D) * scale + 100 * scale, rows(seed + 1, B, 7)
    distance = relational_loss(student, target, distance_weight=1.0, angle_weight=0.0)
    angle = relational_loss(student, target, distance_weight=0.0, angle_weight=1.0)
    both = relational_loss(student, target, distance_weight=2.0, angle_weight=3.0)
    expected = reference.distance_term(student.tolist(), target.tolist())
    assert distance.item() == pytest.approx(expected, rel=1e-8, abs=1e-12)
    expected = reference.angle_term(student.tolist(), target.tolist())
    assert angle.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert both.item() == pytest.approx(2 * distance.item() + 3 * angle.item(), abs=1e-15)


def test_only_shape_matters() -> None:
    """A turn, a shift and a stretch of the rows are no difference."""
    student = rows(0, 9, 6)
    turn, _ = torch.linalg.qr(rows(1, 6, 6))
    loss = relational_loss(student, 3 * student @ turn + 5, distance_weight=1.0, angle_weight=1.0)
    assert loss.item() < 1e-25


def gradient(student: Tensor, target: Tensor) -> Tensor:
    student = student.clone().requires_grad_()
    target = target.clone().requires_grad_()
    loss = relational_loss(student, target, distance_weight=1.0, angle_weight=1.0)
    torch.autograd.backward(loss)
    assert loss.isfinite()
    assert target.grad is None
    assert student.grad is not None
    return student.grad


@pytest.mark.parametrize("closeness", [1.0, 0.03])
def test_float32_is_near_float64(closeness: float) -> None:
    """Log-softmaxes as a student's, all far from the origin; some of them close together."""
    logits = rows(2, 96, 100)
    logits[48:] = logits[:48] + closeness * rows(3, 48, 100)
    student, target = torch.log_softmax(logits / 5, 1), torch.softmax(rows(4, 96, 100) * 2, 1)
    exact = gradient(student, target)
    got = gradient(student.float(), target.float())
    assert (got - exact).norm() / exact.norm() < (2e-6 if closeness == 1 else 5e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rows_rest(dtype: torch.dtype) -> None:
    equal = rows(5, 1, 8, dtype).expand(6, 8)
    assert gradient(equal, rows(6, 6, 3, dtype)).abs().max() == 0
    twice = rows(7, 6, 8, dtype)
    twice[1] = twice[0]
    assert 0 < gradient(twice, rows(8, 6, 3, dtype)).norm() < 10
    assert gradient(twice, equal[:, :3]).isfinite().all()
    for B in (1, 2, 3):
        assert gradient(rows(9, B, 4, dtype), rows(10, B, 4, dtype)).isfinite().all()


def test_other_numbers_of_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="6 and 5"):
        relational_loss(rows(0, 6, 3), rows(0, 5, 3), distance_weight=1.0, angle_weight=1.0)
