"""Targets from live mentors, on the same views, through the same forward passes as precompute."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.datasets import ImageDataset
from kdcache.mentors import Mentor, MentorPool
from kdcache.sources import ViewCycle
from kdcache.store import TargetStore, require_equal
from kdcache.views import Recipe


def require_stored_mentor(store: TargetStore, mentor: Mentor) -> None:
    """Raises StoreMismatch, with both sides, unless a loaded mentor is the store's of its name."""
    stored = store.mentor(mentor.name).manifest
    here = mentor.identity()
    require_equal(
        f"mentor {mentor.name!r}",
        (f"store {store.root}", {key: getattr(stored, key) for key in here}),
        ("loaded here", here),
        f"Give the checkpoint the store was made with, and the JSON with its preprocessing beside "
        f"it: --checkpoint {mentor.name}=FILE",
    )


class OnlineTargets:
    """The live TargetSource: runs the mentors at every step, as training without a store would.

    `views`: the usable views; None: a new one each epoch.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        pool: MentorPool,
        recipe: Recipe,
        views: Sequence[int] | None = None,
    ) -> None:
        self.recipe = recipe
        self.mentors = pool.names
        self.rows_per_request = pool.run_shape.batch
        self._dataset = dataset
        self._pool = pool
        self._cycle = ViewCycle(recipe, views)

    def view_of_epoch(self, epoch: int) -> int:
        return self._cycle[epoch]

    @contextmanager
    def view(self, number: int) -> Iterator["LiveView"]:
        yield LiveView(self._dataset, self._pool, self.recipe, number)


class LiveView:
    """One view's targets, computed when asked for."""

    def __init__(
        self, dataset: ImageDataset, pool: MentorPool, recipe: Recipe, number: int
    ) -> None:
        self._dataset, self._pool, self._recipe, self._number = dataset, pool, recipe, number

    def __getitem__(self, index_B: NDArray[np.int64]) -> torch.Tensor:
        """float32 (B, M, *row) on the mentors' device."""
        pixels = self._recipe(self._dataset.images(index_B), index_B, self._number)
        # A clone outside inference mode: losses may save it for their backward pass.
        return self._pool.run(pixels).clone()
