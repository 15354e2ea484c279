"""Views of people: replayable, spread as stated, and mapped back to the photograph."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as tv

from kdcache.datasets.people import PersonPhotos
from kdcache.errors import UsageError
from kdcache.philox import Purpose, words
from kdcache.views import (
    CropFlip,
    PersonRecipe,
    PoseAffine,
    PoseCrop,
    Recipe,
    Unaugmented,
    make_recipe,
    recipe_from_description,
)
from tests.views.people import coco_people, people, photos_of, random_people, take_photos

MANY = np.arange(40_000)


@st.composite
def pose_affines(draw: st.DrawFn) -> PoseAffine:
    chance = st.sampled_from([0.0, 0.5, 1.0])
    return PoseAffine(
        seed=draw(st.integers(0, 2**64 - 1)),
        height=draw(st.sampled_from([32, 64, 96])),
        width=draw(st.sampled_from([32, 64])),
        scale=draw(st.sampled_from([0.0, 0.35, 0.9])),
        rotation=draw(st.sampled_from([0.0, 45.0, 180.0])),
        flip=draw(chance),
        half_body=draw(chance),
        jitter=draw(chance),
    )


recipes: st.SearchStrategy[PersonRecipe] = st.one_of(
    pose_affines(), st.just(PoseCrop(height=64, width=32))
)
views = st.integers(0, 2**32 - 1)


def view_of(recipe: PersonRecipe, view: int) -> int:
    return view if recipe.num_views is None else 0


def indices(data: st.DataObject, count: int) -> NDArray[np.int64]:
    chosen = data.draw(st.lists(st.integers(0, 2**63 - 1), min_size=count, max_size=count))
    return np.array(chosen, dtype=np.int64)


# A function of (seed, view, index)


@settings(deadline=None, max_examples=40)
@given(recipe=recipes, someone=people(4), view=views, data=st.data())
def test_one_by_one_and_in_any_order_is_as_in_a_batch(
    recipe: PersonRecipe, someone: Any, view: int, data: st.DataObject
) -> None:
    view, index_B = view_of(recipe, view), indices(data, len(someone))
    photos = photos_of(someone)
    order = data.draw(st.permutations(range(len(someone))))
    for places in [[p] for p in order] + [order]:
        some, some_index = take_photos(photos, places), index_B[places]
        assert np.array_equal(recipe(some, some_index, view), recipe(photos, index_B, view)[places])
        for of in (recipe.affine, recipe.joints):
            assert np.array_equal(
                of(some.people, some_index, view), of(someone, index_B, view)[places]
            )
        assert np.array_equal(
            recipe.proof_parameters(some, some_index, view),
            recipe.proof_parameters(photos, index_B, view)[places],
        )


@settings(deadline=None, max_examples=20)
@given(recipe=recipes, someone=people(2), view=views, data=st.data())
def test_the_recipe_of_a_description_replays_the_view(
    recipe: PersonRecipe, someone: Any, view: int, data: st.DataObject
) -> None:
    view, index_B = view_of(recipe, view), indices(data, len(someone))
    described = json.loads(json.dumps(recipe.describe()))
    assert described["exact"] is False
    again = recipe_from_description(described, recipe.seed)
    assert (again, again.fingerprint) == (recipe, recipe.fingerprint)
    photos = photos_of(someone)
    assert np.array_equal(again(photos, index_B, view), recipe(photos, index_B, view))


def test_parameters_are_pinned() -> None:
    """Stores that exist depend on these; their last bits are the logarithm's and cosine's."""
    at = PoseAffine(seed=3, half_body=0.5, jitter=0.25).parameters(np.array([0, 1, 2**40]), 7)
    assert np.allclose(at.zoom_B, [1.27634983, 1.07018588, 0.65], atol=1e-8)
    assert np.allclose(at.rotation_B, [-76.09679885, 33.12273345, -18.4105215], atol=1e-8)
    assert at.mirrored_B.tolist() == [True, True, True]
    assert at.half_B.tolist() == [True, False, False]
    assert at.upper_B.tolist() == [False, False, False]
    assert np.allclose(at.jitter_B3[1], [1.17843174, 1.21851503, 0.9630949], atol=1e-8)


def test_parameters_come_from_the_words_of_the_view_by_plain_arithmetic() -> None:
    recipe = PoseAffine(seed=11, half_body=0.3, jitter=0.4)
    index_B = np.array([0, 5, 99, 2**41])
    at = recipe.parameters(index_B, 12)
    address = recipe.seed, index_B, 12
    view_B4 = words(address[0], Purpose.VIEW, address[1], address[2]).tolist()
    detail_B4 = words(address[0], Purpose.VIEW_DETAIL, address[1], address[2]).tolist()
    for n, (v, d) in enumerate(zip(view_B4, detail_B4, strict=True)):
        radius = math.sqrt(-2 * math.log((v[0] + 0.5) / 2**32))
        angle = 2 * math.pi * (v[1] + 0.5) / 2**32
        zoom = min(max(1 + 0.35 * radius * math.cos(angle), 0.65), 1.35)
        turn = min(max(45 * radius * math.sin(angle), -90), 90) if v[2] < 0.6 * 2**32 else 0
        assert (at.zoom_B[n], at.rotation_B[n]) == pytest.approx((zoom, turn), abs=1e-9)
        assert at.mirrored_B[n] == (v[3] < 2**31)
        assert at.half_B[n] == (d[0] < 0.3 * 2**32)
        assert at.upper_B[n] == (d[0] < 0.3 * 0.69 * 2**32)
        for k in range(3):
            factor = 1 + 0.4 * (2 * (d[1 + k] + 0.5) / 2**32 - 1)
            assert at.jitter_B3[n, k] == pytest.approx(factor, abs=1e-12)


def test_parameters_lie_in_their_ranges_and_are_spread_as_stated() -> None:
    recipe = PoseAffine(seed=1, scale=0.3, rotation=40, flip=0.25, half_body=0.3, jitter=0.2)
    at = recipe.parameters(MANY, 5)
    # Six standard errors of each share: sqrt(p (1 - p) / 40,000) is at most 0.0025.
    near = 0.015
    zoom = (at.zoom_B - 1) / 0.3
    assert np.abs(zoom).max() <= 1 + 1e-12
    for level, share in ((-1, 0.1587), (-0.5, 0.3085), (0, 0.5), (0.5, 0.6915)):
        assert (zoom <= level + 1e-12).mean() == pytest.approx(share, abs=near)
    assert (zoom >= 1 - 1e-12).mean() == pytest.approx(0.1587, abs=near)
    turned = at.rotation_B[at.rotation_B != 0] / 40
    assert len(turned) / len(MANY) == pytest.approx(0.6, abs=near)
    assert np.abs(turned).max() <= 2 + 1e-12
    for level, share in ((-1, 0.1587), (0, 0.5), (1, 0.8413), (1.9999, 0.9772)):
        assert (turned <= level).mean() == pytest.approx(share, abs=near)
    assert at.mirrored_B.mean() == pytest.approx(0.25, abs=near)
    assert at.half_B.mean() == pytest.approx(0.3, abs=near)
    assert not (at.upper_B & ~at.half_B).any()
    assert at.upper_B[at.half_B].mean() == pytest.approx(0.69, abs=0.03)
    assert at.jitter_B3.min() >= 0.8
    assert at.jitter_B3.max() <= 1.2
    for k in range(3):
        assert at.jitter_B3[:, k].mean() == pytest.approx(1, abs=0.2 * near)
        assert at.jitter_B3[:, k].std() == pytest.approx(0.2 / 3**0.5, rel=0.03)
    together = np.stack([zoom, at.rotation_B, at.mirrored_B, at.half_B, *at.jitter_B3.T])
    correlation = np.corrcoef(together) - np.eye(len(together))
    assert np.abs(correlation).max() < 0.03
    other = recipe.parameters(MANY, 6)
    assert abs(np.corrcoef(at.zoom_B, other.zoom_B)[0, 1]) < 0.03


# Geometry


@settings(deadline=None, max_examples=50)
@given(recipe=recipes, someone=people(), view=views, data=st.data())
def test_labels_map_back_to_where_they_are_annotated(
    recipe: PersonRecipe, someone: Any, view: int, data: st.DataObject
) -> None:
    view, index_B = view_of(recipe, view), indices(data, len(someone))
    in_view_BJ3 = np.array(someone.joints_NJ3)
    in_view_BJ3[:, :, 2] = np.arange(someone.skeleton.num_joints)
    affine_B23 = recipe.affine(someone, index_B, view)
    for n, affine_23 in enumerate(affine_B23):
        for j, (x, y, _) in enumerate(someone.joints_NJ3[n]):
            in_view_BJ3[n, j, :2] = affine_23[:, :2] @ [x, y] + affine_23[:, 2]
    mirrored = np.linalg.det(affine_B23[:, :, :2]) < 0
    swapped = list(someone.skeleton.mirrored)
    in_view_BJ3[mirrored] = in_view_BJ3[mirrored][:, swapped]
    back_BJ3 = recipe.map_back(in_view_BJ3, someone, index_B, view)
    assert np.abs(back_BJ3[:, :, :2] - someone.joints_NJ3[:, :, :2]).max() < 1e-6
    assert np.array_equal(back_BJ3[:, :, 2], [range(someone.skeleton.num_joints)] * len(someone))
    # The labels are these points, in float32.
    label_BJ3 = recipe.joints(someone, index_B, view)
    assert label_BJ3.dtype == np.float32
    labelled_BJ = someone.joints_NJ3[:, :, 2] > 0
    labelled_BJ[mirrored] = labelled_BJ[mirrored][:, swapped]
    assert np.array_equal(
        label_BJ3[:, :, :2],
        np.where(labelled_BJ[:, :, None], in_view_BJ3[:, :, :2], 0).astype(np.float32),
    )


@settings(deadline=None, max_examples=50)
@given(recipe=recipes, someone=people(), view=views, data=st.data())
def test_only_labelled_joints_inside_the_view_have_a_weight(
    recipe: PersonRecipe, someone: Any, view: int, data: st.DataObject
) -> None:
    view, index_B = view_of(recipe, view), indices(data, len(someone))
    label_BJ3 = recipe.joints(someone, index_B, view)
    mirrored = np.linalg.det(recipe.affine(someone, index_B, view)[:, :, :2]) < 0
    for n, label_J3 in enumerate(label_BJ3):
        for j, (x, y, weight) in enumerate(label_J3):
            of = someone.skeleton.mirrored[j] if mirrored[n] else j
            inside = 0 <= round(float(x)) < recipe.width and 0 <= round(float(y)) < recipe.height
            edge = {float(x), float(y)} & {-0.5, recipe.width - 0.5, recipe.height - 0.5}
            assert edge or weight == (inside and someone.joints_NJ3[n, of, 2] > 0)


@settings(deadline=None, max_examples=30)
@given(someone=people(), view=views, seed=st.integers(0, 2**64 - 1), data=st.data())
def test_mirrored_twice_is_not_mirrored(
    someone: Any, view: int, seed: int, data: st.DataObject
) -> None:
    index_B = indices(data, len(someone))
    plain, mirrored = (PoseAffine(seed=seed, flip=flip) for flip in (0.0, 1.0))
    affine_B23 = mirrored.affine(someone, index_B, view)
    affine_B23[:, 0] *= -1
    affine_B23[:, 0, 2] += plain.width
    assert np.allclose(affine_B23, plain.affine(someone, index_B, view), atol=1e-9)
    label_BJ3 = mirrored.joints(someone, index_B, view)[:, list(someone.skeleton.mirrored)]
    expected_BJ3 = plain.joints(someone, index_B, view)
    labelled_BJ = someone.joints_NJ3[:, :, 2] > 0
    label_BJ3[labelled_BJ, 0] = plain.width - label_BJ3[labelled_BJ, 0]
    assert np.allclose(label_BJ3[:, :, :2], expected_BJ3[:, :, :2], atol=1e-3)


@settings(deadline=None, max_examples=20)
@given(someone=people(3), view=views, seed=st.integers(0, 2**64 - 1), data=st.data())
def test_without_augmentation_it_is_the_crop(
    someone: Any, view: int, seed: int, data: st.DataObject
) -> None:
    index_B = indices(data, len(someone))
    size = {"height": 64, "width": 96}
    still = PoseAffine(seed=seed, scale=0, rotation=0, flip=0, **size)
    crop = PoseCrop(**size)
    photos = photos_of(someone)
    assert np.array_equal(still(photos, index_B, view), crop(photos, index_B, 0))
    assert np.array_equal(still.joints(someone, index_B, view), crop.joints(someone, index_B, 0))


def test_jitter_changes_colours_only() -> None:
    someone, index_B = random_people(6), np.arange(6)
    photos = photos_of(someone, 480, 640)
    plain, jittered = PoseAffine(seed=2), PoseAffine(seed=2, jitter=0.4)
    assert np.array_equal(plain.affine(someone, index_B, 1), jittered.affine(someone, index_B, 1))
    assert np.array_equal(plain.joints(someone, index_B, 1), jittered.joints(someone, index_B, 1))
    one, other = plain(photos, index_B, 1), jittered(photos, index_B, 1)
    assert np.abs(one.astype(int) - other).mean() > 5
    for n, factors in enumerate(jittered.parameters(index_B, 1).jitter_B3.tolist()):
        expected = torch.from_numpy(one[n])
        expected = tv.adjust_brightness(expected, factors[0])
        expected = tv.adjust_contrast(expected, factors[1])
        expected = tv.adjust_saturation(expected, factors[2])
        off = np.abs(expected.numpy().astype(int) - other[n])
        assert off.max() <= 4  # each of three steps rounds, or cuts off


# Real photographs


def test_real_people_are_in_their_views(real_data: Path) -> None:
    if not (real_data / "coco").exists():
        pytest.skip(f"{real_data} has no folder coco with images and their people")
    photos = coco_people(real_data, 60)
    index_B, labelled = np.arange(len(photos)), photos.people.joints_NJ3[:, :, 2] > 0
    crop, affine = PoseCrop(), PoseAffine(seed=1)
    # Some boxes are of what is seen of a person; joints beyond their margin are outside.
    assert crop.joints(photos.people, index_B, 0)[:, :, 2].sum() > 0.98 * labelled.sum()
    pixels_BCHW = crop(photos, index_B, 0)
    assert (pixels_BCHW.reshape(len(photos), -1) > 0).mean() > 0.7
    inside, black = [], []
    for view in range(4):
        label_BJ3 = affine.joints(photos.people, index_B, view)
        inside.append(label_BJ3[:, :, 2].sum() / labelled.sum())
        black.append((affine(photos, index_B, view) == 0).mean())
    assert min(inside) > 0.85
    assert max(black) < 0.4


# Errors


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"height": 100}, "must be multiples of 32, up to 2048, got 100, 192"),
        ({"width": 2080}, "got 256, 2080"),
        ({"width": 192.0}, r"got 256, 192\.0"),
        ({"height": 0}, "got 0, 192"),
        ({"height": True}, "got True, 192"),
    ],
)
@pytest.mark.parametrize("recipe", [PoseAffine, PoseCrop])
def test_sides_no_network_takes_are_refused(
    recipe: type[PersonRecipe], options: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        recipe(**options)


@pytest.mark.parametrize("value", [-0.1, 181, float("nan"), "45", True, None])
@pytest.mark.parametrize("name", ["scale", "rotation", "flip", "half_body", "jitter"])
def test_parameters_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"{name} must lie in 0\.0 to .*, got "):
        PoseAffine(**{name: value})


def test_whole_numbers_and_fractions_are_one_recipe() -> None:
    assert PoseAffine(rotation=45).fingerprint == PoseAffine(rotation=45.0).fingerprint
    made = make_recipe("pose-affine", seed=4, height=128, width=96, rotation=30, padding=4)
    assert made == PoseAffine(seed=4, height=128, width=96, rotation=30.0)


@pytest.mark.parametrize("recipe", [PoseAffine(), PoseCrop()])
@pytest.mark.parametrize("images", [np.zeros((2, 3, 4, 4), dtype=np.uint8), [1, 2]])
def test_images_of_one_size_are_refused(recipe: PersonRecipe, images: Any) -> None:
    with pytest.raises(UsageError, match=r"whole photographs \(PersonPhotos.* crop-flip or none"):
        recipe(images, np.arange(2), 0)


@pytest.mark.parametrize("recipe", [CropFlip(), Unaugmented()])
def test_recipes_of_images_refuse_photographs(recipe: Recipe) -> None:
    photos = photos_of(random_people(2))
    with pytest.raises(UsageError, match="take pose-affine or pose-crop"):
        recipe(photos, np.arange(2), 0)


@pytest.mark.parametrize("recipe", [PoseAffine(), PoseCrop()])
def test_what_does_not_fit_together_is_refused(recipe: PersonRecipe) -> None:
    someone = random_people(2)
    photos = photos_of(someone)
    with pytest.raises(UsageError, match="got 2 people but 3 indices"):
        recipe(photos, np.arange(3), 0)
    with pytest.raises(UsageError, match=r"2 people but 3 indices; take .*people\.take"):
        recipe.joints(someone, np.arange(3), 0)
    with pytest.raises(UsageError, match="1 photographs of 2 people"):
        recipe(PersonPhotos(people=someone, photos=photos.photos[:1]), np.arange(2), 0)
    grey = [photo[:, :, 0] for photo in photos.photos]
    with pytest.raises(UsageError, match=r"RGB of shape \(H, W, 3\), got uint8 of shape \(60, 80"):
        recipe(PersonPhotos(people=someone, photos=grey), np.arange(2), 0)
    with pytest.raises(UsageError, match=r"has the views 0 .*, got -1"):
        recipe.affine(someone, np.arange(2), -1)
    with pytest.raises(UsageError, match=r"needs People, .* got ndarray"):
        recipe.affine(someone.joints_NJ3, np.arange(2), 0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"must have the shape \(2, 17, 3\)"):
        recipe.map_back(np.zeros((2, 16, 3)), someone, np.arange(2), 0)


def test_the_crop_has_one_view() -> None:
    with pytest.raises(UsageError, match="'pose-crop' has the views 0 to 0, got 1"):
        PoseCrop()(photos_of(random_people(2)), np.arange(2), 1)
