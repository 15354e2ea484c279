"""Stores of the right sizes made without running a mentor: reading does not care what it reads."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.material import Settings
from kdcache.datasets import ImageDataset, Preprocessing
from kdcache.datasets.image_dataset import array_dataset
from kdcache.datasets.labels import ClassLabels
from kdcache.encode import LOGITS, find_encoder
from kdcache.store import (
    CommitRecord,
    MentorManifest,
    StoredMentor,
    TargetStore,
    chunk_payload,
    commit_chunk,
    ensure_mentor,
    ensure_store,
    new_manifest,
    open_store,
    write_commit_index,
)
from kdcache.store.sealed import BLANK, SEAL, seal
from kdcache.views import CropFlip

MENTORS = 6
NUM_CLASSES = 100
# Commit records carry such sums; a store opens slower with them than without.
ERROR_SUMS = {
    f"{name}": 0.0123456789012345 / (n + 1)
    for n, name in enumerate(("kl_t1", "kl_t4", "kl_t12", "p_true", "max_p_true", "max_log_prob"))
} | {"measured_rows": 1024.0}


def images(count: int, size: int) -> NDArray[np.uint8]:
    """Noise, uint8 (count, 3, size, size)."""
    return np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def dataset(num_samples: int, size: int = 8) -> ImageDataset:
    """Noise with 100 labels."""
    return array_dataset(
        name="synthetic",
        split="train",
        images_NCHW=images(num_samples, size),
        labels_N=np.arange(num_samples, dtype=np.int64) % NUM_CLASSES,
        num_classes=NUM_CLASSES,
        preprocessing=Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3),
        view_parameters={"size": size, "padding": 1, "flip": True},
    )


def generated_dataset(num_samples: int, num_classes: int, size: int = 8) -> ImageDataset:
    """Images made from their index when they are asked for; labels in turn."""
    pixels = np.arange(3 * size * size, dtype=np.uint32).reshape(3, size, size)

    def fetch(index_B: NDArray[np.int64]) -> NDArray[np.uint8]:
        seeds_B111 = index_B.astype(np.uint32)[:, None, None, None] * np.uint32(2654435761)
        return ((seeds_B111 + pixels * np.uint32(2246822519)) >> np.uint32(24)).astype(np.uint8)

    return ImageDataset(
        name="generated",
        split="train",
        fetch=fetch,
        labels=ClassLabels(np.arange(num_samples, dtype=np.int64) % num_classes, num_classes),
        preprocessing=Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3),
        view_parameters={"size": size, "padding": 1, "flip": True},
    )


def cifar_sized(settings: Settings, *, views: int, blocks: int | None = None) -> TargetStore:
    """Six mentors of 100 classes on 50,000 samples, every chunk of its own values.

    `blocks` a view; None: as many as CIFAR-100 has.
    """
    return make_store(
        settings.folder / "wide",
        settings.size(full=50_000, quick=2_000),
        mentors=MENTORS,
        views=views,
        blocks=settings.size(full=7, quick=2) if blocks is None else blocks,
        same_chunks=False,
    )


def make_store(
    root: Path,
    num_samples: int,
    *,
    mentors: int,
    views: int,
    blocks: int,
    same_chunks: bool,
    encoder_name: str = "float16",
    samples: ImageDataset | None = None,
    rolled: bool = False,
) -> TargetStore:
    """A complete store, `blocks` blocks a view; of `samples`, else of noise.

    `same_chunks`: one chunk is committed everywhere for the first mentor, and its files are copied
    for the others; else every chunk has values of its own. `rolled`: these are one chunk's, with
    its rows rolled, which takes a tenth of the time.
    """
    encoder = find_encoder(encoder_name)
    samples = dataset(num_samples) if samples is None else samples
    manifest = new_manifest(samples, CropFlip(size=8, padding=1))
    manifest = replace(manifest, block=-(-num_samples // blocks))
    classes = samples.num_classes
    ensure_store(root, manifest, samples)
    names = [f"mentor{number}" for number in range(mentors)]
    for name in names:
        mentor = MentorManifest(
            fingerprint=manifest.fingerprint,
            name=name,
            architecture="synthetic",
            num_classes=classes,
            checkpoint_sha256="0" * 64,
            preprocessing=samples.preprocessing.describe(),
            run_shape={},
        )
        ensure_mentor(root, manifest, mentor, encoder, LOGITS, views)
    store = open_store(root)
    first = store.mentor(names[0])
    one = chunk = encoder.encode(_log_probs(manifest.block, classes, 0))
    for number, name in enumerate(names):
        stored = store.mentor(name)
        records: list[CommitRecord] = []
        if same_chunks and number:
            _copy_chunks(first, stored)
            continue
        for view in range(views):
            for block in range(blocks):
                seed = hash((number, view, block)) % 2**32
                if rolled:
                    chunk = np.roll(one, seed % manifest.block, axis=0)
                elif not same_chunks:
                    chunk = encoder.encode(_log_probs(manifest.block, classes, seed))
                record = commit_chunk(
                    stored.array,
                    (view, block),
                    chunk_payload(chunk, manifest.block, encoder),
                    rows=manifest.num_rows(block),
                    correct=0,
                    error_sums=ERROR_SUMS,
                    identity=stored.identity,
                    encoder=encoder,
                )
                records.append(record)
        write_commit_index(stored.array, records)
    return open_store(root)


def _copy_chunks(source: StoredMentor, target: StoredMentor) -> None:
    """All that is committed of one mentor, for another one; without waiting for the disk."""
    shutil.copytree(source.array.folder / "c", target.array.folder / "c")
    target.array.commits.mkdir()
    records = []
    for path in source.array.commits.iterdir():
        document = {**json.loads(path.read_bytes()), SEAL: BLANK, "identity": target.identity}
        (target.array.commits / path.name).write_bytes(seal(document))
        del document[SEAL]
        records.append(CommitRecord(**document))
    write_commit_index(target.array, records)


def _log_probs(rows: int, classes: int, seed: int) -> NDArray[np.float32]:
    logits = np.random.default_rng(seed).standard_normal((rows, classes), dtype=np.float32)
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    return logits
