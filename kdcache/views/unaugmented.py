"""`none`: the images as they are, one view. For test splits and for measuring mentors."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.views.recipe import Pixels, Recipe


@dataclass(frozen=True, kw_only=True)
class Unaugmented(Recipe):
    """View 0 is the image itself; there is no other."""

    name: ClassVar[str] = "none"
    has_device_form: ClassVar[bool] = True
    num_views: ClassVar[int | None] = 1

    def __call__(self, images_BCHW: Pixels, index_B: NDArray[np.int64], view: int) -> Pixels:
        self._check(images_BCHW, index_B, view)
        return images_BCHW

    def on_device(
        self, images_BCHW: torch.Tensor, index_B: NDArray[np.int64], view: int
    ) -> torch.Tensor:
        return self(images_BCHW, index_B, view)
