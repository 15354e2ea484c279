"""A store's views, streamed: loaded in the background, rows gathered in memory.

Zarr is never indexed per batch (250 to 800 times slower). A background thread reads the next view
into one of two reused `resident.ResidentView`s, where rows are gathered by index; or, where views
do not fit, the next block of one view into one of the reused slots of a `windowed.WindowedView`.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.datasets import ImageDataset
from kdcache.devices import resolve_device
from kdcache.encode import FEATURES, LOGSUMEXP
from kdcache.epoch_order import Blocks, require_window
from kdcache.errors import KdcacheError, MissingTargets, UsageError
from kdcache.memory import available_memory, gigabytes
from kdcache.resident import ResidentBlocks, ResidentView
from kdcache.sources import ViewCycle
from kdcache.store import (
    StoredMentor,
    TargetStore,
    healing_command,
    loading_bytes,
    open_store,
    proven_dataset,
    require_files,
    resident_bytes,
    view_ranges,
)
from kdcache.windowed import WindowedView

_SHARE = 0.8  # of the memory available, that a window named in an error takes


class TargetStream:
    """The stored TargetSource.

    `store`: an open store, its path or URL. `mentors`: names, in the order of the M axis; None:
    all. `views`: which views to cycle through; None: all that are complete for these mentors.
    `features`: gives their pooled features too. `raw_logits`: gives raw logits, log-probabilities
    plus the stored logsumexps. A view is then complete when it has these as well.
    `window`: samples to hold in memory at once, rounded up to whole blocks; None: whole views.
    Memory: two views of what is given, encoded (one, when only one view is usable); with a window
    of W blocks W + 1 blocks, and never more than the view's. Of compressed chunks, one as stored.
    Beside these, with a window, 4 bytes a sample (12 of a store of some samples), and the batches
    that are under way. On CUDA the blocks are page-locked, which may round their size up.
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
        window: int | None = None,
    ) -> None:
        require_window(window)
        self.store = store if isinstance(store, TargetStore) else open_store(store)
        primary = self.store.manifest.primary.name
        given = {primary: True, LOGSUMEXP.name: raw_logits, FEATURES.name: features}
        self.kinds = tuple(kind for kind in given if given[kind])
        self.mentors = tuple(self.store.mentors if mentors is None else mentors)
        if len(set(self.mentors)) != len(self.mentors):
            raise UsageError(f"a mentor is named twice: {', '.join(self.mentors)}")
        self.device = resolve_device(str(device))
        self.recipe = self.store.recipe
        self.window = window
        self.views = self._choose_views(views)
        self._cycle = ViewCycle(self.recipe, self.views)
        self._slots = [_Slot(), _Slot()]
        self._window_slots: ResidentBlocks | None = None
        self._windowed: WindowedView | None = None  # the last one opened
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
    def view(self, number: int) -> Iterator[ResidentView]:
        """One whole view in memory; meanwhile the next one is loaded in the background.

        Raises MissingTargets for a view that is not complete, DamagedTargets for broken chunks,
        UsageError when the stream has a window.
        """
        if self.window is not None:
            raise UsageError(
                f"this stream holds a window of {self.window} samples, not whole views; open one "
                "with ordered_view(number, order), or make the stream without a window"
            )
        self._require_usable(number)
        ahead = any(slot.view == number for slot in self._slots)
        slot = self._request(number)
        try:
            try:
                resident = slot.wait()
            except KdcacheError:
                if not ahead:
                    raise
                # It failed while it was not needed yet; what was wrong may have been mended.
                slot.load(number, self)
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

    @contextmanager
    def ordered_view(
        self, number: int, order_K: NDArray[np.int64]
    ) -> Iterator[ResidentView | WindowedView]:
        """One view for these samples; with a window, they must be asked for in this order.

        Raises MissingTargets for a view that is not complete; DamagedTargets for broken chunks,
        with a window when their rows are asked for. UsageError for an order that needs more blocks
        at once than the window has. A windowed view that is open still can be read no further.
        """
        if self.window is None:
            with self.view(number) as resident:
                yield resident
            return
        self._require_usable(number)
        if self._windowed is not None:  # in a loop that was left by an error, for example
            self._windowed.close()
        if self.store.remote is not None:
            self._expect_ordered(number, order_K)
        if self._window_slots is None:
            self._window_slots = ResidentBlocks(
                self.store, self.mentors, self.device, self.kinds, num_slots=self.num_slots
            )
        targets = self._windowed = WindowedView(
            self.store, number, order_K, self._window_slots, self.num_slots, self.executor()
        )
        try:
            yield targets
        finally:
            targets.close()

    def _expect_ordered(self, number: int, order_K: NDArray[np.int64]) -> None:
        """A pass over a view at a URL comes; before memory is taken for it, bytes have arrived."""
        block_K = self.store.positions(order_K) // self.store.manifest.block
        found, first = np.unique(block_K, return_index=True)
        blocks, stored = found[np.argsort(first)].tolist(), self._stored()
        if self._window_slots is None:
            require_files(self.store, stored, number, blocks[: self.num_slots])
        self.store.expect((one, number, block) for block in blocks for one in stored)

    def blocks(self, index_N: NDArray[np.int64]) -> Blocks:
        """In which of the store's blocks these samples lie. Raises MissingTargets."""
        rows = self.store.manifest.block
        return Blocks(rows=rows, block_N=self.store.positions(index_N) // rows)

    @property
    def num_slots(self) -> int:
        """Blocks in memory at once."""
        blocks = self.store.manifest.num_blocks
        if self.window is None:
            return blocks * min(2, len(self.views))
        return min(blocks, ceil(self.window / self.store.manifest.block) + 1)

    @property
    def num_bytes(self) -> int:
        """The most memory that it takes."""
        stored, manifest = self._stored(), self.store.manifest
        blocks = sum(resident_bytes(manifest, one.encoder, one.row_shape) for one in stored)
        # Of what is compressed or unpacked, each allocation's: features are apart by mentor.
        buffers = {
            (
                one.kind.name,
                one.encoder.family,
                one.manifest.name if one.kind.from_features else None,
            ): loading_bytes(manifest, one.encoder, one.row_shape)
            for one in stored
        }
        sets = 1 if self.window is not None else min(2, len(self.views))
        return self.num_slots * blocks + sets * sum(buffers.values())

    def require_memory(self) -> None:
        """Raises UsageError when that is more than this machine has left, naming what fits."""
        available = available_memory()
        held = self._window_slots is not None or any(slot.is_made for slot in self._slots)
        if available is None or held or self.num_bytes <= available:
            return
        block_bytes = self.num_bytes / self.num_slots
        rows, blocks = self.store.manifest.block, self.store.manifest.num_blocks
        fits = min(int(_SHARE * available / block_bytes), blocks) - 1
        what = f"a window of {self.window} samples"
        if self.window is None:
            what = "two views" if len(self.views) > 1 else "a view"
        advice = (
            f"Train through a window: --window {fits * rows} (window={fits * rows}) takes "
            f"{gigabytes((fits + 1) * block_bytes)}"
            if fits > 0
            else f"Not even two blocks of {rows} samples fit, {gigabytes(2 * block_bytes)}: choose "
            "fewer mentors with --mentors"
        )
        raise UsageError(
            f"{self.store.address}: {what} of {len(self.mentors)} mentors "
            f"({', '.join(self.kinds)}) needs {gigabytes(self.num_bytes)} of memory, "
            f"{gigabytes(available)} are available here. {advice}, or free memory"
        )

    def _require_usable(self, number: int) -> None:
        if number not in self.views:
            raise MissingTargets(
                f"{self.store.address}: view {number} is not complete for "
                f"{', '.join(self.mentors)}; usable views: {view_ranges(self.views)}. "
                "Compute it with: "
                f"{healing_command(self.store, self.mentors, self.kinds)}"
            )

    def _choose_views(self, wanted: Sequence[int] | None) -> tuple[int, ...]:
        usable = tuple(self.store.usable_views(self.mentors, wanted, self.kinds))
        lacking = [view for view in wanted or () if view not in usable]
        if lacking or (wanted is not None and not wanted):
            raise MissingTargets(
                f"{self.store.address}: the views asked for are "
                f"{view_ranges(tuple(wanted or ()))}; complete for {', '.join(self.mentors)} are "
                f"{view_ranges(usable)}. Ask for fewer with --views, or compute the others "
                "with `kdcache precompute --views`"
            )
        views = usable if wanted is None else tuple(wanted)
        if self.store.remote is None:  # at a URL they are asked for when they are first needed
            require_files(self.store, self._stored(), views[0])
        return views

    def require_first(self, number: int) -> None:
        """Before memory is taken for the first view of a store at a URL, its bytes have arrived."""
        if self.store.remote is not None and not any(slot.is_made for slot in self._slots):
            require_files(self.store, self._stored(), number)

    def _stored(self) -> list[StoredMentor]:
        """What is streamed, in the order in which it is read."""
        return [self.store.mentor(name, kind) for kind in self.kinds for name in self.mentors]

    def _expect(self, number: int) -> None:
        """A view is read now, then the one after it."""
        views = dict.fromkeys((number, self._cycle.after(number)))
        blocks = range(self.store.manifest.num_blocks)
        stored = self._stored()
        self.store.expect(
            (one, view, block) for view in views for block in blocks for one in stored
        )

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
        self._expect(number)
        free.load(number, self)
        return free

    def __getstate__(self) -> dict[str, Any]:
        """Pickled (for a spawned process) without thread and buffers; the child makes its own."""
        fresh = {"_loader": None, "_slots": [_Slot(), _Slot()]}
        return {**self.__dict__, **fresh, "_window_slots": None, "_windowed": None}

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

    @property
    def is_made(self) -> bool:
        return self._resident is not None

    def load(self, number: int, stream: TargetStream) -> None:
        if self._loading is not None and self._process == os.getpid():
            self._loading.exception()  # the buffer must be quiet before it is filled anew
        if self._resident is None:
            stream.require_first(number)
            self._resident = ResidentView(stream.store, stream.mentors, stream.device, stream.kinds)
        self.view, self._process = number, os.getpid()
        self._loading = stream.executor().submit(self._resident.load, number)

    def wait(self) -> ResidentView:
        assert self._loading is not None
        if self._process != os.getpid():  # a fork: the parent's thread does not run here
            assert self._resident is not None
            assert self.view is not None
            return self._resident.load(self.view)
        return self._loading.result()

    def forget(self) -> None:
        self.view = None
