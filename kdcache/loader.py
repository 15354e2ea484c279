"""ReplayLoader: batches of replayed views with their targets, for our trainer or anybody's loop.

loader = kdcache.ReplayLoader(dataset, store, batch_size=128)
for epoch in range(epochs):
    loader.set_epoch(epoch)
    for batch in loader:
        batch.images, batch.labels, batch.index, batch.logits  # and batch.features
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.datasets import ImageDataset, Preprocessing, as_image_dataset
from kdcache.devices import resolve_device, send
from kdcache.encode import primary_of
from kdcache.epoch_order import Blocks, epoch_order, require_window
from kdcache.errors import UsageError
from kdcache.pixels import ViewPixels, replayed_ahead, view_pixels
from kdcache.sources import Targets, TargetSource, ViewTargets, WindowedSource, gather
from kdcache.store import TargetStore, block_size
from kdcache.stream import TargetStream

ROWS_AT_ONCE = 256  # small batches are replayed together: a call costs as much as dozens of rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """B samples of one view, on the training device (`index` on the CPU).

    `images`: float32 (B, C, H, W) normalised for the student, or uint8 with `normalize=None`.
    `labels`: int64 (B,); of people float32 (B, J, 3), their joints' x and y in pixels of the view
    and a weight, 0 for one that is not labelled or lies outside. `index`: int64 (B,), the dataset's
    permanent integers. `logits`: float32
    (B, M, classes) log-probabilities in the order of the mentors (raw logits where the loader was
    asked for them), None when training on labels only. `features`: M tensors float32 (B, F_m),
    the mentors' pooled features; None where the loader was not asked. `heatmaps`: float32
    (B, M, J, H, W) of pose networks, in place of logits.
    """

    images: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor
    logits: torch.Tensor | None
    features: tuple[torch.Tensor, ...] | None = None
    heatmaps: torch.Tensor | None = None

    @property
    def primary(self) -> torch.Tensor | None:
        """What losses take as the mentors': logits, or heatmaps."""
        return self.logits if self.heatmaps is None else self.heatmaps


class ReplayLoader:
    """Every sample once an epoch, in the order of Philox(seed, epoch), with its targets.

    `dataset`: one of ours or any map-style dataset. `store`: an open store, its path, or any
    TargetSource. `mentors`: names, in the order of the M axis; None: all (a TargetSource has its
    own). `normalize`: the student's preprocessing; "dataset": the dataset's own; None: images stay
    uint8. `rank` and `world_size`: this process takes a strided slice of the one epoch order.
    `features`, `raw_logits`: of the store, as `TargetStream` has them (a TargetSource gives what it
    gives). `resident_pixels`: whether the images are kept on the device and views made there; None:
    where it is no CPU and they are small beside its memory (`pixels.view_pixels`).

    `window`: where a view does not fit in memory, samples of which targets are held at once; the
    order is then a sliding shuffle (`kdcache.epoch_order`), another one than without. None: that of
    a `TargetStream` given as `store`, else whole views. A source that was made without a window
    holds whole views still, and comes in this order.

    Before the first batch a stored source is proven to belong to the dataset: StoreMismatch,
    ReplayMismatch or MissingTargets otherwise.
    """

    def __init__(
        self,
        dataset: Any,
        store: TargetStore | str | os.PathLike[str] | TargetSource,
        batch_size: int = 128,
        *,
        seed: int = 0,
        mentors: Sequence[str] | None = None,
        device: str | torch.device = "auto",
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
        normalize: Preprocessing | Literal["dataset"] | None = "dataset",
        features: bool = False,
        raw_logits: bool = False,
        window: int | None = None,
        resident_pixels: bool | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise UsageError(f"rank must lie in 0 to world_size - 1, got {rank} of {world_size}")
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch_size}")
        self.device = resolve_device(str(device))
        if isinstance(store, (TargetStore, str, os.PathLike)):
            self.source: TargetSource = TargetStream(
                store,
                mentors,
                self.device,
                features=features,
                raw_logits=raw_logits,
                window=window,
            )
        elif mentors is None and not (features or raw_logits):
            self.source = store
        else:
            raise UsageError(
                f"a target source has its own mentors, {', '.join(store.mentors)}, and decides "
                "itself whether it gives features and raw logits"
            )
        self.window = _agreed_window(window, self.source)
        require_window(self.window, batch_size, world_size)
        if isinstance(self.source, TargetStream):
            self.source.require_memory()
        self.dataset: ImageDataset = as_image_dataset(dataset)
        if isinstance(self.source, TargetStream):
            self.dataset = self.source.require_dataset(self.dataset)
        self.batch_size, self.seed, self.drop_last = batch_size, seed, drop_last
        self.rank, self.world_size = rank, world_size
        self.normalize = self.dataset.preprocessing if normalize == "dataset" else normalize
        self._epoch = 0
        self._done = 0  # batches of this epoch handed out
        self._resume_at = 0
        self._resident_pixels = resident_pixels
        if len(self) == 0:
            raise UsageError(
                f"{len(self.dataset)} samples over {world_size} ranks make no whole batch of "
                f"{batch_size}; lower the batch size or pass drop_last=False"
            )

    def __len__(self) -> int:
        """Batches an epoch, on this rank."""
        samples = len(self.dataset)
        if self.drop_last:
            return samples // self.world_size // self.batch_size
        return ceil(ceil((samples - self.rank) / self.world_size) / self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch (from 0), which decides the order and the view."""
        if epoch != self._epoch:
            self._epoch, self._done, self._resume_at = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Where the loader stands: the epoch, and how many of its batches were handed out."""
        return {"epoch": self._epoch, "done": self._done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on there: the next iteration begins with the batch after the last one handed out."""
        self._epoch = state["epoch"]
        self._done = self._resume_at = state["done"]

    def epoch_order(self, epoch: int) -> NDArray[np.int64]:
        """This rank's sample indices in the order of an epoch."""
        order = epoch_order(
            self.seed, epoch, len(self.dataset), window=self.window, blocks=self._blocks
        )
        return self.dataset.index_N[order[self.rank :: self.world_size]]

    @cached_property
    def _blocks(self) -> Blocks | None:
        """In which blocks the samples are read: the store's, or those that a store would have."""
        if self.window is None:
            return None
        blocks_of = getattr(self.source, "blocks", None)
        if blocks_of is not None:
            found: Blocks = blocks_of(self.dataset.index_N)
            return found
        rows = block_size(len(self.dataset), primary_of(self.dataset.task).most_block)
        return Blocks(rows=rows, block_N=np.arange(len(self.dataset)) // rows)

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self._epoch, self._resume_at
        self._done, self._resume_at = first, 0
        order = self.epoch_order(epoch)[: len(self) * self.batch_size]
        order = order[first * self.batch_size :]
        at_once = max(self.source.rows_per_request, 1 if self.dataset.reads_ahead else ROWS_AT_ONCE)
        group = self.batch_size * ceil(at_once / self.batch_size)
        view = self.source.view_of_epoch(epoch)
        groups = [order[start : start + group] for start in range(0, len(order), group)]
        with (
            self._targets(view, order) as targets,
            replayed_ahead(self._replay, view, groups, ahead=self.dataset.reads_ahead) as replayed,
        ):
            for index_G, (pixels_G, labels_G) in zip(groups, replayed, strict=True):
                targets_G = gather(targets, index_G)
                for offset in range(0, len(index_G), self.batch_size):
                    rows = slice(offset, offset + self.batch_size)
                    self._done += 1
                    yield self._batch(
                        pixels_G[rows], labels_G[rows], index_G[rows], targets_G.part(rows)
                    )
        self._epoch, self._done = epoch + 1, 0

    def _replay(self, index_G: NDArray[np.int64], view: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A view of some samples, and their labels in it, on the device."""
        labels = self.dataset.labels_in_view(self.source.recipe, index_G, view)
        return self._pixels(index_G, view), send(torch.from_numpy(labels), self.device)

    def _targets(
        self, view: int, order_K: NDArray[np.int64]
    ) -> AbstractContextManager[ViewTargets]:
        if isinstance(self.source, WindowedSource):
            return self.source.ordered_view(view, order_K)
        return self.source.view(view)

    @cached_property
    def _pixels(self) -> ViewPixels:
        return view_pixels(
            self.dataset, self.source.recipe, self.device, resident=self._resident_pixels
        )

    def _batch(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        index_B: NDArray[np.int64],
        targets: Targets,
    ) -> Batch:
        return Batch(
            images=images if self.normalize is None else self.normalize(images),
            labels=labels,
            index=torch.from_numpy(index_B),
            logits=targets.logits,
            features=targets.features,
            heatmaps=targets.heatmaps,
        )


def _agreed_window(window: int | None, source: TargetSource) -> int | None:
    """The loader's window, else its source's, which must not be smaller. Raises UsageError."""
    held = source.window if isinstance(source, WindowedSource) else None
    if window is not None and held is not None and window != held:
        raise UsageError(
            f"the loader was given a window of {window} samples, its source has one of {held}; "
            "give the window to one of them"
        )
    return held if window is None else window
