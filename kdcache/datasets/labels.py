"""What a dataset knows of its samples: their classes, or where the joints of people are."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from kdcache.canonical import array_sha256, json_sha256
from kdcache.datasets.annotation_file import Ignored
from kdcache.datasets.people import People
from kdcache.datasets.samples import balanced_samples
from kdcache.errors import UsageError
from kdcache.tasks import CLASSIFICATION, POSE


class Labels(ABC):
    """The labels of a whole original dataset, by index. `num_classes`: outputs of a network."""

    task: ClassVar[str]
    num_classes: int

    @abstractmethod
    def __len__(self) -> int:
        """Samples of the original dataset."""

    @abstractmethod
    def ids(self, index_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 (B,): what a store lists of these samples."""

    @abstractmethod
    def in_view(self, recipe: Any, index_B: NDArray[np.int64], view: int) -> NDArray[Any]:
        """The labels (B, ..) of these samples in one view, as losses take them."""

    @abstractmethod
    def first(self, count: int) -> NDArray[np.int64]:
        """The indices (ascending) of the part of `count` samples. Raises UsageError."""

    @abstractmethod
    def identity(self, index_N: NDArray[np.int64]) -> dict[str, Any]:
        """What these samples' labels are, as JSON, and "task" where it is not classification."""


class ClassLabels(Labels):
    """One class a sample; a view changes nothing about it."""

    task = CLASSIFICATION

    def __init__(self, labels_N: NDArray[np.int64], num_classes: int) -> None:
        self._labels = np.asarray(labels_N, dtype=np.int64)
        self.num_classes = num_classes

    def __len__(self) -> int:
        return len(self._labels)

    def ids(self, index_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """The classes."""
        return self._labels[index_B]

    def in_view(self, recipe: Any, index_B: NDArray[np.int64], view: int) -> NDArray[Any]:
        """int64 (B,)."""
        return self._labels[index_B]

    def first(self, count: int) -> NDArray[np.int64]:
        """A class-balanced part."""
        return balanced_samples(self._labels, self.num_classes, count)

    def identity(self, index_N: NDArray[np.int64]) -> dict[str, Any]:
        return {"labels_sha256": array_sha256(self._labels[index_N])}


class PeopleRecipe(Protocol):
    """A recipe that knows where joints lie in its views."""

    def joints(self, people: People, index_B: NDArray[np.int64], view: int) -> NDArray[np.float32]:
        """float32 (B, J, 3): x and y in view pixels, and a weight."""
        ...


class PersonLabels(Labels):
    """Joints of one person a sample, which lie elsewhere in every view.

    `ignored`: annotations that are no samples, for COCO's evaluator.
    """

    task = POSE

    def __init__(self, people: People, ignored: Ignored | None = None) -> None:
        self.people, self.ignored = people, ignored
        self.num_classes = people.skeleton.num_joints

    def __len__(self) -> int:
        return len(self.people)

    def ids(self, index_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """The annotations' ids."""
        return self.people.annotation_N[index_B]

    def in_view(self, recipe: PeopleRecipe, index_B: NDArray[np.int64], view: int) -> NDArray[Any]:
        """float32 (B, J, 3): x and y in view pixels, and a weight.

        Raises UsageError for a recipe of whole images.
        """
        if not hasattr(recipe, "joints"):
            raise UsageError(
                f"recipe {getattr(recipe, 'name', recipe)!r:.40} makes views of whole images; of "
                "people choose pose-affine or pose-crop"
            )
        return recipe.joints(self.people.take(index_B), index_B, view)

    def first(self, count: int) -> NDArray[np.int64]:
        """The first so many people, in the annotations' order."""
        if not 0 < count <= len(self):
            raise UsageError(f"--samples must lie in 1 to {len(self)} (the people), got {count}")
        return np.arange(count)

    def identity(self, index_N: NDArray[np.int64]) -> dict[str, Any]:
        people = self.people.take(index_N)
        return {
            "task": POSE,
            "joints": list(people.skeleton.joints),
            "labels_sha256": array_sha256(people.annotation_N),
            "people_sha256": json_sha256(
                [array_sha256(a) for a in (people.joints_NJ3, people.box_N4, people.image_N)]
            ),
        }
