"""Targets from live mentors, on the same views, through the same forward passes as precompute."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.datasets import ImageDataset
from kdcache.encode import FEATURES, LOGSUMEXP, TargetKind, raw_logits
from kdcache.mentors import Mentor, MentorPool
from kdcache.sources import BlocksOf, Targets, ViewCycle
from kdcache.store import TargetStore, require_equal
from kdcache.views import Recipe


def require_stored_mentor(store: TargetStore, mentor: Mentor) -> None:
    """Raises StoreMismatch, with both sides, unless a loaded mentor is the store's of its name."""
    stored = store.mentor(mentor.name).manifest
    here = mentor.identity()
    require_equal(
        f"mentor {mentor.name!r}",
        (f"store {store.address}", {key: getattr(stored, key) for key in here}),
        ("loaded here", here),
        f"Give the checkpoint the store was made with, and the JSON with its preprocessing beside "
        f"it: --checkpoint {mentor.name}=FILE",
    )


class OnlineTargets:
    """The live TargetSource: runs the mentors at every step, as training without a store would.

    `views`: the usable views; None: a new one each epoch. `features`: gives the pooled features
    too; `raw_logits`: raw logits, made as from a store of log-probabilities and logsumexps. All
    come from the same forward passes. `blocks`: of the store that has these targets.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        pool: MentorPool,
        recipe: Recipe,
        views: Sequence[int] | None = None,
        *,
        features: bool = False,
        raw_logits: bool = False,
        blocks: BlocksOf | None = None,
    ) -> None:
        self.recipe, self.blocks = recipe, blocks
        self.mentors = pool.names
        self.features, self.raw_logits = features, raw_logits
        self.rows_per_request = pool.run_shape.batch
        self._dataset = dataset
        self._pool = pool
        self._cycle = ViewCycle(recipe, views)

    @cached_property
    def feature_widths(self) -> tuple[int, ...] | None:
        if not self.features:
            return None
        index_1 = self._dataset.index_N[:1]
        pixels_1CHW = self.recipe(self._dataset.images(index_1), index_1, 0)
        return tuple(self._pool.feature_width(name, pixels_1CHW) for name in self.mentors)

    def view_of_epoch(self, epoch: int) -> int:
        return self._cycle[epoch]

    @contextmanager
    def view(self, number: int) -> Iterator["LiveView"]:
        given = {self._pool.primary: True, LOGSUMEXP: self.raw_logits, FEATURES: self.features}
        kinds = [kind for kind in given if given[kind]]
        yield LiveView(self._dataset, self._pool, self.recipe, number, kinds)


class LiveView:
    """One view's targets of some kinds, the primary one first, computed when asked for."""

    def __init__(
        self,
        dataset: ImageDataset,
        pool: MentorPool,
        recipe: Recipe,
        number: int,
        kinds: Sequence[TargetKind] = (),
    ) -> None:
        self._dataset, self._pool, self._recipe, self._number = dataset, pool, recipe, number
        self._kinds = kinds or (pool.primary,)

    def __getitem__(self, index_B: NDArray[np.int64]) -> torch.Tensor:
        """float32 (B, M, ..) on the mentors' device: the primary ones of `gather_targets`."""
        primary_BM = self.gather_targets(index_B).primary
        assert primary_BM is not None
        return primary_BM

    def gather_targets(self, index_B: NDArray[np.int64]) -> Targets:
        """One forward pass of each mentor gives all."""
        pixels = self._recipe(self._dataset.images(index_B), index_B, self._number)
        names = self._pool.names
        found = iter(self._pool.targets(pixels, [(n, kind) for kind in self._kinds for n in names]))
        rows = {kind: [next(found) for _ in names] for kind in self._kinds}
        # Stacked, added, cloned: tensors outside inference mode, which losses may save for their
        # backward pass.
        primary = self._kinds[0]
        targets_BM = torch.stack(rows[primary], dim=1)
        if LOGSUMEXP in rows:
            targets_BM = raw_logits(targets_BM, torch.stack(rows[LOGSUMEXP], dim=1))
        features = (
            tuple(rows_BF.clone() for rows_BF in rows[FEATURES]) if FEATURES in rows else None
        )
        return Targets.of_primary(primary.name, targets_BM, features)
