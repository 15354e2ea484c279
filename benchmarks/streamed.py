"""Whole epochs from a TargetStream, with all that it takes to have the views in memory."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count, islice

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import synthetic
from benchmarks.material import Settings
from benchmarks.paired import Budget, Side, interleave, ratio, require_same, timed
from benchmarks.synthetic import MENTORS
from benchmarks.table import Row, Skipped, milliseconds
from kdcache.store import TargetStore
from kdcache.stream import TargetStream

VIEWS = 3
BATCHES = (128, 256, 1024)


def measure(settings: Settings) -> Iterator[Row | Skipped]:
    """Epochs, each of another view, against the same batches of one view that is mapped already."""
    store = synthetic.cifar_sized(settings, views=VIEWS)
    shape = (MENTORS, store.num_samples, synthetic.NUM_CLASSES)
    raw_file = settings.folder / "raw.float16"
    rows_NMC = store.targets(0, store.index_N)
    rows_NMC.transpose(1, 0, 2).astype(np.float16).tofile(raw_file)
    raw_MNC = np.memmap(raw_file, dtype=np.float16, mode="c", shape=shape)
    rows = torch.from_numpy(raw_MNC).view(-1, synthetic.NUM_CLASSES)
    first_row_M = torch.arange(MENTORS) * store.num_samples

    def fancy_index(index_B: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(raw_MNC[:, index_B]).to(torch.float32).transpose(0, 1).contiguous()

    def index_select(index_B: NDArray[np.int64]) -> torch.Tensor:
        rows_BM = torch.from_numpy(index_B)[:, None] + first_row_M
        return rows.index_select(0, rows_BM.view(-1)).float().view(*rows_BM.shape, -1)

    ways = {"fancy index": fancy_index, "index_select": index_select}
    stream = TargetStream(store, device="cpu")
    for size in BATCHES:
        batches = list(shuffled_batches(store.num_samples, size))
        with stream.view(0) as targets:
            for take in ways.values():
                same = torch.equal(targets[batches[0]], take(batches[0]))
                require_same(same, "a batch from the stream and from the map")
        yield from _against(settings, stream, batches, ways)
    stream.executor().shutdown(wait=True)


def _against(
    settings: Settings,
    stream: TargetStream,
    batches: Sequence[NDArray[np.int64]],
    ways: Mapping[str, Callable[[NDArray[np.int64]], torch.Tensor]],
) -> Iterator[Row]:
    epochs = settings.size(full=2, quick=1)

    def epoch(take: Callable[[NDArray[np.int64]], torch.Tensor]) -> None:
        for index_B in batches:
            take(index_B)

    seconds = interleave(
        {
            "stream": streamed_epochs(stream, batches, epochs),
            **{name: timed(partial(epoch, take), epochs) for name, take in ways.items()},
        },
        settings.repeats,
    )
    calls = epochs * len(batches)
    best = {name: milliseconds(min(times) / calls) for name, times in seconds.items()}
    for name in ways:
        yield Row(
            what=f"batches of {len(batches[0]):,}, loading included / memmap {name}",
            measured=ratio(seconds[name], seconds["stream"]),
            budget=Budget(limit=0.3),
            detail=(
                f"best {best['stream']} a batch against {best[name]}; {epochs} epochs of "
                f"{len(batches)} batches, each of another of {VIEWS} views; the next one is loaded "
                "meanwhile, checked as if no file of it were known, and waited for; the map is of "
                f"one view and warm; {MENTORS} mentors x {stream.store.num_samples:,} samples x "
                f"{synthetic.NUM_CLASSES} classes"
            ),
        )


def shuffled_batches(samples: int, size: int) -> NDArray[np.int64]:
    """An epoch's whole batches, (batches, size)."""
    order = np.random.default_rng(size).permutation(samples)
    return order[: samples // size * size].reshape(-1, size)


def streamed_epochs(
    stream: TargetStream, batches: Sequence[NDArray[np.int64]], epochs: int
) -> Side:
    """Whole epochs of these batches, each of another view, while the next view is being loaded.

    As many views are loaded as epochs are read, each with its checksums, and the last of them is
    waited for: nothing is left to whoever is timed next.
    """
    assert len(stream.views) > 2  # two would both stay in memory, and nothing would be loaded
    numbers = count()

    def read() -> None:
        for epoch in islice(numbers, epochs):
            with stream.view(stream.views[epoch % len(stream.views)]) as targets:
                for index_B in batches:
                    targets[index_B]
        stream.executor().submit(lambda: None).result()

    def side() -> float:
        forget_checks(stream.store)
        return timed(read)()

    return side


def forget_checks(store: TargetStore) -> None:
    """Chunks get the time of now: a reader that remembers what it checked checks them again."""
    for chunk in store.root.glob("mentors/*/*/c/**/*"):
        if chunk.is_file():
            os.utime(chunk)
