"""People by formula and by hypothesis, and real ones from the annotation files of COCO."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from kdcache.datasets.people import People, PersonPhotos
from kdcache.datasets.skeleton import COCO_17, MPII_16, Skeleton


def people_of(
    joints_NJ3: NDArray[np.float64], box_N4: NDArray[np.float64], skeleton: Skeleton
) -> People:
    count = len(box_N4)
    return People(
        skeleton=skeleton,
        joints_NJ3=joints_NJ3,
        box_N4=box_N4,
        area_N=box_N4[:, 2] * box_N4[:, 3],
        annotation_N=np.arange(count),
        image_N=np.arange(count),
        head_N=np.full(count, np.nan),
        files=tuple(f"{n}.jpg" for n in range(count)),
    )


def random_people(count: int, seed: int = 0, skeleton: Skeleton = COCO_17) -> People:
    """Boxes of 20 to 400 pixels somewhere in 640 x 480; joints in them, a third not labelled."""
    random = np.random.default_rng(seed)
    size_N2 = random.uniform(20, 400, (count, 2))
    box_N4 = np.concatenate([random.uniform(-20, 400, (count, 2)), size_N2], axis=1)
    place = random.uniform(0, 1, (count, skeleton.num_joints, 2))
    joints_NJ3 = np.empty((count, skeleton.num_joints, 3))
    joints_NJ3[:, :, :2] = box_N4[:, None, :2] + place * size_N2[:, None]
    joints_NJ3[:, :, 2] = random.integers(0, 3, joints_NJ3.shape[:2])
    return people_of(joints_NJ3, box_N4, skeleton)


def people(most: int = 5) -> st.SearchStrategy[People]:
    seeds, skeletons = st.integers(0, 2**32), st.sampled_from([COCO_17, MPII_16])
    return st.builds(random_people, st.integers(1, most), seeds, skeletons)


def photos_of(someone: People, height: int = 60, width: int = 80) -> PersonPhotos:
    """Noise as photographs, each of its own size."""
    random = np.random.default_rng(7)
    photos = [
        random.integers(0, 256, (height + 3 * n, width - 2 * n, 3)).astype(np.uint8)
        for n in range(len(someone))
    ]
    return PersonPhotos(people=someone, photos=photos)


def take_photos(photos: PersonPhotos, places: Sequence[int]) -> PersonPhotos:
    return PersonPhotos(
        people=photos.people.take(np.array(places)), photos=[photos.photos[p] for p in places]
    )


def coco_people(data: Path, most: int) -> PersonPhotos:
    """The first labelled people of the real subset and their photographs."""
    document = json.loads((data / "coco/person_keypoints_val2017_subset.json").read_text())
    names = {image["id"]: image["file_name"] for image in document["images"]}
    found = [a for a in document["annotations"] if a["num_keypoints"] > 0 and not a["iscrowd"]]
    found = found[:most]
    joints_NJ3 = np.array([a["keypoints"] for a in found], dtype=np.float64).reshape(-1, 17, 3)
    box_N4 = np.array([a["bbox"] for a in found], dtype=np.float64)
    photos = []
    for annotation in found:
        with Image.open(data / "coco/images" / names[annotation["image_id"]]) as image:
            photos.append(np.asarray(image.convert("RGB")))
    return PersonPhotos(people=people_of(joints_NJ3, box_N4, COCO_17), photos=photos)
