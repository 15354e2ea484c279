"""Counter-based randomness: numbers addressed by what they are for, never by call order.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), vectorised.
A word is a function of (seed, purpose, address) alone, so it is the same one by one, in batches,
shuffled, on any rank and after any restart. Integer arithmetic only: the same on every machine.
"""

from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
ROUNDS = 10


class Purpose(IntEnum):
    """The counter's last word: streams of different purposes never share a number.

    These values are part of the store format; they may be added to, never changed.
    """

    VIEW = 0
    EPOCH_ORDER = 1
    SAMPLED_PIXELS = 2
    REPLAY_PROOF = 3
    DROPOUT = 4
    RECOMPUTED_ROWS = 5
    LOSS_WEIGHTS = 6
    BLOCK_ORDER = 7
    CALIBRATION = 8
    TAKEN_ROWS = 9
    VIEW_DETAIL = 10
    PROOF_PIXELS = 11


def words(seed: int, purpose: Purpose, major: ArrayLike, minor: int = 0) -> NDArray[np.uint32]:
    """Four random words per address.

    `seed`: 0 to 2^64 - 1 (the key). `major`: int64 array (B,), e.g. sample indices (counter words
    0 and 1). `minor`: 0 to 2^32 - 1, e.g. the view (counter word 2). Returns uint32 (B, 4).
    Raises ValueError for values outside these ranges.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must lie in [0, 2^64), got {seed}")
    if not 0 <= minor < 2**32:
        raise ValueError(f"view or epoch must lie in [0, 2^32), got {minor}")
    signed = np.atleast_1d(np.asarray(major, dtype=np.int64))
    if signed.size and signed.min() < 0:
        raise ValueError(f"index must not be negative, got {signed.min()}")
    address = signed.astype(np.uint64)
    even_2B = np.stack([address & _LOW, np.full_like(address, minor)])
    odd_2B = np.stack([address >> _HALF, np.full_like(address, int(purpose))])
    return _philox(even_2B, odd_2B, _round_keys(seed))


def below(random_words: NDArray[np.uint32], bound: int) -> NDArray[np.int64]:
    """Integers in [0, bound) of uint32 words: a product's high half (bias < bound / 2^32)."""
    return ((random_words.astype(np.uint64) * np.uint64(bound)) >> _HALF).astype(np.int64)


def permutation(seed: int, purpose: Purpose, minor: int, count: int) -> NDArray[np.int64]:
    """A random order of 0 .. count-1: positions sorted by a 64-bit random key each."""
    keys = words(seed, purpose, np.arange(count), minor).astype(np.uint64)
    return np.argsort((keys[:, 0] << _HALF) | keys[:, 1], kind="stable")


@lru_cache(maxsize=64)
def _round_keys(seed: int) -> NDArray[np.uint64]:
    """Each round's two key words, (ROUNDS, 2, 1)."""
    halves = ((seed & 0xFFFFFFFF, _WEYL[0]), (seed >> 32, _WEYL[1]))
    rounds = [
        [[(word + number * weyl) & 0xFFFFFFFF] for word, weyl in halves] for number in range(ROUNDS)
    ]
    return np.array(rounds, dtype=np.uint64)


def _philox(
    even_2B: NDArray[np.uint64], odd_2B: NDArray[np.uint64], round_keys: NDArray[np.uint64]
) -> NDArray[np.uint32]:
    """Ten rounds on the counter words (0, 2) and (1, 3), each 32 bits held in a uint64."""
    for key_21 in round_keys:
        product_2B = even_2B * _MULTIPLIERS
        even_2B = (product_2B >> _HALF)[::-1] ^ odd_2B ^ key_21
        odd_2B = (product_2B & _LOW)[::-1]
    words_B4 = np.empty((even_2B.shape[1], 4), dtype=np.uint32)
    words_B4[:, 0::2], words_B4[:, 1::2] = even_2B.T, odd_2B.T
    return words_B4
