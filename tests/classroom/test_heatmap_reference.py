"""The pose losses equal their plain-loop float64 references, in value and gradient."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.classroom import (
    HeatmapAverageLoss,
    HeatmapClassroomLoss,
    HeatmapKDLoss,
    HeatmapLabelLoss,
    LossOutput,
)
from tests.classroom import heatmap_reference as reference
from tests.classroom.cases import quick
from tests.classroom.heatmap_cases import SIGMAS, Maps, make_maps, maps, switch_grid

STEP = 1e-4
GRID = switch_grid()


def slow_classroom(student: Any, maps: Maps, **switches: Any) -> reference.Expected:
    held, joints, mentors = (tensor.tolist() for tensor in maps)
    return reference.classroom(student, joints, mentors, held=held, **switches)


def assert_decisions(out: LossOutput, expected: reference.Expected, where: object) -> None:
    assert out.joints is not None
    assert out.joints.active_BMJ.tolist() == expected.active, where
    for got, want in (
        (out.joints.student_BJ, expected.student),
        (out.joints.mentor_BMJ, expected.mentor_confidence),
        (out.joints.weight_BMJ, expected.weight),
        (out.joints.gap_BMJ, expected.gap),
        (out.joints.temperature_BMJ, expected.temperature),
    ):
        torch.testing.assert_close(
            got, torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=1e-12, msg=str(where)
        )


def assert_values(out: LossOutput, expected: reference.Expected, where: object) -> None:
    got = [out.task.item(), out.mentor.item(), *out.term_BM.flatten().tolist()]
    want = [expected.task, expected.mentor, *(t for row in expected.term for t in row)]
    assert got == pytest.approx(want, rel=1e-12, abs=1e-12), where
    torch.testing.assert_close(out.total, out.task + out.mentor)


def assert_gradient(loss: Any, slow: Any, maps: Maps, where: object, **given: Any) -> None:
    """Of the whole and of each term alone, along one direction; central differences."""
    student = maps.student_BJHW.clone().requires_grad_()
    out = loss(student, maps.joints_BJ3, maps.mentors_BMJHW, **given)
    torch.autograd.backward(out.total)
    direction = torch.randn(student.shape, generator=torch.Generator().manual_seed(9)).double()
    ends = [slow((maps.student_BJHW + s * direction).tolist()) for s in (-STEP, STEP)]
    B = len(student)
    low, high = (
        [end.task, *(sum(column) / B for column in zip(*end.term, strict=True))] for end in ends
    )
    slopes = [(b - a) / (2 * STEP) for a, b in zip(low, high, strict=True)]
    assert student.grad is not None
    assert out.seen_BKC.grad is not None
    pulls_BK = (out.seen_BKC.grad * direction.flatten(1).unsqueeze(1)).sum(2)
    assert pulls_BK.sum(0).tolist() == pytest.approx(slopes, rel=1e-5, abs=1e-7), where
    assert (student.grad * direction).sum().item() == pytest.approx(sum(slopes), rel=1e-5, abs=1e-7)


@settings(quick, max_examples=200)
@given(maps(joints=4), st.sampled_from(GRID), st.booleans())
def test_classroom_over_all_switches(maps: Maps, switches: dict[str, Any], areas: bool) -> None:
    loss = HeatmapClassroomLoss(**switches)
    given: dict[str, Any] = {}
    slow: dict[str, Any] = dict(switches)
    if areas and "sigmas" in switches:
        scale_B = 100.0 + 300.0 * torch.arange(len(maps.joints_BJ3), dtype=torch.float64)
        given, slow["areas"] = {"scale_B": scale_B}, scale_B.tolist()
    expected = slow_classroom(maps.student_BJHW.tolist(), maps, **slow)
    out = loss(*maps, **given)
    assert_values(out, expected, switches)
    assert_decisions(out, expected, switches)
    assert_gradient(
        loss, lambda moved: slow_classroom(moved, maps, **slow), maps, switches, **given
    )


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"granularity": "sample"},
        {"divergence": "kl"},
        {"confidence": "oks", "sigmas": SIGMAS},
        {"task_weight": "confidence", "gate": "soft"},
        {"gate": "off", "mentor_weight": "one", "kd_scale": "per-active-weight"},
    ],
    ids=str,
)
@quick
@given(maps=maps(joints=4))
def test_classroom_switch_by_switch(maps: Maps, switches: dict[str, Any]) -> None:
    expected = slow_classroom(maps.student_BJHW.tolist(), maps, **switches)
    out = HeatmapClassroomLoss(**switches)(*maps)
    assert_values(out, expected, switches)
    assert_decisions(out, expected, switches)


def test_the_cases_show_all_kinds_of_decisions() -> None:
    """Guards the tests above: a gate that nothing passes, or everything, would prove little."""
    joints = HeatmapClassroomLoss()(*make_maps(1, B=8)).joints
    assert joints is not None
    seen_BMJ = joints.visible_BJ.unsqueeze(1).expand_as(joints.active_BMJ)
    assert 0.2 < joints.active_BMJ[seen_BMJ].double().mean() < 0.8
    assert (joints.gap_BMJ > 0.1).any()
    assert (joints.student_BJ[joints.visible_BJ] == 0).any()
    assert (joints.mentor_BMJ[seen_BMJ] == 0).any()
    assert not joints.visible_BJ.all()


@quick
@given(
    maps(),
    st.sampled_from(
        [
            {},
            {"label_weight": 1.0, "kd_weight": 0.2},
            {"divergence": "kl", "temperature": 2.0},
            {"divergence": "kl", "beta": 5.0},
        ]
    ),
)
def test_average_and_kd(maps: Maps, switches: dict[str, Any]) -> None:
    _, joints, mentors = (tensor.tolist() for tensor in maps)

    def slow(student: Any) -> reference.Expected:
        return reference.average(student, joints, mentors, **switches)

    loss = HeatmapAverageLoss(**switches)
    assert_values(loss(*maps), slow(maps.student_BJHW.tolist()), switches)
    assert_gradient(loss, slow, maps, switches)
    one = maps._replace(mentors_BMJHW=maps.mentors_BMJHW[:, :1])
    ours, averaged = HeatmapKDLoss(**switches)(*one), loss(*one)
    assert torch.equal(ours.total, averaged.total)


@quick
@given(maps())
def test_labels_only(maps: Maps) -> None:
    _, joints, mentors = (tensor.tolist() for tensor in maps)

    def slow(student: Any) -> reference.Expected:
        return reference.average(student, joints, mentors, label_weight=1.0, kd_weight=0.0)

    assert_values(HeatmapLabelLoss()(*maps), slow(maps.student_BJHW.tolist()), "ce")
    assert_gradient(HeatmapLabelLoss(), slow, maps, "ce")
    alone = HeatmapLabelLoss()(maps.student_BJHW, maps.joints_BJ3)
    assert torch.equal(alone.total, HeatmapLabelLoss()(*maps).total)
    assert alone.term_BM.shape == (len(maps.joints_BJ3), 0)
