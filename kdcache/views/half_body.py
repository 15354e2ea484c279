"""Half bodies: crops around the upper or the lower joints of a person, by the rule of HRNet."""

import numpy as np
from numpy.typing import NDArray

from kdcache.datasets.people import People

FEWEST_JOINTS = 9  # labelled joints of a person who may be halved
FEWEST_OF_HALF = 3  # labelled joints of a half that is chosen first
UPPER_FIRST = 0.69  # probability that the upper half is; HRNet: a normal deviate below 0.5
MARGIN = 1.5


def with_half_bodies(
    crop_B3: NDArray[np.float64],
    people: People,
    aspect: float,
    half_B: NDArray[np.bool_],
    upper_B: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """`crop_B3` (centre x, y, width) with those of `half_B` around half a body instead.

    Only people with 9 labelled joints or more. The upper half (the skeleton's `upper_body`) is cut
    out where `upper_B` and 3 of its joints are labelled; else the lower half with 3; else the
    upper. The centre is the mean of the half's labelled joints, the size their extent, its width or
    height enlarged to `aspect` (width / height), times 1.5. Joints without extent: the whole body.
    """
    crop_B3 = crop_B3.copy()
    is_upper_J = np.zeros(people.skeleton.num_joints, dtype=bool)
    is_upper_J[list(people.skeleton.upper_body)] = True
    for person in np.flatnonzero(half_B):
        joints_J3 = people.joints_NJ3[person]
        labelled_J = joints_J3[:, 2] > 0
        if labelled_J.sum() < FEWEST_JOINTS:
            continue
        upper_J, lower_J = labelled_J & is_upper_J, labelled_J & ~is_upper_J
        upper = upper_B[person] and upper_J.sum() >= FEWEST_OF_HALF
        chosen_J = upper_J if upper or lower_J.sum() < FEWEST_OF_HALF else lower_J
        points_K2 = joints_J3[chosen_J, :2]
        width, height = np.ptp(points_K2, axis=0)
        if max(width, height) >= 1:  # pixel
            center = points_K2.mean(axis=0)
            crop_B3[person] = (*center, max(width, aspect * height) * MARGIN)
    return crop_B3
