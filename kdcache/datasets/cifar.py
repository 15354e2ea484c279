"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in torchvision's layout."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np

from kdcache.datasets.image_dataset import ImageDataset, array_dataset
from kdcache.datasets.preprocessing import Preprocessing
from kdcache.errors import DatasetError

PREPROCESSING = {
    "cifar10": Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    "cifar100": Preprocessing(mean=(0.5070, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2761)),
}
NUM_CLASSES = {"cifar10": 10, "cifar100": 100}
VIEW_PARAMETERS = {"size": 32, "padding": 4}
_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


def open_cifar(name: str, split: str, data_dir: Path, *, download: bool = True) -> ImageDataset:
    """`name`: cifar10 or cifar100; images uint8 (3, 32, 32), all in memory.

    Files are checked against the official MD5s by torchvision, which downloads them when they are
    missing, the network allows and `download` is set. Raises DatasetError otherwise.
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    dataset_class = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    folder = data_dir / _FOLDERS[name]
    get_them = (
        f"unpack the official python version of {name} so that {folder} exists, or point "
        f"--data-dir or $KDCACHE_DATA at the folder that contains {_FOLDERS[name]}/"
    )
    try:
        files = dataset_class(str(data_dir), train=split == "train", download=False)
    except RuntimeError as error:
        if folder.exists():
            raise DatasetError(
                f"{name}: files under {folder} are incomplete or differ from the official ones "
                f"(MD5). Remove that folder, then {get_them}"
            ) from error
        if not download:
            raise DatasetError(f"{name} is not in {folder}. To get it: {get_them}") from error
        try:
            files = dataset_class(str(data_dir), train=split == "train", download=True)
        except (OSError, URLError, RuntimeError) as failure:
            raise DatasetError(
                f"{name} was looked for in {folder} and is not there, and downloading it failed "
                f"({failure}). To get it: {get_them}"
            ) from failure
    return from_torchvision(files)


def from_torchvision(files: Any) -> ImageDataset:
    """torchvision's CIFAR10 or CIFAR100 object (its transforms are left out) as one of ours."""
    name = type(files).__name__.lower()
    return array_dataset(
        name=name,
        split="train" if files.train else "test",
        images_NCHW=np.ascontiguousarray(files.data.transpose(0, 3, 1, 2)),
        labels_N=np.asarray(files.targets, dtype=np.int64),
        num_classes=NUM_CLASSES[name],
        preprocessing=PREPROCESSING[name],
        view_parameters=VIEW_PARAMETERS,
    )
