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
from kdcache.encode import FEATURES, LOGITS, LOGSUMEXP, Encoder, raw_logits
from kdcache.errors import MissingTargets, UsageError
from kdcache.sources import Targets, ViewCycle
from kdcache.store import (
    StoredMentor,
    TargetStore,
    chunk_reader,
    healing_command,
    open_store,
    proven_dataset,
    read_block,
    require_files,
    view_ranges,
)


class TargetStream:
    """The stored TargetSource.

    `store`: an open store or its path. `mentors`: names, in the order of the M axis; None: all.
    `views`: which views to cycle through; None: all that are complete for these mentors.
    `features`: gives their pooled features too. `raw_logits`: gives raw logits, log-probabilities
    plus the stored logsumexps. A view is then complete when it has these as well.
    Memory: two views of what is given, encoded (one, when only one view is usable).
    Raises MissingTargets when no view is complete for these mentors, or the store lacks features
    or logsumexps of one.
    """

    rows_per_request = 1

    def __init__(
        self,
        store: TargetStore | str | os.PathLike[str],
        mentors: Sequence[str] | None = None,
        device: str | torch.device = "auto",
        *,
        views: Sequence[int] | None = None,
        features: bool = False,
        raw_logits: bool = False,
    ) -> None:
        given = {LOGITS.name: True, LOGSUMEXP.name: raw_logits, FEATURES.name: features}
        self.kinds = tuple(kind for kind in given if given[kind])
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

    @property
    def feature_widths(self) -> tuple[int, ...] | None:
        if FEATURES.name not in self.kinds:
            return None
        return tuple(self.store.mentor(m, FEATURES.name).row_shape[0] for m in self.mentors)

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
                f"usable views: {view_ranges(self.views)}. Compute it with: "
                f"{healing_command(self.store, self.mentors, self.kinds)}"
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
        usable = tuple(self.store.usable_views(self.mentors, wanted, self.kinds))
        lacking = [view for view in wanted or () if view not in usable]
        if lacking or (wanted is not None and not wanted):
            raise MissingTargets(
                f"{self.store.root}: the views asked for are {view_ranges(tuple(wanted or ()))}; "
                f"complete for {', '.join(self.mentors)} are {view_ranges(usable)}. Ask for fewer "
                "with --views, or compute the others with `kdcache precompute --views`"
            )
        views = usable if wanted is None else tuple(wanted)
        chosen = [self.store.mentor(name, kind) for name in self.mentors for kind in self.kinds]
        require_files(self.store, chosen, views[0])
        return views

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
            self._resident = ResidentView(stream.store, stream.mentors, stream.device, stream.kinds)
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
    """The encoded rows of one view of some mentors, in memory, by sample.

    `kinds`: names of the kinds of targets; logits are among them.
    """

    def __init__(
        self,
        store: TargetStore,
        mentors: Sequence[str],
        device: torch.device,
        kinds: Sequence[str] = (LOGITS.name,),
    ) -> None:
        self._store = store
        stored = {kind: [store.mentor(name, kind) for name in mentors] for kind in kinds}
        self._logits = _Columns(store, stored[LOGITS.name], device)
        self._logsumexp = self._features = None
        if LOGSUMEXP.name in stored:
            self._logsumexp = _Columns(store, stored[LOGSUMEXP.name], device)
        if FEATURES.name in stored:  # as wide as each mentor's own: side by side in no tensor
            self._features = [_Columns(store, [one], device) for one in stored[FEATURES.name]]

    def load(self, view: int) -> "ResidentView":
        """Replaces what is in memory by another view."""
        for columns in self._all():
            columns.load(view)
        return self

    @property
    def num_bytes(self) -> int:
        """Memory for the encoded rows."""
        return sum(columns.num_bytes for columns in self._all())

    def __getitem__(self, index_B: NDArray[np.int64]) -> torch.Tensor:
        """float32 (B, M, C) on the device: the logits of `gather`."""
        return self._gather_logits(self._positions(index_B))

    def gather(self, index_B: NDArray[np.int64]) -> Targets:
        """Raises MissingTargets for unknown samples."""
        positions_B = self._positions(index_B)
        features = None
        if self._features is not None:
            features = tuple(column.gather(positions_B).squeeze(1) for column in self._features)
        return Targets(logits=self._gather_logits(positions_B), features=features)

    def _all(self) -> list["_Columns"]:
        extra = [] if self._logsumexp is None else [self._logsumexp]
        return [self._logits, *extra, *(self._features or ())]

    def _positions(self, index_B: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(self._store.positions(np.asarray(index_B)))

    def _gather_logits(self, positions_B: torch.Tensor) -> torch.Tensor:
        logits_BMC = self._logits.gather(positions_B)
        if self._logsumexp is None:
            return logits_BMC
        return raw_logits(logits_BMC, self._logsumexp.gather(positions_B))


class _Columns:
    """Several mentors' rows of one kind and shape, each in its encoder: together (N, M, *row)."""

    def __init__(
        self, store: TargetStore, stored: Sequence[StoredMentor], device: torch.device
    ) -> None:
        self._device, self._row_shape = device, stored[0].row_shape
        self._num_mentors = len(stored)
        columns: dict[Encoder, list[int]] = {}
        for column, one in enumerate(stored):
            columns.setdefault(one.encoder, []).append(column)
        self._groups = [
            _EncodedRows(store, [stored[c] for c in members], members, device)
            for members in columns.values()
        ]

    def load(self, view: int) -> None:
        for group in self._groups:
            group.load(view)

    @property
    def num_bytes(self) -> int:
        return sum(group.num_bytes for group in self._groups)

    def gather(self, positions_B: torch.Tensor) -> torch.Tensor:
        """float32 (B, M, *row) on the device."""
        if len(self._groups) == 1:
            return self._groups[0].gather(positions_B)
        shape = (len(positions_B), self._num_mentors, *self._row_shape)
        targets = torch.empty(shape, dtype=torch.float32, device=self._device)
        for group in self._groups:
            targets[:, group.columns] = group.gather(positions_B)
        return targets


class _EncodedRows:
    """The rows of those mentors that share an encoder: (M', N, *row), one allocation."""

    def __init__(
        self,
        store: TargetStore,
        stored: Sequence[StoredMentor],
        columns: Sequence[int],
        device: torch.device,
    ) -> None:
        self.columns = list(columns)
        self._store, self._stored, self._device = store, stored, device
        self._encoder, self._row_shape = stored[0].encoder, stored[0].row_shape
        self._reader = chunk_reader(store, stored[0])
        manifest = store.manifest
        self._padded_samples = manifest.block * manifest.num_blocks
        self._rows = torch.empty(
            (len(stored) * self._padded_samples, *self._row_shape),
            dtype=getattr(torch, self._encoder.dtype),
            pin_memory=device.type == "cuda",
        )
        self._first_row_M = torch.arange(len(stored)) * self._padded_samples

    def load(self, view: int) -> None:
        bytes_of = self._rows.numpy().data.cast("B")
        manifest = self._store.manifest
        chunk = len(bytes_of) // (len(self._stored) * manifest.num_blocks)
        position = 0
        for stored in self._stored:
            for block in range(manifest.num_blocks):
                rows = bytes_of[position : position + chunk]
                read_block(self._store, stored, view, block, rows, self._reader)
                position += chunk

    @property
    def num_bytes(self) -> int:
        return self._rows.untyped_storage().nbytes()

    def gather(self, positions_B: torch.Tensor) -> torch.Tensor:
        rows_BM = positions_B[:, None] + self._first_row_M
        encoded = self._rows.index_select(0, rows_BM.view(-1))
        if self._device.type != "cpu":
            encoded = encoded.to(self._device, non_blocking=True)
        return self._encoder.decode(encoded).view(*rows_BM.shape, *self._row_shape)
