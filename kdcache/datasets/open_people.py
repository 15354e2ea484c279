"""Pose datasets by name: where their files are looked for, and what is opened of them.

Below the data folder, in this order; the first annotation file that is there counts:

- coco-keypoints: `annotations/person_keypoints_{train,val}2017.json` with `{train,val}2017/` or
  `images/{train,val}2017/`, then the same below `coco/`; then
  `person_keypoints_{train,val}2017_subset.json` with `images/`, then the same below `coco/`.
- mpii: `mpii/annot/{train,valid}.json` with `mpii/images/`; then `mpii/{train,valid}.json`, then
  the one `mpii/*.json` there is, each with `mpii/images/` or with images beside it. The one file
  serves as train and as test split, and is said to.

`test` is COCO's val2017 and MPII's valid, which is where published numbers are from.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdcache.datasets.annotation_file import Ignored, Reading, some
from kdcache.datasets.coco_keypoints import read_coco_people
from kdcache.datasets.mpii import read_mpii_people
from kdcache.datasets.people import People, PersonPhotos
from kdcache.datasets.photos import PhotoReader
from kdcache.datasets.preprocessing import Preprocessing
from kdcache.errors import DatasetError, UsageError, unknown_name

POSE_NAMES = ("coco-keypoints", "mpii")
# What networks pretrained on ImageNet know, and all published pose networks.
PREPROCESSING = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

_Layout = tuple[Path, tuple[Path, ...]]  # an annotation file, the folders its images may lie in


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedPeople:
    """A pose dataset's split: people by index, and their photographs.

    `read_photos`: index_B -> `PersonPhotos`; `file_sha256`: index_B -> hex SHA-256 of each one's
    image file, for identities. `report`: lines that say what was left out and what to know.
    `left_out`: reason -> ids of all annotations that are no sample. `ignored`: for COCO's
    evaluator.
    """

    name: str
    split: str
    people: People
    ignored: Ignored | None
    left_out: Mapping[str, tuple[int, ...]]
    read_photos: Callable[[NDArray[np.int64]], PersonPhotos]
    file_sha256: Callable[[NDArray[np.int64]], list[str]]
    preprocessing: Preprocessing
    report: tuple[str, ...]
    annotations: Path
    images: Path


def open_people(name: str, split: str, data_dir: Path) -> OpenedPeople:
    """`name`: coco-keypoints or mpii; `split`: train or test. No image is decoded yet.

    Raises UsageError for another name or split, DatasetError when the files are not usable.
    """
    if split not in ("train", "test"):
        raise UsageError(f"split must be train or test, got {split!r}")
    if name == "coco-keypoints":
        annotations, images = _chosen(name, _coco_layouts(split, data_dir))
        reading = read_coco_people(annotations, images)
        notes: tuple[str, ...] = ()
    elif name == "mpii":
        layouts, only = _mpii_layouts(split, data_dir)
        annotations, images = _chosen(name, layouts)
        reading, notes = read_mpii_people(annotations, images), _one_file(annotations, only)
    else:
        raise unknown_name("pose dataset", name, POSE_NAMES)
    return _opened(name, split, reading, notes, annotations, images)


def _opened(
    name: str, split: str, reading: Reading, notes: tuple[str, ...], annotations: Path, images: Path
) -> OpenedPeople:
    reader = PhotoReader(reading.people, images, reading.size_N2)
    return OpenedPeople(
        name=name,
        split=split,
        people=reading.people,
        ignored=reading.ignored,
        left_out=reading.left_out,
        read_photos=reader,
        file_sha256=reader.file_sha256,
        preprocessing=PREPROCESSING,
        report=(*reading.report(), *notes),
        annotations=annotations,
        images=images,
    )


def _coco_layouts(split: str, data_dir: Path) -> list[_Layout]:
    year = {"train": "train2017", "test": "val2017"}[split]
    bases = (data_dir, data_dir / "coco")
    whole = [
        (
            base / "annotations" / f"person_keypoints_{year}.json",
            (base / year, base / "images" / year),
        )
        for base in bases
    ]
    part = [(base / f"person_keypoints_{year}_subset.json", (base / "images",)) for base in bases]
    return [*whole, *part]


def _mpii_layouts(split: str, data_dir: Path) -> tuple[list[_Layout], Path | None]:
    """The layouts, and the one file that serves both splits where there is nothing else."""
    base = data_dir / "mpii"
    file = {"train": "train.json", "test": "valid.json"}[split]
    layouts: list[_Layout] = [
        (base / "annot" / file, (base / "images",)),
        (base / file, (base / "images", base)),
    ]
    if any(annotations.exists() for annotations, _ in layouts):
        return layouts, None
    others = sorted(base.glob("*.json"))
    if len(others) > 1:
        raise DatasetError(
            f"mpii: {base} has {some(p.name for p in others)}; name the one of this split {file}"
        )
    if not others or others[0].name in ("train.json", "valid.json"):  # the other split's
        return layouts, None
    return [*layouts, (others[0], (base / "images", base))], others[0]


def _one_file(annotations: Path, only: Path | None) -> tuple[str, ...]:
    if annotations != only:
        return ()
    return (
        f"{annotations.name} is MPII's only file here and serves as train and as test split: what "
        "is measured on one is measured on the other's people",
    )


def _chosen(name: str, layouts: list[_Layout]) -> tuple[Path, Path]:
    for annotations, folders in layouts:
        if not annotations.exists():
            continue
        for folder in folders:
            if folder.is_dir():
                return annotations, folder
        raise DatasetError(
            f"{name}: {annotations} is there, its images are not: expected the folder "
            f"{' or '.join(map(str, folders))}"
        )
    looked = "\n".join(f"  {file} (images in {' or '.join(map(str, f))})" for file, f in layouts)
    raise DatasetError(
        f"{name} was looked for in these places and is not there:\n{looked}\nPut the official "
        "files into one of them, or point --data-dir or $KDCACHE_DATA at the folder that has them"
    )
