"""The one order of an epoch: a function of (seed, epoch) alone, for every source of targets.

Without a window it is a random permutation of all samples. Where a view does not fit in memory, the
targets are read in blocks of samples, and the order is a *sliding shuffle* that needs at most W
blocks at any moment; each block is needed for one stretch of the epoch, so it is read once, whole.

How: the blocks come in a random order. Block r of B, in that order, lives on a stretch of a line,

    from 0 if r < W, else r,    to B + W - 1 if r >= B - W, else W + r

and each of its samples lies at a uniform place of the stretch; the epoch goes along the line. Block
r begins exactly where block r - W ends, so exactly W live everywhere, from the first batch to the
last. Inside the line every stretch has length W, near its ends up to 2W (3W where B < 2W): a batch
draws from all W live blocks, with chances at most twice (3 times) as high for one as for another.
With W >= B it is the permutation without a window, number by number.

How good it is (held by tests), with b samples a block:
- Any sample can come at any time of an epoch, since blocks are shuffled; each epoch shuffles anew.
- Samples of one block are spread over W to 2W stretches of b samples: within a block, places in the
  epoch have a standard deviation of about W b / sqrt(12).
- A batch of k samples is a sample of W b: it holds about W (1 - (1 - 1/W)^k) different blocks.
- On data sorted by class, a batch has as few classes as W random blocks have; shuffled data (such
  as CIFAR's, or any list shuffled once before precompute) loses nothing.

Shapes: N samples of the dataset, K rows of an order.
"""

from dataclasses import dataclass
from math import ceil
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from kdcache import philox
from kdcache.errors import UsageError

Integers = NDArray[np.signedinteger]

_PLACE_BITS = 40  # of a uint64: 24 remain for the line's whole numbers
_MOST_BLOCKS = 2**22


@dataclass(frozen=True, kw_only=True, eq=False)
class Blocks:
    """In which blocks a dataset's samples are read.

    `rows`: samples of a whole block. `block_N`: int64, each sample's block.
    """

    rows: int
    block_N: NDArray[np.int64]

    def window_blocks(self, window: int) -> int:
        """A window of so many samples in whole blocks, rounded up."""
        return ceil(window / self.rows)


def require_window(window: object, batch_size: int = 1, world_size: int = 1) -> None:
    """Raises UsageError unless a window is None or a number of samples that holds a batch."""
    if window is None:
        return
    if isinstance(window, bool) or not isinstance(window, Integral) or int(window) < 1:
        raise UsageError(
            f"window must be a whole number of samples, at least 1, got {window!r}; leave it out "
            "to hold whole views in memory"
        )
    if int(window) < batch_size * world_size:
        over = f" on each of {world_size} ranks" if world_size > 1 else ""
        raise UsageError(
            f"a window of {window} samples is smaller than a batch of {batch_size}{over}; give at "
            f"least {batch_size * world_size} (a batch is drawn from the window, so rather much "
            "more)"
        )


def epoch_order(
    seed: int,
    epoch: int,
    num_samples: int,
    *,
    window: int | None = None,
    blocks: Blocks | None = None,
) -> NDArray[np.int64]:
    """Positions 0 .. N-1 of the dataset's samples in the order of an epoch, int64 (N,).

    `window`: samples of which targets are in memory at once; None: all of them. `blocks`: how they
    are read; needed for a window.
    """
    if window is None or blocks is None:
        return philox.permutation(seed, philox.Purpose.EPOCH_ORDER, epoch, num_samples)
    present, block_N = np.unique(blocks.block_N, return_inverse=True)
    count, width = len(present), blocks.window_blocks(window)
    if width >= count:
        return philox.permutation(seed, philox.Purpose.EPOCH_ORDER, epoch, num_samples)
    if count > _MOST_BLOCKS:
        raise UsageError(f"{count} blocks are more than the {_MOST_BLOCKS} that can be shuffled")
    rank_of_block = np.empty(count, dtype=np.int64)
    rank_of_block[philox.permutation(seed, philox.Purpose.BLOCK_ORDER, epoch, count)] = np.arange(
        count
    )
    start_R, length_R = _stretches(count, width)
    # The key that orders a sample without a window says how far along its stretch it lies.
    words_N4 = philox.words(seed, philox.Purpose.EPOCH_ORDER, np.arange(num_samples), epoch)
    key_N = (words_N4[:, 0].astype(np.uint64) << np.uint64(32)) | words_N4[:, 1]
    rank_N = rank_of_block[block_N]
    place_N = start_R[rank_N] << np.uint64(_PLACE_BITS)
    place_N += (key_N >> np.uint64(64 - _PLACE_BITS)) * length_R[rank_N]
    return np.argsort(place_N, kind="stable")


def _stretches(count: int, width: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Where each block's stretch begins, and its length; uint64 (B,), by rank, for W < B."""
    rank_R = np.arange(count)
    start_R = np.where(rank_R < width, 0, rank_R)
    end_R = np.where(rank_R >= count - width, count + width - 1, width + rank_R)
    return start_R.astype(np.uint64), (end_R - start_R).astype(np.uint64)


@dataclass(frozen=True, eq=False)
class Passage:
    """When each block of a sequence of rows is first and last needed.

    `block_K`: each row's block, as given. `arriving`: blocks by their first row; `first`: those
    rows. `leaving`: blocks by their last row; `last`: those rows.
    """

    block_K: Integers
    arriving: Integers
    first: Integers
    leaving: Integers
    last: Integers

    @property
    def most_live(self) -> int:
        """The most blocks that are needed at one moment."""
        if not len(self.first):
            return 0
        # Those that have come, itself included, when a block comes; less those that have gone.
        gone = np.searchsorted(self.last, self.first)
        return int((np.arange(1, len(self.first) + 1) - gone).max())


def passage(block_K: Integers) -> Passage:
    """The passage of blocks through rows that need them."""
    arriving, first = np.unique(block_K, return_index=True)
    by_first = np.argsort(first)
    leaving, from_end = np.unique(block_K[::-1], return_index=True)
    last = len(block_K) - 1 - from_end
    by_last = np.argsort(last)
    return Passage(block_K, arriving[by_first], first[by_first], leaving[by_last], last[by_last])
