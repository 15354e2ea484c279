"""CIFAR-100, read once."""

from functools import cache
from pathlib import Path

import pytest

from kdcache.datasets import ImageDataset, open_dataset


@cache
def _open(split: str, folder: Path) -> ImageDataset:
    return open_dataset("cifar100", split, data_dir=folder)


@pytest.fixture
def cifar_train(real_data: Path) -> ImageDataset:
    return _open("train", real_data)


@pytest.fixture
def cifar_test(real_data: Path) -> ImageDataset:
    return _open("test", real_data)
