"""Skeletons: the joints of a pose dataset, their order, and which swap in a mirrored person."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """J joints in the order of the annotation files.

    `mirrored`: joint j of a mirrored person is joint `mirrored[j]` of the person. `upper_body`: the
    joints that half-body views may keep alone. `limbs`: pairs of joints, for pictures. `sigmas`:
    per joint, the annotators' standard deviation over the person's scale; the constant of OKS is
    k_j = 2 sigma_j (cocodataset.org, "Keypoints Evaluation").
    """

    name: str
    joints: tuple[str, ...]
    mirrored: tuple[int, ...]
    upper_body: tuple[int, ...]
    limbs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]

    @property
    def num_joints(self) -> int:
        """J."""
        return len(self.joints)


COCO_17 = Skeleton(
    name="coco-17",
    joints=(
        "nose",
        *("left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder"),
        *("left elbow", "right elbow", "left wrist", "right wrist", "left hip", "right hip"),
        *("left knee", "right knee", "left ankle", "right ankle"),
    ),
    mirrored=(0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15),
    upper_body=tuple(range(11)),
    limbs=(
        *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7)),
        *((6, 8), (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
    ),
    sigmas=(
        *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062),
        *(0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
    ),
)

MPII_16 = Skeleton(
    name="mpii-16",
    joints=(
        *("right ankle", "right knee", "right hip", "left hip", "left knee", "left ankle"),
        *("pelvis", "thorax", "upper neck", "head top", "right wrist", "right elbow"),
        *("right shoulder", "left shoulder", "left elbow", "left wrist"),
    ),
    mirrored=(5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 15, 14, 13, 12, 11, 10),
    upper_body=(7, 8, 9, 10, 11, 12, 13, 14, 15),
    limbs=(
        *((0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9)),
        *((10, 11), (11, 12), (12, 7), (7, 13), (13, 14), (14, 15)),
    ),
    # MPII states none: COCO's of the same joints, 0.026 for those of the head and the axis.
    sigmas=(
        *(0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.026, 0.026, 0.026, 0.026),
        *(0.062, 0.072, 0.079, 0.079, 0.072, 0.062),
    ),
)
SKELETONS = {skeleton.name: skeleton for skeleton in (COCO_17, MPII_16)}
