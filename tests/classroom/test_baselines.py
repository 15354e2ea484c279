"""The baselines against their plain-loop references at random shapes, and what each promises."""

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from kdcache.classroom import (
    AverageLoss,
    CAMKDLoss,
    ChangesByEpoch,
    ClassroomLoss,
    DISTLoss,
    DKDLoss,
    EBKDLoss,
    KDLoss,
    LogitMSELoss,
    SoftLoss,
)
from tests.classroom import reference_baselines as slow
from tests.classroom.cases import Batch, batches, make_batch, quick
from tests.classroom.test_reference import Reference, check, random_directions

PAIRS: dict[str, tuple[Any, Reference, list[dict[str, Any]]]] = {
    "soft": (SoftLoss, slow.soft, [{}, {"temperature": 1.5, "ce_weight": 1.0, "kd_weight": 2.0}]),
    "ca-mkd": (
        CAMKDLoss,
        slow.ca_mkd,
        [{}, {"divide_by_k": True}, {"temperature": 2.0, "ce_weight": 1.0, "kd_weight": 1.0}],
    ),
    "ebkd": (EBKDLoss, slow.ebkd, [{}, {"temperature": 2.0, "ce_weight": 1.0, "kd_weight": 0.5}]),
    "dkd": (
        DKDLoss,
        slow.dkd,
        [{}, {"alpha": 0.3, "beta": 2.0, "temperature": 1.5, "ce_weight": 0.5}],
    ),
    "dist": (
        DISTLoss,
        slow.dist,
        [{}, {"beta": 0.0}, {"gamma": 0.0, "temperature": 1.0}, {"ce_weight": 0.5, "beta": 1.0}],
    ),
    "logit-mse": (LogitMSELoss, slow.logit_mse, [{}, {"ce_weight": 0.0, "kd_weight": 2.0}]),
}


@pytest.mark.parametrize("method", PAIRS)
@quick
@given(st.data())
def test_value_and_gradient_are_the_reference(method: str, data: st.DataObject) -> None:
    made, reference, grid = PAIRS[method]
    batch = data.draw(batches(made.needs.least_mentors))
    switches = data.draw(st.sampled_from(grid))
    if (
        method == "dist"
    ):  # a correlation has no slope worth a finite difference where nothing varies
        p_BC, varied = (
            batch.student_logits_BC.softmax(1),
            batch.student_logits_BC.std(1).min() > 0.1,
        )
        assume(varied and (len(p_BC) == 1 or p_BC.std(0).min() > 0.01))
    check(made(**switches), reference, batch, random_directions(batch, 2), **switches)


# --- weights --------------------------------------------------------------------------------------


@quick
@given(batches(2))
def test_weights_sum_to_one(batch: Batch) -> None:
    for loss in (SoftLoss(), CAMKDLoss(), EBKDLoss(), AverageLoss()):
        total_B = loss(*batch).weight_BM.sum(1)
        torch.testing.assert_close(total_B, torch.ones_like(total_B))
    M = batch.mentor_logits_BMC.shape[1]
    divided = CAMKDLoss(divide_by_k=True)(*batch)
    torch.testing.assert_close(divided.mentor, CAMKDLoss()(*batch).mentor / M)


@quick
@given(batches(2))
def test_mentors_that_agree_are_averaged(batch: Batch) -> None:
    mentors_BMC = batch.mentor_logits_BMC[:, :1].expand_as(batch.mentor_logits_BMC)
    same = batch._replace(mentor_logits_BMC=mentors_BMC)
    for loss in (SoftLoss(), CAMKDLoss(), EBKDLoss()):
        torch.testing.assert_close(loss(*same).total, AverageLoss()(*same).total)


def test_weights_follow_what_the_method_says() -> None:
    """Mentors: right and sure, right and unsure, wrong and sure."""
    labels = torch.tensor([0])
    mentors = torch.tensor([[[9.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 9.0, 0.0]]])
    student = torch.zeros(1, 3)
    for loss in (SoftLoss(), CAMKDLoss()):  # the label decides
        right, unsure, wrong = loss(student, labels, mentors).weight_BM[0].tolist()
        assert right > unsure > wrong
    right, unsure, wrong = EBKDLoss()(student, labels, mentors).weight_BM[0].tolist()
    assert right == pytest.approx(wrong)  # sureness decides
    assert wrong > unsure


@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_weights_of_mentors_that_are_all_certain(scale: float) -> None:
    """Confidences of 0, losses of 1e6, entropies of 0: still weights that sum to one."""
    mentors = torch.tensor([[[0.0, 1.0], [0.0, 1.5], [0.0, 1.0]]]) * scale
    for loss in (SoftLoss(), CAMKDLoss(), EBKDLoss()):
        weight_M = loss(torch.zeros(1, 2), torch.tensor([0]), mentors).weight_BM[0]
        assert weight_M.sum().item() == pytest.approx(1.0)
    assert EBKDLoss()(torch.zeros(1, 2), torch.tensor([0]), mentors).weight_BM[0].tolist() == (
        pytest.approx([1 / 3] * 3)
    )


def test_mentors_that_all_exclude_the_label_weigh_the_same() -> None:
    mentors = torch.tensor([[[-math.inf, 0.0], [-math.inf, 3.0]]])
    for loss in (SoftLoss(), CAMKDLoss(), EBKDLoss()):
        out = loss(torch.zeros(1, 2), torch.tensor([0]), mentors)
        assert out.weight_BM[0].tolist() == pytest.approx([0.5, 0.5])
        assert out.total.isfinite()


@pytest.mark.parametrize("loss", [CAMKDLoss(), EBKDLoss()], ids=["ca-mkd", "ebkd"])
def test_a_single_mentor_is_refused(loss: CAMKDLoss | EBKDLoss) -> None:
    with pytest.raises(ValueError, match=r"at least 2 mentors are needed, got 1; .*'kd'"):
        loss(*make_batch(M=1))


# --- dkd ------------------------------------------------------------------------------------------


@quick
@given(batches())
def test_kl_is_the_two_parts_of_dkd(batch: Batch) -> None:
    """Equation 6 of the paper: KL = TCKD + (1 - p_t) NCKD, for one sample and mentor."""
    one = Batch(batch.student_logits_BC[:1], batch.labels_B[:1], batch.mentor_logits_BMC[:1, :1])
    kd = KDLoss(kd_weight=1.0)(*one).mentor
    target = DKDLoss(alpha=1.0, beta=0.0)(*one).mentor
    others = DKDLoss(alpha=0.0, beta=1.0)(*one).mentor
    p_true = (one.mentor_logits_BMC[0, 0] / 4.0).softmax(0)[one.labels_B[0]]
    torch.testing.assert_close(target + (1 - p_true) * others, kd)


def test_dkd_warms_up() -> None:
    batch, loss = make_batch(), DKDLoss(warm_up=20)
    assert isinstance(loss, ChangesByEpoch)
    assert not isinstance(ClassroomLoss(), ChangesByEpoch)
    full = loss(*batch)  # never told an epoch: full strength
    for epoch, strength in [(0, 0.05), (9, 0.5), (19, 1.0), (200, 1.0), (3, 0.2)]:
        loss.set_epoch(epoch)
        out = loss(*batch)
        assert out.task == full.task
        torch.testing.assert_close(out.mentor, strength * full.mentor)
    assert loss == DKDLoss(warm_up=20)  # where a run stands is no switch
    none = DKDLoss(warm_up=0)
    none.set_epoch(0)
    assert none(*batch).mentor == full.mentor


def test_dkd_where_nothing_is_left_beside_the_true_class() -> None:
    student = torch.tensor([[1.0, 2.0]], requires_grad=True)
    mentors = torch.tensor([[[0.0, -math.inf], [-math.inf, 0.0]]])
    out = DKDLoss()(student, torch.tensor([0]), mentors)
    torch.autograd.backward(out.total)
    assert out.total.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


# --- dist, logit-mse ------------------------------------------------------------------------------


def test_dist_of_the_same_predictions_is_nothing() -> None:
    batch = make_batch(B=8, C=7)
    mentors_BMC = batch.student_logits_BC[:, None].expand_as(batch.mentor_logits_BMC)
    out = DISTLoss(temperature=1.0)(batch.student_logits_BC, batch.labels_B, mentors_BMC)
    assert out.mentor.item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("part", ["beta", "gamma"])
def test_dist_asks_for_the_order_not_the_numbers(part: str) -> None:
    """Rows that are a weaker copy of the mentor's are right already; so are columns."""
    p_BC = make_batch(B=6, C=5).mentor_logits_BMC[:, 0].softmax(1)
    weaker_BC = 0.3 * p_BC + 0.7 * (1 / 5 if part == "beta" else p_BC.mean(0))
    loss = DISTLoss(**{"beta": 0.0, "gamma": 0.0, part: 1.0, "temperature": 1.0})
    out = loss(weaker_BC.log(), torch.zeros(6, dtype=torch.int64), p_BC.log()[:, None])
    assert out.mentor.item() == pytest.approx(0.0, abs=1e-5)
    assert AverageLoss()(weaker_BC.log(), torch.zeros(6).long(), p_BC.log()[:, None]).mentor > 0.01


def test_dist_without_any_variation_is_finite() -> None:
    student = torch.zeros(1, 4, requires_grad=True)
    out = DISTLoss()(student, torch.tensor([1]), torch.zeros(1, 2, 4))
    torch.autograd.backward(out.total)
    assert out.mentor.item() == pytest.approx(16.0 * 4)  # rho is 0 for rows and columns
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_logit_mse_takes_constants_of_a_row_seriously() -> None:
    batch = make_batch()
    loss = LogitMSELoss()
    assert loss.needs.raw_logits
    moved = batch._replace(mentor_logits_BMC=batch.mentor_logits_BMC + 3.0)
    assert loss(*moved).mentor > loss(*batch).mentor + 1.0
    same = batch.student_logits_BC[:, None].expand_as(batch.mentor_logits_BMC)
    assert loss(batch.student_logits_BC, batch.labels_B, same).mentor == 0


# --- standardisation ------------------------------------------------------------------------------


@quick
@given(batches(), st.floats(0.5, 50.0))
def test_a_standardised_row_has_no_size(batch: Batch, scale: float) -> None:
    """Either side may be scaled and shifted; the mentors' terms stay."""
    student_BC, mentors_BMC = batch.student_logits_BC * 10, batch.mentor_logits_BMC * 10
    loss = AverageLoss(standardise=True)
    one = loss(student_BC, batch.labels_B, mentors_BMC)
    other = loss(student_BC * scale + 3.0, batch.labels_B, mentors_BMC * scale - 1.0)
    torch.testing.assert_close(other.mentor, one.mentor, rtol=1e-6, atol=1e-9)


@quick
@given(batches())
def test_standardising_changes_no_confidence(batch: Batch) -> None:
    plain, out = ClassroomLoss()(*batch), ClassroomLoss(standardise=True)(*batch)
    assert out.task == plain.task
    for name in ("active_BM", "weight_BM", "gap_BM", "temperature_BM"):
        assert torch.equal(getattr(out, name), getattr(plain, name))


def test_constant_rows_are_standardised_to_zero_with_a_bounded_gradient() -> None:
    loss = KDLoss(standardise=True, ce_weight=0.0)
    student = torch.full((2, 5), 7.0, requires_grad=True)
    mentors = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0], [3.0] * 5])[:, None]
    out = loss(student, torch.tensor([0, 1]), mentors)
    torch.autograd.backward(out.total)
    assert student.grad is not None
    assert 0 < student.grad[0].norm() < 4.0 * math.sqrt(2) / 0.01
    assert student.grad[1].abs().max() < 1e-9


def test_an_excluded_class_stays_excluded_when_standardised() -> None:
    """The others are standardised among themselves."""
    loss = KDLoss(standardise=True, ce_weight=0.0, temperature=1.0)
    student = torch.tensor([[1.0, 2.0, 4.0]])
    excluded = loss(student, torch.tensor([0]), torch.tensor([[[0.0, 3.0, -math.inf]]])).mentor
    p = torch.softmax(torch.tensor([-1.0, 1.0]), 0)
    z = (student[0] - student.mean()) / student.std(correction=0)
    expected = (p * (p.log() - z.log_softmax(0)[:2])).sum() * 0.9
    torch.testing.assert_close(excluded, expected)
