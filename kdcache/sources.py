"""TargetSource: where a batch's targets come from. The loader and the trainer know only this.

Stored (`stream.TargetStream`), live (`online.OnlineTargets`), none (`LabelsOnly`).
"""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.views import Recipe


class ViewTargets(Protocol):
    """One view's targets, by sample."""

    def __getitem__(self, index_B: NDArray[np.int64]) -> torch.Tensor | None:
        """float32 (B, M, *row) on the training device, mentors in the source's order."""
        ...


class TargetSource(Protocol):
    """What a loader asks of any source of targets."""

    @property
    def recipe(self) -> Recipe:
        """How the views' pixels are made."""
        ...

    @property
    def mentors(self) -> tuple[str, ...]:
        """Names, in the order of the M axis."""
        ...

    @property
    def rows_per_request(self) -> int:
        """Rows that cost no more than fewer: ask for about that many at once."""
        ...

    def view_of_epoch(self, epoch: int) -> int:
        """Which view an epoch (from 0) trains on."""
        ...

    def view(self, number: int) -> AbstractContextManager[ViewTargets]:
        """Holds one view's targets ready."""
        ...


class LabelsOnly:
    """No targets; the same views as everybody else's. `views`: None means a new one each epoch."""

    mentors: tuple[str, ...] = ()
    rows_per_request = 1

    def __init__(self, recipe: Recipe, views: Sequence[int] | None = None) -> None:
        self.recipe = recipe
        self._cycle = ViewCycle(recipe, views)

    def view_of_epoch(self, epoch: int) -> int:
        return self._cycle[epoch]

    def view(self, number: int) -> AbstractContextManager[ViewTargets]:
        return nullcontext(_NoTargets())


class _NoTargets:
    def __getitem__(self, index_B: NDArray[np.int64]) -> None:
        return None


class ViewCycle:
    """Epoch -> view: the usable view number e mod k, with one warning when views come round again.

    `views`: the usable views; None: as many as the recipe has.
    """

    def __init__(self, recipe: Recipe, views: Sequence[int] | None) -> None:
        if views is None and recipe.num_views is not None:
            views = range(recipe.num_views)
        self.views = None if views is None else tuple(views)
        self._warns = recipe.num_views != 1

    def __getitem__(self, epoch: int) -> int:
        if self.views is None:
            return epoch
        if epoch >= len(self.views) and self._warns:
            self._warns = False
            warnings.warn(
                f"epoch {epoch} uses view {self.views[epoch % len(self.views)]} again: only "
                f"{len(self.views)} views are usable; precompute more with --views",
                stacklevel=3,
            )
        return self.views[epoch % len(self.views)]

    def after(self, view: int) -> int:
        """The view that follows `view` in the cycle."""
        assert self.views is not None, "only finite cycles are prefetched"
        return self.views[(self.views.index(view) + 1) % len(self.views)]
