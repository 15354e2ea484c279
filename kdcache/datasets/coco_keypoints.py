"""COCO Keypoints (Lin et al. 2014): people of the official person_keypoints_*.json files.

One sample per person, in the file's order. Left out, as the official rules and the published
loader of SimpleBaseline and HRNet (Xiao et al., arXiv 1804.06208) do, each counted with its ids:
crowds; people without a labelled joint; those whose box lies outside the image or, clipped to it,
has no width or height (that loader keeps both, and crops a point or another place), or whose area
is not above 0. Crowds and people
without a labelled joint stay in `Reading.ignored`, for the evaluator. A joint outside its image
stays labelled, as officially; a note counts them.

Refused (DatasetError naming file and annotation): a file of another task or of other joints, an
annotation id or image id that comes twice, an image that is not listed or whose file is not there,
a wrong number of coordinates, wrong types, NaN, infinity and numbers beyond a million, a
visibility other than 0, 1 and 2.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache.datasets.annotation_file import SMALLEST_SIDE, AnnotationFile, Ignored, Reading, some
from kdcache.datasets.people import People
from kdcache.datasets.skeleton import COCO_17
from kdcache.errors import DatasetError

CROWD = "a crowd"
NO_JOINT = "no labelled joint"
NO_BOX = "no box inside the image"
NO_AREA = "no area"
OTHER = "not a person"

_WANTED = "wanted: the person keypoints, person_keypoints_train2017.json or _val2017.json"
_VISIBILITIES = frozenset((0.0, 1.0, 2.0))
# Never used, and most of the file.
_UNUSED = frozenset(
    {"segmentation", "coco_url", "flickr_url", "date_captured", "license", "licenses", "info"}
)


def read_coco_people(annotations: Path, images: Path) -> Reading:
    """The people of an official annotation file, or of a subset in its format.

    Boxes are clipped as SimpleBaseline does it: left and top to 0, right and bottom to the last
    pixel. `images`: the folder of its image files. Raises DatasetError.
    """
    file = AnnotationFile(annotations)
    document = file.read(_UNUSED)
    person = _person_category(file, document)
    listed = _images(file, document["images"])
    left_out: dict[str, list[int]] = {}
    kept: list[_Person] = []
    ignored: list[tuple[int, NDArray[np.float64], float, bool]] = []
    seen: set[int] = set()
    for position, entry in enumerate(file.objects(document["annotations"], "annotations")):
        annotation = file.integer(entry, "id", f"annotations, item {position}")
        which = f"annotation {annotation}"
        if annotation in seen:
            raise file.wrong(which, "this id comes twice; is the file two files joined?")
        seen.add(annotation)
        if file.integer(entry, "category_id", which) != person:
            left_out.setdefault(OTHER, []).append(annotation)
            continue
        found = _Person(file, entry, annotation, listed)
        reason = found.left_out()
        if reason is None:
            kept.append(found)
            continue
        left_out.setdefault(reason, []).append(annotation)
        if reason in (CROWD, NO_JOINT):
            ignored.append((found.image, found.stated_box, found.area, found.crowd))
    if not kept:
        raise file.wrong("", "nobody in it has labelled joints and a box")
    file.require_images(images, ((p.name, p.annotation) for p in kept))
    people = People(
        skeleton=COCO_17,
        joints_NJ3=np.stack([p.joints_J3 for p in kept]),
        box_N4=np.stack([p.box for p in kept]),
        area_N=np.asarray([p.area for p in kept]),
        annotation_N=np.asarray([p.annotation for p in kept], dtype=np.int64),
        image_N=np.asarray([p.image for p in kept], dtype=np.int64),
        head_N=np.full(len(kept), np.nan),
        files=tuple(p.name for p in kept),
    )
    size_N2 = np.asarray([p.size for p in kept], dtype=np.int64)
    return Reading(
        people=people,
        left_out={reason: tuple(ids) for reason, ids in left_out.items()},
        size_N2=size_N2,
        ignored=Ignored(
            image_N=np.asarray([image for image, *_ in ignored], dtype=np.int64),
            box_N4=np.asarray([box for _, box, *_ in ignored], dtype=np.float64).reshape(-1, 4),
            area_N=np.asarray([area for *_, area, _ in ignored], dtype=np.float64),
            crowd_N=np.asarray([crowd for *_, crowd in ignored], dtype=np.bool_),
        ),
        notes=_outside(people, size_N2),
    )


class _Person:
    """One annotation, checked. `box`: clipped; `stated_box`: as in the file.

    `beside`: it ends before the image begins, which clipping moves into the image.
    """

    def __init__(
        self,
        file: AnnotationFile,
        entry: dict[str, Any],
        annotation: int,
        listed: Mapping[int, tuple[str, tuple[int, int]]],
    ) -> None:
        which = f"annotation {annotation}"
        self.annotation = annotation
        self.image = file.integer(entry, "image_id", which)
        if self.image not in listed:
            raise file.wrong(which, f"its image {self.image} is not listed under images")
        self.name, self.size = listed[self.image]
        self.crowd = bool(file.integer(entry, "iscrowd", which)) if "iscrowd" in entry else False
        self.stated_box = file.numbers(entry, "bbox", which, (4,))
        file.finite(self.stated_box, "bbox", which)
        self.area = float(file.numbers(entry, "area", which, ()))
        if not np.isfinite(self.area):
            raise file.wrong(which, f"area is {self.area}")
        self.box = _clipped(self.stated_box, self.size)
        self.beside = bool((self.stated_box[:2] + self.stated_box[2:] <= 0).any())
        if "keypoints" not in entry:
            raise file.wrong(which, f"it has no keypoints; {_WANTED}")
        values = file.numbers(entry, "keypoints", which, (3 * COCO_17.num_joints,))
        self.joints_J3 = values.reshape(-1, 3)
        if not _VISIBILITIES.issuperset(found := values[2::3].tolist()):
            wrong = next(value for value in found if value not in _VISIBILITIES)
            raise file.wrong(which, f"keypoints has visibility {wrong}, expected 0, 1 or 2")
        labelled = self.joints_J3[:, 2] > 0
        file.finite(self.joints_J3[labelled, :2], "keypoints", which)
        self.joints_J3[~labelled] = 0
        self.labelled = bool(labelled.any())

    def left_out(self) -> str | None:
        """Why this is no sample; None: it is one."""
        if self.crowd:
            return CROWD
        if not self.labelled:
            return NO_JOINT
        if self.beside or not (self.box[2:] >= SMALLEST_SIDE).all():
            return NO_BOX
        return None if self.area > 0 else NO_AREA


def _clipped(box: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Left, top, width, height inside the image (SimpleBaseline, lib/dataset/coco.py)."""
    x, y, width, height = box.tolist()
    left, top = max(x, 0.0), max(y, 0.0)
    right = min(left + max(width - 1, 0.0), size[0] - 1)
    bottom = min(top + max(height - 1, 0.0), size[1] - 1)
    return np.asarray([left, top, right - left, bottom - top])


def _person_category(file: AnnotationFile, document: Any) -> int:
    """The id of people in a file of person keypoints; refuses every other file."""
    if isinstance(document, list):
        raise file.wrong("", f"it is a list, as MPII's annotation files are; {_WANTED}")
    if not isinstance(document, dict) or "images" not in document:
        raise file.wrong("", f"it is no COCO annotation file (no images listed); {_WANTED}")
    if not isinstance(document.get("annotations"), list):
        raise file.wrong("", f"it lists images without annotations (image_info); {_WANTED}")
    categories = document.get("categories")
    for category in categories if isinstance(categories, list) else ():
        if isinstance(category, dict) and category.get("name") == "person":
            joints = category.get("keypoints")
            if joints is None:
                continue
            if not isinstance(joints, list):
                raise file.wrong("categories", "the keypoints of a person must be a list of names")
            names = [str(name).replace("_", " ") for name in joints]
            if names != list(COCO_17.joints):
                raise file.wrong(
                    "categories",
                    f"people have the joints {some(names)}; expected {some(COCO_17.joints)}",
                )
            return file.integer(category, "id", "category person")
    raise _other_task(file, document["annotations"])


def _other_task(file: AnnotationFile, annotations: list[Any]) -> DatasetError:
    first = annotations[0] if annotations and isinstance(annotations[0], dict) else {}
    task = "a task without keypoints"
    for key, name in {
        "caption": "captions",
        "segments_info": "panoptic",
        "bbox": "instances",
    }.items():
        if key in first:
            task = f"another task ({name})"
            break
    return file.wrong("", f"it is a file of {task}: no category person with keypoints; {_WANTED}")


def _images(file: AnnotationFile, entries: Any) -> dict[int, tuple[str, tuple[int, int]]]:
    """id -> file name, (width, height)."""
    found: dict[int, tuple[str, tuple[int, int]]] = {}
    for position, entry in enumerate(file.objects(entries, "images")):
        image = file.integer(entry, "id", f"images, item {position}")
        which = f"image {image}"
        if image in found:
            raise file.wrong(which, "this id comes twice; is the file two files joined?")
        size = (file.integer(entry, "width", which), file.integer(entry, "height", which))
        if min(size) < 1:
            raise file.wrong(which, f"width and height must be above 0, got {size}")
        found[image] = (file.image_name(entry, "file_name", which), size)
    return found


def _outside(people: People, size_N2: NDArray[np.int64]) -> tuple[str, ...]:
    x_y_NJ2 = people.joints_NJ3[..., :2]
    beyond_NJ = ((x_y_NJ2 < 0) | (x_y_NJ2 > size_N2[:, None] - 1)).any(-1)
    beyond_NJ &= people.joints_NJ3[..., 2] > 0
    ids = people.annotation_N[beyond_NJ.any(-1)]
    if not len(ids):
        return ()
    return (
        f"{beyond_NJ.sum():,} labelled joints lie outside their image and stay labelled "
        f"(annotations {some(map(str, ids))})",
    )
