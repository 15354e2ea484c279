"""A labelled image dataset addressed by permanent integers, and its identity."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache import philox
from kdcache.canonical import array_sha256
from kdcache.datasets.labels import ClassLabels, Labels, PersonLabels
from kdcache.datasets.preprocessing import Preprocessing
from kdcache.errors import UsageError

FetchImages = Callable[[NDArray[np.int64]], Any]
DescribeImages = Callable[[NDArray[np.int64]], dict[str, Any]]
SAMPLED_PIXELS = 256


class ImageDataset:
    """Images and labels by index; an index is always the integer of the original dataset.

    `fetch`: index_B -> what recipes make views of: uint8 (B, C, H, W), or `PersonPhotos`.
    `labels`: those of the *whole* original dataset. `index_N`: the chosen samples, ascending; None:
    all. `view_parameters`: what suits these images in a recipe (size, padding, flip).
    `default_recipe`, `plain_recipe`: names of the recipe for training, and of the one that leaves
    images as they are. `in_memory`: whether fetching costs no more than copying. `reads_ahead`: how
    many threads may fetch at once, ahead of whoever needs the images; 0: none. `describe`: of
    some samples' images what is part of the identity; None: their shape, and their pixels' hash.
    `report`: lines that say what was left out when it was opened. Frozen after construction.
    """

    def __init__(
        self,
        *,
        name: str,
        split: str,
        fetch: FetchImages,
        labels: Labels,
        preprocessing: Preprocessing,
        view_parameters: Mapping[str, Any],
        index_N: NDArray[np.int64] | None = None,
        in_memory: bool = False,
        reads_ahead: int = 0,
        default_recipe: str = "crop-flip",
        plain_recipe: str = "none",
        describe: DescribeImages | None = None,
        report: tuple[str, ...] = (),
    ) -> None:
        self.in_memory, self.reads_ahead = in_memory, reads_ahead
        self.name = name
        self.split = split
        self.preprocessing = preprocessing
        self.view_parameters = dict(view_parameters)
        self.default_recipe, self.plain_recipe = default_recipe, plain_recipe
        self.report = report
        self._fetch, self._labels = fetch, labels
        self._describe = describe
        self.index_N = np.arange(len(labels)) if index_N is None else index_N

    def __len__(self) -> int:
        return len(self.index_N)

    @property
    def task(self) -> str:
        """What students are trained for: one of `kdcache.tasks`."""
        return self._labels.task

    @property
    def num_classes(self) -> int:
        """Outputs of a network: classes, or joints of a person."""
        return self._labels.num_classes

    @property
    def person_labels(self) -> PersonLabels:
        """The people of the whole original dataset. Raises UsageError where it has classes."""
        if not isinstance(self._labels, PersonLabels):
            raise UsageError(f"{self.name} ({self.split}) has classes, no people")
        return self._labels

    @property
    def is_whole(self) -> bool:
        """Whether every sample of the original dataset is chosen."""
        return len(self) == len(self._labels)

    def images(self, index_B: NDArray[np.int64]) -> Any:
        """What recipes make views of: uint8 (B, C, H, W), or `PersonPhotos` of B people."""
        return self._fetch(np.asarray(index_B, dtype=np.int64))

    def labels(self, index_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 (B,): classes, or the ids of people's annotations."""
        return self._labels.ids(index_B)

    def labels_in_view(self, recipe: Any, index_B: NDArray[np.int64], view: int) -> NDArray[Any]:
        """int64 (B,) classes, or float32 (B, J, 3): joints in view pixels, and their weights."""
        return self._labels.in_view(recipe, index_B, view)

    def select(self, count: int | None) -> "ImageDataset":
        """The part of `count` samples (`--samples`); None: everything.

        Balanced over the classes, or the first people.
        """
        if count is None:
            return self
        return self.subset(self._labels.first(count))

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
        part = copy.copy(self)
        part.index_N = index_N
        return part

    def identity(self) -> dict[str, Any]:
        """What makes this dataset this one, as JSON; part of every store's fingerprint.

        Names, counts, and SHA-256 of the index list, of the labels, and of the pixels of up to 256
        Philox-chosen samples; of photographs, of their files.
        """
        order = philox.permutation(0, philox.Purpose.SAMPLED_PIXELS, 0, len(self))
        sampled = self.index_N[np.sort(order[:SAMPLED_PIXELS])]
        return {
            "name": self.name,
            "split": self.split,
            "num_samples": len(self),
            "num_classes": self.num_classes,
            "index_sha256": array_sha256(self.index_N),
            **self._labels.identity(self.index_N),
            **(self._describe or self._describe_pixels)(sampled),
        }

    def _describe_pixels(self, index_K: NDArray[np.int64]) -> dict[str, Any]:
        sampled = self.images(index_K)
        return {"image_shape": list(sampled.shape[1:]), "pixels_sha256": array_sha256(sampled)}


def array_dataset(
    *,
    images_NCHW: NDArray[np.uint8],
    labels_N: NDArray[np.int64],
    num_classes: int,
    **description: Any,
) -> ImageDataset:
    """A dataset whose images are all in memory; other keywords are `ImageDataset`'s."""
    labels = ClassLabels(labels_N, num_classes)
    return ImageDataset(fetch=images_NCHW.__getitem__, in_memory=True, labels=labels, **description)
