"""`pose-crop`: people as they are, one view. For test splits and for measuring mentors."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kdcache.datasets.people import People, PersonPhotos
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


@dataclass(frozen=True, kw_only=True)
class PoseCrop(Recipe):
    """View 0 is the person's box, widened to height x width, times 1.25; there is no other.

    The methods are `PoseAffine`'s.
    """

    height: int = 256
    width: int = 192

    name: ClassVar[str] = "pose-crop"
    of_people: ClassVar[bool] = True
    exact: ClassVar[bool] = False
    num_views: ClassVar[int | None] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sides(self.height, self.width)

    def __call__(
        self, images: PersonPhotos, index_B: NDArray[np.int64], view: int
    ) -> NDArray[np.uint8]:
        require_photos(self, images, index_B, view)
        return cut_all(images, self.affine(images.people, index_B, view), self.height, self.width)

    def affine(self, people: People, index_B: NDArray[np.int64], view: int) -> NDArray[np.float64]:
        """float64 (B, 2, 3): image coordinates to view pixels."""
        require_people(self, people, index_B, view)
        crop_B3 = person_boxes(people, self.width / self.height)
        rotation_B, mirrored_B = np.zeros(len(people)), np.zeros(len(people), dtype=bool)
        return crop_affine(crop_B3, rotation_B, mirrored_B, self.height, self.width)

    def joints(self, people: People, index_B: NDArray[np.int64], view: int) -> NDArray[np.float32]:
        """float32 (B, J, 3): the labels."""
        affine_B23 = self.affine(people, index_B, view)
        mirrored_B = np.zeros(len(people), dtype=bool)
        return joints_in_view(people, affine_B23, mirrored_B, self.height, self.width)

    def map_back(
        self,
        points_BJ3: NDArray[np.floating[Any]],
        people: People,
        index_B: NDArray[np.int64],
        view: int,
    ) -> NDArray[np.float64]:
        """float64 (B, J, 3): view pixels to image coordinates."""
        affine_B23 = self.affine(people, index_B, view)
        mirrored_B = np.zeros(len(people), dtype=bool)
        return points_in_image(points_BJ3, affine_B23, mirrored_B, people.skeleton)

    def proof_parameters(
        self, images: PersonPhotos, index_B: NDArray[np.int64], view: int
    ) -> NDArray[np.float64]:
        require_photos(self, images, index_B, view)
        return self.affine(images.people, index_B, view).reshape(-1, 6)
