"""MPII Human Pose (Andriluka et al. 2014) in the JSON form that SimpleBaseline and HRNet read.

A list of people: `image`, `joints` (16 x 2), `joints_vis` (16 of 0 or 1), `center`, `scale`, and
optionally `headbox` [x1, y1, x2, y2]. One sample per person, in the file's order. The file's
coordinates are Matlab's, from 1; ours are from 0. A person's box is the square of 200 scale around
the centre moved down by 15 scale, which enlarged by 1.25 is the published crop (HRNet,
lib/dataset/mpii.py). `joints_vis` does not tell hidden from visible: labelled joints get 2.

Ids: MPII has none, so a person's is its position in the file, an image's the position of its first
person. The area, which MPII lacks, is 0.21 (200 scale)^2: over COCO's people with 15 or more
labelled joints, segment area over longest side squared has the median 0.21 (87 people of a subset).
Image sizes are not in the file either, so boxes are not compared with them.

Left out, counted with ids: no labelled joint; no centre (-1) or a scale that is not above 0.
Refused (DatasetError naming file and person): a file of COCO or without joints (test.json), a wrong
number of joints, wrong types, NaN, infinity and numbers beyond a million of a labelled joint, the
centre or the head's box, a head's box of zero size, an image file that is not there.

The official mpii_human_pose_v1_u12_1.mat is not read.
"""

from pathlib import Path
from typing import Any

import numpy as np

from kdcache.datasets.annotation_file import SMALLEST_SIDE, AnnotationFile, Reading
from kdcache.datasets.people import People
from kdcache.datasets.skeleton import MPII_16

NO_JOINT = "no labelled joint"
NO_PLACE = "no centre or scale"
HEAD_SIZE = 0.6  # of the head box's diagonal: SC_BIAS of the official evaluation
AREA = 0.21

_WANTED = "wanted: MPII's people in HRNet's form, train.json or valid.json"


def read_mpii_people(annotations: Path, images: Path) -> Reading:
    """The people of a train.json, valid.json or a subset in their form. Raises DatasetError.

    `images`: the folder of its image files.
    """
    file = AnnotationFile(annotations)
    document = file.read()
    if isinstance(document, dict) and "annotations" in document:
        raise file.wrong("", f"it is a COCO annotation file; {_WANTED}")
    entries = file.objects(document, "")
    if entries and all("joints" not in entry for entry in entries):
        raise file.wrong("", f"nobody in it has joints (MPII's test.json has none); {_WANTED}")
    left_out: dict[str, list[int]] = {}
    kept: list[_Person] = []
    first: dict[str, int] = {}
    for position, entry in enumerate(entries):
        found = _Person(file, entry, position)
        first.setdefault(found.name, position)
        reason = found.left_out()
        if reason is None:
            kept.append(found)
        else:
            left_out.setdefault(reason, []).append(position)
    if not kept:
        raise file.wrong("", "nobody in it has labelled joints, a centre and a scale")
    file.require_images(images, ((p.name, p.position) for p in kept))
    return Reading(
        people=People(
            skeleton=MPII_16,
            joints_NJ3=np.stack([p.joints_J3 for p in kept]),
            box_N4=np.stack([p.box for p in kept]),
            area_N=np.asarray([AREA * p.box[2] * p.box[3] for p in kept]),
            annotation_N=np.asarray([p.position for p in kept], dtype=np.int64),
            image_N=np.asarray([first[p.name] for p in kept], dtype=np.int64),
            head_N=np.asarray([p.head for p in kept]),
            files=tuple(p.name for p in kept),
        ),
        left_out={reason: tuple(ids) for reason, ids in left_out.items()},
    )


class _Person:
    """One entry of the list, checked; coordinates from 0."""

    def __init__(self, file: AnnotationFile, entry: dict[str, Any], position: int) -> None:
        which = f"annotation {position}"
        self.position = position
        self.name = file.image_name(entry, "image", which)
        x_y = file.numbers(entry, "joints", which, (MPII_16.num_joints, 2))
        labelled = file.numbers(entry, "joints_vis", which, (MPII_16.num_joints,))
        if not np.isin(labelled, (0, 1)).all():
            raise file.wrong(which, "joints_vis must be 0 or 1 for each joint")
        self.labelled = labelled == 1
        file.finite(x_y[self.labelled], "joints", which)
        self.joints_J3 = np.concatenate([x_y - 1, 2 * labelled[:, None]], axis=1)
        self.joints_J3[~self.labelled] = 0
        centre = file.numbers(entry, "center", which, (2,))
        scale = file.numbers(entry, "scale", which, ())
        file.finite(centre, "center", which)
        file.finite(scale[None], "scale", which)
        self.placed = bool(centre[0] != -1 and 200 * scale >= SMALLEST_SIDE)
        middle = centre - 1
        middle[1] += 15 * scale
        self.box = np.asarray([*(middle - 100 * scale), 200 * scale, 200 * scale])
        self.head = float("nan")
        if "headbox" in entry:
            corners = file.numbers(entry, "headbox", which, (4,))
            file.finite(corners, "headbox", which)
            self.head = HEAD_SIZE * float(np.hypot(*(corners[2:] - corners[:2])))
            if self.head == 0:
                raise file.wrong(which, f"headbox {corners.tolist()} has zero size")

    def left_out(self) -> str | None:
        """Why this is no sample; None: it is one."""
        if not self.labelled.any():
            return NO_JOINT
        return None if self.placed else NO_PLACE
