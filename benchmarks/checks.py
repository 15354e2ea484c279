"""What distrust costs: verifying and opening a store, checksums in training and precompute."""

from collections.abc import Iterator
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import synthetic
from benchmarks.material import Settings, find_material
from benchmarks.paired import Budget, interleave, ratio, spread, timed
from benchmarks.synthetic import MENTORS
from benchmarks.table import Row, Skipped, milliseconds, number
from kdcache.mentors import MentorPool
from kdcache.models import build_network
from kdcache.store import TargetStore, open_store, verify_store
from kdcache.store.chunks import crc32c

CIFAR_SAMPLES = 50_000
SHARE = Budget(limit=0.01, higher_is_better=False)


def measure(settings: Settings) -> Iterator[Row | Skipped]:
    """CIFAR-100's sizes; both shares are of one core's work, as if nothing ran beside it."""
    store = synthetic.cifar_sized(settings, views=2, blocks=7)
    yield _verify(settings, store)
    yield _opening(settings)
    yield _training(settings, store)
    yield _precompute(settings, store)


def _verify(settings: Settings, store: TargetStore) -> Row:
    mentors = [store.mentor(name) for name in store.mentors]
    paths = [m.array.chunk(*key) for m in mentors for key in sorted(m.commits)]
    sizes = [path.stat().st_size for path in paths]
    buffer = memoryview(bytearray(sum(sizes)))

    def read_bytes() -> None:
        position = 0
        for path, size in zip(paths, sizes, strict=True):
            with open(path, "rb", buffering=0) as file:
                position += file.readinto(buffer[position : position + size])

    seconds = interleave(
        {"verify": timed(lambda: verify_store(store.root)), "read": timed(read_bytes)},
        settings.repeats,
    )
    size = len(buffer)
    return Row(
        what="verify a store / reading its chunks from the page cache",
        measured=ratio(seconds["read"], seconds["verify"]),
        budget=Budget(limit=0.5),
        detail=f"best {number(size / min(seconds['verify']) / 1e9)} GB/s; {size / 1e6:.0f} MB",
    )


def _opening(settings: Settings) -> Row:
    views, blocks = settings.size(full=240, quick=4), settings.size(full=7, quick=2)
    store = synthetic.make_store(
        settings.folder / "long",
        500,
        mentors=MENTORS,
        views=views,
        blocks=blocks,
        same_chunks=True,
    )
    seconds = interleave({"open": timed(lambda: open_store(store.root))}, settings.repeats)
    return Row(
        what=f"opening {MENTORS} mentors x {views} views x {blocks} blocks",
        measured=spread(seconds["open"]),
        unit=" s",
        budget=Budget(limit=0.3, higher_is_better=False),
        detail=f"{MENTORS * views * blocks:,} commits, through each mentor's index",
    )


def _training(settings: Settings, store: TargetStore) -> Row:
    """A view's checksums, once an epoch, against the student's steps of that epoch alone."""
    payloads = _payloads(store, mentors=4)
    steps = settings.size(full=8, quick=1)
    network = build_network("r20", synthetic.NUM_CLASSES, seed=0)
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def step() -> None:
        network(images).square().mean().backward()

    seconds = interleave(
        {
            "check": timed(lambda: [crc32c(payload.data) for payload in payloads]),
            "steps": timed(step, steps),
        },
        settings.repeats,
    )
    epochs = [took / steps * store.num_samples / 64 for took in seconds["steps"]]
    return Row(
        what="checksums of a view / a student's epoch",
        measured=ratio(seconds["check"], epochs),
        budget=SHARE,
        detail=(
            f"best {milliseconds(min(seconds['check']))} for {sum(map(len, payloads)) / 1e6:.0f}"
            f" MB of 4 mentors; {store.num_samples:,} samples, r20, batch 64: an epoch of "
            f"{number(min(epochs))} s, from {steps} steps"
        ),
    )


def _precompute(settings: Settings, store: TargetStore) -> Row:
    """CRC32C and SHA-256 of what a mentor said of a batch, against saying it."""
    material = find_material(settings)
    dataset = material.open(settings.run_shape.batch)
    mentor = material.load_mentors(dataset)[0]
    pool = MentorPool([mentor], device=torch.device("cpu"), run_shape=settings.run_shape)
    pixels = dataset.images(dataset.index_N)
    payload = _payloads(store, mentors=1)[0]
    rows = store.manifest.num_rows(0)

    def check() -> None:
        crc32c(payload.data)
        sha256(payload.data).hexdigest()

    seconds = interleave(
        {"check": timed(check), "run": timed(lambda: pool.run(pixels))}, settings.repeats
    )
    block = [took / len(dataset) * rows for took in seconds["run"]]
    return Row(
        what="checksums of a chunk / its mentor's forward passes",
        measured=ratio(seconds["check"], block),
        budget=SHARE,
        detail=(
            f"best {milliseconds(min(seconds['check']))} for {len(payload) / 1e6:.1f} MB; "
            f"{mentor.name}, {rows:,} samples: {number(min(block))} s, from {len(dataset)}"
        ),
    )


def _payloads(store: TargetStore, mentors: int) -> list[NDArray[np.uint8]]:
    arrays = [store.mentor(name).array for name in store.mentors[:mentors]]
    blocks = range(store.manifest.num_blocks)
    return [
        np.fromfile(array.chunk(0, block), dtype=np.uint8)[:-4]
        for array in arrays
        for block in blocks
    ]
