"""Heatmaps as targets: a mentor's map of each joint, as its network gives it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.encode.encoder import Encoder
from kdcache.encode.heatmap8 import PARAMETERS
from kdcache.encode.target_kind import TargetKind, measured_rows
from kdcache.heatmaps import STRIDE, decode_keypoints

MOST_JOINTS = 1024
MOST_SIDE = 1024  # pixels
MEASURED = 64  # rows of a chunk: one of COCO has 52,224 numbers
BLANK = 0.05  # a peak, of Gaussians of 1, below which a map shows no joint


class Heatmaps(TargetKind):
    """Rows are float32 heatmaps (J, H, W), the coordinates those of the view divided by 4."""

    name = "heatmaps"
    dimension_names = ("joint", "y", "x")
    values = "heatmaps"
    encoders = ("heatmap8", "float16", "float32")
    most_block = 256  # of COCO 13 MB encoded, 53 MB as float32
    default_encoder = "heatmap8"

    def row_shape(self, described: Mapping[str, Any], width: int | None = None) -> tuple[int, ...]:
        """J is the number of classes; H and W are those of `heatmap_shape`, a list."""
        joints = num_joints(described)
        shape = described.get("heatmap_shape")
        if not (
            isinstance(shape, list | tuple)
            and len(shape) == 2
            and all(type(side) is int and PARAMETERS <= side <= MOST_SIDE for side in shape)
        ):
            raise ValueError(
                f"heatmaps are two sides of {PARAMETERS} to {MOST_SIDE:,} pixels, H and W, not "
                f"{str(shape)[:80]}"
            )
        return joints, shape[0], shape[1]

    def encoder_beside(self, primary: Encoder) -> str:
        return primary.name

    def from_forward(
        self, output_BC: torch.Tensor, features_BF: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`output_BC`: here (B, J, H, W).

        In the memory order of a store's rows, whatever the network's was: it decides the last bits
        of sums over pixels, and live mentors are to teach exactly as stored ones do.
        """
        return output_BC.to(torch.float32).contiguous()

    def error_sums(
        self,
        exact: NDArray[np.float32],
        decoded: NDArray[np.float32],
        labels_B: NDArray[np.int64],
    ) -> dict[str, float]:
        """Of a row, over its maps with a peak of 0.05 or more: what place noise peaks at is nothing
        to lose, so blank maps count in none of these means, and a row of them adds 0.

        `relative`: mean |change| of a pixel over the map's peak; `argmax`: share of maps whose
        (first) highest pixel is another one; `keypoint`: mean distance in heatmap pixels that the
        quarter-pixel keypoint moved, and `max_keypoint` the largest. `max_absolute`: the largest
        change of a number, of all rows and maps.
        """
        rows = measured_rows(len(exact), MEASURED)
        exact_KJHW, decoded_KJHW = (torch.from_numpy(a[rows]) for a in (exact, decoded))
        peak_KJ, place_KJ = exact_KJHW.flatten(2).max(dim=2)
        moved_KJ = decoded_KJHW.flatten(2).argmax(dim=2) != place_KJ
        shown_KJ = (peak_KJ >= BLANK).to(torch.float64)
        change_KJ = (decoded_KJHW.to(torch.float64) - exact_KJHW).abs_().flatten(2).mean(dim=2)
        here_KJ2, there_KJ2 = (decode_keypoints(a)[..., :2] for a in (exact_KJHW, decoded_KJHW))
        distance_KJ = (there_KJ2.to(torch.float64) - here_KJ2).norm(dim=2) / STRIDE
        distance_KJ *= shown_KJ

        def summed(each_KJ: torch.Tensor) -> float:
            """Over rows, the means over their maps with a joint."""
            return float(((each_KJ * shown_KJ).sum(1) / shown_KJ.sum(1).clamp(min=1)).sum())

        return {
            "measured_rows": float(len(rows)),
            "relative": summed(change_KJ / peak_KJ.clamp(min=BLANK)),
            "argmax": summed(moved_KJ),
            "keypoint": summed(distance_KJ),
            "max_keypoint": float(distance_KJ.max()),
            "max_absolute": float(np.abs(exact - decoded).max()),
        }


def num_joints(dataset_identity: Mapping[str, Any]) -> int:
    """J. Raises ValueError for a number of joints that nobody has."""
    joints = dataset_identity.get("num_classes")
    if type(joints) is not int or not 1 <= joints <= MOST_JOINTS:
        raise ValueError(f"a person has 1 to {MOST_JOINTS:,} joints, not {str(joints)[:80]}")
    return joints
