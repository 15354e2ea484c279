"""How near one person's predicted joints are to the labels of the view: a caption's numbers."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Means over the joints that are labelled in the view; None where none is.

    `peak`: of their maps. `oks`: object keypoint similarity (cocodataset.org, "Keypoints
    Evaluation"). `distance`: view pixels. `joints`: how many they are. `seen`: of how many of all
    the map peaks at `SEEN` or above.
    """

    peak: float | None
    oks: float | None
    distance: float | None
    joints: int
    seen: int

    def to_json(self) -> dict[str, Any]:
        """By the fields' names."""
        return asdict(self)

    def __str__(self) -> str:
        if self.peak is None or self.oks is None or self.distance is None:
            return "no labelled joint in this view"
        return f"peak {self.peak:.2f}, OKS {self.oks:.2f}, {self.distance:.1f} px off"


SEEN = 0.1  # a lower peak is no joint: what ClassroomKD on heatmaps takes, min_peak


def agreement(
    points_J3: NDArray[np.floating],
    label_J3: NDArray[np.floating],
    *,
    sigmas: Sequence[float],
    area: float,
) -> Agreement:
    """Of one person. `points_J3`: x and y in view pixels, and the map's peak. `label_J3`: x, y and
    a weight, above 0 for the joints that count. `area`: the person's, in squared view pixels.
    """
    points_J3, label_J3 = np.asarray(points_J3, np.float64), np.asarray(label_J3, np.float64)
    counted_J = label_J3[:, 2] > 0
    seen = int((points_J3[:, 2] >= SEEN).sum())
    if not counted_J.any():
        return Agreement(peak=None, oks=None, distance=None, joints=0, seen=seen)
    square_J = ((points_J3[:, :2] - label_J3[:, :2]) ** 2).sum(axis=1)[counted_J]
    # cocodataset.org, Keypoints Evaluation: exp(-d_i^2 / (2 s^2 k_i^2)), k_i = 2 sigma_i; its
    # evaluator adds eps to the area.
    k_J = 2 * np.asarray(sigmas)[counted_J]
    similarity_J = np.exp(-square_J / (2 * (area + np.spacing(1)) * k_J**2))
    return Agreement(
        peak=float(points_J3[counted_J, 2].mean()),
        oks=float(similarity_J.mean()),
        distance=float(np.sqrt(square_J).mean()),
        joints=int(counted_J.sum()),
        seen=seen,
    )
