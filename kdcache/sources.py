"""TargetSource: where a batch's targets come from. The loader and the trainer know only this.

Stored (`stream.TargetStream`), live (`online.OnlineTargets`), none (`LabelsOnly`).
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.encode import HEATMAPS, LOGITS
from kdcache.epoch_order import Blocks
from kdcache.views import Recipe

BlocksOf = Callable[[NDArray[np.int64]], Blocks]  # of a dataset's samples, index_N


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """What M mentors said about B samples: float32 on the training device, in the source's order.

    `logits`: (B, M, C) log-probabilities, or raw logits where the source gives those; None without
    mentors, and for poses. `features`: M tensors (B, F), each mentor's as wide as its own; None
    where not asked. `heatmaps`: (B, M, J, H, W) of pose networks.
    """

    logits: torch.Tensor | None = None
    features: tuple[torch.Tensor, ...] | None = None
    heatmaps: torch.Tensor | None = None

    @property
    def primary(self) -> torch.Tensor | None:
        """What losses take first: logits, or heatmaps."""
        return self.logits if self.heatmaps is None else self.heatmaps

    @classmethod
    def of_primary(
        cls, kind: str, targets_BM: torch.Tensor, features: tuple[torch.Tensor, ...] | None = None
    ) -> "Targets":
        """`kind`: what these targets (B, M, ..) are, "logits" or "heatmaps"."""
        if kind == HEATMAPS.name:
            return cls(heatmaps=targets_BM)
        return cls(logits=targets_BM, features=features)

    def part(self, rows: slice) -> "Targets":
        """Of some of the samples."""
        return self._each(lambda tensors: tensors[0][rows], [self])

    @classmethod
    def joined(cls, parts: Sequence["Targets"]) -> "Targets":
        """Of the samples of all parts, in their order."""
        return parts[0] if len(parts) == 1 else cls._each(lambda each: torch.cat(list(each)), parts)

    @classmethod
    def _each(
        cls, combine: Callable[[Sequence[torch.Tensor]], torch.Tensor], parts: Sequence["Targets"]
    ) -> "Targets":
        def of(tensors: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
            there = [tensor for tensor in tensors if tensor is not None]
            return combine(there) if there else None

        features = [part.features for part in parts if part.features is not None]
        return cls(
            logits=of([part.logits for part in parts]),
            heatmaps=of([part.heatmaps for part in parts]),
            features=tuple(map(combine, zip(*features, strict=True))) if features else None,
        )


class ViewTargets(Protocol):
    """One view's targets, by sample."""

    def __getitem__(self, index_B: NDArray[np.int64]) -> torch.Tensor | None:
        """float32 (B, M, C), or heatmaps (B, M, J, H, W), on the training device, mentors in the
        source's order."""
        ...


@runtime_checkable
class GatheringViewTargets(ViewTargets, Protocol):
    """One view's targets of every kind that the source gives, not the logits alone."""

    def gather_targets(self, index_B: NDArray[np.int64]) -> Targets:
        """All that the source gives for these samples. Raises MissingTargets for unknown ones."""
        ...


def gather(targets: ViewTargets, index_B: NDArray[np.int64]) -> Targets:
    """All that one view's targets give for these samples."""
    if isinstance(targets, GatheringViewTargets):
        return targets.gather_targets(index_B)
    found = targets[index_B]
    if found is None:
        return Targets()
    return Targets.of_primary(LOGITS.name if found.ndim == 3 else HEATMAPS.name, found)


class TargetSource(Protocol):
    """What a loader asks of any source of targets.

    One that gives pooled features as well has `feature_widths`, a number for each mentor, and views
    that are `GatheringViewTargets`. One that knows in which blocks the samples of a store lie has
    `blocks`, a `BlocksOf`: loaders with a window shuffle by them, so that targets of the same store
    come in the same order from everywhere.
    """

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


@runtime_checkable
class WindowedSource(TargetSource, Protocol):
    """A source that can hold a part of a view at a time, and must know then what comes when."""

    @property
    def window(self) -> int | None:
        """Samples in memory at once; None: whole views."""
        ...

    def ordered_view(
        self, number: int, order_K: NDArray[np.int64]
    ) -> AbstractContextManager[ViewTargets]:
        """Holds one view's targets ready for these samples, asked for in this order."""
        ...


class LabelsOnly:
    """No targets; the same views as everybody else's.

    `views`: None means a new one each epoch. `blocks`: of the store that has the targets.
    """

    mentors: tuple[str, ...] = ()
    rows_per_request = 1

    def __init__(
        self,
        recipe: Recipe,
        views: Sequence[int] | None = None,
        *,
        blocks: BlocksOf | None = None,
    ) -> None:
        self.recipe, self.blocks = recipe, blocks
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
