"""AMTML-KD equals its plain-loop float64 reference, and keeps what its docstrings promise."""

import dataclasses
import math
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdcache.classroom import Amtml, AmtmlLoss, LossOutput, LossShapes, build_loss, build_method
from kdcache.errors import UsageError
from tests.classroom import amtml_reference as reference
from tests.classroom.cases import Batch, make_batch, quick, seeds

STEP = 1e-5


class Case(NamedTuple):
    batch: Batch
    features_BF: Tensor
    mentor_features: list[Tensor]


def make_case(
    seed: int = 0,
    *,
    B: int = 5,
    M: int = 3,
    C: int = 4,
    F: int = 3,
    dtype: torch.dtype = torch.float64,
    scale: float = 3.0,
) -> Case:
    generator = torch.Generator().manual_seed(seed + 1)

    def rows(width: int) -> Tensor:
        return torch.randn(B, width, generator=generator, dtype=torch.float64).to(dtype)

    batch = make_batch(seed, B=B, M=M, C=C, dtype=dtype, scale=scale)
    return Case(batch, rows(F), [rows(2 + m % 3) for m in range(M)])


def make_loss(case: Case, *, seed: int = 0, epoch: int = 0, **switches: Any) -> AmtmlLoss:
    loss = Amtml(**switches).for_shapes(shapes_of(case), seed)
    if case.features_BF.dtype == torch.float64:
        loss.double()
    loss.set_epoch(epoch)
    return loss


def shapes_of(case: Case) -> LossShapes:
    return LossShapes(
        num_mentors=case.batch.mentor_logits_BMC.shape[1],
        num_classes=case.batch.student_logits_BC.shape[1],
        student_features=case.features_BF.shape[1],
        mentor_features=tuple(one.shape[1] for one in case.mentor_features),
    )


def call(
    loss: AmtmlLoss, case: Case, student: Tensor | None = None, features: Tensor | None = None
) -> LossOutput:
    given: dict[str, Any] = {"student_features_BF": case.features_BF}
    if features is not None:
        given["student_features_BF"] = features
    if loss.needs.mentor_features:
        given["mentor_features"] = case.mentor_features
    logits = case.batch.student_logits_BC if student is None else student
    out: LossOutput = loss(logits, case.batch.labels_B, case.batch.mentor_logits_BMC, **given)
    return out


@st.composite
def cases(draw: st.DrawFn) -> Case:
    return make_case(
        draw(st.integers(0, 2**20)),
        B=draw(st.integers(1, 5)),
        M=draw(st.integers(1, 4)),
        C=draw(st.integers(2, 5)),
        F=draw(st.integers(1, 4)),
        scale=draw(st.sampled_from([0.5, 3.0, 12.0])),
    )


SWITCHES: list[dict[str, Any]] = [
    {},
    {"reduction": "authors", "temperature": 2.0},
    {"regularise": True, "ce_weight": 1.0, "kd_weight": 0.5},
    {"hint_weight": 2.0, "rkd_angle_weight": 3.0, "rkd_distance_weight": 0.5},
    {"rkd_angle_weight": 0.0, "hint_weight": 1.0, "regularise": True},
    {"rkd_angle_weight": 7.0, "rkd_distance_weight": 0.0, "kd_weight": 0.0},
]


# --- the reference --------------------------------------------------------------------------------


@quick
@given(cases(), st.sampled_from(SWITCHES), st.sampled_from([1, 2]), seeds)
def test_value_and_every_gradient_are_the_references(
    case: Case, switches: dict[str, Any], phase: int, direction_seed: int
) -> None:
    loss = make_loss(case, epoch=0 if phase == 1 else 80, **switches)
    tensors = [case.batch.student_logits_BC, case.features_BF, loss.theta_MF, loss.W_F1]
    if loss.needs.mentor_features:
        tensors.append(loss.adapter_GF)
    labels, mentors = case.batch.labels_B.tolist(), case.batch.mentor_logits_BMC.tolist()
    mentor_features = [one.tolist() for one in case.mentor_features]
    here = reference.Point(*(one.tolist() for one in tensors))

    def slow(point: reference.Point) -> tuple[float, float]:
        return reference.amtml(
            point, labels, mentors, mentor_features, here, phase=phase, **switches
        )

    student = tensors[0].clone().requires_grad_()
    features = tensors[1].clone().requires_grad_()
    out = call(loss, case, student, features)
    task, mentor = slow(here)
    assert [out.task.item(), out.mentor.item(), out.total.item()] == pytest.approx(
        [task, mentor, task + mentor], rel=1e-9, abs=1e-11
    )
    torch.autograd.backward(out.total)
    learned: list[Tensor] = [loss.theta_MF, loss.W_F1, *tensors[4:]]
    generator = torch.Generator().manual_seed(direction_seed)
    for number, moved in enumerate([student, features, *learned]):
        if phase == 2 and number in (2, 3):
            assert moved.grad is None
            continue
        direction = torch.randn(moved.shape, generator=generator, dtype=torch.float64)
        ends = []
        for side in (1, -1):
            at = [one.detach().clone() for one in tensors]
            at[number] += side * STEP * direction
            ends.append(sum(slow(reference.Point(*(one.tolist() for one in at)))))
        slope = (ends[0] - ends[1]) / (2 * STEP)
        got = 0.0 if moved.grad is None else float((moved.grad * direction).sum())
        assert got == pytest.approx(slope, rel=2e-5, abs=2e-7), number


@quick
@given(cases())
def test_weights_are_the_mentors_shares_and_sum_to_one(case: Case) -> None:
    loss = make_loss(case)
    out = call(loss, case)
    point = reference.Point(
        case.batch.student_logits_BC.tolist(),
        case.features_BF.tolist(),
        loss.theta_MF.tolist(),
        loss.W_F1.tolist(),
    )
    expected = torch.tensor(reference.weights(point), dtype=torch.float64)
    torch.testing.assert_close(out.weight_BM, expected)
    torch.testing.assert_close(out.weight_BM.sum(1), torch.ones(len(expected)).double())
    assert out.active_BM.all()
    assert (out.temperature_BM == 5).all()


# --- what each mentor's term is -------------------------------------------------------------------


@quick
@given(cases(), st.sampled_from(SWITCHES))
def test_terms_sum_to_the_loss_and_to_its_gradient(case: Case, switches: dict[str, Any]) -> None:
    loss = make_loss(case, **switches)
    student = case.batch.student_logits_BC.clone().requires_grad_()
    out = call(loss, case, student)
    torch.testing.assert_close(out.term_BM.sum(1).mean(), out.mentor.detach())
    torch.autograd.backward(out.total)
    assert out.seen_BKC.grad is not None
    assert student.grad is not None
    torch.testing.assert_close(out.seen_BKC.grad.sum(1), student.grad)
    assert torch.equal(out.seen_BKC[:, 0], student)


def test_a_mentors_gradient_is_its_weight_times_its_distance() -> None:
    """d/dz_s of tau^2 KL(q || s) is tau * (s - q), and q is a sum over mentors."""
    case = make_case(3, B=6, M=4, C=7)
    loss = make_loss(case, rkd_angle_weight=0.0, rkd_distance_weight=0.0)
    student = case.batch.student_logits_BC.clone().requires_grad_()
    out = call(loss, case, student)
    torch.autograd.backward(out.total)
    s_B1C = torch.softmax(student.detach() / 5, dim=1)[:, None]
    p_BMC = torch.softmax(case.batch.mentor_logits_BMC / 5, dim=2)
    expected = 1.4 * 5 * out.weight_BM[:, :, None] * (s_B1C - p_BMC) / 6
    assert out.seen_BKC.grad is not None
    torch.testing.assert_close(out.seen_BKC.grad[:, 1:], expected)
    task = torch.softmax(student.detach(), dim=1)
    task[range(6), case.batch.labels_B] -= 1
    torch.testing.assert_close(out.seen_BKC.grad[:, 0], 0.3 * task / 6)


def test_relational_terms_are_dealt_out_by_the_weights() -> None:
    case = make_case(4, B=6, M=3)
    loss = make_loss(case, kd_weight=0.0)
    student = case.batch.student_logits_BC.clone().requires_grad_()
    out = call(loss, case, student)
    torch.testing.assert_close(out.term_BM, out.weight_BM * out.mentor.detach())
    torch.autograd.backward(out.total)
    assert out.seen_BKC.grad is not None
    whole_B1C = out.seen_BKC.grad[:, 1:].sum(1, keepdim=True)
    assert whole_B1C.norm() > 1e-3
    torch.testing.assert_close(out.seen_BKC.grad[:, 1:], out.weight_BM[:, :, None] * whole_B1C)


# --- switches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("C", [2, 10, 100])
def test_the_authors_reduction_is_one_cth(C: int) -> None:
    case = make_case(5, C=C)
    alone: dict[str, Any] = {"rkd_angle_weight": 0.0, "rkd_distance_weight": 0.0}
    mean = call(make_loss(case, **alone), case).mentor
    authors = call(make_loss(case, reduction="authors", **alone), case).mentor
    assert mean.item() == pytest.approx(C * authors.item(), rel=1e-12)


def test_the_regulariser_is_phase_ones() -> None:
    case = make_case(6)
    plain, regular = make_loss(case), make_loss(case, regularise=True)
    more = call(regular, case).total - call(plain, case).total
    size = plain.W_F1.square().sum() + plain.theta_MF.square().sum()
    assert more.item() == pytest.approx(0.1 * size.item())
    for loss in (plain, regular):
        loss.set_epoch(80)
    assert torch.equal(call(regular, case).total, call(plain, case).total)


def test_an_adapter_that_is_not_trained_has_no_gradient() -> None:
    case = make_case(7)
    for train_adapter in (True, False):
        loss = make_loss(case, hint_weight=1.0, train_adapter=train_adapter)
        assert loss.adapter_GF.abs().max() <= 0.005
        assert loss.adapter_GF.std() > 0.001
        torch.autograd.backward(call(loss, case).total)
        assert (loss.adapter_GF.grad is not None) == train_adapter


def test_in_phase_two_the_weights_rest_and_the_features_still_learn() -> None:
    case = make_case(8)
    loss = make_loss(case)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):  # momentum that must not carry them on
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(call(loss, case).total)
        optimizer.step()
    loss.set_epoch(80)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    features = case.features_BF.clone().requires_grad_()
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(call(loss, case, features=features).total)
    optimizer.step()
    for name, value in loss.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert features.grad is not None
    assert features.grad.abs().max() > 1e-3


@pytest.mark.parametrize(
    ("switches", "epochs", "last_of_phase1"),
    [({}, None, 79), ({}, 280, 79), ({}, 28, 7), ({}, 1, 0), ({"phase1_epochs": 3}, 280, 2)],
)
def test_phase_one_is_the_authors_share_of_the_run(
    switches: dict[str, Any], epochs: int | None, last_of_phase1: int
) -> None:
    shapes = LossShapes(num_mentors=2, num_classes=3, student_features=4, epochs=epochs)
    loss = Amtml(**switches).for_shapes(shapes, seed=0)
    for epoch, learns in (
        (0, True),
        (last_of_phase1, True),
        (last_of_phase1 + 1, False),
        (0, True),
    ):
        loss.set_epoch(epoch)
        assert loss.theta_MF.requires_grad == loss.W_F1.requires_grad == learns


def test_learned_weights_slow_down_at_40_and_70() -> None:
    shapes = LossShapes(num_mentors=2, num_classes=3, student_features=4)
    for stretch in (1, 2):
        loss = Amtml(phase1_epochs=80 // stretch, hint_weight=1.0).for_shapes(
            dataclasses.replace(shapes, mentor_features=(2, 2)), seed=0
        )
        for epoch, factor in ((0, 1.0), (38, 1.0), (40, 0.1), (68, 0.1), (70, 0.01), (78, 0.01)):
            loss.set_epoch(epoch // stretch)
            rates = loss.learning_rate_factors()
            assert rates == {"theta_MF": pytest.approx(factor), "W_F1": pytest.approx(factor)}


# --- robustness -----------------------------------------------------------------------------------


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("factor", [1.0, 100.0])
def test_finite_with_huge_logits_and_half_precision(
    dtype: torch.dtype, factor: float, switches: dict[str, Any]
) -> None:
    case = make_case(9, B=8, C=10, F=6, dtype=torch.float32)
    batch = Batch(
        (case.batch.student_logits_BC * factor).to(dtype),
        case.batch.labels_B,
        (case.batch.mentor_logits_BMC * factor).to(dtype),
    )
    case = Case(batch, (case.features_BF * factor).to(dtype), case.mentor_features)
    loss = make_loss(case, **switches)
    student = case.batch.student_logits_BC.requires_grad_()
    features = case.features_BF.requires_grad_()
    out = call(loss, case, student, features)
    assert out.total.dtype == torch.float32
    assert out.total.isfinite()
    torch.autograd.backward(out.total)
    for one in (student, features, *loss.parameters()):
        assert one.grad is None or one.grad.isfinite().all()
    assert student.grad is not None
    assert student.grad.dtype == dtype


def test_classes_that_every_mentor_excludes_weigh_nothing() -> None:
    case = make_case(10)
    case.batch.mentor_logits_BMC[:, :, 1] = -math.inf
    case.batch.mentor_logits_BMC[:, 0, 2] = -1e6
    features = case.features_BF.clone().requires_grad_()
    loss = make_loss(case)
    out = call(loss, case, features=features)
    torch.autograd.backward(out.total)
    near = case.batch.mentor_logits_BMC.clamp(min=-2000)
    same = call(loss, case._replace(batch=case.batch._replace(mentor_logits_BMC=near)))
    assert out.total.item() == pytest.approx(same.total.item(), rel=1e-12)
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_features_of_zeros_have_a_finite_gradient() -> None:
    case = make_case(11)
    case.features_BF[0] = 0
    case.mentor_features[1][0] = 0
    features = case.features_BF.clone().requires_grad_()
    torch.autograd.backward(call(make_loss(case, hint_weight=1.0), case, features=features).total)
    assert features.grad is not None
    assert features.grad.abs().max() < 1e3


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_it_never_waits_for_the_device(switches: dict[str, Any]) -> None:
    case = make_case(12, dtype=torch.float32)
    loss = make_loss(case, **switches).to("meta")
    away = Case(
        Batch(*(one.to("meta") for one in case.batch)),
        case.features_BF.to("meta"),
        [one.to("meta") for one in case.mentor_features],
    )
    torch.autograd.backward(call(loss, away).total)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_autocast_changes_nothing(switches: dict[str, Any]) -> None:
    case = make_case(13, B=8, C=10, dtype=torch.float32)
    loss = make_loss(case, **switches)
    plain = call(loss, case).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(call(loss, case).total, plain)


# --- where it begins, and where it goes -----------------------------------------------------------


def test_it_begins_from_its_seed_alone() -> None:
    case = make_case(14, M=4)
    state = make_loss(case, seed=1, hint_weight=1.0).state_dict()
    torch.randn(7)
    again = make_loss(case, seed=1, hint_weight=1.0).state_dict()
    other = make_loss(case, seed=2, hint_weight=1.0).state_dict()
    for name in ("theta_MF", "W_F1", "adapter_GF"):
        assert torch.equal(state[name], again[name])
        assert not torch.equal(state[name], other[name])
    before = torch.random.get_rng_state()
    make_loss(case)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_it_begins_as_a_standard_normal() -> None:
    shapes = LossShapes(num_mentors=50, num_classes=3, student_features=400)
    loss = Amtml().for_shapes(shapes, seed=0)
    for weights, error in ((loss.theta_MF, 0.02), (loss.W_F1, 0.15)):
        assert weights.mean().item() == pytest.approx(0, abs=error)
        assert weights.std().item() == pytest.approx(1, abs=error)


@pytest.mark.parametrize("right", [0, 1])
def test_weights_move_to_the_mentor_that_is_right(right: int) -> None:
    B, C, F = 32, 5, 16
    generator = torch.Generator().manual_seed(0)
    labels_B = torch.randint(C, (B,), generator=generator)
    features_BF = torch.randn(C, F, generator=generator)[labels_B].abs()
    features_BF = features_BF + 0.1 * torch.randn(B, F, generator=generator).abs()
    sure_CC = 12.0 * torch.eye(C)
    answers = [sure_CC[(labels_B + 1) % C]] * 2
    answers[right] = sure_CC[labels_B]
    mentor_logits_BMC = torch.stack(answers, dim=1)
    student = torch.nn.Linear(F, C)
    torch.nn.init.zeros_(student.weight)
    torch.nn.init.zeros_(student.bias)
    shapes = LossShapes(num_mentors=2, num_classes=C, student_features=F)
    loss = Amtml(ce_weight=10.0).for_shapes(shapes, seed=1)
    optimizer = torch.optim.SGD([*student.parameters(), *loss.parameters()], lr=0.02)
    means = []
    for _ in range(150):
        out = loss(
            student(features_BF), labels_B, mentor_logits_BMC, student_features_BF=features_BF
        )
        means.append(out.weight_BM[:, right].mean().item())
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(out.total)
        optimizer.step()
    assert means[0] == pytest.approx(0.7 if right == 0 else 0.3, abs=0.02)  # by chance
    assert means[-1] > 0.8


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        ({"temperature": 0.0}, ["temperature", "> 0"]),
        ({"kd_weight": -1.0}, ["kd_weight", ">= 0"]),
        ({"reduction": "sum"}, ["reduction", "'batchmean' or 'authors'", "'sum'"]),
        ({"regularise": 1}, ["regularise", "true or false", "1"]),
        ({"phase1_epochs": 1.5}, ["phase1_epochs", "whole number", "1.5"]),
        ({"phase1_epochs": -1}, ["phase1_epochs", ">= 0", "-1"]),
        ({"phase1_epochs": True}, ["phase1_epochs", "True"]),
        ({"train_adapter": False}, ["train_adapter", "hint_weight"]),
    ],
    ids=str,
)
def test_bad_switches_are_refused(switches: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        build_method("amtml", **switches)
    for word in ["method 'amtml'", *words]:
        assert word in str(error.value)


def test_what_it_needs() -> None:
    assert build_method("amtml").needs.student_features
    assert not build_method("amtml").needs.mentor_features
    assert build_method("amtml", hint_weight=1.0).needs.mentor_features
    with pytest.raises(UsageError, match="shapes"):
        build_loss("amtml")
    shapes = LossShapes(num_mentors=2, num_classes=3, student_features=4)
    loss = build_loss("amtml", shapes=shapes, seed=5, temperature=2.0)
    assert isinstance(loss, AmtmlLoss)
    assert torch.equal(loss.W_F1, Amtml().for_shapes(shapes, 5).W_F1)
    with pytest.raises(UsageError, match=r"hint_weight=1 needs the features of 2.*none"):
        build_loss("amtml", shapes=shapes, hint_weight=1.0)


def test_inputs_that_do_not_fit_are_refused() -> None:
    case = make_case(15, dtype=torch.float32)
    loss = make_loss(case, hint_weight=1.0)
    batch, features, theirs = case
    two = batch._replace(mentor_logits_BMC=batch.mentor_logits_BMC[:, :2])
    bad: list[tuple[Batch, Any, Any, str]] = [
        (two, features, theirs, "for 3 mentors, got 2"),
        (batch, features[:, :2], theirs, r"student features.*\(5, 3\).*got \(5, 2\)"),
        (batch, features.long(), theirs, "student features.*int64"),
        (batch, features.to("meta"), theirs, "student features.*cpu.*meta"),
        (batch, features, None, r"mentor features.*\(5, 2\), \(5, 3\), \(5, 4\); got None"),
        (batch, features, theirs[:2], r"mentor features.*; got \(5, 2\), \(5, 3\)$"),
        (batch, features, [], "mentor features.*got none"),
    ]
    for logits, student_features_BF, mentor_features, message in bad:
        with pytest.raises(ValueError, match=message):
            loss(*logits, student_features_BF=student_features_BF, mentor_features=mentor_features)
