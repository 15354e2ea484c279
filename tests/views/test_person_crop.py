"""Crops: the published geometry, and joints where the affine says, to a tenth of a pixel."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kdcache.datasets.people import People, PersonPhotos
from kdcache.datasets.skeleton import COCO_17
from kdcache.errors import DatasetError
from kdcache.views import PoseAffine, PoseCrop
from tests.views.people import people_of, random_people

HEIGHT, WIDTH = 256, 192
seeds = st.integers(0, 2**64 - 1)


def person_with(box: tuple[float, ...]) -> People:
    return people_of(np.zeros((1, 17, 3)), np.array([box], dtype=np.float64), COCO_17)


def published_affine(box: NDArray[np.float64], zoom: float, degrees: float) -> NDArray[np.float64]:
    """HRNet's `_xywh2cs` and `get_affine_transform`: by three pairs of points."""
    x, y, w, h = box.tolist()
    aspect = WIDTH / HEIGHT
    center = np.array([x + w * 0.5, y + h * 0.5])
    if w > aspect * h:
        h = w / aspect
    elif w < aspect * h:
        w = h * aspect
    source_width = w / 200 * 1.25 * zoom * 200
    angle = math.pi * degrees / 180
    direction = np.array(
        [0.5 * source_width * math.sin(angle), -0.5 * source_width * math.cos(angle)]
    )

    def third(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        across: NDArray[np.float64] = b + np.array([-(a - b)[1], (a - b)[0]])
        return across

    source = [center, center + direction]
    goal = [np.array([WIDTH / 2, HEIGHT / 2]), np.array([WIDTH / 2, HEIGHT / 2 - WIDTH / 2])]
    source, goal = [*source, third(*source)], [*goal, third(*goal)]
    equations = np.array([[*point, 1] for point in source])
    affine_23: NDArray[np.float64] = np.linalg.solve(equations, np.array(goal)).T
    return affine_23


@settings(deadline=None, max_examples=50)
@given(seed=seeds, count=st.integers(1, 5), view=st.integers(0, 2**32 - 1))
def test_the_affine_is_the_published_one(seed: int, count: int, view: int) -> None:
    someone, index_B = random_people(count, seed % 2**32), np.arange(count)
    recipe = PoseAffine(seed=seed)
    at = recipe.parameters(index_B, view)
    for n, affine_23 in enumerate(recipe.affine(someone, index_B, view)):
        expected = published_affine(someone.box_N4[n], at.zoom_B[n], at.rotation_B[n])
        if at.mirrored_B[n]:
            expected[0] *= -1
            expected[0, 2] += WIDTH
        assert np.allclose(affine_23, expected, rtol=1e-9, atol=1e-7)


def test_a_crop_by_hand() -> None:
    """A box of 30 x 80 becomes 60 x 80 for 3:4, times 1.25 is 75 x 100: 2.56 pixels a pixel."""
    (affine_23,) = PoseCrop().affine(person_with((100, 50, 30, 80)), np.array([0]), 0)
    zoom = 192 / 75
    expected = [[zoom, 0, 96 - zoom * 115], [0, zoom, 128 - zoom * 90]]
    assert np.allclose(affine_23, expected)


# Pixels


def blob(center: tuple[float, float], sigma: float, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """White light around a point on black, uint8 (H, W, 3)."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    light = np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / (2 * sigma**2))
    return np.repeat(np.round(255 * light).astype(np.uint8)[:, :, None], 3, axis=2)


@settings(deadline=None, max_examples=60)
@given(
    seed=seeds,
    at=st.tuples(st.floats(0.35, 0.65), st.floats(0.35, 0.65)),
    size=st.integers(60, 300),
    flip=st.sampled_from([0.0, 1.0]),
    augmented=st.booleans(),
)
@example(seed=0, at=(0.5, 0.5), size=240, flip=0.0, augmented=False)
@example(seed=0, at=(0.4, 0.6), size=60, flip=1.0, augmented=True)
def test_a_light_at_a_joint_lands_on_its_label(
    seed: int, at: tuple[float, float], size: int, flip: float, augmented: bool
) -> None:
    box = np.array([[100.3, 40.7, size * 0.75, size]])
    point = (box[0, 0] + at[0] * box[0, 2], box[0, 1] + at[1] * box[0, 3])
    joints_13 = np.array([[*point, 2.0]])
    someone = people_of(np.repeat(joints_13[None], 17, axis=1), box, COCO_17)
    recipe = PoseAffine(seed=seed, flip=flip) if augmented else PoseCrop()
    photos = PersonPhotos(people=someone, photos=[blob(point, size / 25, (400, 500))])
    index_B, view = np.array([7]), 0
    (pixels_CHW,) = recipe(photos, index_B, view)
    x, y, weight = recipe.joints(someone, index_B, view)[0, 0]
    if weight and 30 < x < WIDTH - 30 and 30 < y < HEIGHT - 30:
        light = np.where(pixels_CHW[0] > 2, pixels_CHW[0], 0).astype(np.float64)
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        center = (light * columns).sum() / light.sum(), (light * rows).sum() / light.sum()
        assert abs(center[0] - x) < 0.1
        assert abs(center[1] - y) < 0.1


@settings(deadline=None, max_examples=20)
@given(seed=seeds, view=st.integers(0, 99))
def test_a_gradient_is_seen_through_the_affine(seed: int, view: int) -> None:
    """Red grows to the right, green downwards: a pixel's colour is where it comes from."""
    y, x = np.mgrid[:250, :250].astype(np.uint8)
    photo = np.stack([x, y, np.full_like(x, 200)], axis=2)
    someone, index_B = person_with((60, 50, 90, 120)), np.array([3])
    recipe = PoseAffine(seed=seed)
    (pixels_CHW,) = recipe(PersonPhotos(people=someone, photos=[photo]), index_B, view)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    points = np.stack([columns.ravel(), rows.ravel(), np.zeros(rows.size)], axis=1)
    (affine_23,) = recipe.affine(someone, index_B, view)
    source = np.linalg.solve(affine_23[:, :2], points[:, :2].T - affine_23[:, 2:])
    source = source.reshape(2, HEIGHT, WIDTH)
    inside = ((source > 0) & (source < 249)).all(0)
    outside = ((source < -1) | (source > 250)).any(0)
    below = (source - pixels_CHW[:2])[:, inside]  # Pillow cuts fractions of a level off
    assert -1e-3 < below.min() < 0.1
    assert 0.9 < below.max() < 1.001
    assert set(np.unique(pixels_CHW[2][inside])) <= {199, 200}
    assert not pixels_CHW[:, outside].any()


@pytest.mark.parametrize("box", [(900, 900, 40, 60), (-500, 10, 50, 50), (0, -4000, 10, 10)])
def test_a_box_outside_the_photograph_is_a_black_view(box: tuple[float, ...]) -> None:
    photos = PersonPhotos(
        people=person_with(box), photos=[np.full((100, 120, 3), 255, dtype=np.uint8)]
    )
    assert not PoseCrop()(photos, np.array([0]), 0).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1)])
def test_photographs_of_a_pixel_are_cut_too(size: tuple[int, int]) -> None:
    photo = np.full((*size, 3), 77, dtype=np.uint8)
    photos = PersonPhotos(people=person_with((-0.5, -0.5, size[1], size[0])), photos=[photo])
    (pixels_CHW,) = PoseCrop()(photos, np.array([0]), 0)
    assert set(np.unique(pixels_CHW)) == {0, 77}
    assert (pixels_CHW[:, HEIGHT // 2, WIDTH // 2] == 77).all()


@pytest.mark.parametrize(
    "box", [(5, 5, 0, 0), (5, 5, -3, 9), (math.nan, 5, 3, 9), (5, math.inf, 3, 9)]
)
def test_a_box_without_size_names_the_annotation(box: tuple[float, ...]) -> None:
    with pytest.raises(DatasetError, match=r"annotation 0 of 0\.jpg has the box \["):
        PoseCrop().affine(person_with(box), np.array([0]), 0)


def test_a_joint_without_a_label_is_zero_whatever_its_numbers() -> None:
    someone = person_with((5, 5, 20, 20))
    someone.joints_NJ3[0, :, :2] = np.nan
    assert not PoseCrop().joints(someone, np.array([0]), 0).any()
