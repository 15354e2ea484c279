"""Any map-style dataset: what is accepted, and one clear error for everything else."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from kdcache.datasets import ImageDataset, Preprocessing, as_image_dataset, open_dataset
from kdcache.errors import DatasetError, UsageError

LABELS = [2, 0, 1, 1, 0]


def pictures(count: int = 5, size: int = 16) -> NDArray[np.uint8]:
    """uint8 (count, H, W, C) from a formula."""
    steps = np.arange(count * size * size * 3, dtype=np.int64)
    return (steps * 7919 % 256).astype(np.uint8).reshape(count, size, size, 3)


class Items:
    """The least a dataset can be: `len` and `items[i] -> (image, label)`."""

    def __init__(
        self, images: list[Any], item_labels: list[Any] | None = None, /, **more: Any
    ) -> None:
        self.images = images
        self.item_labels = LABELS if item_labels is None else item_labels
        self.__dict__.update(more)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.images[index], self.item_labels[index]


def as_pil(image_HWC: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(image_HWC)


def as_array(image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image_HWC


def as_tensor(image_HWC: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(image_HWC).permute(2, 0, 1)


@pytest.mark.parametrize("form", [as_pil, as_array, as_tensor])
def test_each_form_of_image_gives_the_same_pixels(
    form: Callable[[NDArray[np.uint8]], Any],
) -> None:
    images_NHWC = pictures()
    dataset = as_image_dataset(Items([form(image) for image in images_NHWC]))
    index_B = np.array([4, 0, 4, 2])
    assert np.array_equal(dataset.images(index_B), images_NHWC[index_B].transpose(0, 3, 1, 2))
    assert dataset.labels(index_B).tolist() == [0, 2, 0, 1]
    assert dataset.num_classes == 3
    assert dataset.view_parameters == {"size": 16, "padding": 2, "flip": True}
    assert dataset.preprocessing == Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3)
    assert dataset.name == f"{__name__}:Items"


def test_a_grey_or_palette_picture_becomes_three_channels() -> None:
    grey = [Image.fromarray(image[..., 0]) for image in pictures()]
    expected = pictures()[..., 0]
    for form in (grey, [image.convert("P") for image in grey]):
        pixels = as_image_dataset(Items(form)).images(np.arange(5))
        assert pixels.shape == (5, 3, 16, 16)
        assert all(np.array_equal(pixels[:, channel], expected) for channel in range(3))


@pytest.mark.parametrize("attribute", ["targets", "labels"])
@pytest.mark.parametrize("form", [list, np.array, torch.tensor])
def test_labels_come_from_the_attribute_that_has_them(
    attribute: str, form: Callable[[list[int]], Any]
) -> None:
    items = Items(list(pictures()), ["never read"] * 5, **{attribute: form(LABELS)})
    assert as_image_dataset(items).labels(np.arange(5)).tolist() == LABELS


def test_an_attribute_of_another_length_is_not_the_labels() -> None:
    items = Items(list(pictures()), LABELS, targets=["cat", "dog"])
    assert as_image_dataset(items).labels(np.arange(5)).tolist() == LABELS


def test_a_torch_subset_is_a_dataset() -> None:
    subset: torch.utils.data.Subset[Any] = torch.utils.data.Subset(
        Items(list(pictures())),  # type: ignore[arg-type]
        [3, 0],
    )
    dataset = as_image_dataset(subset)
    assert dataset.labels(dataset.index_N).tolist() == [1, 2]
    assert np.array_equal(dataset.images(np.array([0]))[0], pictures()[3].transpose(2, 0, 1))


def test_the_object_may_describe_itself() -> None:
    described = Items(
        list(pictures()),
        num_classes=7,
        mean=[0.1, 0.2, 0.3],
        std=[0.4, 0.5, 0.6],
        padding=3,
        flip=False,
        train=False,
    )
    dataset = as_image_dataset(described)
    assert (dataset.num_classes, dataset.split) == (7, "test")
    assert dataset.preprocessing == Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert dataset.view_parameters == {"size": 16, "padding": 3, "flip": False}
    assert as_image_dataset(Items(list(pictures()), classes=["a", "b", "c", "d"])).num_classes == 4


@pytest.mark.parametrize("form", [np.float32, torch.tensor])
def test_means_of_another_library_are_numbers_too(form: Callable[[list[float]], Any]) -> None:
    given = {key: form([0.25, 0.5, 0.75]) for key in ("mean", "std")}
    preprocessing = as_image_dataset(Items(list(pictures()), **given)).preprocessing
    assert preprocessing == Preprocessing(mean=(0.25, 0.5, 0.75), std=(0.25, 0.5, 0.75))
    assert json.loads(json.dumps(preprocessing.describe())) == preprocessing.describe()


def test_our_own_datasets_are_left_as_they_are() -> None:
    digits = open_dataset("digits")
    assert as_image_dataset(digits) is digits


# Errors


@pytest.mark.parametrize("form", [as_array, as_tensor])
def test_float_images_are_refused(form: Callable[[Any], Any]) -> None:
    images = [form(image) for image in pictures().astype(np.float32) / 255]
    with pytest.raises(
        DatasetError, match=r"image 0 must be .* of float32 .* leave transforms out"
    ):
        as_image_dataset(Items(images))


def test_a_float_image_further_on_is_refused_when_it_is_fetched() -> None:
    images: list[Any] = list(pictures())
    images[3] = images[3] / 255
    dataset = as_image_dataset(Items(images))
    with pytest.raises(
        DatasetError, match=r"image 3 must be a PIL image, .* got ndarray of float64"
    ):
        dataset.images(np.arange(5))


def test_images_of_several_sizes_are_refused_with_both_sizes() -> None:
    images = [*pictures(4), pictures(1, 20)[0]]
    dataset = as_image_dataset(Items(images))
    with pytest.raises(
        DatasetError, match=r"image 0 is \(3, 16, 16\), image 4 is \(3, 20, 20\) \(C, H, W\)"
    ):
        dataset.images(np.arange(5))


@pytest.mark.parametrize("labels", [["cat"] * 5, [[0, 1]] * 5, [None] * 5])
def test_labels_that_are_no_integers_are_refused(labels: list[Any]) -> None:
    with pytest.raises(DatasetError, match=r"items must be \(image, integer label\)"):
        as_image_dataset(Items(list(pictures()), labels))


def test_items_that_are_dictionaries_are_refused() -> None:
    items = [{"image": image, "label": 0} for image in pictures()]
    with pytest.raises(DatasetError, match=r"items must be \(image, integer label\)"):
        as_image_dataset(items)


@pytest.mark.parametrize(
    ("labels", "got"), [([0, 1, 2, 3, 0], "0 to 3"), ([0, -1, 0, 1, 1], "-1 to 1")]
)
def test_labels_outside_the_classes_are_refused(labels: list[int], got: str) -> None:
    with pytest.raises(DatasetError, match=f"labels must lie in 0 to 2, got {got}"):
        as_image_dataset(Items(list(pictures()), labels, num_classes=3))


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(DatasetError, match="is empty"):
        as_image_dataset(Items([], []))


def test_an_iterable_is_not_a_dataset() -> None:
    with pytest.raises(DatasetError, match=r"expected a map-style dataset .* got generator"):
        as_image_dataset(item for item in pictures())


# module:factory

FACTORIES = """
import numpy as np
from kdcache_test_helpers import Items, pictures

def build(split):
    return Items(list(pictures()), num_classes=3 if split == "train" else 4)

def explode(split):
    raise RuntimeError("no disk")

def nothing(split):
    return None

not_a_function = 5
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the current folder, as a user would have one."""
    name = "my_kdcache_datasets"
    (tmp_path / f"{name}.py").write_text(
        FACTORIES.replace("kdcache_test_helpers", __name__), encoding="utf-8"
    )
    (tmp_path / "my_broken_datasets.py").write_text("import no_such_library\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield name
    for module in (name, "my_broken_datasets"):
        sys.modules.pop(module, None)


def test_a_factory_in_the_current_folder_is_called_with_the_split(factories: str) -> None:
    train = open_dataset(f"{factories}:build")
    assert (train.name, train.split, train.num_classes) == (f"{factories}:build", "train", 3)
    test = open_dataset(f"{factories}:build", "test", samples=5)
    assert (test.split, test.num_classes) == ("test", 4)
    assert np.array_equal(test.images(np.arange(5)), pictures().transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("no_such_module_at_all:build", "there is no module 'no_such_module_at_all'"),
        ("my_broken_datasets:build", "no_such_library"),
        ("my_kdcache_datasets:missing", "there is no missing in"),
        ("my_kdcache_datasets:", "expected package.module:factory"),
        (":build", "expected package.module:factory"),
        ("my_kdcache_datasets:not_a_function", "expected a function"),
        ("my_kdcache_datasets:explode", "RuntimeError: no disk"),
    ],
)
@pytest.mark.usefixtures("factories")
def test_a_factory_that_cannot_be_called_is_one_clear_error(path: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"dataset {path!r}: .*{reason}"):
        open_dataset(path)


def test_a_factory_that_returns_something_else_is_refused(factories: str) -> None:
    with pytest.raises(DatasetError, match=r"expected a map-style dataset .* got NoneType"):
        open_dataset(f"{factories}:nothing")


def test_a_map_style_dataset_can_be_balanced_and_identified() -> None:
    dataset: ImageDataset = as_image_dataset(Items(list(pictures())))
    part = dataset.select(3)
    assert part.index_N.tolist() == [0, 1, 2]
    identity = part.identity()
    assert identity["image_shape"] == [3, 16, 16]
    assert identity["num_samples"] == 3
