"""`pose-affine`: people scaled, turned and mirrored, for the training of top-down networks."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from kdcache import philox
from kdcache.datasets.people import People, PersonPhotos
from kdcache.errors import UsageError
from kdcache.views.half_body import UPPER_FIRST, with_half_bodies
from kdcache.views.person_crop import (
    crop_affine,
    cut_all,
    joints_in_view,
    person_boxes,
    points_in_image,
    require_people,
    require_photos,
    require_sides,
)
from kdcache.views.recipe import Recipe

TURNED = 0.6  # probability that a view is turned at all
# parameter: least, most
_RANGES = {
    "scale": (0.0, 0.9),
    "rotation": (0.0, 180.0),
    "flip": (0.0, 1.0),
    "half_body": (0.0, 1.0),
    "jitter": (0.0, 1.0),
}


@dataclass(frozen=True, kw_only=True)
class PoseParameters:
    """What is drawn for each sample of a view.

    `zoom_B`: factor of the crop's size. `rotation_B`: degrees. `mirrored_B`: left to right.
    `half_B`: half a body, where the person's joints allow it; `upper_B`: the upper one first.
    `jitter_B3`: factors of brightness, contrast, saturation.
    """

    zoom_B: NDArray[np.float64]
    rotation_B: NDArray[np.float64]
    mirrored_B: NDArray[np.bool_]
    half_B: NDArray[np.bool_]
    upper_B: NDArray[np.bool_]
    jitter_B3: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PoseAffine(Recipe):
    """A person's box as `pose-crop` cuts it, its size, angle and side drawn anew in each view.

    With z standard normal, as HRNet and SimpleBaseline draw them: the crop's size times
    clip(1 + `scale` z, 1 - `scale`, 1 + `scale`); turned with probability 0.6 by
    clip(`rotation` z, -2 `rotation`, 2 `rotation`) degrees; mirrored with probability `flip`; with
    probability `half_body` half a body alone (`half_body.py`). Then brightness, contrast
    and saturation, in this order, each times a factor uniform in 1 - `jitter` to 1 + `jitter`.

    Published: COCO 0.35, 45, 0.5, half body 0.3 (HRNet; the first three are the defaults here) or
    0.3, 40, 0.5, none (SimpleBaseline); MPII 0.25, 30, 0.5, none (both, at 256 x 256); no jitter.
    """

    height: int = 256
    width: int = 192
    scale: float = 0.35
    rotation: float = 45.0
    flip: float = 0.5
    half_body: float = 0.0
    jitter: float = 0.0

    name: ClassVar[str] = "pose-affine"
    of_people: ClassVar[bool] = True
    exact: ClassVar[bool] = False  # logarithms, cosines and interpolation differ in last bits

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sides(self.height, self.width)
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if type(value) not in (int, float) or not least <= value <= most:
                raise UsageError(f"{name} must lie in {least} to {most}, got {value!r:.80}")
            object.__setattr__(self, name, float(value))  # 45 and 45.0: one fingerprint

    def parameters(self, index_B: NDArray[np.int64], view: int) -> PoseParameters:
        """What is drawn for these samples in this view."""
        words_B4 = philox.words(self.seed, philox.Purpose.VIEW, index_B, view)
        detail_B4 = philox.words(self.seed, philox.Purpose.VIEW_DETAIL, index_B, view)
        zoom_B, turn_B = _normal_pair(words_B4[:, 0], words_B4[:, 1])
        turn_B = np.clip(self.rotation * turn_B, -2 * self.rotation, 2 * self.rotation)
        return PoseParameters(
            zoom_B=np.clip(1 + self.scale * zoom_B, 1 - self.scale, 1 + self.scale),
            rotation_B=np.where(_chosen(words_B4[:, 2], TURNED), turn_B, 0.0),
            mirrored_B=_chosen(words_B4[:, 3], self.flip),
            half_B=_chosen(detail_B4[:, 0], self.half_body),
            upper_B=_chosen(detail_B4[:, 0], self.half_body * UPPER_FIRST),  # of those, 0.69
            jitter_B3=1 + self.jitter * (2 * _uniform(detail_B4[:, 1:]) - 1),
        )

    def __call__(
        self, images: PersonPhotos, index_B: NDArray[np.int64], view: int
    ) -> NDArray[np.uint8]:
        """uint8 (B, 3, height, width) of the photographs of the samples `index_B`."""
        require_photos(self, images, index_B, view)
        at = self.parameters(index_B, view)
        affine_B23 = self._affine(images.people, at)

        def jittered(crop: Image.Image, place: int) -> Image.Image:
            return _jittered(crop, at.jitter_B3[place]) if self.jitter else crop

        return cut_all(images, affine_B23, self.height, self.width, jittered)

    def affine(self, people: People, index_B: NDArray[np.int64], view: int) -> NDArray[np.float64]:
        """float64 (B, 2, 3): image coordinates to view pixels, mirroring included.

        `people`: those of the samples `index_B`, in this order. Raises UsageError where they are
        not, DatasetError for a box without size.
        """
        require_people(self, people, index_B, view)
        return self._affine(people, self.parameters(index_B, view))

    def joints(self, people: People, index_B: NDArray[np.int64], view: int) -> NDArray[np.float32]:
        """float32 (B, J, 3): x and y in view pixels, and a weight: the labels.

        The weight is 1 for a labelled joint inside the view, else 0; left and right are swapped in
        mirrored views. Arguments and errors as `affine`'s.
        """
        require_people(self, people, index_B, view)
        at = self.parameters(index_B, view)
        affine_B23 = self._affine(people, at)
        return joints_in_view(people, affine_B23, at.mirrored_B, self.height, self.width)

    def map_back(
        self,
        points_BJ3: NDArray[np.floating[Any]],
        people: People,
        index_B: NDArray[np.int64],
        view: int,
    ) -> NDArray[np.float64]:
        """float64 (B, J, 3): points in view pixels (x, y, anything) to image coordinates.

        Left and right are swapped back where the view is mirrored. Arguments and errors as
        `affine`'s; UsageError for points of another shape.
        """
        require_people(self, people, index_B, view)
        at = self.parameters(index_B, view)
        affine_B23 = self._affine(people, at)
        return points_in_image(points_BJ3, affine_B23, at.mirrored_B, people.skeleton)

    def proof_parameters(
        self, images: PersonPhotos, index_B: NDArray[np.int64], view: int
    ) -> NDArray[np.float64]:
        """float64 (B, 9): the affine, row by row, and the three factors of `jitter`."""
        require_photos(self, images, index_B, view)
        at = self.parameters(index_B, view)
        affine_B6 = self._affine(images.people, at).reshape(-1, 6)
        return np.concatenate([affine_B6, at.jitter_B3], axis=1)

    def _affine(self, people: People, at: PoseParameters) -> NDArray[np.float64]:
        aspect = self.width / self.height
        crop_B3 = person_boxes(people, aspect)
        crop_B3 = with_half_bodies(crop_B3, people, aspect, at.half_B, at.upper_B)
        crop_B3[:, 2] *= at.zoom_B
        return crop_affine(crop_B3, at.rotation_B, at.mirrored_B, self.height, self.width)


def _chosen(words: NDArray[np.uint32], probability: float) -> NDArray[np.bool_]:
    return words < probability * 2.0**32


def _uniform(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """In (0, 1): the middles of 2^32 equal parts."""
    return np.asarray((words + 0.5) / 2.0**32, dtype=np.float64)


def _normal_pair(
    words: NDArray[np.uint32], others: NDArray[np.uint32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two independent standard normal deviates (Box and Muller, 1958)."""
    radius, angle = np.sqrt(-2 * np.log(_uniform(words))), 2 * math.pi * _uniform(others)
    return radius * np.cos(angle), radius * np.sin(angle)


def _jittered(crop: Image.Image, factors_3: NDArray[np.float64]) -> Image.Image:
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for enhancer, factor in zip(enhancers, factors_3.tolist(), strict=True):
        crop = enhancer(crop).enhance(factor)
    return crop
