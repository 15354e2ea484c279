"""One entry of a replay proof: what a store says of a sampled view, and how a replay compares.

Views of exact recipes are proven by the SHA-256 of their pixels. Those of tolerant ones by their
parameters, and by a sample of their pixels that may differ in last bits: decoders of JPEG and
interpolation do, from one version or machine to another.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache import philox
from kdcache.views import Recipe

SAMPLED_PIXELS = 256
DECIMALS = 9  # of stored parameters
NEAR = 1e-6  # how far a parameter may be from the stored one
ONE_LEVEL = 1
TOLERATED = 0.001  # share of all sampled values that may be further off than one level


@dataclass(frozen=True, kw_only=True)
class SampledView:
    """A view of one sample as it is here: pixels uint8 (C, H, W), parameters float64 (P,)."""

    view: int
    index: int
    pixels_CHW: NDArray[np.uint8]
    parameters_P: NDArray[np.float64] | None

    @property
    def sha256(self) -> str:
        """Of the pixels."""
        return hashlib.sha256(self.pixels_CHW.tobytes()).hexdigest()

    @property
    def pixel_values(self) -> bytes:
        """The channels of 256 pixels, one pixel after another.

        Pixel n is at row r and column c, words 0 and 1 of (seed 0, purpose 11, major n, minor the
        view) below H and W.
        """
        words_S4 = philox.words(
            0, philox.Purpose.PROOF_PIXELS, np.arange(SAMPLED_PIXELS), self.view
        )
        _, height, width = self.pixels_CHW.shape
        row_S, column_S = philox.below(words_S4[:, 0], height), philox.below(words_S4[:, 1], width)
        return self.pixels_CHW[:, row_S, column_S].T.tobytes()

    def to_json(self) -> dict[str, Any]:
        """The entry of the proof; below 2 kB."""
        place = {"view": self.view, "index": self.index}
        if self.parameters_P is None:
            return {**place, "sha256": self.sha256}
        # + 0.0: no minus zero
        parameters = (np.round(self.parameters_P, DECIMALS) + 0.0).tolist()
        return {**place, "parameters": parameters, "pixels": self.pixel_values.hex()}

    def has_parameters(self, stored: list[float]) -> bool:
        """Whether these are the stored ones, but for the last bits of logarithms and cosines."""
        here = self.parameters_P
        return (
            here is not None
            and len(stored) == len(here)
            and bool((np.abs(np.array(stored, dtype=np.float64) - here) <= NEAR).all())
        )


def sampled_view(images: Any, recipe: Recipe, view: int, index: int) -> SampledView:
    """`images`: what the dataset gives of the one sample `index`."""
    index_1 = np.array([index], dtype=np.int64)
    return SampledView(
        view=view,
        index=index,
        pixels_CHW=recipe(images, index_1, view)[0],
        parameters_P=None if recipe.exact else recipe.proof_parameters(images, index_1, view)[0],
    )
