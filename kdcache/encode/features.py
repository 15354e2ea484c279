"""Features as targets: what a mentor's classifier is given, after pooling."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.encode.encoder import Encoder
from kdcache.encode.target_kind import TargetKind, measured_rows

MOST_FEATURES = 2**16  # numbers a row; VGG-16 for ImageNet, the widest known, has 4,096


class Features(TargetKind):
    """Rows are float32 pooled features (F,); F is the mentor's own.

    2 bytes a number by default, and exact beside exact logits: the two are taught together.
    """

    name = "features"
    dimension_names = ("feature",)
    values = "features"
    encoders = ("float16", "float32")
    option = "--features"
    from_features = True

    def row_shape(self, described: Mapping[str, Any], width: int | None = None) -> tuple[int, ...]:
        if type(width) is not int or not 1 <= width <= MOST_FEATURES:
            raise ValueError(f"a row has 1 to {MOST_FEATURES:,} features, not {str(width)[:80]}")
        return (width,)

    def encoder_beside(self, primary: Encoder) -> str:
        return "float32" if primary.exact else "float16"

    def from_forward(
        self, output_BC: torch.Tensor, features_BF: torch.Tensor | None = None
    ) -> torch.Tensor:
        assert features_BF is not None
        return features_BF.to(torch.float32)

    def error_sums(
        self,
        exact: NDArray[np.float32],
        decoded: NDArray[np.float32],
        labels_B: NDArray[np.int64],
    ) -> dict[str, float]:
        """`relative`: the length of each row's change over the row's own, in float64 (0 for a row
        of zeros, which every encoder keeps); `max_absolute`: the largest change of a number.
        """
        rows = measured_rows(len(exact))
        exact_KF, decoded_KF = (a[rows].astype(np.float64) for a in (exact, decoded))
        length_K = np.linalg.norm(exact_KF, axis=-1)
        change_K = np.linalg.norm(decoded_KF - exact_KF, axis=-1)
        relative_K = change_K / np.where(length_K > 0, length_K, 1.0)
        return {
            "measured_rows": float(len(rows)),
            "relative": float(relative_K.sum()),
            "max_relative": float(relative_K.max()),
            "max_absolute": float(np.abs(exact - decoded).max()),
        }
