"""Any map-style dataset: `module:factory` on the command line, or an object in one's own script."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache.datasets.image_dataset import ImageDataset
from kdcache.datasets.labels import ClassLabels
from kdcache.datasets.preprocessing import Preprocessing
from kdcache.errors import DatasetError
from kdcache.factories import call_factory

NEUTRAL = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def open_factory(path: str, split: str) -> ImageDataset:
    """What `factory(split)` of `module` returns (the current folder counts), wrapped.

    Raises UsageError when the module or the factory is missing or fails, DatasetError when what it
    returns is no map-style dataset.
    """
    return wrap_map_style(call_factory("dataset", path, split), name=path, split=split)


def wrap_map_style(items: Any, *, name: str, split: str) -> ImageDataset:
    """A dataset from anything with `len()` and `items[i] -> (image, label)`.

    image: PIL image, uint8 array (H, W, C), or uint8 tensor (C, H, W); one size throughout. Labels
    are taken from `targets` or `labels` where the object has them, else read item by item. The
    optional attributes `num_classes` (or `classes`), `mean`, `std`, `padding` and `flip` describe
    it further. Raises DatasetError for anything else.
    """
    if not (hasattr(items, "__len__") and hasattr(items, "__getitem__")):
        raise DatasetError(
            f"dataset {name!r}: expected a map-style dataset (len() and items[i] -> (image, "
            f"label)), got {type(items).__name__}"
        )
    if not len(items):
        raise DatasetError(f"dataset {name!r} ({split}) is empty")
    labels_N = _labels(items, name)
    first = _item_pixels(items, name, 0)
    num_classes = int(
        getattr(items, "num_classes", len(getattr(items, "classes", ())) or labels_N.max() + 1)
    )
    if labels_N.min() < 0 or labels_N.max() >= num_classes:
        raise DatasetError(
            f"dataset {name!r}: labels must lie in 0 to {num_classes - 1}, got "
            f"{labels_N.min()} to {labels_N.max()}"
        )
    mean, std = (
        tuple(float(value) for value in getattr(items, key, default[: len(first)]))
        for key, default in zip(("mean", "std"), NEUTRAL, strict=True)
    )
    size = first.shape[-1]
    return ImageDataset(
        name=name,
        split=split,
        fetch=lambda index_B: _fetch(items, index_B, name, first.shape),
        labels=ClassLabels(labels_N, num_classes),
        preprocessing=Preprocessing(mean=mean, std=std),
        view_parameters={
            "size": size,
            "padding": getattr(items, "padding", max(1, size // 8)),
            "flip": getattr(items, "flip", True),
        },
    )


def _labels(items: Any, name: str) -> NDArray[np.int64]:
    given = getattr(items, "targets", getattr(items, "labels", None))
    try:
        if given is not None and len(given) == len(items):
            labels_N = np.asarray(given)
            if labels_N.ndim != 1 or labels_N.dtype.kind not in "iu":
                raise TypeError(f"labels are {labels_N.dtype} of shape {labels_N.shape}")
            return labels_N.astype(np.int64)
        return np.asarray([int(items[i][1]) for i in range(len(items))], dtype=np.int64)
    except (TypeError, ValueError, LookupError) as error:
        raise DatasetError(
            f"dataset {name!r}: items must be (image, integer label) ({type(error).__name__}: "
            f"{error})"
        ) from error


def _fetch(
    items: Any, index_B: NDArray[np.int64], name: str, shape: Sequence[int]
) -> NDArray[np.uint8]:
    images_BCHW = np.empty((len(index_B), *shape), dtype=np.uint8)
    for position, index in enumerate(index_B.tolist()):
        pixels_CHW = _item_pixels(items, name, index)
        if pixels_CHW.shape != tuple(shape):
            raise DatasetError(
                f"dataset {name!r}: all images must have one shape; image 0 is {tuple(shape)}, "
                f"image {index} is {pixels_CHW.shape} (C, H, W)"
            )
        images_BCHW[position] = pixels_CHW
    return images_BCHW


def _item_pixels(items: Any, name: str, index: int) -> NDArray[np.uint8]:
    try:
        image = items[index][0]
    except LookupError as error:
        raise DatasetError(
            f"dataset {name!r}: items must be (image, integer label), item {index} is not "
            f"({type(error).__name__}: {error})"
        ) from error
    if hasattr(image, "convert"):  # PIL
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    channels_first = hasattr(image, "device") and not isinstance(image, np.ndarray)  # a tensor
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise DatasetError(
            f"dataset {name!r}: image {index} must be a PIL image, a uint8 array (H, W, C) or a "
            f"uint8 tensor (C, H, W), got {type(image).__name__} of {pixels.dtype} "
            f"{pixels.shape}; views are made from stored pixels, so leave transforms out"
        )
    return pixels if channels_first else pixels.transpose(2, 0, 1)
