"""Other Zarr readers on our very store, indexed per batch: possible, and what `stream.py` avoids.

Every batch touches every chunk of the view, so each of them is read and checked each time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.readers.reader import Given, Opened

ZARRS = "zarrs.ZarrsCodecPipeline"


@contextmanager
def zarr_python(given: Given) -> Iterator[Opened]:
    """zarr-python's orthogonal selection, an array a mentor."""
    yield _orthogonal(given)


@contextmanager
def zarrs_pipeline(given: Given) -> Iterator[Opened]:
    """The same calls with the codec pipeline of `zarrs`, which is compiled Rust."""
    import zarr
    import zarrs

    assert zarrs.ZarrsCodecPipeline is not None
    with zarr.config.set({"codec_pipeline.path": ZARRS}):
        yield _orthogonal(given)


def _orthogonal(given: Given) -> Opened:
    import zarr

    # An array keeps the codec pipeline that was set when it was opened.
    arrays: list[Any] = [zarr.open_array(path, mode="r") for path in _arrays(given)]

    def take(index_B: NDArray[np.int64]) -> torch.Tensor:
        # oindex is the same with 1.1 to 1.2 times the time.
        rows = [array.get_orthogonal_selection((given.view, index_B)) for array in arrays]
        return torch.from_numpy(np.stack(rows, axis=1, dtype=np.float32))

    return Opened(take=take)


@contextmanager
def tensorstore_bare(given: Given) -> Iterator[Opened]:
    """tensorstore as it opens an array by itself; all mentors' requests are under way at once."""
    yield _tensorstore(given, cache_bytes=0)


@contextmanager
def tensorstore_cached(given: Given) -> Iterator[Opened]:
    """tensorstore with a cache that holds the whole view, not looked at again on disk."""
    yield _tensorstore(given, cache_bytes=2 * given.logits_NMC.nbytes)


def _tensorstore(given: Given, cache_bytes: int) -> Opened:
    import tensorstore

    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": cache_bytes}})
    arrays = [
        tensorstore.open(
            {
                "driver": "zarr3",
                "kvstore": {"driver": "file", "path": str(path)},
                **({"recheck_cached_data": "open"} if cache_bytes else {}),
            },
            open=True,
            read=True,
            context=context,
        ).result()[given.view]
        for path in _arrays(given)
    ]

    def take(index_B: NDArray[np.int64]) -> torch.Tensor:
        asked = [array[index_B].read() for array in arrays]
        rows = [answer.result() for answer in asked]
        return torch.from_numpy(np.stack(rows, axis=1, dtype=np.float32))

    return Opened(take=take)


def _arrays(given: Given) -> list[str]:
    return [str(given.store.mentor(name).array.folder) for name in given.store.mentors]
