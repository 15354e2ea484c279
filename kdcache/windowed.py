"""A view through a window: blocks loaded in the order they are needed, into slots that are free.

`epoch_order` gives an order of which at most W blocks are needed at any moment. W + 1 slots hold
them: while rows of W are gathered, a background thread loads the next block into the spare one. A
slot is free when the last of its rows was gathered. Every block is read once a pass.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.epoch_order import passage
from kdcache.errors import KdcacheError, UsageError
from kdcache.resident import ResidentBlocks
from kdcache.sources import Targets
from kdcache.store import TargetStore

Rows = TypeVar("Rows")


class WindowedView:
    """One pass over a view's rows, in an order known beforehand.

    `order_K`: the samples in the order in which they will be asked for; fewer than all where a
    rank or a resumed epoch needs fewer. `memory`: its slots; more than `order_K` needs blocks at
    once, so that there is a spare one, or as many as the view has blocks. A block that is missing
    or damaged is an error for whoever asks for rows of it.
    Raises UsageError for an order that needs too many blocks at once.
    """

    def __init__(
        self,
        store: TargetStore,
        view: int,
        order_K: NDArray[np.int64],
        memory: ResidentBlocks,
        num_slots: int,
        loader: ThreadPoolExecutor,
    ) -> None:
        self._view, self._memory, self._loader = view, memory, loader
        self._order_K = order_K
        self._positions_K = store.positions(order_K)
        self._block_rows = store.manifest.block
        self._passage = passage((self._positions_K // self._block_rows).astype(np.int32))
        if self._passage.most_live > num_slots:
            raise UsageError(
                f"these rows in this order need {self._passage.most_live} blocks of "
                f"{self._block_rows} samples at once, the window has {num_slots}; take the order "
                "of kdcache.ReplayLoader, or a larger window"
            )
        self._process, self._is_closed = os.getpid(), False
        self._done = 0  # rows gathered
        self._requested = self._ready = self._left = 0  # of the passage's blocks
        self._free = list(range(num_slots))[::-1]
        self._slot_of: dict[int, int] = {}
        self._loading: dict[int, Future[None]] = {}
        # What to add to a position to get its row in the slots.
        self._shift_B = np.zeros(store.manifest.num_blocks, dtype=np.int64)
        self._request()

    def __getitem__(self, index_B: NDArray[np.int64]) -> torch.Tensor:
        """float32 (B, M, ..) on the device: the primary ones of `gather_targets`."""
        parts = self._take(index_B, self._memory.gather_primary)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def gather_targets(self, index_B: NDArray[np.int64]) -> Targets:
        """The targets of the next rows of the order, and of no others.

        Raises UsageError for other rows, MissingTargets and DamagedTargets for broken blocks.
        """
        return Targets.joined(self._take(index_B, self._memory.gather))

    def close(self) -> None:
        """Nothing fills the slots after this, and nothing can be gathered."""
        self._is_closed = True
        if self._process == os.getpid():
            for loading in self._loading.values():
                loading.cancel()
            for loading in self._loading.values():
                if not loading.cancelled():
                    loading.exception()
        self._loading.clear()

    def _take(
        self, index_B: NDArray[np.int64], gather: Callable[[torch.Tensor], Rows]
    ) -> list[Rows]:
        """The next rows, in parts: a request may need more blocks than there are slots."""
        if self._is_closed:
            raise UsageError(
                "this windowed view was left, or another one of its stream was opened since; a "
                "stream with a window reads one view at a time"
            )
        start, end = self._done, self._done + len(index_B)
        if not np.array_equal(np.asarray(index_B), self._order_K[start:end]):
            raise UsageError(
                f"rows {start} to {end} of a windowed view were asked for out of the order that "
                "it was opened with; ask in that order, or open the whole view (no window)"
            )
        parts = []
        while True:
            stop = min(end, self._reach())
            self._await(stop)
            block_B = self._passage.block_K[start:stop]
            rows_B = torch.from_numpy(self._positions_K[start:stop] + self._shift_B[block_B])
            parts.append(gather(rows_B))
            self._done = start = stop
            self._release()
            if stop == end:
                return parts

    def _reach(self) -> int:
        """The row before which every block has a slot."""
        if self._requested == len(self._passage.arriving):
            return len(self._order_K)
        return int(self._passage.first[self._requested])

    def _request(self) -> None:
        """Has the next blocks loaded into free slots."""
        while self._free and self._requested < len(self._passage.arriving):
            block = int(self._passage.arriving[self._requested])
            slot = self._free.pop()
            self._slot_of[block] = slot
            self._shift_B[block] = (slot - block) * self._block_rows
            if self._process == os.getpid():
                self._loading[block] = self._loader.submit(
                    self._memory.load_block, self._view, block, slot
                )
            self._requested += 1

    def _await(self, stop: int) -> None:
        """Waits for the blocks of the rows before `stop`."""
        while self._ready < self._requested and self._passage.first[self._ready] < stop:
            block = int(self._passage.arriving[self._ready])
            if self._process == os.getpid():
                self._finish(block)
            else:  # a fork: the parent's thread does not run here
                self._memory.load_block(self._view, block, self._slot_of[block])
            self._loading.pop(block, None)
            self._ready += 1

    def _finish(self, block: int) -> None:
        """Waits for a block; once more, where loading it ahead failed: it may have been mended."""
        try:
            self._loading[block].result()
        except KdcacheError:
            slot = self._slot_of[block]
            again = self._loader.submit(self._memory.load_block, self._view, block, slot)
            self._loading[block] = again
            again.result()

    def _release(self) -> None:
        """Frees the slots whose last row was gathered, for the next blocks."""
        while (
            self._left < len(self._passage.leaving) and self._passage.last[self._left] < self._done
        ):
            self._free.append(self._slot_of.pop(int(self._passage.leaving[self._left])))
            self._left += 1
        self._request()
