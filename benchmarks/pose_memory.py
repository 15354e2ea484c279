"""The memory that heatmaps take beside a loader's views and labels, in a process of its own."""

from dataclasses import dataclass

from benchmarks import peak
from kdcache.datasets import open_dataset
from kdcache.loader import ReplayLoader
from kdcache.sources import LabelsOnly
from kdcache.store import open_store
from kdcache.stream import TargetStream

EPOCHS = 3
BATCHES = 3  # decoded: held by the loop, being decoded, and their encoded rows with room to spare


@dataclass(frozen=True, kw_only=True)
class MemoryRun:
    """What is trained on; strings and numbers, to be sent to another process."""

    store: str
    data_dir: str
    batch: int
    window: int | None


@dataclass(frozen=True, kw_only=True)
class MemoryFound:
    """Bytes: the peak with labels only, what targets add, the bound, and of it the stream's."""

    before: int
    above: int
    bound: int
    stream: int


def memory_above_labels(run: MemoryRun) -> MemoryFound | None:
    """Epochs of batches held one at a time, with labels only and then with targets.

    None where the kernel does not let a process watch its peak. Photographs are read before.
    """
    dataset = open_dataset("coco-keypoints", data_dir=run.data_dir)
    dataset.images(dataset.index_N)
    store = open_store(run.store)
    views = range(store.num_views)
    stream = TargetStream(store, device="cpu", window=run.window)
    labels = LabelsOnly(store.recipe, views, blocks=stream.blocks)
    bare = ReplayLoader(dataset, labels, run.batch, device="cpu", window=run.window)
    _epochs(bare)
    store.targets(0, store.index_N[:1])  # libraries that are imported when targets are first read
    if not peak.restart():
        return None
    _epochs(bare)
    before = peak.resident_peak()
    taught = ReplayLoader(dataset, stream, run.batch, device="cpu")
    peak.restart()
    decoded = _epochs(taught)
    after = peak.resident_peak()
    return MemoryFound(
        before=before,
        above=after - before,
        bound=stream.num_bytes + BATCHES * decoded,
        stream=stream.num_bytes,
    )


def _epochs(loader: ReplayLoader) -> int:
    """Bytes of a batch's decoded heatmaps; each is looked at."""
    size = 0
    for epoch in range(EPOCHS):
        loader.set_epoch(epoch)
        for batch in loader:
            batch.images.sum()
            if batch.heatmaps is not None:
                size = batch.heatmaps.nbytes
                batch.heatmaps.sum()
    return size
