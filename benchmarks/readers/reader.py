"""What a reader of the comparison is given, and what it gives.

A reader is a context manager: it writes the targets in its format, opens them as its users would,
and closes them. Writing is not timed; the page cache is warm. Every reader gives the same
contiguous float32 (B, M, C). Shapes: B batch, M mentors, N samples, C classes.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.store import TargetStore


@dataclass(frozen=True, kw_only=True)
class Given:
    """The targets of one view, and an empty folder to write them to.

    `logits_NMC`: float16, as `store` has them for `view`; index and position are the same here.
    """

    folder: Path
    store: TargetStore
    view: int
    logits_NMC: NDArray[np.float16]


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A reader at work. `take(index_B)`: contiguous float32 (B, M, C).

    `order`: for a reader that chooses the samples itself and takes only the number from `index_B`:
    which ones the last batch had. `path`: what it wrote; None: it reads our store.
    """

    take: Callable[[NDArray[np.int64]], torch.Tensor]
    path: Path | None = None
    order: Callable[[], NDArray[np.int64]] | None = None


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One way of reading. `libraries`: what it imports, by the name it is installed under."""

    name: str
    open: Callable[[Given], AbstractContextManager[Opened]]
    libraries: Sequence[str] = ()
    how: str


def batch_of_bytes(rows: Sequence[bytes | memoryview], shape: Sequence[int]) -> torch.Tensor:
    """float32 (B, M, C) from the float16 bytes of each sample."""
    # A bytearray, because torch warns of memory that it may not write; one copy either way.
    encoded = np.frombuffer(bytearray().join(rows), dtype=np.float16)
    return torch.from_numpy(encoded).float().view(len(rows), *shape)
