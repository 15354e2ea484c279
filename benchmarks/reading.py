"""Reading a store: random batches, whole views, the first batch, and what it holds in memory."""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import synthetic
from benchmarks.material import Settings
from benchmarks.paired import Budget, Spread, interleave, ratio, require_same, spread, timed
from benchmarks.synthetic import MENTORS
from benchmarks.table import Row, Skipped, milliseconds, number
from kdcache.resident import ResidentView, checked_files
from kdcache.store import TargetStore, open_store
from kdcache.store.checked_files import SETTLED_NS
from kdcache.stream import TargetStream

CPU = torch.device("cpu")
FIRST_BATCH = Budget(limit=1, aim=0.3, higher_is_better=False)


def measure(settings: Settings) -> Iterator[Row | Skipped]:
    """CIFAR-100's sizes for what depends on bytes, 240 views for what depends on their number."""
    blocks = settings.size(full=7, quick=2)
    store = synthetic.cifar_sized(settings, views=2)
    yield from _random_batches(settings, store)
    yield from _loading(settings, store)
    views = settings.size(full=240, quick=4)
    for blocks_a_view in (1, blocks):
        long = synthetic.make_store(
            settings.folder / f"long{blocks_a_view}",
            500,
            mentors=MENTORS,
            views=views,
            blocks=blocks_a_view,
            same_chunks=True,
        )
        yield _first_batch(
            settings, long, f"{MENTORS} mentors x {views} views x {blocks_a_view} blocks"
        )
    yield _first_batch(settings, store, f"{MENTORS} x 2 views of {store.num_samples:,} samples")
    yield _memory(store)


def _random_batches(settings: Settings, store: TargetStore) -> Iterator[Row]:
    raw_file = settings.folder / "raw.float16"
    rows_NMC = store.targets(0, store.index_N)
    rows_NMC.transpose(1, 0, 2).astype(np.float16).tofile(raw_file)
    shape = (MENTORS, store.num_samples, synthetic.NUM_CLASSES)
    raw_MNC = np.memmap(raw_file, dtype=np.float16, mode="r", shape=shape)
    view = ResidentView(store, store.mentors, CPU).load(0)

    def from_memmap(index_B: NDArray[np.int64]) -> torch.Tensor:
        # The fastest of five ways to do it with numpy; `streamed` has torch's index_select, too.
        rows_MBC = torch.from_numpy(raw_MNC[:, index_B]).to(torch.float32)
        return rows_MBC.transpose(0, 1).contiguous()

    for batch, calls in ((128, 400), (1024, 60)):
        calls = settings.size(full=calls, quick=5)
        generator = np.random.default_rng(batch)
        drawn = [generator.integers(0, store.num_samples, batch) for _ in range(calls)]
        for index_B in drawn[:5]:
            ours, theirs = view[index_B], from_memmap(index_B)
            same = torch.equal(ours, theirs) and ours.is_contiguous() and theirs.is_contiguous()
            require_same(same, "the gathered rows")
        seconds = interleave(
            {
                "ours": timed(partial(_take_all, view.__getitem__, drawn)),
                "raw": timed(partial(_take_all, from_memmap, drawn)),
            },
            settings.repeats,
        )
        each = {name: milliseconds(min(times) / calls) for name, times in seconds.items()}
        yield Row(
            what=f"resident random batch of {batch} / fancy index of a raw memmap",
            measured=ratio(seconds["raw"], seconds["ours"]),
            budget=Budget(limit=1, aim=1.2),
            detail=(
                f"best {each['ours']} a batch against {each['raw']}; {MENTORS} mentors x "
                f"{store.num_samples:,} samples x 100 classes, float16 to float32 (B, M, C)"
            ),
        )


def _take_all(
    take: Callable[[NDArray[np.int64]], torch.Tensor], batches: list[NDArray[np.int64]]
) -> None:
    for index_B in batches:
        take(index_B)


def _loading(settings: Settings, store: TargetStore) -> Iterator[Row]:
    view = ResidentView(store, store.mentors, CPU)
    blocks = range(store.manifest.num_blocks)
    chunks = [(store.mentor(m), block) for m in store.mentors for block in blocks]
    sizes = [stored.commits[0, block].bytes for stored, block in chunks]
    paths = [stored.array.chunk(0, block) for stored, block in chunks]
    buffer = memoryview(bytearray(sum(sizes)))
    loads = settings.size(full=3, quick=1)

    def read_bytes() -> None:
        position = 0
        for path, size in zip(paths, sizes, strict=True):
            with open(path, "rb", buffering=0) as file:
                position += file.readinto(buffer[position : position + size])

    read_bytes()
    rows_MNC = np.frombuffer(buffer, np.float16).reshape(MENTORS, -1, synthetic.NUM_CLASSES)
    some_B = np.random.default_rng(0).integers(0, store.num_samples, 1000)
    same = np.array_equal(
        view.load(0)[some_B].numpy(), rows_MNC[:, some_B].transpose(1, 0, 2).astype(np.float32)
    )
    require_same(same, "the loaded rows")

    def load_anew() -> None:
        checked_files.clear()
        view.load(0)

    time.sleep(SETTLED_NS / 1e9)  # chunks written just now are checked every time
    seconds = interleave(
        {
            "load": timed(load_anew, loads),
            "again": timed(lambda: view.load(0), loads),
            "read": timed(read_bytes, loads),
        },
        settings.repeats,
    )
    rates = {
        name: f"{loads * len(buffer) / min(times) / 1e9:.2f} GB/s"
        for name, times in seconds.items()
    }
    for what, side, budget in (
        ("with its checksum", "load", Budget(limit=0.5, aim=0.6)),
        ("again, its files unchanged", "again", Budget(limit=0.85)),
    ):
        yield Row(
            what=f"loading a view {what} / reading its bytes",
            measured=ratio(seconds["read"], seconds[side]),
            budget=budget,
            detail=(
                f"best {rates[side]} against {rates['read']}; {len(buffer) / 1e6:.1f} MB in "
                f"{len(paths)} files, page cache warm, both into a reused buffer"
            ),
        )


def _first_batch(settings: Settings, store: TargetStore, sizes: str) -> Row:
    index_B = store.index_N[:64]
    root = store.root
    streams: list[TargetStream] = []

    def first_batch() -> None:
        stream = TargetStream(open_store(root), device=CPU)
        streams.append(stream)
        with stream.view(0) as targets:
            targets[index_B]

    def side() -> float:
        took = timed(first_batch)()
        # The next view is still being loaded; it must not run into the next measurement.
        streams.pop().executor().shutdown(wait=True)
        return took

    seconds = interleave({"first batch": side}, settings.repeats)["first batch"]
    commits = sum(len(store.mentor(name).commits) for name in store.mentors)
    return Row(
        what=f"time to first batch, {sizes}",
        measured=spread(seconds),
        unit=" s",
        budget=FIRST_BATCH,
        detail=(
            f"open_store to the first 64 rows of a TargetStream; {commits:,} commits, a view has "
            f"{_view_bytes(store) / 1e6:.1f} MB; page cache warm, libraries imported"
        ),
    )


def _memory(store: TargetStore) -> Row:
    """Exact, from the stream's own buffers; the process's growth beside it for belief."""
    before = _resident_set()
    stream = TargetStream(store, device=CPU)
    with stream.view(0) as targets:
        targets[store.index_N[:64]]
    stream.executor().shutdown(wait=True)
    grown = "unknown" if before is None else f"{(_resident_set() or 0) - before:,} bytes"
    residents = [slot._resident for slot in stream._slots if slot._resident is not None]
    held = sum(view.num_bytes for view in residents)
    two_views = 2 * _view_bytes(store)
    share = held / two_views
    return Row(
        what="a TargetStream's buffers / two encoded views",
        measured=Spread(median=share, low=share, high=share, n=1),
        budget=Budget(limit=1, higher_is_better=False),
        detail=(
            f"{number(held)} bytes in {len(residents)} buffers against {number(two_views)} "
            f"(counted, not timed); the process grew by {grown}"
        ),
    )


def _view_bytes(store: TargetStore) -> int:
    """One view of every mentor, encoded, as stored (whole blocks)."""
    blocks = range(store.manifest.num_blocks)
    return sum(store.mentor(m).commits[0, block].bytes for m in store.mentors for block in blocks)


def _resident_set() -> int | None:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, AttributeError):
        return None
