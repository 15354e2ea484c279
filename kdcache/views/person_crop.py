"""Crops of people: from a box to the affine of a view, its pixels, its labels, and the way back.

The geometry is that of SimpleBaseline (Xiao et al., arXiv 1804.06208) and HRNet (Sun et al., arXiv
1902.09212), as their published code has it, so that networks trained there fit: the box is widened
to the view's aspect ratio and enlarged, and its centre lands on (width / 2, height / 2). Points are
pixel indices in image and view: (0, 0) is the centre of the top left pixel.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdcache.datasets.people import People, PersonPhotos
from kdcache.datasets.skeleton import Skeleton
from kdcache.errors import DatasetError, UsageError
from kdcache.views.recipe import Recipe

Number = TypeVar("Number", np.float32, np.float64)

STEP = 32  # the stride of the networks' deepest maps
LARGEST_SIDE = 2048  # a manifest of others may state any; a view is made in memory
MARGIN = 1.25  # of a person's box, on its width and height


def require_sides(height: int, width: int) -> None:
    """Raises UsageError for sides of a view that no pose network takes."""
    for side in (height, width):
        if type(side) is not int or side % STEP or not STEP <= side <= LARGEST_SIDE:
            raise UsageError(
                f"height and width of a view must be multiples of {STEP}, up to {LARGEST_SIDE}, "
                f"got {height!r:.80}, {width!r:.80}"
            )


def require_people(recipe: Recipe, people: Any, index_B: NDArray[np.int64], view: int) -> None:
    """Raises UsageError unless `people` are the samples' people, and the view is the recipe's."""
    if not isinstance(people, People):
        raise UsageError(
            f"recipe {recipe.name!r} needs People, one of each index, got {type(people).__name__}"
        )
    if len(people) != len(index_B):
        raise UsageError(
            f"got {len(people)} people but {len(index_B)} indices; take the people of these "
            "samples first (`people.take(index_B)`)"
        )
    recipe.require_view(view)


def require_photos(recipe: Recipe, images: Any, index_B: NDArray[np.int64], view: int) -> None:
    """Raises UsageError unless `images` are photographs, one of each sample's person."""
    if not isinstance(images, PersonPhotos):
        raise UsageError(
            f"recipe {recipe.name!r} cuts people out of whole photographs (PersonPhotos, as "
            f"datasets of poses give them), got {type(images).__name__}; for images of one size "
            "take crop-flip or none"
        )
    require_people(recipe, images.people, index_B, view)
    if len(images) != len(images.people):
        raise UsageError(f"got {len(images)} photographs of {len(images.people)} people")
    for photo_HW3 in images.photos:
        if photo_HW3.dtype != np.uint8 or photo_HW3.ndim != 3 or photo_HW3.shape[2] != 3:
            raise UsageError(
                f"photographs must be uint8 RGB of shape (H, W, 3), got {photo_HW3.dtype} of shape "
                f"{photo_HW3.shape}"
            )


def person_boxes(people: People, aspect: float) -> NDArray[np.float64]:
    """float64 (B, 3): centre x and y of each person's crop, and its width, in image pixels.

    The annotated box, its width or height enlarged to `aspect` (width / height), times 1.25.
    Raises DatasetError for a box without a size or of no numbers.
    """
    left, top, width, height = people.box_N4.T
    sound_B = np.isfinite(people.box_N4).all(1) & (np.minimum(width, height) >= 0)
    sound_B &= np.maximum(width, height) > 0
    for wrong in np.flatnonzero(~sound_B)[:1]:
        raise DatasetError(
            f"annotation {people.annotation_N[wrong]} of {people.files[wrong]} has the box "
            f"{people.box_N4[wrong].tolist()}; a view needs left, top, width and height of a person"
        )
    crop_width = np.maximum(width, aspect * height) * MARGIN
    return np.stack([left + width / 2, top + height / 2, crop_width], axis=1)


def crop_affine(
    crop_B3: NDArray[np.float64],
    rotation_B: NDArray[np.float64],
    mirrored_B: NDArray[np.bool_],
    height: int,
    width: int,
) -> NDArray[np.float64]:
    """float64 (B, 2, 3): image coordinates to view pixels.

    `crop_B3`: centre x, y and width of each crop, as `person_boxes` gives them. `rotation_B`:
    degrees, by which the person turns counter-clockwise. Mirrored last, about x = width / 2.
    """
    zoom_B, angle_B = width / crop_B3[:, 2], np.deg2rad(rotation_B)
    cosine_B, sine_B = zoom_B * np.cos(angle_B), zoom_B * np.sin(angle_B)
    affine_B23 = np.empty((len(crop_B3), 2, 3))
    affine_B23[:, 0, 0], affine_B23[:, 0, 1] = cosine_B, sine_B
    affine_B23[:, 1, 0], affine_B23[:, 1, 1] = -sine_B, cosine_B
    turned_B2 = np.einsum("bij,bj->bi", affine_B23[:, :, :2], crop_B3[:, :2])
    affine_B23[:, :, 2] = np.array([width / 2, height / 2]) - turned_B2
    affine_B23[mirrored_B, 0] = np.array([0, 0, width]) - affine_B23[mirrored_B, 0]
    return affine_B23


def inverse_affine(affine_B23: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 (B, 2, 3): view pixels to image coordinates."""
    (a, b, _), (d, e, _) = affine_B23.transpose(1, 2, 0)
    inverse_B23 = np.empty_like(affine_B23)
    inverse_B23[:, :, :2] = np.stack([e, -b, -d, a], axis=1).reshape(-1, 2, 2)
    inverse_B23[:, :, :2] /= (a * e - b * d)[:, None, None]
    inverse_B23[:, :, 2] = -np.einsum("bij,bj->bi", inverse_B23[:, :, :2], affine_B23[:, :, 2])
    return inverse_B23


def apply_affine(
    affine_B23: NDArray[np.float64], points_BJ2: NDArray[np.float64]
) -> NDArray[np.float64]:
    """float64 (B, J, 2)."""
    turned_BJ2 = np.einsum("bij,bkj->bki", affine_B23[:, :, :2], points_BJ2)
    return np.asarray(turned_BJ2 + affine_B23[:, None, :, 2], dtype=np.float64)


def joints_in_view(
    people: People,
    affine_B23: NDArray[np.float64],
    mirrored_B: NDArray[np.bool_],
    height: int,
    width: int,
) -> NDArray[np.float32]:
    """float32 (B, J, 3): x and y in view pixels, and a weight: the labels of these views.

    The weight is 1 for a labelled joint (visibility 1 or 2) nearest to a pixel of the view, else 0;
    a joint without a label has x = y = 0. Left and right are swapped in mirrored views.
    """
    labelled_BJ = people.joints_NJ3[:, :, 2] > 0
    points_BJ2 = np.where(labelled_BJ[:, :, None], people.joints_NJ3[:, :, :2], 0)
    label_BJ3 = np.zeros((*labelled_BJ.shape, 3), dtype=np.float32)
    label_BJ3[:, :, :2] = apply_affine(affine_B23, points_BJ2) * labelled_BJ[:, :, None]
    x_BJ, y_BJ = label_BJ3[:, :, 0], label_BJ3[:, :, 1]
    inside_BJ = (x_BJ >= -0.5) & (x_BJ < width - 0.5) & (y_BJ >= -0.5) & (y_BJ < height - 0.5)
    label_BJ3[:, :, 2] = labelled_BJ & inside_BJ
    return _swapped(label_BJ3, mirrored_B, people.skeleton)


def points_in_image(
    points_BJ3: NDArray[np.floating[Any]],
    affine_B23: NDArray[np.float64],
    mirrored_B: NDArray[np.bool_],
    skeleton: Skeleton,
) -> NDArray[np.float64]:
    """float64 (B, J, 3): view pixels back to image coordinates; the third number is kept.

    Left and right are swapped back where the view is mirrored. Raises UsageError for other shapes.
    """
    expected = (len(affine_B23), skeleton.num_joints, 3)
    if points_BJ3.shape != expected:
        raise UsageError(
            f"points must have the shape {expected}: people, joints of {skeleton.name}, and (x, y, "
            f"score); got {points_BJ3.shape}"
        )
    in_image_BJ3 = points_BJ3.astype(np.float64)
    in_image_BJ3[:, :, :2] = apply_affine(inverse_affine(affine_B23), in_image_BJ3[:, :, :2])
    return _swapped(in_image_BJ3, mirrored_B, skeleton)


def _swapped(
    points_BJ3: NDArray[Number], mirrored_B: NDArray[np.bool_], skeleton: Skeleton
) -> NDArray[Number]:
    points_BJ3[mirrored_B] = points_BJ3[mirrored_B][:, list(skeleton.mirrored)]
    return points_BJ3


def cut(
    photo_HW3: NDArray[np.uint8], affine_23: NDArray[np.float64], height: int, width: int
) -> Image.Image:
    """The view of one photograph, RGB: bilinear, black where the photograph ends.

    Pillow cuts fractions of a level off, so that views are half a level darker than the photograph.
    """
    back_23 = inverse_affine(affine_23[None])[0]
    corners_24 = np.array([[0, width - 1, 0, width - 1], [0, 0, height - 1, height - 1]])
    corners_24 = back_23[:, :2] @ corners_24 + back_23[:, 2:]
    # Only the part that the view shows: Pillow copies what it is given.
    limits = np.array([photo_HW3.shape[1], photo_HW3.shape[0]], dtype=np.float64)
    first = np.clip(np.floor(corners_24.min(1)) - 1, 0, limits).astype(np.int64)
    behind = np.clip(np.ceil(corners_24.max(1)) + 2, 0, limits).astype(np.int64)
    if (behind <= first).any():
        return Image.new("RGB", (width, height))
    part = np.ascontiguousarray(photo_HW3[first[1] : behind[1], first[0] : behind[0]])
    # Pillow's coordinates are of pixels' corners: pixel i spans i to i + 1.
    offset_2 = back_23[:, 2] - first + 0.5 - back_23[:, :2].sum(1) / 2
    coefficients = np.concatenate([back_23[:, :2], offset_2[:, None]], axis=1).ravel()
    return Image.fromarray(part).transform(
        (width, height),
        Image.Transform.AFFINE,
        tuple(coefficients.tolist()),
        resample=Image.Resampling.BILINEAR,
    )


def cut_all(
    images: PersonPhotos,
    affine_B23: NDArray[np.float64],
    height: int,
    width: int,
    change: Callable[[Image.Image, int], Image.Image] = lambda crop, place: crop,
) -> NDArray[np.uint8]:
    """uint8 (B, 3, height, width): `cut` of each person; `change`: what a recipe does to a crop of
    the person at a place of the batch."""
    pixels_BCHW = np.empty((len(images), 3, height, width), dtype=np.uint8)
    for place, photo_HW3 in enumerate(images.photos):
        crop = change(cut(photo_HW3, affine_B23[place], height, width), place)
        pixels_BCHW[place] = np.asarray(crop).transpose(2, 0, 1)
    return pixels_BCHW
