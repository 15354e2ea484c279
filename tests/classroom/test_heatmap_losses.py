"""What holds for every pose loss: visibility, precision, devices, robustness, names, errors."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdcache.classroom import (
    METHODS,
    POSE_METHODS,
    HeatmapAverageLoss,
    HeatmapClassroomLoss,
    HeatmapKDLoss,
    HeatmapLabelLoss,
    MentorLoss,
    build_loss,
    build_method,
    has_filter,
)
from kdcache.errors import UsageError
from kdcache.train.tally import Tally, filter_warnings
from tests.classroom.cases import quick
from tests.classroom.heatmap_cases import SIGMAS, Maps, make_maps, maps

few = settings(quick, max_examples=10)
CASES: dict[str, MentorLoss] = {
    "classroom": HeatmapClassroomLoss(),
    "sample": HeatmapClassroomLoss(granularity="sample"),
    "kl": HeatmapClassroomLoss(divergence="kl"),
    "oks": HeatmapClassroomLoss(confidence="oks", sigmas=SIGMAS),
    "oks, sample": HeatmapClassroomLoss(confidence="oks", sigmas=SIGMAS, granularity="sample"),
    "soft": HeatmapClassroomLoss(gate="soft", kd_scale="per-active-weight"),
    "off": HeatmapClassroomLoss(gate="off", mentor_weight="one"),
    "confident": HeatmapClassroomLoss(task_weight="confidence", gap="difference", gate_margin=0.1),
    "ce": HeatmapLabelLoss(),
    "average": HeatmapAverageLoss(),
    "average, kl": HeatmapAverageLoss(divergence="kl", temperature=2.0),
    "kd": HeatmapKDLoss(),
}
every_case = pytest.mark.parametrize("name", CASES)


def fitting(name: str, given: Maps) -> tuple[MentorLoss, Maps]:
    loss = CASES[name]
    return loss, given._replace(mentors_BMJHW=given.mentors_BMJHW[:, : loss.needs.most_mentors])


def gradient(loss: MentorLoss, given: Maps) -> Tensor:
    student = given.student_BJHW.clone().requires_grad_()
    (result,) = torch.autograd.grad(
        loss(student, given.joints_BJ3, given.mentors_BMJHW).total, student
    )
    return result


def assert_finite(loss: MentorLoss, given: Maps) -> None:
    out = loss(*given)
    for tensor in (out.total, out.active_BM, out.weight_BM, out.gap_BM, out.temperature_BM):
        assert tensor.isfinite().all()
    assert out.term_BM.isfinite().all()
    if out.joints is not None:
        for field in dataclasses.fields(out.joints):
            assert getattr(out.joints, field.name).isfinite().all(), field.name
    assert gradient(loss, given).isfinite().all()


# --- visibility -----------------------------------------------------------------------------------


@every_case
@few
@given(given=maps(joints=4), junk=st.sampled_from([0.0, -50.0, 1e4, math.nan]))
def test_invisible_joints_carry_no_weight(name: str, given: Maps, junk: float) -> None:
    """No gradient on their maps; neither their maps nor their coordinates change anything."""
    loss, given = fitting(name, given)
    hidden_BJ = given.joints_BJ3[..., 2] == 0
    assert (gradient(loss, given)[hidden_BJ] == 0).all()
    joints = given.joints_BJ3.clone()
    joints[..., :2][hidden_BJ] = junk
    draw = torch.Generator().manual_seed(5)
    student, mentors = given.student_BJHW.clone(), given.mentors_BMJHW.clone()
    student[hidden_BJ] = torch.rand(student[hidden_BJ].shape, generator=draw).double()
    moved_BM = mentors.transpose(1, 2)
    moved_BM[hidden_BJ] = torch.rand(moved_BM[hidden_BJ].shape, generator=draw).double()
    one, other = loss(*given), loss(student, joints, mentors)
    for field in ("total", "task", "active_BM", "weight_BM", "gap_BM", "temperature_BM", "term_BM"):
        assert torch.equal(getattr(one, field), getattr(other, field)), field


@every_case
def test_without_a_visible_joint_the_loss_is_zero(name: str) -> None:
    loss, given = fitting(name, make_maps(2))
    given.joints_BJ3[..., 2] = 0
    out = loss(*given)
    assert out.total == 0
    assert (gradient(loss, given) == 0).all()
    assert_finite(loss, given)
    if name in ("classroom", "sample", "oks", "kl"):
        assert not out.active_BM.any()


@every_case
@few
@given(given=maps(joints=4))
def test_a_batch_is_the_mean_of_its_samples(name: str, given: Maps) -> None:
    loss, given = fitting(name, given)
    out = loss(*given)
    alone = [loss(*(tensor[i : i + 1] for tensor in given)) for i in range(len(given.joints_BJ3))]
    torch.testing.assert_close(out.total, torch.stack([one.total for one in alone]).mean())
    for field in ("active_BM", "weight_BM", "gap_BM", "temperature_BM", "term_BM"):
        torch.testing.assert_close(
            getattr(out, field), torch.cat([getattr(one, field) for one in alone])
        )


# --- terms ----------------------------------------------------------------------------------------


@every_case
@few
@given(given=maps(joints=4))
def test_terms_add_up_and_their_slots_keep_them_apart(name: str, given: Maps) -> None:
    loss, given = fitting(name, given)
    B, M, J, H, W = given.mentors_BMJHW.shape
    student = given.student_BJHW.clone().requires_grad_()
    out = loss(student, given.joints_BJ3, given.mentors_BMJHW)
    torch.testing.assert_close(out.term_BM.sum(1).mean(), out.mentor.detach())
    assert out.seen_BKC.shape == (B, 1 + M, J * H * W)
    torch.autograd.backward(out.total)
    kept = out.seen_BKC.grad
    assert kept is not None
    assert student.grad is not None
    torch.testing.assert_close(kept.sum(1).view_as(student), student.grad)
    again = given.student_BJHW.clone().requires_grad_()
    task = loss(again, given.joints_BJ3, given.mentors_BMJHW).task
    (task_gradient,) = torch.autograd.grad(task, again)
    torch.testing.assert_close(kept[:, 0].view_as(student), task_gradient)
    if out.joints is not None:
        torch.testing.assert_close(out.joints.term_BMJ.sum(2), out.term_BM)


def test_slots_cost_no_copies() -> None:
    given = make_maps()
    student = given.student_BJHW.float()
    out = HeatmapClassroomLoss()(student, given.joints_BJ3, given.mentors_BMJHW)
    assert out.seen_BKC.data_ptr() == student.data_ptr()
    assert out.seen_BKC.stride(1) == 0


@every_case
@few
@given(given=maps(joints=4), seed=st.integers(0, 99))
def test_the_order_of_mentors_is_irrelevant(name: str, given: Maps, seed: int) -> None:
    loss, given = fitting(name, given)
    M = given.mentors_BMJHW.shape[1]
    order = torch.randperm(M, generator=torch.Generator().manual_seed(seed))
    one = loss(*given)
    other = loss(*given._replace(mentors_BMJHW=given.mentors_BMJHW[:, order]))
    torch.testing.assert_close(other.total, one.total)
    torch.testing.assert_close(other.active_BM, one.active_BM[:, order])
    torch.testing.assert_close(other.term_BM, one.term_BM[:, order])


@every_case
def test_nothing_flows_to_mentors_or_labels(name: str) -> None:
    loss, given = fitting(name, make_maps())
    mentors, joints = given.mentors_BMJHW.requires_grad_(), given.joints_BJ3.requires_grad_()
    out = loss(given.student_BJHW.requires_grad_(), joints, mentors)
    torch.autograd.backward(out.total)
    assert mentors.grad is None
    assert joints.grad is None
    for tensor in (out.active_BM, out.weight_BM, out.gap_BM, out.temperature_BM, out.term_BM):
        assert not tensor.requires_grad


# --- precision and devices ------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_are_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    loss, half = fitting(name, make_maps(3, B=6, dtype=dtype))
    student = half.student_BJHW.requires_grad_()
    out = loss(student, half.joints_BJ3, half.mentors_BMJHW)
    exact = loss(student.detach().float(), half.joints_BJ3, half.mentors_BMJHW.float())
    assert torch.equal(out.total, exact.total)
    for tensor in (out.total, out.weight_BM, out.temperature_BM, out.term_BM, out.seen_BKC):
        assert tensor.dtype == torch.float32
    torch.autograd.backward(out.total)
    assert student.grad is not None
    assert student.grad.dtype == dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = loss(student.detach().float(), half.joints_BJ3, half.mentors_BMJHW)
    assert torch.equal(lowered.total, exact.total)


@every_case
def test_float64_stays_and_float32_is_near(name: str) -> None:
    loss, given = fitting(name, make_maps(4, B=6))
    out = loss(*given)
    assert out.total.dtype == out.weight_BM.dtype == torch.float64
    single = loss(given.student_BJHW.float(), given.joints_BJ3, given.mentors_BMJHW)
    assert single.total.item() == pytest.approx(out.total.item(), rel=1e-4)
    channels_last = given.student_BJHW.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(loss(channels_last, *given[1:]).total, out.total)


@every_case
def test_no_loss_waits_for_the_device(name: str) -> None:
    """Meta tensors have no values: `.item()`, `bool(tensor)`, `nonzero` and the like all raise."""
    student = torch.empty(5, 4, 8, 6, device="meta", requires_grad=True)
    loss, given = fitting(
        name,
        Maps(
            student,
            torch.empty(5, 4, 3, device="meta"),
            torch.empty(5, 3, 4, 8, 6, device="meta", dtype=torch.float16),
        ),
    )
    out = loss(*given)
    torch.autograd.backward(out.total)
    assert out.active_BM.shape == given.mentors_BMJHW.shape[:2]


# --- robustness -----------------------------------------------------------------------------------

ODD = {
    "blank": 0.0,
    "constant": 0.5,
    "negative": -1.0,
    "faint": 1e-30,
    "huge": 1e4,
}


@every_case
@pytest.mark.parametrize("of_student", ODD)
@pytest.mark.parametrize("of_mentors", ODD)
def test_odd_maps_give_no_nan(name: str, of_student: str, of_mentors: str) -> None:
    loss, given = fitting(name, make_maps(dtype=torch.float32))
    student = torch.full_like(given.student_BJHW, ODD[of_student])
    mentors = torch.full_like(given.mentors_BMJHW, ODD[of_mentors])
    assert_finite(loss, Maps(student, given.joints_BJ3, mentors))
    assert_finite(loss, given._replace(student_BJHW=student))
    assert_finite(loss, given._replace(mentors_BMJHW=mentors))


@pytest.mark.parametrize("name", ["peak", "oks"])
def test_a_map_without_a_peak_above_zero_sees_nothing_whatever_min_peak_is(name: str) -> None:
    sigmas = SIGMAS if name == "oks" else None
    loss = HeatmapClassroomLoss(confidence=name, sigmas=sigmas, min_peak=0.0)  # type: ignore[arg-type]
    given = make_maps()
    given.joints_BJ3[..., :2] = 4.0  # where a blank map's maximum is found is near
    mentors = torch.stack([torch.zeros_like(given.student_BJHW), -given.student_BJHW.abs()], 1)
    joints = loss(torch.full_like(given.student_BJHW, 0.001), given.joints_BJ3, mentors).joints
    assert joints is not None
    assert not joints.mentor_BMJ.any()
    assert not joints.active_BMJ.any()
    assert (joints.student_BJ[joints.visible_BJ] > 0).all()  # seen: min_peak asks for nothing


@every_case
def test_a_visible_joint_far_outside_of_the_view(name: str) -> None:
    loss, given = fitting(name, make_maps(dtype=torch.float32))
    given.joints_BJ3[..., :2] = 1e4
    given.joints_BJ3[..., 2] = 1
    assert_finite(loss, given)


@every_case
def test_a_mentor_that_is_not_a_number_is_not_hidden(name: str) -> None:
    loss, given = fitting(name, make_maps(dtype=torch.float32))
    given.joints_BJ3[..., 2] = 1
    given.mentors_BMJHW[0, 0, 0, 0, 0] = math.nan
    assert loss(*given).total.isnan() == (name != "ce")


# --- what is recorded of an epoch -----------------------------------------------------------------


def test_a_tally_counts_joints() -> None:
    """Against a plain loop; the losses on heatmaps need nothing of their own there."""
    tally = Tally(("ann", "bob", "cyd"), torch.device("cpu"))
    active, weight, samples, untaught = [0.0] * 3, [0.0] * 3, 0, 0
    pulls = [0.0] * 4
    for seed in range(3):
        given = make_maps(seed, B=4)
        student = given.student_BJHW.clone().requires_grad_()
        out = HeatmapClassroomLoss()(student, *given[1:])
        torch.autograd.backward(out.total)
        tally.add(out, given.joints_BJ3)
        joints = out.joints
        assert joints is not None
        assert out.seen_BKC.grad is not None
        for i in range(4):
            samples += 1
            visible = [j for j in range(4) if joints.visible_BJ[i, j]]
            taught = [[j for j in visible if joints.active_BMJ[i, m, j]] for m in range(3)]
            untaught += not any(taught)
            for m in range(3):
                share = len(taught[m]) / len(visible) if visible else 0.0
                active[m] += share
                if taught[m]:
                    mean = sum(joints.weight_BMJ[i, m, j].item() for j in taught[m])
                    weight[m] += share * mean / len(taught[m])
            for k in range(4):
                pulls[k] += 4 * out.seen_BKC.grad[i, k].norm().item()
    record = tally.record()
    found = record["classroom"]
    assert list(found["active"].values()) == pytest.approx([a / samples for a in active])
    assert list(found["weight"].values()) == pytest.approx(
        [w / a for w, a in zip(weight, active, strict=True)]
    )
    assert found["untaught"] == pytest.approx(untaught / samples)
    assert min(active) > 0
    assert list(found["gradient_share"].values()) == pytest.approx(
        [pull / sum(pulls) for pull in pulls[1:]]
    )
    assert filter_warnings(record) == {}


@pytest.mark.parametrize("method", ["average", "kd"])
def test_baselines_are_tallied(method: str) -> None:
    M = 1 if method == "kd" else 2
    given = make_maps(M=M)
    tally = Tally(("ann", "bob")[:M], torch.device("cpu"))
    out = build_loss(method, task="pose")(given.student_BJHW.requires_grad_(), *given[1:])
    torch.autograd.backward(out.total)
    tally.add(out, given.joints_BJ3)
    found = tally.record()["classroom"]
    assert found["untaught"] == 0
    assert set(found["weight"].values()) == {1 / M}


# --- names and errors -----------------------------------------------------------------------------


def test_methods_of_pose_are_built_by_name() -> None:
    assert build_loss("classroom", task="pose", tau=2.0) == HeatmapClassroomLoss(tau=2.0)
    assert build_loss("ce", task="pose") == HeatmapLabelLoss()
    assert build_loss("kd", task="pose", divergence="kl") == HeatmapKDLoss(divergence="kl")
    assert build_method("average", task="pose") == HeatmapAverageLoss()
    assert build_method("ce") != HeatmapLabelLoss()
    assert has_filter("classroom", task="pose")
    assert not has_filter("classroom", task="pose", gate="soft")
    assert not has_filter("average", task="pose")
    of_a_file = build_loss("classroom", task="pose", confidence="oks", sigmas=list(SIGMAS))
    assert of_a_file == HeatmapClassroomLoss(confidence="oks", sigmas=SIGMAS)
    assert hash(of_a_file) == hash(HeatmapClassroomLoss(confidence="oks", sigmas=SIGMAS))


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(POSE_METHODS)))
def test_methods_of_logits_say_which_take_heatmaps(method: str) -> None:
    message = rf"method '{method}' takes logits.*classroom, ce, average, kd"
    with pytest.raises(UsageError, match=message):
        build_loss(method, task="pose")


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match=r"unknown method 'clasroom'\. Did you mean classroom"):
        build_loss("clasroom", task="pose")
    with pytest.raises(UsageError, match=r"unknown task 'poses'\. Did you mean pose"):
        build_loss("classroom", task="poses")
    with pytest.raises(UsageError, match=r"switch of method 'classroom'.*'rank_scale'"):
        build_loss("classroom", task="pose", rank_scale=3.0)
    with pytest.raises(UsageError, match=r"'ce' has no switches, got tau=1.0"):
        build_loss("ce", task="pose", tau=1.0)


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        ({"granularity": "batch"}, ["granularity", "'joint' or 'sample'", "'batch'"]),
        ({"confidence": "pck"}, ["confidence", "'peak' or 'oks'", "'pck'"]),
        ({"min_peak": -0.1}, ["min_peak", ">= 0", "-0.1"]),
        ({"divergence": "js"}, ["divergence", "'mse' or 'kl'", "'js'"]),
        ({"beta": 0}, ["beta", "> 0", "0"]),
        ({"tau": "1"}, ["tau", "number", "'1'"]),
        ({"gap": "absolute"}, ["gap", "'ratio' or 'difference'", "'absolute'"]),
        ({"gate": "soft", "mentor_weight": "one"}, ["soft", "mentor_weight", "'one'"]),
        ({"gate": "off", "gate_margin": 0.1}, ["gate_margin", "hard", "'off'"]),
        ({"fixed_temperature": 2.0}, ["fixed_temperature", "'gap'", "2.0"]),
        ({"t_max": 0.5}, ["t_max", ">= 1", "0.5"]),
        ({"kd_scale": "mean"}, ["kd_scale", "'per-active-weight'", "'mean'"]),
        ({"sigmas": (0.1,)}, ["sigmas", "oks", "'peak'"]),
        ({"confidence": "oks", "sigmas": "0.1"}, ["sigmas", "each joint", "'0.1'"]),
        ({"confidence": "oks", "sigmas": (0.1, -1.0)}, ["sigmas", "> 0", "-1.0"]),
    ],
    ids=str,
)
def test_bad_switches_are_refused(switches: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        build_loss("classroom", task="pose", **switches)
    for word in ["'classroom'", *words]:
        assert word in str(error.value)


def test_a_temperature_without_a_softmax_is_refused() -> None:
    for method in ("average", "kd"):
        with pytest.raises(UsageError, match=r"temperature needs divergence=.kl.*4\.0.*'mse'"):
            build_loss(method, task="pose", temperature=4.0)


@pytest.mark.parametrize("method", sorted(POSE_METHODS))
def test_losses_are_frozen_and_keyword_only(method: str) -> None:
    loss = POSE_METHODS[method]()
    assert POSE_METHODS[method](**dataclasses.asdict(loss)) == loss
    with pytest.raises(TypeError):
        POSE_METHODS[method](1.5)


@pytest.mark.parametrize("name", ["classroom", "average", "kd", "ce"])
def test_shapes_that_do_not_fit_are_refused(name: str) -> None:
    loss, (student, joints, mentors) = fitting(name, make_maps(dtype=torch.float32))
    bad = [
        (student, joints, mentors[:, :, :-1], r"mentor heatmaps.*, 3, 9, 7\).*\(3, 4, 9, 7\)"),
        (student, joints, mentors[..., :-1], r"mentor heatmaps.*9, 6\).*\(3, 4, 9, 7\)"),
        (student, joints, mentors[:, 0], r"mentor heatmaps.*\(3, 4, 9, 7\)"),
        (student, joints, mentors[:, :0], r"mentor heatmaps.*\(3, 0, 4, 9, 7\)"),
        (student, joints[:, :-1], mentors, r"joints.*\(3, 4, 3\).*\(3, 3, 3\)"),
        (student, joints[..., :2], mentors, r"joints.*\(3, 4, 3\).*\(3, 4, 2\)"),
        (student[0], joints, mentors, r"student heatmaps.*\(4, 9, 7\)"),
        (student[:0], joints[:0], mentors[:0], r"student heatmaps.*\(0, 4, 9, 7\)"),
        (student.long(), joints, mentors, "student heatmaps.*int64"),
        (student, joints.long(), mentors, "joints.*int64"),
        (student, joints, mentors.byte(), "mentor heatmaps.*uint8"),
        (student, joints.to("meta"), mentors, "joints.*cpu.*meta"),
        (student, joints, mentors.to("meta"), "mentor heatmaps.*cpu.*meta"),
    ]
    for student_BJHW, joints_BJ3, mentors_BMJHW, message in bad:
        with pytest.raises(ValueError, match=message):
            loss(student_BJHW, joints_BJ3, mentors_BMJHW)
    if name != "ce":
        with pytest.raises(ValueError, match="got None; only method 'ce'"):
            loss(student, joints, None)


def test_what_oks_needs() -> None:
    given = make_maps()
    with pytest.raises(ValueError, match=r"oks.*needs sigmas.*4 joints; got none"):
        HeatmapClassroomLoss(confidence="oks")(*given)
    with pytest.raises(ValueError, match=r"oks.*needs sigmas.*4 joints; got 2"):
        HeatmapClassroomLoss(confidence="oks", sigmas=(0.1, 0.1))(*given)
    loss = HeatmapClassroomLoss(confidence="oks", sigmas=SIGMAS)
    for scale_B, message in (
        (torch.ones(2), r"scale_B.*\(3,\).*\(2,\)"),
        (torch.ones(3).long(), "scale_B.*int64"),
        (torch.ones(3, device="meta"), "scale_B.*cpu.*meta"),
    ):
        with pytest.raises(ValueError, match=message):
            loss(*given, scale_B=scale_B)


def test_kd_of_several_mentors_points_to_average() -> None:
    with pytest.raises(ValueError, match=r"exactly one mentor.*got 3.*'average'"):
        HeatmapKDLoss()(*make_maps(M=3))
