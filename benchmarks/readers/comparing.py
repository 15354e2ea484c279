"""Every reader that can be opened here, in turns; how many times as long as ours it takes."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import synthetic
from benchmarks.material import Settings
from benchmarks.paired import Side, Spread, interleave, ratio, require_same, timed
from benchmarks.readers import containers, files, on_our_store, ours
from benchmarks.readers.reader import Given, Opened, Reader
from benchmarks.streamed import BATCHES, VIEWS, shuffled_batches, streamed_epochs
from benchmarks.synthetic import MENTORS
from benchmarks.table import Row, Skipped, milliseconds, number
from kdcache.stream import TargetStream

VIEW = 0
EXTRA = "pip install 'kdcache[benchmarks]'"
OURS, STREAMED = "ours, resident", "ours, loading and checksums included"

READERS = (
    Reader(name=OURS, open=ours.resident, how="a loaded ResidentView"),
    Reader(
        name="memory map, mentor after mentor",
        open=files.map_by_mentor,
        how="index_select on (M, N, C), the layout of our store",
    ),
    Reader(
        name="memory map, sample after sample",
        open=files.map_by_sample,
        how="index_select on (N, M, C): no mentor can be added or left out",
    ),
    Reader(
        name="LMDB",
        open=containers.lmdb_records,
        libraries=("lmdb",),
        how="a record a sample, one transaction, buffers",
    ),
    Reader(
        name="HDF5, contiguous",
        open=containers.hdf5_contiguous,
        libraries=("h5py",),
        how="the sorted samples at once",
    ),
    Reader(
        name="HDF5, chunked",
        open=containers.hdf5_chunked,
        libraries=("h5py",),
        how="a chunk a sample, sample by sample",
    ),
    Reader(
        name="Arrow",
        open=containers.arrow_mapped,
        libraries=("pyarrow",),
        how="IPC file, mapped, one record batch, take",
    ),
    Reader(
        name="WebDataset",
        open=containers.webdataset_shards,
        libraries=("webdataset",),
        how=(
            f"its own shuffle of shards and {containers.SHUFFLE_BUFFER:,} samples: no random access"
        ),
    ),
    Reader(
        name="zarr-python",
        open=on_our_store.zarr_python,
        libraries=("zarr",),
        how="get_orthogonal_selection on our store",
    ),
    Reader(
        name="zarrs",
        open=on_our_store.zarrs_pipeline,
        libraries=("zarr", "zarrs"),
        how="get_orthogonal_selection on our store",
    ),
    Reader(
        name="tensorstore",
        open=on_our_store.tensorstore_bare,
        libraries=("tensorstore",),
        how="on our store, no cache",
    ),
    Reader(
        name="tensorstore, cached",
        open=on_our_store.tensorstore_cached,
        libraries=("tensorstore",),
        how="on our store, the view in its cache",
    ),
    Reader(
        name="torch.save files",
        open=files.file_a_sample,
        how="a file a sample, as FKD, ml-dr and torchdistill store",
    ),
    Reader(
        name="records and offsets",
        open=files.records,
        how="one file, a table of offsets, pread, as TinyViT stores",
    ),
)
LIBRARIES = tuple(dict.fromkeys(name for reader in READERS for name in reader.libraries))


def measure(settings: Settings) -> Iterator[Row | Skipped]:
    """All in one process, from the page cache; what a reader wrote before is not timed.

    Every reader goes through the same shuffled epoch; the slow ones not so far. The Zarr readers
    use threads of their own. Workers, with which users would hide some of it, are left out.
    """
    store = synthetic.cifar_sized(settings, views=VIEWS)
    samples = store.num_samples
    logits_NMC = store.targets(VIEW, store.index_N).astype(np.float16)
    batches = {size: shuffled_batches(samples, size) for size in BATCHES}
    opened: dict[str, Opened] = {}
    with ExitStack() as stack:
        for place, reader in enumerate(READERS):
            folder = settings.folder / f"reader{place}"
            folder.mkdir()
            given = Given(folder=folder, store=store, view=VIEW, logits_NMC=logits_NMC)
            try:
                opened[reader.name] = stack.enter_context(reader.open(given))
            except ImportError as error:
                yield Skipped(what=f"{reader.name} / ours", why=f"{error}; {EXTRA}")
        for name, one in opened.items():
            for size in BATCHES:
                for index_B in batches[size][:2]:
                    _require_same(name, one, index_B, opened[OURS])
        stream = TargetStream(store, device=ours.CPU)
        for size in BATCHES:
            yield from _compare(settings, size, list(batches[size]), opened, stream)
        stream.executor().shutdown(wait=True)
        yield from _on_disk(store.root, samples, opened)


def _require_same(name: str, reader: Opened, index_B: NDArray[np.int64], other: Opened) -> None:
    """Also where the reader chose the samples itself."""
    rows_BMC = reader.take(index_B)
    index_B = index_B if reader.order is None else reader.order()
    same = rows_BMC.is_contiguous() and torch.equal(rows_BMC, other.take(index_B))
    require_same(same, f"the rows of {name}")


def _compare(
    settings: Settings,
    size: int,
    batches: list[NDArray[np.int64]],
    opened: dict[str, Opened],
    stream: TargetStream,
) -> Iterator[Row]:
    """One size of batch. A turn takes a tenth of a second or one batch, whatever takes longer."""
    turn = 0.1 if not settings.quick else 0.002
    calls, sides = {}, {}
    for name, one in opened.items():
        took = timed(partial(one.take, batches[-1]))()
        calls[name] = min(len(batches), max(1, int(turn / took)))
        sides[name] = _next_batches(one, cycle(batches), calls[name])
    epochs = settings.size(full=2, quick=1)
    calls[STREAMED] = epochs * len(batches)
    sides[STREAMED] = streamed_epochs(stream, batches, epochs)
    seconds = {
        name: [took / calls[name] for took in times]
        for name, times in interleave(sides, settings.repeats).items()
    }
    how = {reader.name: reader.how for reader in READERS} | {
        STREAMED: f"{epochs} epochs of a TargetStream, the next view loading meanwhile"
    }
    mine = milliseconds(min(seconds[OURS]))
    for name in [STREAMED, *(name for name in opened if name != OURS)]:
        best = min(seconds[name])
        yield Row(
            what=f"batch of {size:,}: {name} / ours",
            measured=ratio(seconds[name], seconds[OURS]),
            detail=(
                f"best {milliseconds(best)} a batch ({number(size / best / 1000)} k samples/s) "
                f"against {mine}; {how[name]}; {calls[name]} batches a turn"
            ),
        )


def _next_batches(reader: Opened, batches: Iterator[NDArray[np.int64]], calls: int) -> Side:
    def read() -> None:
        for index_B in islice(batches, calls):
            reader.take(index_B)

    return timed(read)


def _on_disk(root: Path, samples: int, opened: dict[str, Opened]) -> Iterator[Row]:
    our_bytes, our_files = (amount / VIEWS for amount in _size(root))
    for name, reader in opened.items():
        if reader.path is None:
            continue
        taken, count = _size(reader.path)
        share = taken / our_bytes
        yield Row(
            what=f"bytes on disk: {name} / ours",
            measured=Spread(median=share, low=share, high=share, n=1),
            detail=(
                f"{taken / 1e6:.1f} MB in {count:,} files against {our_bytes / 1e6:.1f} MB in "
                f"{number(our_files)} (one of the store's views, and its share of the rest; "
                f"counted); {MENTORS} mentors x {samples:,} samples x {synthetic.NUM_CLASSES} "
                "classes, float16"
            ),
        )


def _size(path: Path) -> tuple[int, int]:
    """Bytes that the disk gives for it, and files."""
    found = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    stats = [os.stat(file) for file in found]
    return sum(getattr(s, "st_blocks", -(-s.st_size // 512)) * 512 for s in stats), len(found)
