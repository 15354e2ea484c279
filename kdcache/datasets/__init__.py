"""Datasets: index -> (pixels, label)."""

import os
from collections.abc import Mapping
from typing import Any

from kdcache import homes
from kdcache.datasets import cifar, digits, people_dataset
from kdcache.datasets.cifar import NUM_CLASSES, from_torchvision, open_cifar
from kdcache.datasets.digits import open_digits
from kdcache.datasets.image_dataset import ImageDataset
from kdcache.datasets.map_style import open_factory, wrap_map_style
from kdcache.datasets.open_people import POSE_NAMES
from kdcache.datasets.people_dataset import open_people_dataset
from kdcache.datasets.preprocessing import Preprocessing
from kdcache.datasets.skeleton import COCO_17, MPII_16
from kdcache.errors import UsageError, unknown_name

DEFAULT_DATASET = "cifar100"
NAMES = ("cifar10", "cifar100", "digits", *POSE_NAMES)
SPLITS = ("train", "test")
NUM_JOINTS = {"coco-keypoints": COCO_17.num_joints, "mpii": MPII_16.num_joints}


def open_dataset(
    name: str,
    split: str = "train",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    samples: int | None = None,
    download: bool = True,
) -> ImageDataset:
    """The dataset `name`, `split` train or test.

    `name`: cifar10, cifar100, digits, coco-keypoints, mpii or module:factory. `data_dir` defaults
    to `$KDCACHE_DATA`; `samples` keeps the balanced part of that size (of people the first ones);
    `download`: whether missing files may be fetched.
    Raises UsageError for an unknown name or split, DatasetError when its files are not usable.
    """
    if split not in SPLITS:
        raise UsageError(f"split must be train or test, got {split!r}")
    if ":" in name:
        dataset = open_factory(name, split)
    elif name == "digits":
        dataset = open_digits(split)
    elif name in POSE_NAMES:
        dataset = open_people_dataset(name, split, homes.data_dir(data_dir))
    elif name in NAMES:
        dataset = open_cifar(name, split, homes.data_dir(data_dir), download=download)
    else:
        raise unknown_name("dataset", name, NAMES, "Any map-style dataset: module:factory.")
    return dataset.select(samples)


def view_parameters_of(name: str) -> Mapping[str, Any] | None:
    """What the dataset `name` sets in a recipe; its files need not be there. None: not known."""
    known = {
        "digits": digits.VIEW_PARAMETERS,
        **dict.fromkeys(NUM_CLASSES, cifar.VIEW_PARAMETERS),
        **people_dataset.VIEW_PARAMETERS,
    }
    return known.get(name)


def num_classes_of(name: str, data_dir: str | os.PathLike[str] | None = None) -> int:
    """How many classes or joints the dataset `name` has; its files need not be there, but those of
    a module:factory. Raises as above."""
    if name in NUM_CLASSES:
        return NUM_CLASSES[name]
    if name in NUM_JOINTS:
        return NUM_JOINTS[name]
    return open_dataset(name, data_dir=data_dir).num_classes


def as_image_dataset(dataset: Any) -> ImageDataset:
    """`dataset` itself, or any map-style dataset (torchvision's, one's own) wrapped."""
    if isinstance(dataset, ImageDataset):
        return dataset
    kind = type(dataset)
    if kind.__module__ == "torchvision.datasets.cifar":
        return from_torchvision(dataset)
    split = "train" if getattr(dataset, "train", True) else "test"
    return wrap_map_style(dataset, name=f"{kind.__module__}:{kind.__qualname__}", split=split)


__all__ = [
    "DEFAULT_DATASET",
    "NAMES",
    "POSE_NAMES",
    "SPLITS",
    "ImageDataset",
    "Preprocessing",
    "as_image_dataset",
    "num_classes_of",
    "open_dataset",
    "view_parameters_of",
]
