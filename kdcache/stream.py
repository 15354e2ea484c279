"""A store's views, streamed: whole views loaded in the background, rows gathered in memory.

Zarr is never indexed per batch (250 to 800 times slower). A background thread reads the next view
into one of two reused `resident.ResidentView`s, where rows are gathered by index.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from kdcache.datasets import ImageDataset
from kdcache.devices import resolve_device
from kdcache.encode import FEATURES, LOGITS, LOGSUMEXP
from kdcache.errors import MissingTargets, UsageError
from kdcache.resident import ResidentView
from kdcache.sources import ViewCycle
from kdcache.store import (
    StoredMentor,
    TargetStore,
    healing_command,
    open_store,
    proven_dataset,
    require_files,
    view_ranges,
)


class TargetStream:
    """The stored TargetSource.

    `store`: an open store, its path or URL. `mentors`: names, in the order of the M axis; None:
    all. `views`: which views to cycle through; None: all that are complete for these mentors.
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
    def view(self, number: int) -> Iterator[ResidentView]:
        """One view in memory; meanwhile the next one is loaded in the background.

        Raises MissingTargets for a view that is not complete, DamagedTargets for broken chunks.
        """
        if number not in self.views:
            raise MissingTargets(
                f"{self.store.address}: view {number} is not complete for "
                f"{', '.join(self.mentors)}; usable views: {view_ranges(self.views)}. "
                "Compute it with: "
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
                f"{self.store.address}: the views asked for are "
                f"{view_ranges(tuple(wanted or ()))}; complete for {', '.join(self.mentors)} are "
                f"{view_ranges(usable)}. Ask for fewer with --views, or compute the others "
                "with `kdcache precompute --views`"
            )
        views = usable if wanted is None else tuple(wanted)
        require_files(self.store, self._stored(), views[0])
        return views

    def _stored(self) -> list[StoredMentor]:
        """What is streamed, in the order in which it is read."""
        return [self.store.mentor(name, kind) for kind in self.kinds for name in self.mentors]

    def _expect(self, number: int) -> None:
        """A view is read now, then the one after it."""
        views = dict.fromkeys((number, self._cycle.after(number)))
        blocks = range(self.store.manifest.num_blocks)
        stored = self._stored()
        self.store.expect(
            (one, view, block) for view in views for one in stored for block in blocks
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

    def wait(self) -> ResidentView:
        assert self._loading is not None
        if self._process != os.getpid():  # a fork: the parent's thread does not run here
            assert self._resident is not None
            assert self.view is not None
            return self._resident.load(self.view)
        return self._loading.result()

    def forget(self) -> None:
        self.view = None
