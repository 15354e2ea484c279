"""Views: the same bytes however they are asked for, and torchvision's given the same parameters."""

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as tv

from kdcache.errors import StoreError, UsageError
from kdcache.philox import Purpose, words
from kdcache.views import RECIPES, CropFlip, Recipe, Unaugmented, make_recipe
from kdcache.views import recipe_from_description as described_recipe


def formula_images(count: int, size: int, channels: int = 3) -> NDArray[np.uint8]:
    """uint8 (count, channels, size, size), no two neighbours alike, no byte of which is random."""
    steps = np.arange(count * channels * size * size, dtype=np.int64)
    flat = (steps * 2_654_435_761 >> 7) % 251 + 1  # never 0, the colour of the padding
    return flat.astype(np.uint8).reshape(count, channels, size, size)


@st.composite
def crop_flips(draw: st.DrawFn) -> CropFlip:
    return CropFlip(
        size=draw(st.integers(1, 9)),
        padding=draw(st.integers(0, 4)),
        flip=draw(st.booleans()),
        seed=draw(st.integers(0, 2**64 - 1)),
    )


indices = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=8).map(
    lambda values: np.array(values, dtype=np.int64)
)
views = st.integers(0, 2**32 - 1)


# The same bytes


@settings(deadline=None)
@given(recipe=crop_flips(), index_B=indices, view=views, data=st.data())
def test_crop_flip_is_a_function_of_seed_view_and_index(
    recipe: CropFlip, index_B: NDArray[np.int64], view: int, data: st.DataObject
) -> None:
    images = formula_images(len(index_B), recipe.size)
    batched = recipe(images, index_B, view)
    for i in range(len(index_B)):
        assert np.array_equal(recipe(images[i : i + 1], index_B[i : i + 1], view)[0], batched[i])
    order = np.array(data.draw(st.permutations(range(len(index_B)))))
    assert np.array_equal(recipe(images[order], index_B[order], view), batched[order])


@settings(deadline=None)
@given(recipe=crop_flips(), index_B=indices, view=views)
def test_arrays_tensors_and_the_device_path_give_the_same_bytes(
    recipe: CropFlip, index_B: NDArray[np.int64], view: int
) -> None:
    images = formula_images(len(index_B), recipe.size)
    expected = recipe(images, index_B, view)
    tensor = torch.from_numpy(images)
    on_device = recipe.crop_on_device(tensor, recipe.parameters(index_B, view))
    layouts = (tensor, tensor.to(memory_format=torch.channels_last), tensor.flip(1).flip(1))
    for pixels in (on_device, *(recipe(layout, index_B, view) for layout in layouts)):
        assert pixels.dtype == torch.uint8
        assert np.array_equal(pixels.numpy(), expected)


@settings(deadline=None)
@given(recipe=crop_flips(), index_B=indices, view=views)
def test_crop_flip_equals_torchvision_given_the_same_parameters(
    recipe: CropFlip, index_B: NDArray[np.int64], view: int
) -> None:
    images = formula_images(len(index_B), recipe.size)
    got = recipe(images, index_B, view)
    at = recipe.parameters(index_B, view)
    for i in range(len(index_B)):
        padded = tv.pad(torch.from_numpy(images[i]), [recipe.padding])
        top, left = int(at.top_B[i]), int(at.left_B[i])
        expected = tv.crop(padded, top, left, recipe.size, recipe.size)
        if at.flip_B[i]:
            expected = tv.horizontal_flip(expected)
        assert np.array_equal(got[i], expected.numpy())


@settings(deadline=None)
@given(recipe=crop_flips(), index_B=indices, view=views)
def test_parameters_come_from_the_words_of_the_view(
    recipe: CropFlip, index_B: NDArray[np.int64], view: int
) -> None:
    at = recipe.parameters(index_B, view)
    words_B4 = words(recipe.seed, Purpose.VIEW, index_B, view).tolist()
    corners = 2 * recipe.padding + 1
    assert at.top_B.tolist() == [w[0] * corners // 2**32 for w in words_B4]
    assert at.left_B.tolist() == [w[1] * corners // 2**32 for w in words_B4]
    assert at.flip_B.tolist() == [recipe.flip and w[2] >= 2**31 for w in words_B4]


def test_none_gives_the_image_itself_however_it_is_asked() -> None:
    images, index_B = formula_images(5, 6), np.array([4, 0, 3, 2**40, 1])
    for recipe in (Unaugmented(), Unaugmented(seed=9)):
        assert np.array_equal(recipe(images, index_B, 0), images)
        assert torch.equal(recipe(torch.from_numpy(images), index_B, 0), torch.from_numpy(images))
        for i in range(5):
            one = recipe(images[i : i + 1], index_B[i : i + 1], 0)
            assert np.array_equal(one[0], images[i])


def test_a_view_leaves_the_images_it_was_given_alone() -> None:
    images = formula_images(6, 8)
    before = images.copy()
    recipe = CropFlip(size=8, padding=2)
    recipe(images, np.arange(6), 1)
    recipe(torch.from_numpy(images), np.arange(6), 1)
    assert np.array_equal(images, before)


def test_no_images_are_a_batch_too() -> None:
    nothing = np.empty((0, 3, 8, 8), dtype=np.uint8)
    none = np.arange(0)
    assert CropFlip(size=8)(nothing, none, 0).shape == (0, 3, 8, 8)
    assert CropFlip(size=8)(torch.from_numpy(nothing), none, 0).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_number_of_channels_is_cropped_alike(channels: int) -> None:
    recipe, index_B = CropFlip(size=8, padding=2, seed=3), np.arange(10)
    images = formula_images(10, 8, channels)
    whole = recipe(images, index_B, 5)
    for channel in range(channels):
        alone = np.ascontiguousarray(images[:, channel : channel + 1])
        assert np.array_equal(recipe(alone, index_B, 5)[:, 0], whole[:, channel])


# Pinned: stores that exist depend on these


def test_parameters_are_pinned() -> None:
    at = CropFlip(size=32, padding=4, seed=0).parameters(np.arange(8), view=3)
    assert at.top_B.tolist() == [8, 2, 7, 7, 1, 1, 2, 0]
    assert at.left_B.tolist() == [0, 8, 0, 3, 4, 3, 1, 0]
    assert at.flip_B.tolist() == [True, True, True, False, False, False, False, False]


@pytest.mark.parametrize(
    ("recipe", "view", "sha256"),
    [
        (CropFlip(), 0, "4d1943d162d1d5d60f30e051c6d177c7f58d77af2f18464c779e95c1e3ea6749"),
        (
            CropFlip(seed=2**33 + 5),
            39,
            "9eac0f16034305311da74a5793343014e2b9f94ea037bc38705f77f3c7c5741d",
        ),
        (
            CropFlip(size=8, padding=1, flip=False),
            7,
            "a222e9e3388134b161cea29155a168b410e77de1e32d69f4b86f97932c50a779",
        ),
        (Unaugmented(), 0, "05819e9488cf15be8ef4db6f2d1b3b380232324a0975f5f83a95126e75e5b3e3"),
    ],
)
def test_pixels_are_pinned(recipe: Recipe, view: int, sha256: str) -> None:
    size = recipe.size if isinstance(recipe, CropFlip) else 32
    index_B = np.array([0, 1, 2, 49_999, 2**32, 2**40 + 17])
    pixels = recipe(formula_images(6, size), index_B, view)
    assert pixels.shape == (6, 3, size, size)
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == sha256


# Uniformity


def chi_square(counts: NDArray[np.int64]) -> float:
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("view", [0, 1, 199])
@pytest.mark.parametrize("seed", [0, 12345])
def test_corners_and_flips_are_uniform_and_independent(seed: int, view: int) -> None:
    at = CropFlip(seed=seed).parameters(np.arange(50_000), view)
    joint = np.zeros((9, 9, 2), dtype=np.int64)
    np.add.at(joint, (at.top_B, at.left_B, at.flip_B.astype(np.int64)), 1)
    # 161 degrees of freedom: mean 161, standard deviation 18; six of them either way.
    assert 53 < chi_square(joint) < 269


def test_successive_views_of_a_sample_are_independent() -> None:
    recipe, index_B = CropFlip(), np.arange(50_000)
    first, second = recipe.parameters(index_B, 4), recipe.parameters(index_B, 5)
    for one, other in (
        (first.top_B, second.top_B),
        (first.left_B, second.left_B),
        (first.top_B[:-1], first.top_B[1:]),
    ):
        joint = np.zeros((9, 9), dtype=np.int64)
        np.add.at(joint, (one, other), 1)
        # 80 degrees of freedom: mean 80, standard deviation 12.6.
        assert 5 < chi_square(joint) < 156
    agree = int((first.flip_B == second.flip_B).sum())
    assert abs(agree - 25_000) < 6 * 112


def test_another_seed_gives_other_views() -> None:
    images, index_B = formula_images(20, 32), np.arange(20)
    zero, one = (CropFlip(seed=seed)(images, index_B, 0) for seed in (0, 1))
    assert not np.array_equal(zero, one)
    high = CropFlip(seed=2**32)(images, index_B, 0)
    assert not np.array_equal(zero, high)


# Fingerprints and descriptions


def test_fingerprints_are_pinned() -> None:
    assert (
        CropFlip().fingerprint == "5477c5aa8c08e6f62e69fb02bc28adb02b1405cb3add073c0e48f744f61ea590"
    )
    assert (
        Unaugmented().fingerprint
        == "d9fcaeba002ca240977d9c20fd49cf0d6b6b0752ef5b2d92973480248b3fa951"
    )


def test_a_fingerprint_changes_with_every_field_and_with_nothing_else() -> None:
    recipes: list[Recipe] = [
        CropFlip(),
        CropFlip(seed=1),
        CropFlip(size=33),
        CropFlip(padding=5),
        CropFlip(flip=False),
        Unaugmented(),
        Unaugmented(seed=1),
    ]
    assert len({recipe.fingerprint for recipe in recipes}) == len(recipes)
    assert CropFlip(size=32, padding=4, flip=True, seed=0).fingerprint == CropFlip().fingerprint


def test_crop_flip_describes_itself() -> None:
    assert CropFlip(size=8, padding=1, flip=False, seed=5).describe() == {
        "name": "crop-flip",
        "version": 1,
        "exact": True,
        "size": 8,
        "padding": 1,
        "flip": False,
    }


@given(recipe=crop_flips())
def test_a_description_round_trips(recipe: CropFlip) -> None:
    assert described_recipe(recipe.describe(), recipe.seed) == recipe


def test_the_description_of_none_round_trips() -> None:
    assert described_recipe(Unaugmented(seed=3).describe(), 3) == Unaugmented(seed=3)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "mixup"},
        {"name": None},
        {"name": ["crop-flip"]},
        {"version": 2},
        {"exact": False},
        {"size": 0},
        {"size": "32"},
        {"blur": 1},
        {"seed": 1},
    ],
)
def test_a_description_this_version_cannot_replay_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(
        StoreError,
        match=r"cannot replay \(it knows crop-flip version 1, none version 1, pose-affine",
    ):
        described_recipe({**CropFlip().describe(), **change}, 0)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_told_as_such(seed: int) -> None:
    with pytest.raises(UsageError, match=rf"must lie in 0 to 2\^64 - 1, got {seed}$"):
        described_recipe(CropFlip().describe(), seed)


def test_a_description_that_lacks_a_parameter_is_refused() -> None:
    description = CropFlip().describe()
    del description["flip"]
    with pytest.raises(StoreError, match="cannot replay"):
        described_recipe(description, 0)


def test_recipes_are_made_by_name_and_take_only_their_parameters() -> None:
    assert set(RECIPES) == {"crop-flip", "none", "pose-affine", "pose-crop"}
    made = make_recipe("crop-flip", seed=4, size=8, padding=1, flip=False)
    assert made == CropFlip(size=8, padding=1, flip=False, seed=4)
    assert make_recipe("none", seed=4, size=8, padding=1) == Unaugmented(seed=4)


def test_an_unknown_recipe_is_an_error_with_the_near_names() -> None:
    with pytest.raises(UsageError, match=r"'crop-flop'\. Did you mean crop-flip\? Known: .*none"):
        make_recipe("crop-flop")


# Errors


@pytest.mark.parametrize("recipe", [CropFlip(size=4), Unaugmented()])
@pytest.mark.parametrize("dtype", ["float32", "int64", "int8"])
def test_images_that_are_not_uint8_are_refused(recipe: Recipe, dtype: str) -> None:
    images = np.zeros((2, 3, 4, 4), dtype=dtype)
    for given_images in (images, torch.from_numpy(images)):
        with pytest.raises(ValueError, match=rf"must be uint8 .* got (torch\.)?{dtype}"):
            recipe(given_images, np.arange(2), 0)


@pytest.mark.parametrize("recipe", [CropFlip(size=4), Unaugmented()])
def test_one_image_without_a_batch_is_refused(recipe: Recipe) -> None:
    with pytest.raises(ValueError, match=r"shape \(B, C, H, W\), got uint8 of shape \(3, 4, 4\)"):
        recipe(np.zeros((3, 4, 4), dtype=np.uint8), np.arange(3), 0)


@pytest.mark.parametrize("shape", [(2, 3, 8, 4), (2, 3, 4, 8), (2, 3, 5, 5)])
def test_images_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    expected = f"size 4 needs images of 4 x 4, got {shape[2]} x {shape[3]}"
    with pytest.raises(ValueError, match=expected):
        CropFlip(size=4, padding=1)(np.zeros(shape, dtype=np.uint8), np.arange(2), 0)


@pytest.mark.parametrize("recipe", [CropFlip(size=4), Unaugmented()])
def test_as_many_indices_as_images_are_needed(recipe: Recipe) -> None:
    with pytest.raises(ValueError, match="got 2 images but 3 indices"):
        recipe(np.zeros((2, 3, 4, 4), dtype=np.uint8), np.arange(3), 0)


def test_a_view_the_recipe_does_not_have_is_refused() -> None:
    images = np.zeros((1, 3, 4, 4), dtype=np.uint8)
    with pytest.raises(ValueError, match="'crop-flip' has the views 0 and up, got -1"):
        CropFlip(size=4)(images, np.arange(1), -1)
    for view in (-1, 1):
        with pytest.raises(ValueError, match=f"'none' has the views 0 to 0, got {view}"):
            Unaugmented()(images, np.arange(1), view)


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": -1}, {"padding": -1}])
def test_impossible_crops_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="need size >= 1 and padding >= 0"):
        CropFlip(**wrong)  # type: ignore[arg-type]
