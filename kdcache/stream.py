"""A store's views, streamed: whole views loaded in the background, rows gathered in memory.

Zarr is never indexed per batch (250 to 800 times slower). A background thread reads the next view,
still encoded, into one of two reused buffers and checks every chunk; rows are gathered there by
index and decoded on the training device.

Shapes: B batch, M mentors, N samples (padded to whole blocks), then the kind's row.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.datasets import ImageDataset
from kdcache.devices import resolve_device
from kdcache.encode import Encoder
from kdcache.errors import MissingTargets, UsageError
from kdcache.sources import ViewCycle
from kdcache.store import (
    ChunkReader,
    TargetStore,
    healing_command,
    open_store,
    proven_dataset,
)


class TargetStream:
    """The stored TargetSource.

    `store`: an open store or its path. `mentors`: names, in the order of the M axis; None: all.
    `views`: which views to cycle through; None: all that are complete for these mentors.
    Memory: two views of these mentors, encoded (one, when only one view is usable).
    Raises MissingTargets when no view is complete for these mentors.
    """

    rows_per_request = 1

    def __init__(
        self,
        store: TargetStore | str | os.PathLike[str],
        mentors: Sequence[str] | None = None,
        device: str | torch.device = "auto",
        *,
        views: Sequence[int] | None = None,
    ) -> None:
        self.store = store if isinstance(store, TargetStore) else open_store(store)
        self.mentors = tuple(self.store.mentors if mentors is None else mentors)
        if len(set(self.mentors)) != len(self.mentors):
            raise UsageError(f"a mentor is named twice: {', '.join(self.mentors)}")
        self.device = resolve_device(str(device))
        self.recipe = self.store.recipe
        self.views = self._choose_views(views)
        self._cycle = ViewCycle(self.recipe, self.views)
        self._slots = [_Slot(), _Slot()]
        self._loader: ThreadPoolExecutor | None = None
        self._loader_process = 0

    def view_of_epoch(self, epoch: int) -> int:
        return self._cycle[epoch]

    @contextmanager
    def view(self, number: int) -> Iterator["ResidentView"]:
        """One view in memory; meanwhile the next one is loaded in the background.

        Raises MissingTargets for a view that is not complete, DamagedTargets for broken chunks.
        """
        if number not in self.views:
            raise MissingTargets(
                f"{self.store.root}: view {number} is not complete for {', '.join(self.mentors)}; "
                f"usable views: {_ranges(self.views)}. Compute it with: "
                f"{healing_command(self.store, self.mentors)}"
            )
        slot = self._request(number)
        try:
            resident = slot.wait()
            slot.readers += 1
        except BaseException:
            slot.forget()
            raise
        try:
            following = self._cycle.after(number)
            if following != number and any(s.readers == 0 for s in self._slots):
                self._request(following)
            yield resident
        finally:
            slot.readers -= 1

    def _choose_views(self, wanted: Sequence[int] | None) -> tuple[int, ...]:
        usable = tuple(self.store.usable_views(self.mentors, wanted))
        if wanted is None:
            self.store.require_files(self.mentors, usable[0])
            return usable
        lacking = [view for view in wanted if view not in usable]
        if lacking or not wanted:
            raise MissingTargets(
                f"{self.store.root}: the views asked for are {_ranges(tuple(wanted))}; complete "
                f"for {', '.join(self.mentors)} are {_ranges(usable)}. Ask for fewer with --views, "
                "or compute the others with `kdcache precompute --views`"
            )
        self.store.require_files(self.mentors, wanted[0])
        return tuple(wanted)

    def require_dataset(self, dataset: ImageDataset, *, narrow: bool = True) -> ImageDataset:
        """The store's part of `dataset`, proven to be what the mentors saw.

        With `narrow` a whole dataset is narrowed to the store's samples. Raises as
        `proven_dataset`, and MissingTargets for samples that the store lacks.
        """
        stored_part = proven_dataset(self.store, dataset)
        if narrow and dataset.is_whole:
            return stored_part
        self.store.positions(dataset.index_N)
        return dataset

    def _request(self, number: int) -> "_Slot":
        for slot in self._slots:
            if slot.view == number:
                return slot
        free = next((slot for slot in self._slots if slot.readers == 0), None)
        if free is None:
            raise UsageError("two views are held open already; leave one before entering a third")
        free.load(number, self)
        return free

    def __getstate__(self) -> dict[str, Any]:
        """Pickled (for a spawned process) without thread and buffers; the child makes its own."""
        return {**self.__dict__, "_loader": None, "_slots": [_Slot(), _Slot()]}

    def executor(self) -> ThreadPoolExecutor:
        """The loading thread; a forked child gets its own."""
        if self._loader is None or self._loader_process != os.getpid():
            self._loader = ThreadPoolExecutor(1, thread_name_prefix="kdcache-stream")
            self._loader_process = os.getpid()
        return self._loader


class _Slot:
    """One reused buffer, and the view that is in it or on its way."""

    def __init__(self) -> None:
        self.view: int | None = None
        self.readers = 0
        self._resident: ResidentView | None = None
        self._loading: Future[ResidentView] | None = None
        self._process = 0

    def load(self, number: int, stream: TargetStream) -> None:
        if self._loading is not None and self._process == os.getpid():
            self._loading.exception()  # the buffer must be quiet before it is filled anew
        if self._resident is None:
            self._resident = ResidentView(stream.store, stream.mentors, stream.device)
        self.view, self._process = number, os.getpid()
        self._loading = stream.executor().submit(self._resident.load, number)

    def wait(self) -> "ResidentView":
        assert self._loading is not None
        if self._process != os.getpid():  # a fork: the parent's thread does not run here
            assert self._resident is not None
            assert self.view is not None
            return self._resident.load(self.view)
        return self._loading.result()

    def forget(self) -> None:
        self.view = None


class ResidentView:
    """The encoded rows of one view of some mentors, in memory, by sample."""

    def __init__(self, store: TargetStore, mentors: Sequence[str], device: torch.device) -> None:
        self._store = store
        self._device = device
        self._num_mentors = len(mentors)
        columns: dict[Encoder, list[int]] = {}
        for column, name in enumerate(mentors):
            columns.setdefault(store.mentor(name).encoder, []).append(column)
        self._groups = [
            _EncodedRows(store, encoder, [mentors[c] for c in members], members, device)
            for encoder, members in columns.items()
        ]

    def load(self, view: int) -> "ResidentView":
        """Replaces what is in memory by another view."""
        for group in self._groups:
            group.load(view)
        return self

    def __getitem__(self, index_B: NDArray[np.int64]) -> torch.Tensor:
        """float32 (B, M, *row) on the device. Raises MissingTargets for unknown samples."""
        positions_B = torch.from_numpy(self._store.positions(np.asarray(index_B)))
        if len(self._groups) == 1:
            return self._groups[0].gather(positions_B)
        shape = (len(positions_B), self._num_mentors, *self._store.row_shape)
        targets = torch.empty(shape, dtype=torch.float32, device=self._device)
        for group in self._groups:
            targets[:, group.columns] = group.gather(positions_B)
        return targets


class _EncodedRows:
    """The rows of those mentors that share an encoder: (M', N, *row), one allocation."""

    def __init__(
        self,
        store: TargetStore,
        encoder: Encoder,
        mentors: Sequence[str],
        columns: Sequence[int],
        device: torch.device,
    ) -> None:
        self.columns = list(columns)
        self._store, self._encoder, self._mentors, self._device = store, encoder, mentors, device
        self._reader = ChunkReader(encoder, store.chunk_bytes(mentors[0]))
        manifest = store.manifest
        self._padded_samples = manifest.block * manifest.num_blocks
        self._rows = torch.empty(
            (len(mentors) * self._padded_samples, *store.row_shape),
            dtype=getattr(torch, encoder.dtype),
            pin_memory=device.type == "cuda",
        )
        self._first_row_M = torch.arange(len(mentors)) * self._padded_samples

    def load(self, view: int) -> None:
        bytes_of = self._rows.numpy().data.cast("B")
        manifest = self._store.manifest
        chunk = len(bytes_of) // (len(self._mentors) * manifest.num_blocks)
        position = 0
        for mentor in self._mentors:
            for block in range(manifest.num_blocks):
                rows = bytes_of[position : position + chunk]
                self._store.read_block(mentor, view, block, rows, self._reader)
                position += chunk

    def gather(self, positions_B: torch.Tensor) -> torch.Tensor:
        rows_BM = positions_B[:, None] + self._first_row_M
        encoded = self._rows.index_select(0, rows_BM.view(-1))
        if self._device.type != "cpu":
            encoded = encoded.to(self._device, non_blocking=True)
        return self._encoder.decode(encoded).view(*rows_BM.shape, *self._store.row_shape)


def _ranges(views: Sequence[int]) -> str:
    """0-39 for a run of views, else a list."""
    if len(views) > 2 and list(views) == list(range(views[0], views[-1] + 1)):
        return f"{views[0]} to {views[-1]}"
    return ", ".join(map(str, views)) or "none"
