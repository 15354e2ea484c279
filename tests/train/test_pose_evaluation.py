"""COCO's AP and MPII's PCKh of predictions whose numbers are known by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kdcache.datasets.annotation_file import Ignored
from kdcache.datasets.open_people import open_people
from kdcache.datasets.people import People
from kdcache.datasets.skeleton import COCO_17, MPII_16, Skeleton
from kdcache.errors import DatasetError
from kdcache.train.pose_evaluation import coco_metrics, pckh, person_scores

AREA = 2500.0


def people(count: int, skeleton: Skeleton = COCO_17, images: Any = None, **changes: Any) -> People:
    """Everybody's joint j at (100 + 7 j, 50 + 5 j), all visible, one person an image."""
    j = np.arange(skeleton.num_joints)
    joints_J3 = np.stack([100.0 + 7 * j, 50.0 + 5 * j, np.full(len(j), 2.0)], axis=1)
    fields: dict[str, Any] = {
        "skeleton": skeleton,
        "joints_NJ3": np.tile(joints_J3, (count, 1, 1)),
        "box_N4": np.tile([100.0, 50.0, 120.0, 90.0], (count, 1)),
        "area_N": np.full(count, AREA),
        "annotation_N": np.arange(count),  # 0 among them, which the evaluator takes for "none"
        "image_N": np.arange(count) if images is None else np.asarray(images),
        "head_N": np.full(count, np.nan),
        "files": ("a.jpg",) * count,
    }
    return People(**fields | changes)


def predicted(truth: People, scores: Any = 1.0) -> NDArray[np.float64]:
    """Exactly the labelled places, with these scores of people."""
    keypoints_NJ3 = truth.joints_NJ3.copy()
    keypoints_NJ3[..., 2] = np.broadcast_to(scores, len(truth))[:, None]
    return keypoints_NJ3


def displaced(truth: People, oks: float) -> NDArray[np.float64]:
    """Every joint so far away that its own exp(-d^2 / (2 s^2 k^2)) is `oks`; k = 2 sigma."""
    keypoints_NJ3 = predicted(truth)
    for person in range(len(truth)):
        for joint, sigma in enumerate(truth.skeleton.sigmas):
            away = math.sqrt(-2 * truth.area_N[person] * (2 * sigma) ** 2 * math.log(oks))
            keypoints_NJ3[person, joint, 0] += 0.6 * away
            keypoints_NJ3[person, joint, 1] -= 0.8 * away
    return keypoints_NJ3


@pytest.mark.parametrize("skeleton", [COCO_17, MPII_16])
@pytest.mark.parametrize(
    ("oks", "passed"), [(0.999, 10), (0.951, 10), (0.949, 9), (0.77, 6), (0.52, 1), (0.49, 0)]
)
def test_ap_of_people_displaced_by_known_distances(
    skeleton: Skeleton, oks: float, passed: int
) -> None:
    truth = people(3, skeleton)
    found = coco_metrics(truth, displaced(truth, oks))
    assert found == pytest.approx(
        {
            "ap": 10 * passed,
            "ap50": 100 * (oks > 0.5),
            "ap75": 100 * (oks > 0.75),
            "ar": 10 * passed,
        }
    )


def test_oks_is_the_mean_over_labelled_joints() -> None:
    """8 of 17 joints right, the others far away: OKS 8/17 = 0.47; with 10 labelled, 0.8."""
    truth = people(1)
    keypoints_NJ3 = predicted(truth)
    keypoints_NJ3[:, 8:, :2] += 1000
    assert coco_metrics(truth, keypoints_NJ3)["ap50"] == 0
    truth.joints_NJ3[:, 10:] = 0
    found = coco_metrics(truth, keypoints_NJ3)
    assert (found["ap50"], found["ap75"], found["ap"]) == pytest.approx((100, 100, 70))


@pytest.mark.parametrize(
    ("scores", "ap"),
    [
        # Of 101 recalls 0, 0.01 .. 1 the first 51 are reached; precision is 1 when the right one
        # comes first, 1/2 when the wrong one does.
        ([0.9, 0.5], 100 * 51 / 101),
        ([0.5, 0.9], 100 * 0.5 * 51 / 101),
    ],
)
def test_scores_order_the_people(scores: list[float], ap: float) -> None:
    truth = people(2)
    keypoints_NJ3 = predicted(truth, scores)
    keypoints_NJ3[1, :, :2] += 1000
    found = coco_metrics(truth, keypoints_NJ3)
    assert found == pytest.approx({"ap": ap, "ap50": ap, "ap75": ap, "ar": 50})
    reordered = coco_metrics(
        truth, keypoints_NJ3, box_scores_N=[1 / scores[0] ** 2, 1 / scores[1] ** 2]
    )
    assert reordered["ap"] == pytest.approx(100 * 1.5 * 51 / 101 - ap)


@pytest.mark.parametrize("crowd", [True, False])
def test_a_match_with_an_ignored_annotation_is_no_error(crowd: bool) -> None:
    """The wrong, surer prediction lies in a crowd, or in a person without labelled joints."""
    truth = people(2)
    keypoints_NJ3 = predicted(truth, [0.5, 0.9])
    keypoints_NJ3[1, :, :2] += 1000
    far = keypoints_NJ3[1, 0, :2]
    ignored = Ignored(
        image_N=np.array([1, 77]),  # the second on an image of nobody here
        box_N4=np.array([[*far, 120.0, 90.0], [0, 0, 10, 10.0]]),
        area_N=np.array([AREA, AREA]),
        crowd_N=np.array([crowd, crowd]),
    )
    assert coco_metrics(truth, keypoints_NJ3)["ap"] == pytest.approx(100 * 0.5 * 51 / 101)
    found = coco_metrics(truth, keypoints_NJ3, ignored=ignored)
    assert found == pytest.approx(
        {**dict.fromkeys(("ap", "ap50", "ap75"), 100 * 51 / 101), "ar": 50}
    )


def reference_ap(oks_N: list[float], scores_N: list[float]) -> tuple[float, float]:
    """AP and AR in plain loops, of one person an image."""
    order = sorted(range(len(oks_N)), key=lambda i: -scores_N[i])
    aps, ars = [], []
    for step in range(10):
        threshold = 0.5 + 0.05 * step
        right, points = 0, []
        for rank, i in enumerate(order, start=1):
            right += oks_N[i] >= threshold
            points.append((right / len(oks_N), right / rank))
        total = 0.0
        for recall in np.linspace(0, 1, 101).tolist():  # its 0.7 is above 7/10, as officially
            total += max((p for r, p in points if r >= recall), default=0.0)
        aps.append(total / 101)
        ars.append(right / len(oks_N))
    return 100 * sum(aps) / 10, 100 * sum(ars) / 10


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 10).map(lambda k: 0.475 + 0.05 * k), st.floats(0.3, 1)),
        min_size=1,
        max_size=12,
        unique_by=lambda pair: pair[1],
    )
)
def test_ap_is_that_of_plain_loops(drawn: list[tuple[float, float]]) -> None:
    truth = people(len(drawn))
    keypoints_NJ3 = predicted(truth, [score for _, score in drawn])
    for i, (oks, _) in enumerate(drawn):
        one = truth.take(np.array([i]))
        keypoints_NJ3[i, :, :2] = displaced(one, min(oks, 0.999))[0, :, :2]
    found = coco_metrics(truth, keypoints_NJ3)
    ap, ar = reference_ap([oks for oks, _ in drawn], [score for _, score in drawn])
    assert (found["ap"], found["ar"]) == pytest.approx((ap, ar))


def test_a_persons_score_is_the_mean_of_the_joints_above_a_fifth() -> None:
    keypoints_NJ3 = np.zeros((3, 4, 3))
    keypoints_NJ3[0, :, 2] = [0.1, 0.2, 0.5, 0.9]
    keypoints_NJ3[1, :, 2] = [0.3, 0.3, 0.3, 0.6]
    assert person_scores(keypoints_NJ3).tolist() == pytest.approx([0.7, 0.375, 0])
    assert person_scores(keypoints_NJ3, [0.5, 2, 1]).tolist() == pytest.approx([0.35, 0.75, 0])


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    truth = people(2)
    coco_metrics(truth, predicted(truth))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("split", ["train", "test"])
def test_perfect_predictions_of_the_real_people_have_100(real_data: Path, split: str) -> None:
    opened = open_people("coco-keypoints", split, real_data)
    truth = opened.people
    full = dict.fromkeys(("ap", "ap50", "ap75", "ar"), 100)
    assert coco_metrics(truth, predicted(truth), ignored=opened.ignored) == pytest.approx(full)
    blurred = predicted(truth)
    blurred[..., :2] += np.random.default_rng(0).normal(0, 5, blurred[..., :2].shape)
    found = coco_metrics(truth, blurred, ignored=opened.ignored)
    assert found["ap75"] < found["ap50"] < 100
    assert found["ap"] < found["ap50"]


def test_wrong_predictions_are_refused() -> None:
    truth = people(2)
    for metric in (coco_metrics, pckh):
        with pytest.raises(
            ValueError, match=r"must be \(people, joints, 3\) = \(2, 1[67], 3\), got"
        ):
            metric(people(2, MPII_16 if metric is pckh else COCO_17), predicted(truth)[:1])
    with pytest.raises(ValueError, match="must be finite"):
        coco_metrics(truth, predicted(truth) * np.nan)
    with pytest.raises(ValueError, match="MPII's joints, these people have coco-17"):
        pckh(truth, predicted(truth))


TOP, NECK, PELVIS, THORAX = (
    MPII_16.joints.index(name) for name in ("head top", "upper neck", "pelvis", "thorax")
)


def test_pckh_by_hand() -> None:
    """A head of 20 pixels: right within 10. Each joint is moved alone, by 10 or by 10.01."""
    truth = people(1, MPII_16, head_N=np.array([20.0]))
    for joint, name in enumerate(MPII_16.joints):
        keypoints_NJ3 = predicted(truth)
        keypoints_NJ3[0, joint, :2] += [6, -8]
        assert pckh(truth, keypoints_NJ3)["pckh"] == 100
        keypoints_NJ3[0, joint, :2] += [0.006, -0.008]
        found = pckh(truth, keypoints_NJ3)
        counted = joint not in (PELVIS, THORAX)  # 14 joints are
        assert found["pckh"] == pytest.approx(100 * 13 / 14 if counted else 100)
        group = name.split()[-1] if joint != TOP else "head"
        for other in ("head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"):
            lost = 100 if group == "head" else 50
            assert found[other] == (100 - lost if other == group else 100)
        assert found["head_size"] == "head size from the head box (1 of 1 people)"


def test_unlabelled_joints_do_not_count() -> None:
    truth = people(2, MPII_16, head_N=np.array([20.0, 20.0]))
    truth.joints_NJ3[0, MPII_16.joints.index("left wrist"), 2] = 0
    truth.joints_NJ3[:, MPII_16.joints.index("right wrist"), 2] = 0
    truth.joints_NJ3[:, MPII_16.joints.index("left knee"), 2] = 0
    truth.joints_NJ3[:, MPII_16.joints.index("right knee"), 2] = 0
    keypoints_NJ3 = predicted(truth)
    keypoints_NJ3[0, :, :2] += 1000
    found = pckh(truth, keypoints_NJ3)
    # Of the first person 14 - 4 joints count and are wrong, of the second 14 - 3 and are right.
    assert found["pckh"] == pytest.approx(100 * 11 / 21)
    assert found["wrist"] == 100
    assert found["knee"] is None
    assert found["hip"] == 50


def test_the_head_without_a_box_is_from_neck_to_top() -> None:
    truth = people(3, MPII_16, head_N=np.array([np.nan, np.nan, 8.0]))
    truth.joints_NJ3[:, TOP, :2] = truth.joints_NJ3[:, NECK, :2] + [0, -30]
    truth.joints_NJ3[1, TOP, 2] = 0  # nothing to measure
    wrist = MPII_16.joints.index("left wrist")
    keypoints_NJ3 = predicted(truth)
    keypoints_NJ3[:, wrist, 0] += 14.9
    found = pckh(truth, keypoints_NJ3)
    assert found["people"] == 2
    assert found["wrist"] == 75  # right for the first (15), wrong for the third (4)
    assert found["head_size"] == (
        "head size from the head box (1 of 3 people) and upper neck to head top (1 of 3 people); "
        "without one, left out: 1"
    )
    with pytest.raises(DatasetError, match="PCKh needs head sizes"):
        pckh(truth.take(np.array([1])), keypoints_NJ3[1:2])


def reference_pckh(truth: People, keypoints_NJ3: NDArray[np.float64]) -> float:
    right = counted = 0
    for i in range(len(truth)):
        for j, name in enumerate(MPII_16.joints):
            if name in ("pelvis", "thorax") or not truth.joints_NJ3[i, j, 2]:
                continue
            away = math.dist(truth.joints_NJ3[i, j, :2], keypoints_NJ3[i, j, :2])
            counted += 1
            right += away <= 0.5 * truth.head_N[i]
    return 100 * right / counted


def test_pckh_is_that_of_plain_loops() -> None:
    rng = np.random.default_rng(3)
    truth = people(20, MPII_16, head_N=rng.uniform(10, 40, 20))
    truth.joints_NJ3[..., 2] = 2 * (rng.random((20, 16)) < 0.8)
    keypoints_NJ3 = predicted(truth)
    keypoints_NJ3[..., :2] += rng.normal(0, 8, (20, 16, 2))
    expected = reference_pckh(truth, keypoints_NJ3)
    assert 20 < expected < 95
    assert pckh(truth, keypoints_NJ3)["pckh"] == pytest.approx(expected)


def test_perfect_predictions_of_mpiis_real_people_have_100(real_data: Path) -> None:
    truth = open_people("mpii", "test", real_data).people
    found = pckh(truth, predicted(truth))
    assert found["pckh"] == found["head"] == found["ankle"] == 100
    assert found["head_size"] == "head size from upper neck to head top (5 of 5 people)"
    mirrored = predicted(truth)[:, list(MPII_16.mirrored)]
    assert pckh(truth, mirrored)["pckh"] < 90
