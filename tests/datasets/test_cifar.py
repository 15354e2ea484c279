"""CIFAR-100 as it is published, and what is said when it is not there or not whole."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR100

from kdcache.datasets import ImageDataset, as_image_dataset, open_dataset
from kdcache.errors import DatasetError

FOLDER = "cifar-100-python"


def test_the_training_split_is_the_official_one(cifar_train: ImageDataset) -> None:
    assert len(cifar_train) == 50_000
    assert cifar_train.images(np.array([0, 49_999])).shape == (2, 3, 32, 32)
    assert cifar_train.images(np.array([0])).dtype == np.uint8
    first = cifar_train.labels(np.arange(16)).tolist()
    assert first == [19, 29, 0, 11, 1, 86, 90, 28, 23, 31, 39, 96, 82, 17, 71, 39]
    assert np.bincount(cifar_train.labels(cifar_train.index_N)).tolist() == [500] * 100


def test_the_test_split_is_the_official_one(cifar_test: ImageDataset) -> None:
    assert len(cifar_test) == 10_000
    first = cifar_test.labels(np.arange(16)).tolist()
    assert first == [49, 33, 72, 51, 71, 92, 15, 14, 23, 0, 71, 75, 81, 69, 40, 43]
    assert np.bincount(cifar_test.labels(cifar_test.index_N)).tolist() == [100] * 100


def test_identities_are_pinned(cifar_train: ImageDataset, cifar_test: ImageDataset) -> None:
    shared = {"name": "cifar100", "num_classes": 100, "image_shape": [3, 32, 32]}
    assert cifar_train.identity() == {
        **shared,
        "split": "train",
        "num_samples": 50_000,
        "index_sha256": "33236cc6bd19fa6b89e06d441d3fcd8eb37dc8540f6a4f2b627b20af10894a41",
        "labels_sha256": "8bf4935e7c77a3096270043c6f3b221b6ecb9c63d1a08608e9af66cff17e977a",
        "pixels_sha256": "1202b0921b754b0d0c408ea6d9c90acb94e054765d572a484a0d5d51434459a8",
    }
    assert cifar_test.identity() == {
        **shared,
        "split": "test",
        "num_samples": 10_000,
        "index_sha256": "9e1c19b3fdc185411bd1a987deb6a9fda2531116aac060a84c4d878854d1c099",
        "labels_sha256": "80031c23f8300724c6fbc588e4bccbe41c6392041782148727bb497b0132c4ad",
        "pixels_sha256": "b4475326be8021c365e68c3470e65984231cd5755ef855008bc5970c6cb86944",
    }


def test_the_preprocessing_is_the_training_splits(cifar_train: ImageDataset) -> None:
    assert cifar_train.preprocessing.mean == (0.5070, 0.4865, 0.4409)
    assert cifar_train.preprocessing.std == (0.2673, 0.2564, 0.2761)
    some = cifar_train.images(np.arange(0, 50_000, 25)) / 255.0
    assert some.mean((0, 2, 3)) == pytest.approx(cifar_train.preprocessing.mean, abs=0.01)
    assert some.std((0, 2, 3)) == pytest.approx(cifar_train.preprocessing.std, abs=0.01)
    assert cifar_train.view_parameters == {"size": 32, "padding": 4}


def test_samples_take_the_first_of_each_class(cifar_train: ImageDataset) -> None:
    part = cifar_train.select(1050)
    labels = part.labels(part.index_N)
    assert np.bincount(labels).tolist() == [11] * 50 + [10] * 50
    everyone = cifar_train.labels(cifar_train.index_N)
    for label in (0, 49, 50, 99):
        first = np.flatnonzero(everyone == label)[: 11 if label < 50 else 10]
        assert np.array_equal(part.index_N[labels == label], first)


def test_torchvisions_own_object_is_the_same_dataset(
    real_data: Path, cifar_test: ImageDataset
) -> None:
    files = CIFAR100(str(real_data), train=False)
    wrapped = as_image_dataset(files)
    assert (wrapped.split, wrapped.num_classes, len(wrapped)) == ("test", 100, 10_000)
    index_B = np.array([9_999, 0, 1234, 0])
    assert np.array_equal(wrapped.images(index_B), cifar_test.images(index_B))
    assert np.array_equal(wrapped.labels(wrapped.index_N), cifar_test.labels(wrapped.index_N))
    assert wrapped.identity() == cifar_test.identity()
    image, label = files[1234]
    assert np.array_equal(
        np.asarray(image).transpose(2, 0, 1), cifar_test.images(np.array([1234]))[0]
    )
    assert label == cifar_test.labels(np.array([1234]))[0]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends every download to a port where nobody answers."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "folder"), [("cifar100", FOLDER), ("cifar10", "cifar-10-batches-py")]
)
def test_a_missing_folder_is_an_error_that_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folder: str
) -> None:
    monkeypatch.setenv("KDCACHE_DATA", str(tmp_path / "data"))
    with pytest.raises(DatasetError) as caught:
        open_dataset(name)
    message = str(caught.value)
    assert f"looked for in {tmp_path / 'data' / folder} and is not there" in message
    assert "downloading it failed" in message
    assert "--data-dir or $KDCACHE_DATA" in message


@pytest.mark.usefixtures("no_network")
def test_data_dir_comes_before_the_environment(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=re.escape(str(tmp_path / "elsewhere" / FOLDER))):
        open_dataset("cifar100", data_dir=tmp_path / "elsewhere")


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_file_is_an_error_that_names_the_folder(
    real_data: Path, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    for name in ("meta", "test"):
        shutil.copy(real_data / FOLDER / name, folder / name)
    if damage == "truncated":
        with open(real_data / FOLDER / "train", "rb") as file:
            (folder / "train").write_bytes(file.read(1_000_000))
    with pytest.raises(DatasetError) as caught:
        open_dataset("cifar100", data_dir=tmp_path)
    message = str(caught.value)
    assert f"files under {folder} are incomplete or differ from the official ones" in message
    assert "Remove that folder" in message


def test_one_flipped_bit_is_noticed(real_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / "train").symlink_to(real_data / FOLDER / "train")
    shutil.copy(real_data / FOLDER / "meta", folder / "meta")
    content = bytearray((real_data / FOLDER / "test").read_bytes())
    content[-10_000] ^= 1
    (folder / "test").write_bytes(content)
    with pytest.raises(DatasetError, match="differ from the official ones"):
        open_dataset("cifar100", "test", data_dir=tmp_path)
