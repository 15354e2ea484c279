"""Counter-based randomness: numbers addressed by what they are for, never by call order.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), vectorised.
A word is a function of (seed, purpose, address) alone, so it is the same one by one, in batches,
shuffled, on any rank and after any restart. Integer arithmetic only: the same on every machine.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
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
    counter = [
        address & _LOW,
        address >> _HALF,
        np.full_like(address, minor),
        np.full_like(address, int(purpose)),
    ]
    return _philox(counter, (seed & 0xFFFFFFFF, seed >> 32))


def below(random_words: NDArray[np.uint32], bound: int) -> NDArray[np.int64]:
    """Integers in [0, bound) of uint32 words: a product's high half (bias < bound / 2^32)."""
    return ((random_words.astype(np.uint64) * np.uint64(bound)) >> _HALF).astype(np.int64)


def permutation(seed: int, purpose: Purpose, minor: int, count: int) -> NDArray[np.int64]:
    """A random order of 0 .. count-1: positions sorted by a 64-bit random key each."""
    keys = words(seed, purpose, np.arange(count), minor).astype(np.uint64)
    return np.argsort((keys[:, 0] << _HALF) | keys[:, 1], kind="stable")


def _philox(counter: list[NDArray[np.uint64]], key: tuple[int, int]) -> NDArray[np.uint32]:
    c0, c1, c2, c3 = counter  # uint64 arrays that hold 32-bit words, so products do not overflow
    for round_number in range(ROUNDS):
        k0, k1 = (
            np.uint64((word + round_number * weyl) & 0xFFFFFFFF)
            for word, weyl in zip(key, _WEYL, strict=True)
        )
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> _HALF) ^ c1 ^ k0,
            product1 & _LOW,
            (product0 >> _HALF) ^ c3 ^ k1,
            product0 & _LOW,
        )
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)
