"""Half bodies: HRNet's rule, person by person."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.datasets.people import People
from kdcache.datasets.skeleton import COCO_17, MPII_16, Skeleton
from kdcache.views import PoseAffine
from tests.views.people import people_of, random_people

INDEX = np.arange(300)
WHOLE = PoseAffine(seed=1, scale=0, rotation=0, flip=0)
HALF = PoseAffine(seed=1, scale=0, rotation=0, flip=0, half_body=1)


def expected_crop(someone: People, n: int, upper_first: bool) -> tuple[float, float, float]:
    """Centre and width by HRNet's `half_body_transform`, from lists."""
    upper: list[tuple[float, float]] = []
    lower: list[tuple[float, float]] = []
    for j, (x, y, visibility) in enumerate(someone.joints_NJ3[n].tolist()):
        if visibility > 0:
            (upper if j in someone.skeleton.upper_body else lower).append((x, y))
    left, top, width, height = someone.box_N4[n].tolist()
    whole = (left + width / 2, top + height / 2, max(width, 0.75 * height) * 1.25)
    if len(upper) + len(lower) <= 8:
        return whole
    upper_first = upper_first and len(upper) > 2
    chosen = upper if upper_first or len(lower) <= 2 else lower
    xs, ys = [x for x, _ in chosen], [y for _, y in chosen]
    extent = max(max(xs) - min(xs), 0.75 * (max(ys) - min(ys)))
    return sum(xs) / len(xs), sum(ys) / len(ys), extent * 1.5


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32), skeleton=st.sampled_from([COCO_17, MPII_16]))
def test_crops_are_by_the_published_rule(seed: int, skeleton: Skeleton) -> None:
    someone = random_people(300, seed, skeleton)
    affine_B23 = HALF.affine(someone, INDEX, 2)
    upper_B = HALF.parameters(INDEX, 2).upper_B
    for n, affine_23 in enumerate(affine_B23):
        x, y, width = expected_crop(someone, n, bool(upper_B[n]))
        zoom = 192 / width
        expected = [[zoom, 0, 96 - zoom * x], [0, zoom, 128 - zoom * y]]
        assert np.allclose(affine_23, expected)
    whole_B23 = WHOLE.affine(someone, INDEX, 2)
    assert 0.3 < (affine_B23 != whole_B23).any((1, 2)).mean() < 1  # some have 8 joints or fewer


def test_labels_stay_those_of_the_whole_person() -> None:
    someone = random_people(300)
    whole, half = (recipe.joints(someone, INDEX, 2) for recipe in (WHOLE, HALF))
    inside = half[:, :, 2] > 0
    assert not (inside & (someone.joints_NJ3[:, :, 2] == 0)).any()
    moved = (HALF.affine(someone, INDEX, 2) != WHOLE.affine(someone, INDEX, 2)).any((1, 2))
    upper_J = np.isin(np.arange(17), COCO_17.upper_body)
    upper_B = HALF.parameters(INDEX, 2).upper_B & moved
    # Of a half body, joints of the other half that are in the view are labelled too.
    assert inside[upper_B][:, ~upper_J].any()
    assert np.array_equal(half[~moved], whole[~moved])


def test_joints_at_one_place_are_no_half() -> None:
    joints_NJ3 = np.full((1, 17, 3), [50.0, 60.0, 2.0])
    someone = people_of(joints_NJ3, np.array([[20.0, 20.0, 60.0, 80.0]]), COCO_17)
    one = np.array([0])
    assert np.array_equal(HALF.affine(someone, one, 0), WHOLE.affine(someone, one, 0))
