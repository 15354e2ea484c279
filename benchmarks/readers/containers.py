"""Readers of container formats: LMDB, HDF5, Arrow, WebDataset. One process.

Where a format leaves a choice, the fastest that was found here is taken, and the comment says what
the others cost.
"""

import gc
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.readers.reader import Given, Opened, batch_of_bytes

KEY_BYTES = 8
SAMPLES_A_SHARD = 10_000
SHUFFLE_BUFFER = 5_000


@contextmanager
def lmdb_records(given: Given) -> Iterator[Opened]:
    """LMDB: a record a sample, its key the index."""
    import lmdb

    path = given.folder / "lmdb"
    shape = given.logits_NMC.shape[1:]
    map_size = 2 * given.logits_NMC.nbytes + 2**24
    with lmdb.open(str(path), map_size=map_size) as env, env.begin(write=True) as writing:
        for index, logits_MC in enumerate(given.logits_NMC):
            key = index.to_bytes(KEY_BYTES, "big")
            writing.put(key, logits_MC.tobytes(), append=True)

    def take(index_B: NDArray[np.int64]) -> torch.Tensor:
        # getmulti takes 1.3 times as long; a numpy array a record 1.8 times.
        keys = index_B.astype(f">u{KEY_BYTES}").tobytes()
        ends = range(KEY_BYTES, len(keys) + 1, KEY_BYTES)
        return batch_of_bytes([get(keys[end - KEY_BYTES : end]) for end in ends], shape)

    with (
        lmdb.open(str(path), readonly=True, lock=False, readahead=False) as env,
        env.begin(buffers=True) as reading,
    ):
        get = reading.get
        yield Opened(take=take, path=path)


@contextmanager
def hdf5_contiguous(given: Given) -> Iterator[Opened]:
    """HDF5, one contiguous dataset (N, M, C), indexed by the sorted samples of a batch."""
    with _hdf5(given, "contiguous.h5", chunks=None) as (dataset, path):

        def take(index_B: NDArray[np.int64]) -> torch.Tensor:
            # HDF5 wants increasing indices; a row at a time takes 1.5 to 2.3 times as long.
            order_B = np.argsort(index_B)
            rows_BMC = np.empty((len(index_B), *dataset.shape[1:]), dtype=np.float32)
            rows_BMC[order_B] = dataset[index_B[order_B]]
            return torch.from_numpy(rows_BMC)

        yield Opened(take=take, path=path)


@contextmanager
def hdf5_chunked(given: Given) -> Iterator[Opened]:
    """HDF5, a chunk a sample, read a sample at a time."""
    # The fastest chunks: h5py's own guess takes 17 times as long, chunks of 64 samples twice,
    # of 256 almost three times; so does an index of many samples at once, 10 to 18 times.
    shape = (1, *given.logits_NMC.shape[1:])
    with _hdf5(given, "chunked.h5", chunks=shape) as (dataset, path):

        def take(index_B: NDArray[np.int64]) -> torch.Tensor:
            rows_BMC = np.empty((len(index_B), *dataset.shape[1:]), dtype=np.float16)
            for row, index in enumerate(index_B.tolist()):
                rows_BMC[row] = dataset[index]
            return torch.from_numpy(rows_BMC).float()

        yield Opened(take=take, path=path)


@contextmanager
def _hdf5(given: Given, name: str, chunks: tuple[int, ...] | None) -> Iterator[tuple[Any, Any]]:
    import h5py

    path = given.folder / name
    with h5py.File(path, "w") as file:
        file.create_dataset("logits", data=given.logits_NMC, chunks=chunks)
    with h5py.File(path, "r") as file:
        yield file["logits"], path


@contextmanager
def arrow_mapped(given: Given) -> Iterator[Opened]:
    """An Arrow IPC file, mapped: one column of fixed-size lists, `take`."""
    import pyarrow

    path = given.folder / "logits.arrow"
    shape = given.logits_NMC.shape[1:]
    width = given.logits_NMC[0].size
    column = pyarrow.FixedSizeListArray.from_arrays(
        pyarrow.array(given.logits_NMC.reshape(-1)), width
    )
    table = pyarrow.table({"logits": column})
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)  # one record batch; of several, `take` is 5 to 30 times slower
    with pyarrow.memory_map(str(path)) as source:
        mapped = pyarrow.ipc.open_file(source).read_all().column("logits").chunk(0)

        def take(index_B: NDArray[np.int64]) -> torch.Tensor:
            taken = mapped.take(pyarrow.array(index_B))
            rows = taken.flatten().to_numpy(zero_copy_only=True).astype(np.float32)
            return torch.from_numpy(rows).view(-1, *shape)

        yield Opened(take=take, path=path)


@contextmanager
def webdataset_shards(given: Given) -> Iterator[Opened]:
    """WebDataset: tar shards by its own writer, streamed in its own shuffle.

    It cannot be asked for samples: shards come in random order, and a buffer mixes the samples of
    neighbouring shards. A batch is the next so many. Layout: MobileCLIP-DR (RayGen).
    """
    import webdataset

    root = given.folder / "shards"
    root.mkdir()
    shape = given.logits_NMC.shape[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # its generators leave files to Python
        pattern = str(root / "%05d.tar")
        with webdataset.ShardWriter(pattern, maxcount=SAMPLES_A_SHARD, verbose=0) as writer:
            for index, logits_MC in enumerate(given.logits_NMC):
                writer.write({"__key__": f"{index:08d}", "float16": logits_MC.tobytes()})
        shards = sorted(map(str, root.iterdir()))
        pipeline: Any = webdataset.WebDataset(shards, shardshuffle=len(shards))
        pipeline = pipeline.shuffle(SHUFFLE_BUFFER).to_tuple("__key__", "float16").repeat()
        samples: Any = iter(pipeline)
        # While its buffer fills, every sample costs two.
        deque(islice(samples, min(2 * SHUFFLE_BUFFER, len(given.logits_NMC) // 2)), maxlen=0)
        keys: list[str] = []

        def take(index_B: NDArray[np.int64]) -> torch.Tensor:
            batch = list(islice(samples, len(index_B)))
            keys[:] = [key for key, _ in batch]
            return batch_of_bytes([row for _, row in batch], shape)

        def order() -> NDArray[np.int64]:
            return np.array([int(key) for key in keys])

        yield Opened(take=take, path=root, order=order)
        samples = pipeline = None  # while its open files are still ignored
        gc.collect()
