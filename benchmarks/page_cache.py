"""The page cache: putting files out of it, and what of them it still holds. Needs no rights."""

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

MOST_CACHED = 0.01


class StillCached(Exception):
    """The system keeps pages in memory that it was asked to forget."""


def forget_pages(paths: Iterable[Path]) -> float:
    """Puts these files out of the page cache; the share that is left there, at most 1%.

    Raises StillCached unless the system did it.
    """
    if not hasattr(os, "posix_fadvise"):
        raise StillCached("this system has no posix_fadvise to empty its page cache with")
    total = left = 0
    for path in paths:
        size = path.stat().st_size
        if not size:
            continue
        with open(path, "rb", buffering=0) as file:
            os.fsync(file.fileno())  # what is not on the disk yet stays
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            total += -(-size // mmap.PAGESIZE)
            left += cached_pages(file.fileno(), size)
    if left > MOST_CACHED * total:
        raise StillCached(f"the system keeps {left / total:.0%} of the files in its page cache")
    return left / max(1, total)


def cached_pages(file: int, size: int) -> int:
    """How many of an open file's pages lie in memory (mincore)."""
    pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    with mmap.mmap(file, size, access=mmap.ACCESS_READ) as mapped:
        mapped_bytes = np.frombuffer(mapped, dtype=np.uint8)
        address = ctypes.c_void_p(mapped_bytes.ctypes.data)
        del mapped_bytes  # or the map could not be closed
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mincore(address, ctypes.c_size_t(size), pages):
            raise OSError(ctypes.get_errno(), "mincore cannot say what is in memory")
    return sum(page & 1 for page in pages)
