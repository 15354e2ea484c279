"""A labelled image dataset addressed by permanent integers, and its identity."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache import philox
from kdcache.canonical import array_sha256
from kdcache.datasets.preprocessing import Preprocessing
from kdcache.datasets.samples import balanced_samples
from kdcache.errors import UsageError

FetchImages = Callable[[NDArray[np.int64]], NDArray[np.uint8]]
SAMPLED_PIXELS = 256


class ImageDataset:
    """Images and labels by index; an index is always the integer of the original dataset.

    `fetch`: index_B -> uint8 (B, C, H, W). `labels_N`: the labels of the *whole* original dataset.
    `index_N`: the chosen samples, ascending; None: all. `view_parameters`: what suits these images
    in a recipe (size, padding, flip). `in_memory`: whether fetching costs no more than copying.
    Frozen after construction.
    """

    def __init__(
        self,
        *,
        name: str,
        split: str,
        fetch: FetchImages,
        labels_N: NDArray[np.int64],
        num_classes: int,
        preprocessing: Preprocessing,
        view_parameters: Mapping[str, Any],
        index_N: NDArray[np.int64] | None = None,
        in_memory: bool = False,
    ) -> None:
        self.in_memory = in_memory
        self.name = name
        self.split = split
        self.num_classes = num_classes
        self.preprocessing = preprocessing
        self.view_parameters = dict(view_parameters)
        self._fetch = fetch
        self._labels = np.asarray(labels_N, dtype=np.int64)
        self.index_N = np.arange(len(self._labels)) if index_N is None else index_N

    def __len__(self) -> int:
        return len(self.index_N)

    @property
    def is_whole(self) -> bool:
        """Whether every sample of the original dataset is chosen."""
        return len(self) == len(self._labels)

    def images(self, index_B: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 (B, C, H, W), as stored, before any augmentation."""
        return self._fetch(np.asarray(index_B, dtype=np.int64))

    def labels(self, index_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 (B,)."""
        return self._labels[index_B]

    def select(self, count: int | None) -> "ImageDataset":
        """The balanced part of `count` samples (`--samples`); None: everything."""
        if count is None:
            return self
        return self.subset(balanced_samples(self._labels, self.num_classes, count))

    def subset(self, index_N: NDArray[np.int64]) -> "ImageDataset":
        """The samples with these original indices, each once, in ascending order.

        Raises UsageError for an index the original dataset does not have.
        """
        index_N = np.unique(np.asarray(index_N, dtype=np.int64))
        if len(index_N) and not (index_N[0] >= 0 and index_N[-1] < len(self._labels)):
            raise UsageError(
                f"{self.name} ({self.split}) has the samples 0 to {len(self._labels) - 1}, but "
                f"samples {index_N[0]} to {index_N[-1]} were asked for"
            )
        return ImageDataset(
            name=self.name,
            split=self.split,
            fetch=self._fetch,
            labels_N=self._labels,
            num_classes=self.num_classes,
            preprocessing=self.preprocessing,
            view_parameters=self.view_parameters,
            index_N=index_N,
            in_memory=self.in_memory,
        )

    def identity(self) -> dict[str, Any]:
        """What makes this dataset this one, as JSON; part of every store's fingerprint.

        Names, counts, and SHA-256 of the index list, of the labels, and of the pixels of up to 256
        Philox-chosen samples.
        """
        order = philox.permutation(0, philox.Purpose.SAMPLED_PIXELS, 0, len(self))
        sampled = self.images(self.index_N[np.sort(order[:SAMPLED_PIXELS])])
        return {
            "name": self.name,
            "split": self.split,
            "num_samples": len(self),
            "num_classes": self.num_classes,
            "image_shape": list(sampled.shape[1:]),
            "index_sha256": array_sha256(self.index_N),
            "labels_sha256": array_sha256(self.labels(self.index_N)),
            "pixels_sha256": array_sha256(sampled),
        }


def array_dataset(*, images_NCHW: NDArray[np.uint8], **description: Any) -> ImageDataset:
    """A dataset whose images are all in memory; the keywords are `ImageDataset`'s."""
    return ImageDataset(fetch=images_NCHW.__getitem__, in_memory=True, **description)
