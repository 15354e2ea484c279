"""Keypoints as targets: where a mentor sees each joint, decoded from its exact heatmaps.

They are stored beside encoded heatmaps, so that a mentor can be evaluated, and drawn, without them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.encode.encoder import Encoder
from kdcache.encode.heatmaps import num_joints
from kdcache.encode.target_kind import TargetKind
from kdcache.heatmaps import decode_keypoints


class Keypoints(TargetKind):
    """Rows are float32 (J, 3): x and y in view pixels, by the quarter-pixel offset, and the peak of
    the map as score. Always exact."""

    name = "keypoints"
    dimension_names = ("joint", "coordinate")
    values = "keypoints"
    encoders = ("float32",)

    def row_shape(self, described: Mapping[str, Any], width: int | None = None) -> tuple[int, ...]:
        return num_joints(described), 3

    def encoder_beside(self, primary: Encoder) -> str:
        return "float32"

    def from_forward(
        self, output_BC: torch.Tensor, features_BF: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`output_BC`: here heatmaps (B, J, H, W)."""
        return decode_keypoints(output_BC)

    def error_sums(
        self,
        exact: NDArray[np.float32],
        decoded: NDArray[np.float32],
        labels_B: NDArray[np.int64],
    ) -> dict[str, float]:
        """None: they are stored exactly."""
        return {}
