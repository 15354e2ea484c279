"""What of files the page cache holds, and forgetting it, without any rights. Linux only."""

import os
from collections.abc import Iterable
from pathlib import Path

_STEP = 2**20


def forget(paths: Iterable[Path]) -> float | None:
    """Drops files from the page cache; the share of their mebibytes that is still there.

    None where the system cannot tell.
    """
    seen = held = 0
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if not hasattr(os, "posix_fadvise") or not hasattr(os, "RWF_NOWAIT"):
                return None
            os.fsync(descriptor)  # what is not on disk yet cannot be dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            for offset in range(0, os.fstat(descriptor).st_size, _STEP):
                seen += 1
                held += _is_cached(descriptor, offset)
        except OSError:
            return None
        finally:
            os.close(descriptor)
    return held / max(1, seen)


def _is_cached(descriptor: int, offset: int) -> bool:
    """Whether a byte could be read without waiting for the disk."""
    try:
        return os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
