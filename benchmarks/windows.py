"""Views through a bounded window: against a memmap, from a cold disk, and a simulated ImageNet."""

import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks import peak, synthetic
from benchmarks.material import Settings
from benchmarks.page_cache import StillCached, forget_pages
from benchmarks.paired import Budget, Spread, interleave, ratio, require_same, spread, timed
from benchmarks.synthetic import MENTORS
from benchmarks.table import Row, Skipped, number
from kdcache import ClassroomLoss
from kdcache.datasets import ImageDataset
from kdcache.epoch_order import epoch_order
from kdcache.loader import Batch, ReplayLoader
from kdcache.memory import gigabytes
from kdcache.resident import checked_files
from kdcache.sources import LabelsOnly
from kdcache.store import TargetStore
from kdcache.stream import TargetStream

BATCH = 256
CPU = torch.device("cpu")
IMAGENET, IMAGENET_CLASSES, IMAGENET_BLOCKS = 1_281_167, 1000, 157
ENCODER = "sqrt8"  # float16 is twice the bytes, and more than disks of this kind of machine have


def measure(settings: Settings) -> Iterator[Row | Skipped]:
    """CIFAR-100's sizes side by side with a memmap; ImageNet's by themselves, once."""
    yield _against_memmap(settings)
    yield from _imagenet(settings)


def _against_memmap(settings: Settings) -> Row:
    blocks = settings.size(28, 8)
    store = synthetic.cifar_sized(settings, views=1, blocks=blocks)
    samples = store.num_samples
    rows_NMC = store.targets(0, store.index_N)
    raw_file = settings.folder / "raw.float16"
    rows_NMC.transpose(1, 0, 2).astype(np.float16).tofile(raw_file)
    shape = (MENTORS, samples, synthetic.NUM_CLASSES)
    raw_MNC = np.memmap(raw_file, dtype=np.float16, mode="r", shape=shape)
    window = blocks // 4 * store.manifest.block
    stream = TargetStream(store, device=CPU, window=window)
    order = epoch_order(0, 0, samples, window=window, blocks=stream.blocks(store.index_N))
    everywhere = epoch_order(0, 0, samples)
    batch = 1024

    def windowed() -> None:
        checked_files.clear()
        for _ in _epoch(stream, order, batch):
            pass

    def memmap() -> None:
        for start in range(0, samples, batch):
            index_B = everywhere[start : start + batch]
            torch.from_numpy(raw_MNC[:, index_B]).to(torch.float32).transpose(0, 1).contiguous()

    for start, rows_BMC in zip(range(0, samples, batch), _epoch(stream, order, batch), strict=True):
        same = np.array_equal(rows_BMC.numpy(), rows_NMC[order[start : start + batch]])
        require_same(same, "the rows read through the window")
    seconds = interleave({"window": timed(windowed), "memmap": timed(memmap)}, settings.repeats)
    rate = {side: f"{number(samples / min(times))} samples/s" for side, times in seconds.items()}
    return Row(
        what="an epoch through a window / fancy index of a raw memmap",
        measured=ratio(seconds["memmap"], seconds["window"]),
        budget=Budget(limit=0.3),
        detail=(
            f"best {rate['window']} against {rate['memmap']}; batches of {batch:,}, {MENTORS} "
            f"mentors x {samples:,} samples x 100 classes, float16; {blocks // 4} of {blocks} "
            "blocks, loaded in the background, every checksum computed; page cache warm"
        ),
    )


def _epoch(
    stream: TargetStream, order: NDArray[np.int64], batch: int, view: int = 0
) -> Iterator[torch.Tensor]:
    """The targets of a view in this order."""
    with stream.ordered_view(view, order) as targets:
        for start in range(0, len(order), batch):
            yield targets[order[start : start + batch]]


def _imagenet(settings: Settings) -> Iterator[Row]:
    samples = settings.size(IMAGENET, 4_000)
    classes = settings.size(IMAGENET_CLASSES, 50)
    blocks = settings.size(IMAGENET_BLOCKS, 20)
    dataset = synthetic.generated_dataset(samples, classes)
    store = synthetic.make_store(
        settings.folder / "imagenet",
        samples,
        mentors=MENTORS,
        views=1,
        blocks=blocks,
        same_chunks=False,
        encoder_name=ENCODER,
        samples=dataset,
        rolled=True,
    )
    window = settings.size(16, 4) * store.manifest.block
    stream = TargetStream(store, device=CPU, window=window)
    order = epoch_order(0, 0, samples, window=window, blocks=stream.blocks(store.index_N))
    sizes = (
        f"{MENTORS} mentors x {samples:,} samples x {classes:,} classes, {ENCODER}, "
        f"{gigabytes(_view_bytes(store))} a view in {blocks} blocks; window {window:,} samples"
    )
    yield from _training(settings, dataset, store, window, sizes)
    for cold in (True, False):
        yield _reading(stream, order, cold, sizes)


def _reading(stream: TargetStream, order: NDArray[np.int64], cold: bool, sizes: str) -> Row:
    """One epoch of targets alone, decoded."""
    state = "page cache as the epoch before left it"
    if cold:
        try:
            state = f"{forget_pages(_chunks(stream.store)):.1%} of it in page cache"
        except StillCached as error:
            state = f"not cold: {error}"
    checked_files.clear()
    started = time.perf_counter()
    for _ in _epoch(stream, order, BATCH):
        pass
    seconds = time.perf_counter() - started
    found = spread([len(order) / seconds])
    rate = f"{gigabytes(_view_bytes(stream.store) / seconds)}/s as stored"
    return Row(
        what=f"ImageNet's size, reading alone{', cold disk' if cold else ''}",
        measured=found,
        unit=" /s",
        detail=f"samples a second, one epoch, every checksum; {rate}; {state} at first; {sizes}",
    )


def _training(
    settings: Settings, dataset: ImageDataset, store: TargetStore, window: int, sizes: str
) -> Iterator[Row]:
    steps = settings.size(full=800, quick=10)
    batch = settings.size(BATCH, 32)
    torch.manual_seed(0)
    pixels = 3 * 8 * 8
    student = nn.Sequential(
        nn.Flatten(), nn.Linear(pixels, 64), nn.ReLU(), nn.Linear(64, dataset.num_classes)
    )
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    loss = ClassroomLoss(tau=12.0)

    watching = peak.restart()

    def train(batches: Iterable[Batch], given_BMC: torch.Tensor) -> tuple[float, int]:
        """Seconds, and the most memory from the third step on."""
        started = time.perf_counter()
        for step, one in enumerate(islice(batches, steps)):
            if step == 2 and watching:
                peak.restart()
            logits_BMC = given_BMC.clone() if one.logits is None else one.logits
            out = loss(student(one.images), one.labels, logits_BMC)
            optimizer.zero_grad()
            out.total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return time.perf_counter() - started, peak.resident_peak() if watching else 0

    stream = TargetStream(store, device=CPU, window=window)
    labels = LabelsOnly(store.recipe, [0], blocks=stream.blocks)
    bare = ReplayLoader(dataset, labels, batch, device=CPU, window=window)
    taught = ReplayLoader(dataset, stream, batch, device=CPU)
    constant_BMC = torch.zeros(batch, MENTORS, dataset.num_classes).log_softmax(-1)
    train(islice(bare, 5), constant_BMC)
    without, before = train(bare, constant_BMC)
    checked_files.clear()
    seconds, with_targets = train(taught, constant_BMC)
    above = with_targets - before
    # Beside the encoded rows: each sample's block, and batches decoded, being decoded and held.
    bound = stream.num_bytes + 4 * len(dataset) + 4 * constant_BMC.untyped_storage().nbytes()
    share = above / bound
    yield Row(
        what="ImageNet's size, memory for targets / the stated bound",
        measured=Spread(median=share, low=share, high=share, n=1),
        budget=Budget(limit=1, higher_is_better=False),
        note=None if watching else "not measured",
        detail=(
            f"peak resident set {gigabytes(above)} above that of the same steps with constant "
            f"targets ({gigabytes(before)}); bound {gigabytes(bound)}, of it "
            f"{gigabytes(stream.num_bytes)} for {stream.num_slots} blocks of encoded rows; {sizes}"
        ),
    )
    yield Row(
        what="ImageNet's size, training through a window",
        measured=spread([steps * batch / seconds]),
        unit=" /s",
        detail=(
            f"samples a second, {steps} steps of {batch} with ClassroomLoss and a student of "
            f"{sum(p.numel() for p in student.parameters()):,} weights, first blocks waited for; "
            f"{number(steps * batch / without)} a second with constant targets instead; {sizes}"
        ),
    )


def _chunks(store: TargetStore) -> Iterator[Path]:
    """The files of view 0."""
    for name in store.mentors:
        for block in range(store.manifest.num_blocks):
            yield store.mentor(name).array.chunk(0, block)


def _view_bytes(store: TargetStore) -> int:
    return sum(path.stat().st_size for path in _chunks(store))
