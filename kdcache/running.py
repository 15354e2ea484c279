"""The mentors, run over what a plan lacks, and what they say committed block by block.

    dataset -> view -> mentors (all over one batch) -> encode -> commit
               main thread                             writer's thread

Encoding and writing overlap the forward passes, as does the decoding of photographs. Memory stays
bounded: at most three blocks of all mentors' float32 targets are there at once (one that is
computed, two that wait or are written; a block has at most 8,192 samples: with 4 mentors of 100
classes 39 MB in all; of people 256: 53 MB a mentor and block at 256 x 192), and what encoding one
mentor's block takes, on the writer's thread alone.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.datasets import ImageDataset
from kdcache.devices import OnTheWay
from kdcache.filling import Progress
from kdcache.mentors import MentorPool
from kdcache.pixels import replayed_ahead
from kdcache.plan import Plan, Unit
from kdcache.store import TargetStore, commit_targets
from kdcache.views import Recipe

MOST_BLOCKS_IN_FLIGHT = 2  # waiting or being written, beside the one that is computed


class MentorRun:
    """One run over a plan's units."""

    def __init__(self, dataset: ImageDataset, recipe: Recipe, pool: MentorPool, plan: Plan) -> None:
        self._dataset, self._recipe, self._pool, self._plan = dataset, recipe, pool, plan

    def fill(
        self, store: TargetStore, progress: Progress | None, should_stop: Callable[[], bool]
    ) -> int:
        """Computes and commits unit by unit; how many pixels the mentors were run over."""
        commits: deque[Future[None]] = deque()
        done = 0
        with ThreadPoolExecutor(1, thread_name_prefix="kdcache-commit") as writer:
            try:
                for unit, batches in self._run_mentors(progress, should_stop):
                    while len(commits) >= MOST_BLOCKS_IN_FLIGHT:
                        commits.popleft().result()
                    commits.append(writer.submit(self._commit, store, unit, batches))
                    done += self._plan.num_rows(unit)
                while commits:
                    commits.popleft().result()
            finally:
                writer.shutdown()
        return done

    def _run_mentors(
        self, progress: Progress | None, should_stop: Callable[[], bool]
    ) -> Iterator[tuple[Unit, list[OnTheWay]]]:
        """Each unit with its targets, on their way to the host: a batch has a tensor (B, *row) for
        each of those that the unit lacks."""
        done, rows = 0, self._pool.run_shape.batch
        for unit in self._plan.units:
            index = self._dataset.index_N[self._plan.manifest.block_rows(unit.block)]
            groups = [index[start : start + rows] for start in range(0, len(index), rows)]
            lacking = [(one.mentor.name, one.kind) for one in unit.lacking]
            batches = []
            with replayed_ahead(
                self._replay, unit.view, groups, ahead=self._dataset.reads_ahead
            ) as replayed:
                for index_B, pixels in zip(groups, replayed, strict=True):
                    if should_stop():
                        return
                    batches.append(OnTheWay(self._pool.targets(pixels, lacking)))
                    done += len(index_B)
                    if progress is not None:
                        progress(done, self._plan.num_pixels)
            yield unit, batches

    def _replay(self, index_B: NDArray[np.int64], view: int) -> Any:
        """uint8 (B, C, H, W)."""
        return self._recipe(self._dataset.images(index_B), index_B, view)

    def _commit(self, store: TargetStore, unit: Unit, batches: list[OnTheWay]) -> None:
        """Runs on the writer's thread: wait for the targets, encode, measure, commit."""
        arrived = [batch.wait() for batch in batches]
        manifest = self._plan.manifest
        labels = self._dataset.labels(self._dataset.index_N[manifest.block_rows(unit.block)])
        key = (unit.view, unit.block)
        for one, targets_B in zip(unit.lacking, zip(*arrived, strict=True), strict=True):
            targets = torch.cat(targets_B).numpy()
            commit_targets(store.mentor(*one.key), key, targets, labels, manifest.block)
