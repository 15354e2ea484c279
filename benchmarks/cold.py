"""Reading from the disk itself: the files' pages are put out of the page cache before each turn.

What lies behind the system's cache (a host's, the drive's own) cannot be emptied from here, and
serves both sides alike.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks import synthetic
from benchmarks.material import Settings
from benchmarks.page_cache import StillCached, forget_pages
from benchmarks.paired import Budget, Side, interleave, ratio, require_same, spread, timed
from benchmarks.streamed import forget_checks
from benchmarks.synthetic import MENTORS
from benchmarks.table import Row, Skipped, milliseconds
from kdcache.resident import ResidentView
from kdcache.store import TargetStore, open_store
from kdcache.stream import TargetStream

FIRST, BATCH = 64, 128
CPU = torch.device("cpu")
FIRST_BATCH = Budget(limit=1, aim=0.3, higher_is_better=False)


def measure(settings: Settings) -> Iterator[Row | Skipped]:
    """CIFAR-100's sizes; 240 views of few samples for the documents of a store."""
    store = synthetic.cifar_sized(settings, views=2)
    views = settings.size(full=240, quick=4)
    long = synthetic.make_store(
        settings.folder / "long",
        500,
        mentors=MENTORS,
        views=views,
        blocks=1,
        same_chunks=True,
    )
    try:
        forget_pages(_files(store))
    except StillCached as error:
        yield Skipped(what="reading from a cold disk", why=str(error))
        return
    map_file = settings.folder / "raw.float16"
    store.targets(0, store.index_N).astype(np.float16).tofile(map_file)
    yield from _loading(settings, store, map_file)
    yield from _first_batches(settings, store, map_file)
    yield _first_batch_of_many_views(settings, long)


def _loading(settings: Settings, store: TargetStore, map_file: Path) -> Iterator[Row]:
    view = ResidentView(store, store.mentors, CPU)
    blocks = range(store.manifest.num_blocks)
    arrays = [store.mentor(name).array for name in store.mentors]
    chunks = [array.chunk(0, block) for array in arrays for block in blocks]
    buffer = memoryview(bytearray(max(sum(c.stat().st_size for c in chunks), _size(map_file))))

    def read(paths: list[Path]) -> None:
        position = 0
        for path in paths:
            with open(path, "rb", buffering=0) as file:
                while got := file.readinto(buffer[position:]):
                    position += got

    seconds = interleave(
        {
            "load": _cold(lambda: view.load(0), store, chunks),
            "chunks": _cold(lambda: read(chunks), store, chunks),
            "one file": _cold(lambda: read([map_file]), store, [map_file]),
        },
        settings.repeats,
    )
    size = _size(map_file)
    rates = {name: f"{size / min(times) / 1e9:.2f} GB/s" for name, times in seconds.items()}
    for side, what in (("chunks", "its chunk files"), ("one file", "its bytes, one file")):
        yield Row(
            what=f"cold: loading a view / reading {what}",
            measured=ratio(seconds[side], seconds["load"]),
            detail=(
                f"best {rates['load']} with checksums against {rates[side]}; {size / 1e6:.1f} MB, "
                f"{len(chunks)} chunks; put out of the page cache before each turn (mincore agrees)"
            ),
        )


def _first_batches(settings: Settings, store: TargetStore, map_file: Path) -> Iterator[Row]:
    """The first rows, and a whole first epoch, from the disk."""
    shape = (store.num_samples, MENTORS, synthetic.NUM_CLASSES)
    epoch = np.random.default_rng(0).permutation(store.num_samples)
    batches = epoch[: store.num_samples // BATCH * BATCH].reshape(-1, BATCH)

    def mapped(count: int) -> torch.Tensor:
        rows_NMC = torch.from_numpy(np.memmap(map_file, np.float16, mode="c", shape=shape))
        for index_B in batches[:count]:
            last = rows_NMC.index_select(0, torch.from_numpy(index_B)).float()
        return last

    def streamed(count: int) -> torch.Tensor:
        stream = TargetStream(open_store(store.root), device=CPU, views=[0])
        with stream.view(0) as targets:
            for index_B in batches[:count]:
                last = targets[index_B]
        return last

    require_same(torch.equal(mapped(1), streamed(1)), "the first batch")
    seconds = interleave(
        {
            "first": _cold(lambda: streamed(1), store, _files(store)),
            "mapped first": _cold(lambda: mapped(1), store, [map_file]),
            "epoch": _cold(lambda: streamed(len(batches)), store, _files(store)),
            "mapped epoch": _cold(lambda: mapped(len(batches)), store, [map_file]),
        },
        settings.repeats,
    )
    best = {name: milliseconds(min(times)) for name, times in seconds.items()}
    size = _size(map_file) / 1e6
    sizes = f"{MENTORS} mentors x {store.num_samples:,} samples, a view of {size:.1f} MB"
    yield Row(
        what="cold: time to the first batch",
        measured=spread(seconds["first"]),
        unit=" s",
        budget=FIRST_BATCH,
        detail=(
            f"open_store to the first {BATCH} rows, one view loaded; a memory map's first rows "
            f"alone: best {best['mapped first']}; {sizes}"
        ),
    )
    yield Row(
        what="cold: first epoch from a memory map / from the store",
        measured=ratio(seconds["mapped epoch"], seconds["epoch"]),
        detail=(
            f"best {best['mapped epoch']} against {best['epoch']}, opening included; {len(batches)}"
            f" shuffled batches of {BATCH}; {sizes}"
        ),
    )


def _first_batch_of_many_views(settings: Settings, store: TargetStore) -> Row:
    def first_batch() -> None:
        with TargetStream(open_store(store.root), device=CPU, views=[0]).view(0) as targets:
            targets[store.index_N[:FIRST]]

    seconds = interleave({"first": _cold(first_batch, store, _files(store))}, settings.repeats)
    return Row(
        what=f"cold: time to the first batch, {MENTORS} mentors x {store.num_views} views",
        measured=spread(seconds["first"]),
        unit=" s",
        budget=FIRST_BATCH,
        detail=f"open_store to the first {FIRST} rows of {store.num_samples} samples",
    )


def _cold(work: Callable[[], object], store: TargetStore, paths: list[Path]) -> Side:
    """A turn that begins with these files on the disk alone, and nothing known to be sound."""

    def side() -> float:
        forget_checks(store)
        forget_pages(paths)
        return timed(work)()

    return side


def _files(store: TargetStore) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.is_file()]


def _size(path: Path) -> int:
    return path.stat().st_size
