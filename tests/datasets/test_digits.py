"""The bundled digits: fixed facts, and what opening by name promises."""

import numpy as np
import pytest

from kdcache.datasets import open_dataset
from kdcache.errors import UsageError

PER_CLASS = {
    "train": [151, 161, 143, 131, 147, 154, 150, 136, 127, 138],
    "test": [27, 21, 34, 52, 34, 28, 31, 43, 47, 42],
}


@pytest.mark.parametrize(("split", "count"), [("train", 1438), ("test", 359)])
def test_digits_are_these_images(split: str, count: int) -> None:
    digits = open_dataset("digits", split)
    assert (digits.name, digits.split, digits.num_classes) == ("digits", split, 10)
    assert len(digits) == count
    assert digits.is_whole
    assert digits.index_N.tolist() == list(range(count))
    images, labels = digits.images(digits.index_N), digits.labels(digits.index_N)
    assert images.dtype == np.uint8
    assert images.shape == (count, 3, 8, 8)
    assert (images[:, 0] == images[:, 1]).all()
    assert (images[:, 0] == images[:, 2]).all()
    assert (int(images.min()), int(images.max())) == (0, 255)
    assert len(np.unique(images)) == 17  # counts of 0 to 16
    assert labels.dtype == np.int64
    assert np.bincount(labels).tolist() == PER_CLASS[split]


def test_digits_identities_are_pinned() -> None:
    shared = {"name": "digits", "num_classes": 10, "image_shape": [3, 8, 8]}
    assert open_dataset("digits", "train").identity() == {
        **shared,
        "split": "train",
        "num_samples": 1438,
        "index_sha256": "45df74031ad77f2667c08939b3ba5080c48e3f37fcc9cd593cffe62efbd9d6ae",
        "labels_sha256": "d88bc14b5455324ff8c5b13f3d3dbf61f9f2fed107c1bdae032e8506d4ff6116",
        "pixels_sha256": "2173403ef51863d53855ebbc2ecdcc496f9864e8a467f32266bdd56c3fce0080",
    }
    assert open_dataset("digits", "test").identity() == {
        **shared,
        "split": "test",
        "num_samples": 359,
        "index_sha256": "28d0e1fd0db0d5dcee3ae925ffb66d966478283add321e088c5ece95704950ee",
        "labels_sha256": "5b60d960d691c63f4e10de32b748c8dadcfa8c4000d9b6fe5efbd78200686ddc",
        "pixels_sha256": "27b2b5b8c94faa310b1845ee0a797533ce0ddf416b5baf2bda1399972cd1ca36",
    }


def test_the_split_is_every_fifth_sample_of_the_famous_first_ones() -> None:
    # The original file begins 0, 1, 2, .. 9, 0, 1, ..; every fifth goes to the test split.
    assert open_dataset("digits", "train").labels(np.arange(8)).tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert open_dataset("digits", "test").labels(np.arange(4)).tolist() == [4, 9, 4, 9]


def test_digits_preprocessing_standardises_the_training_pixels() -> None:
    digits = open_dataset("digits")
    pixels = digits.images(digits.index_N) / 255.0
    assert digits.preprocessing.mean == pytest.approx([pixels.mean()] * 3, abs=1e-3)
    assert digits.preprocessing.std == pytest.approx([pixels.std()] * 3, abs=1e-3)


def test_digits_are_not_mirrored() -> None:
    assert open_dataset("digits").view_parameters == {"size": 8, "padding": 1, "flip": False}


def test_images_come_in_the_order_asked() -> None:
    digits = open_dataset("digits")
    index_B = np.array([7, 3, 7, 1437, 0])
    images = digits.images(index_B)
    for position, index in enumerate(index_B.tolist()):
        assert np.array_equal(images[position], digits.images(np.array([index]))[0])
    assert digits.labels(index_B).tolist() == [digits.labels(np.array([i]))[0] for i in index_B]


def test_changing_fetched_images_does_not_change_the_dataset() -> None:
    digits = open_dataset("digits", samples=300)
    before = digits.identity()
    digits.images(digits.index_N)[:] = 0
    assert digits.identity() == before


def test_an_unknown_dataset_is_an_error_with_the_near_names() -> None:
    with pytest.raises(UsageError, match=r"'cifar-100'\. Did you mean cifar100.*module:factory"):
        open_dataset("cifar-100")


@pytest.mark.parametrize("split", ["val", "", "Train"])
def test_an_unknown_split_is_an_error(split: str) -> None:
    with pytest.raises(UsageError, match=f"split must be train or test, got '{split}'"):
        open_dataset("digits", split)
