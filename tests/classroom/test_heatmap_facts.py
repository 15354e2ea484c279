"""What the losses' docstrings state of heatmaps, measured: maps of 64 x 48, labels of sigma 2."""

import math

import pytest
import torch
from torch import Tensor

from kdcache.classroom import HeatmapAverageLoss, HeatmapClassroomLoss
from kdcache.heatmaps import gaussian_heatmaps

H, W = 64, 48
JOINTS_1J3 = torch.tensor([[[60.0, 80.0, 1.0], [120.5, 190.25, 1.0]]], dtype=torch.float64)
LABELS_1JHW = gaussian_heatmaps(JOINTS_1J3, H, W)


def confidences(*mentors_1JHW: Tensor, joints: Tensor = JOINTS_1J3) -> Tensor:
    """(M, J), as the classroom measures them."""
    student = torch.zeros_like(mentors_1JHW[0])
    out = HeatmapClassroomLoss()(student, joints, torch.stack(mentors_1JHW, dim=1))
    assert out.joints is not None
    return out.joints.mentor_BMJ[0]


def mass_at_joint(peak_over_temperature: float) -> float:
    """Of a spatial softmax: on the joint itself, pixels within 3 sigma of its place."""
    joint = torch.tensor([[[96.0, 128.0, 1.0]]], dtype=torch.float64)
    label_HW = gaussian_heatmaps(joint, H, W)[0, 0]
    share_HW = torch.softmax(peak_over_temperature * label_HW.flatten(), 0).view(H, W)
    near_HW = label_HW > math.exp(-(3**2) / 2)
    return share_HW[near_HW].sum().item()


# --- the divergence -------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_a_softmax_over_raw_heatmaps_is_uniform_at_every_temperature(temperature: float) -> None:
    """The joint's 6-sigma disc is 3.7% of the pixels and holds hardly more of the mass; the
    softmax's entropy is that of a uniform one within 0.3%."""
    share = torch.softmax(LABELS_1JHW[0, 0].flatten() / temperature, 0)
    entropy = -(share * share.log()).sum().item()
    assert entropy > 0.997 * math.log(H * W)
    assert mass_at_joint(1 / temperature) < {0.5: 0.10, 1.0: 0.06, 4.0: 0.05}[temperature]
    assert mass_at_joint(25.0) > 0.99  # beta


def test_half_of_the_mass_is_on_the_joint_once_the_peak_is_about_six() -> None:
    """At peak / T = ln(HW / 2 pi sigma^2) = 4.8 it is a quarter; half of it at 6.4, by bisection.

    Laplace's estimate of the peak's mass, 2 pi sigma^2 e^p / p, would be the rest's HW at 6.7."""
    estimate = math.log(H * W / (2 * math.pi * 2.0**2))
    assert estimate == pytest.approx(4.81, abs=0.005)
    assert mass_at_joint(estimate) == pytest.approx(0.24, abs=0.01)
    low, high = 0.0, 25.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if mass_at_joint(middle) < 0.5 else (low, middle)
    assert low == pytest.approx(6.4, abs=0.05)
    assert 6.7 - math.log(6.7) == pytest.approx(estimate, abs=0.02)


def apart(student: Tensor, mentor: Tensor, **switches: object) -> float:
    loss = HeatmapAverageLoss(label_weight=0.0, kd_weight=1.0, **switches)  # type: ignore[arg-type]
    return loss(student, JOINTS_1J3, mentor.unsqueeze(1)).total.item()


def centred(maps: Tensor) -> Tensor:
    return maps - maps.mean(dim=(-2, -1), keepdim=True)


def test_scaled_kl_tends_to_the_squared_error_of_centred_maps() -> None:
    """(T / beta)^2 KL is half the centred mean squared error: in the unit of the losses, twice
    HW / (pi sigma^2) times it, the squared error itself. With T^2 it would be 625 times that."""
    draw = torch.Generator().manual_seed(0)
    student = 0.3 * torch.rand(LABELS_1JHW.shape, generator=draw).double()
    expected = apart(centred(student), centred(LABELS_1JHW))
    for temperature, within in ((250.0, 0.06), (2500.0, 0.006), (25000.0, 6e-4)):
        found = apart(student, LABELS_1JHW, divergence="kl", temperature=temperature)
        assert found == pytest.approx(expected, rel=within)
    # By hand, without the losses' unit.
    T, beta = 25000.0, 25.0
    log_p, log_q = (
        torch.log_softmax(beta * maps.flatten(2) / T, 2) for maps in (LABELS_1JHW, student)
    )
    kl = (log_p.exp() * (log_p - log_q)).sum(2).mean().item()
    half = (centred(student) - centred(LABELS_1JHW)).square().mean().item() / 2
    assert (T / beta) ** 2 * kl == pytest.approx(half, rel=1e-3)
    assert T**2 * kl == pytest.approx(625 * half, rel=1e-3)


@pytest.mark.parametrize(("temperature", "term", "ratio"), [(1.0, 5.7, 28), (2.5, 26, 35)])
def test_how_much_harder_the_kl_pulls(temperature: float, term: float, ratio: float) -> None:
    """The docstring's numbers, of a blank student's map; what `kd_scale` is for."""
    joints = torch.tensor([[[96.0, 128.0, 1.0]]])
    labels = gaussian_heatmaps(joints, H, W)
    pulls = []
    for switches in (
        {"divergence": "mse"},
        {"divergence": "kl", "temperature": "fixed", "fixed_temperature": temperature},
    ):
        student = torch.zeros_like(labels).requires_grad_()
        loss = HeatmapClassroomLoss(**switches)
        out = loss(student, joints, labels.unsqueeze(1))
        (gradient,) = torch.autograd.grad(out.mentor, student)
        pulls.append(gradient.norm().item())
        found = out.mentor.item()
        assert found == pytest.approx(1 if switches["divergence"] == "mse" else term, rel=0.02)
    assert pulls[1] / pulls[0] == pytest.approx(ratio, rel=0.02)


def test_temperature_changes_nothing_of_a_squared_error() -> None:
    mentors = (0.7 * LABELS_1JHW).unsqueeze(1)
    student = 0.5 * LABELS_1JHW.roll(1, dims=-1)
    outs = [HeatmapClassroomLoss(tau=tau)(student, JOINTS_1J3, mentors) for tau in (0.0, 9.0)]
    assert outs[0].total == outs[1].total
    assert (outs[0].temperature_BM != outs[1].temperature_BM).all()
    kl = [
        HeatmapClassroomLoss(tau=tau, divergence="kl")(student, JOINTS_1J3, mentors).total.item()
        for tau in (0.0, 9.0)
    ]
    assert kl[0] != pytest.approx(kl[1], rel=0.01)


# --- the unit -------------------------------------------------------------------------------------


def test_a_blank_map_costs_one_and_a_misplaced_one_two() -> None:
    loss = HeatmapClassroomLoss(gate_margin=1.0)  # labels only
    mentors = torch.zeros_like(LABELS_1JHW).unsqueeze(1)
    for maps, cost in (
        (torch.zeros_like(LABELS_1JHW), 1.0),
        (LABELS_1JHW.flip(1), 2.0),
        (LABELS_1JHW, 0.0),
    ):
        assert loss(maps, JOINTS_1J3, mentors).task.item() == pytest.approx(cost, abs=1e-3)
    large_1J3 = JOINTS_1J3 * torch.tensor([2.0, 2.0, 1.0])
    blank = torch.zeros(1, 2, 2 * H, 2 * W, dtype=torch.float64)
    out = loss(blank, large_1J3, blank.unsqueeze(1))
    assert out.task.item() == pytest.approx(1.0, abs=1e-3)  # the same at twice the resolution


def test_the_task_term_is_the_published_one_times_a_constant() -> None:
    """JointsMSELoss: half the mean over the batch's pixels, times weight, mean over joints."""
    draw = torch.Generator().manual_seed(1)
    B, J = 5, 4
    joints = torch.rand(B, J, 3, generator=draw) * torch.tensor([191.0, 255.0, 1.0])
    joints[..., 2] = joints[..., 2].round()
    student = torch.rand(B, J, H, W, generator=draw)
    published = sum(
        0.5
        * torch.nn.functional.mse_loss(
            student[:, j] * joints[:, j, 2, None, None],
            gaussian_heatmaps(joints, H, W)[:, j] * joints[:, j, 2, None, None],
        )
        for j in range(J)
    )
    task = HeatmapClassroomLoss()(student, joints, student.unsqueeze(1)).task
    constant = 2 * H * W / (math.pi * 4)
    assert constant == pytest.approx(489, abs=0.5)
    assert task.item() == pytest.approx(constant * float(published) / J, rel=1e-5)


def test_float16_holds_the_gradient_of_this_unit() -> None:
    """A blank map's steepest pixel, 17 joints, a batch of 32; in the published one's unit it is
    where float16 has two bits left."""
    B, J = 32, 17
    joints = torch.tensor([96.0, 128.0, 1.0]).expand(B, J, 3)
    student = torch.zeros(B, J, H, W, requires_grad=True)
    out = HeatmapClassroomLoss()(student, joints, student.detach().unsqueeze(1))
    (gradient,) = torch.autograd.grad(out.total, student)
    steepest = gradient.abs().max().item()
    assert steepest == pytest.approx(3e-4, rel=0.05)
    assert steepest / 489 == pytest.approx(6e-7, rel=0.05)


# --- the confidence -------------------------------------------------------------------------------


def test_a_plain_relative_error_ranks_a_blank_map_above_a_swapped_joint() -> None:
    """And the peak-normalised confidence below: it is not fooled by a map without a peak."""
    blank, swapped = torch.zeros_like(LABELS_1JHW), LABELS_1JHW.flip(1)
    faint = (
        0.01 * torch.rand(LABELS_1JHW.shape, generator=torch.Generator().manual_seed(0)).double()
    )

    def plain(maps: Tensor) -> list[float]:
        energy = LABELS_1JHW.square().sum(dim=(-2, -1))
        return torch.exp(-(maps - LABELS_1JHW).square().sum(dim=(-2, -1)) / energy)[0].tolist()

    for j in range(2):
        assert plain(blank)[j] == pytest.approx(math.exp(-1))
        assert plain(swapped)[j] == pytest.approx(math.exp(-2), rel=1e-3)
        assert plain(faint)[j] > plain(swapped)[j]
    found_MJ = confidences(blank, faint, swapped)
    assert (found_MJ[:2] == 0).all()
    # Not quite exp(-2): its peak lies between pixels.
    assert found_MJ[2].tolist() == pytest.approx([math.exp(-2)] * 2, rel=0.06)


def test_confidence_is_of_shape_and_place_not_of_height() -> None:
    heights = (0.11, 0.5, 1.0, 3.0)
    found_MJ = confidences(*(height * LABELS_1JHW for height in heights), 0.09 * LABELS_1JHW)
    assert (found_MJ[:4] > 0.98).all()  # the peak lies between pixels: not quite 1
    assert (found_MJ[:4] - found_MJ[0]).abs().max() < 1e-12
    assert (found_MJ[4] == 0).all()


def test_confidence_falls_with_the_distance() -> None:
    """By 1 px of the heatmap 0.9, by 2 px 0.6, by 4 px 0.3: exp(-2 (1 - exp(-d^2 / 16)))."""
    joints = torch.tensor([[[80.0, 120.0, 1.0]]], dtype=torch.float64)
    label = gaussian_heatmaps(joints, H, W)
    steps = (0, 1, 2, 4, 8)
    found_M1 = confidences(*(label.roll(step, dims=-1) for step in steps), joints=joints)
    for found, step in zip(found_M1[:, 0].tolist(), steps, strict=True):
        expected = math.exp(-2 * (1 - math.exp(-(step**2) / 16)))
        assert found == pytest.approx(expected, rel=1e-3)


def test_oks_is_cocos() -> None:
    """exp(-d^2 / (2 s^2 k^2)) with k = 2 sigma, by hand: 8 view pixels off, area 6400."""
    joints = torch.tensor([[[60.0, 80.0, 1.0], [120.0, 192.0, 1.0]]], dtype=torch.float64)
    mentors = gaussian_heatmaps(joints, H, W).roll(2, dims=-1).unsqueeze(1)
    loss = HeatmapClassroomLoss(confidence="oks", sigmas=(0.05, 0.1))
    out = loss(torch.zeros_like(LABELS_1JHW), joints, mentors, scale_B=torch.tensor([6400.0]))
    assert out.joints is not None
    expected = [math.exp(-64 / (2 * 6400 * k**2)) for k in (0.1, 0.2)]
    assert out.joints.mentor_BMJ[0, 0].tolist() == pytest.approx(expected, rel=1e-6)


# --- the factor of the labels' term ---------------------------------------------------------------


def learn(task_weight: str, steps: int = 60) -> tuple[float, float]:
    """Peak at the joint and confidence of maps learnt freely by Adam from blank ones; the one
    mentor does not see the joint."""
    student = torch.zeros(1, 1, H, W, requires_grad=True)
    joints = JOINTS_1J3[:, :1].float()
    blank = torch.zeros(1, 1, 1, H, W)
    loss = HeatmapClassroomLoss(task_weight=task_weight)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam([student], lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        out = loss(student, joints, blank)
        out.total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert out.joints is not None
    return student[0, 0, 20, 15].item(), out.joints.student_BJ.item()


def test_a_blank_student_learns_from_labels_only_with_a_task_weight_of_one() -> None:
    peak, confidence = learn("one")
    assert peak > 0.8
    assert confidence > 0.9
    assert learn("confidence") == (0.0, 0.0)


# --- the filter -----------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", ["peak", "oks"])
def test_a_mentor_wrong_on_one_joint_stops_teaching_that_joint_only(confidence: str) -> None:
    J = 17
    draw = torch.Generator().manual_seed(3)
    joints = torch.cat([20 + 140 * torch.rand(2, J, 2, generator=draw), torch.ones(2, J, 1)], 2)
    labels = gaussian_heatmaps(joints, H, W)
    student = (0.8 * labels).roll(1, dims=-1)
    wrong = labels.clone()
    wrong[:, 9] = labels[:, 9].roll(20, dims=-2)  # far from where it is
    switches = {"confidence": confidence, "sigmas": (0.07,) * J if confidence == "oks" else None}
    loss = HeatmapClassroomLoss(**switches)  # type: ignore[arg-type]
    out = loss(student, joints, torch.stack([wrong, labels], 1))
    assert out.joints is not None
    expected = torch.ones(2, 2, J, dtype=torch.bool)
    expected[:, 0, 9] = False
    assert torch.equal(out.joints.active_BMJ, expected)
    assert out.active_BM[:, 0].tolist() == pytest.approx([16 / 17] * 2)
    assert out.joints.term_BMJ[:, 0, 9].tolist() == [0.0, 0.0]
    # One decision a person would let it teach that joint, too: the mean hardly moves.
    by_sample = HeatmapClassroomLoss(granularity="sample", **switches)  # type: ignore[arg-type]
    joints_of = by_sample(student, joints, torch.stack([wrong, labels], 1)).joints
    assert joints_of is not None
    if confidence == "peak":
        assert joints_of.active_BMJ.all()
        assert (joints_of.term_BMJ[:, 0, 9] > 0).all()


def test_mentors_that_see_nothing_teach_nothing() -> None:
    """Against a blank student, too, where shares are 0 / 0. A tie of those who see is active."""
    blank = torch.zeros_like(LABELS_1JHW)
    out = HeatmapClassroomLoss()(blank, JOINTS_1J3, torch.stack([blank, -LABELS_1JHW], 1))
    assert not out.active_BM.any()
    assert out.mentor == 0
    assert torch.equal(out.total, out.task)
    tie = HeatmapClassroomLoss()(LABELS_1JHW, JOINTS_1J3, LABELS_1JHW.unsqueeze(1))
    assert (tie.active_BM == 1).all()
    assert (tie.gap_BM == 0).all()


def test_against_a_blank_student_any_mentor_that_sees_is_active_unless_a_margin_asks_for_more() -> (
    None
):
    blank, swapped = torch.zeros_like(LABELS_1JHW), LABELS_1JHW.flip(1)
    given = (blank, JOINTS_1J3, swapped.unsqueeze(1))
    out = HeatmapClassroomLoss()(*given)
    assert (out.active_BM == 1).all()
    assert (out.gap_BM == 1).all()
    assert out.temperature_BM.tolist() == [[2.5]]
    torch.testing.assert_close(out.weight_BM, torch.ones_like(out.weight_BM))
    assert not HeatmapClassroomLoss(gate_margin=0.2)(*given).active_BM.any()
