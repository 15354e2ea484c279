"""People: what the annotation files of a pose dataset say of each person, as arrays.

Coordinates are of pixels: (0, 0) is the centre of an image's top left pixel, x to the right, y
down. Shapes: N people, J joints.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdcache.datasets.skeleton import Skeleton


@dataclass(frozen=True, kw_only=True, eq=False)
class People:
    """N annotated people, one sample each; a sample's index is its position here.

    `joints_NJ3`: float64 x, y and visibility: 0 not labelled, 1 labelled but hidden, 2 visible.
    `box_N4`: float64 left, top, width, height. `area_N`: float64, the squared scale of OKS.
    `annotation_N`, `image_N`: int64, the ids that the annotation file has of person and image.
    `head_N`: float64 pixels, the head's size of PCKh; NaN where the dataset has none. `files`: the
    names of their images' files.
    """

    skeleton: Skeleton
    joints_NJ3: NDArray[np.float64]
    box_N4: NDArray[np.float64]
    area_N: NDArray[np.float64]
    annotation_N: NDArray[np.int64]
    image_N: NDArray[np.int64]
    head_N: NDArray[np.float64]
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.annotation_N)

    def take(self, index_B: NDArray[np.int64]) -> "People":
        """Those at these positions, in this order."""
        return People(
            skeleton=self.skeleton,
            joints_NJ3=self.joints_NJ3[index_B],
            box_N4=self.box_N4[index_B],
            area_N=self.area_N[index_B],
            annotation_N=self.annotation_N[index_B],
            image_N=self.image_N[index_B],
            head_N=self.head_N[index_B],
            files=tuple(self.files[i] for i in index_B),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class PersonPhotos:
    """Whole photographs of B people, as read: what a pose recipe makes views of.

    `photos`: uint8 RGB (H, W, 3), each of its own size; two people of one image may share one.
    """

    people: People
    photos: Sequence[NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.photos)
