"""Small stores filled by hand: random targets committed directly, no mentor is run."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kdcache.datasets import ImageDataset, Preprocessing
from kdcache.datasets.image_dataset import array_dataset
from kdcache.encode import LOGITS, find_encoder
from kdcache.store import (
    ArrayLocation,
    CommitRecord,
    MentorManifest,
    TargetStore,
    chunk_payload,
    commit_chunk,
    ensure_mentor,
    ensure_store,
    new_manifest,
    open_store,
)
from kdcache.store.commit_record import ChunkKey
from kdcache.store.commits import read_commits
from kdcache.views import CropFlip

SIZE = 4
RECIPE = CropFlip(size=SIZE, padding=1, seed=0)


def small_dataset(
    num_samples: int, num_classes: int, index_N: Sequence[int] | None = None
) -> ImageDataset:
    """Images and labels from formulas; `index_N`: the chosen samples."""
    steps = np.arange(num_samples * 3 * SIZE * SIZE, dtype=np.int64)
    images = (steps * 31 % 253).astype(np.uint8).reshape(num_samples, 3, SIZE, SIZE)
    dataset = array_dataset(
        name="small",
        split="train",
        images_NCHW=images,
        labels_N=np.arange(num_samples) % num_classes,
        num_classes=num_classes,
        preprocessing=Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3),
        view_parameters={"size": SIZE, "padding": 1},
    )
    return dataset if index_N is None else dataset.subset(np.array(index_N))


def mentor_manifest(name: str, num_classes: int, fingerprint: str) -> MentorManifest:
    return MentorManifest(
        fingerprint=fingerprint,
        name=name,
        architecture="resnet8",
        num_classes=num_classes,
        checkpoint_sha256="0" * 64,
        preprocessing={"mean": [0.5] * 3, "std": [0.25] * 3},
        run_shape={"precision": "fp32", "batch": 64, "memory_format": "channels_last"},
    )


def random_targets(
    views: int, num_samples: int, num_classes: int, seed: int = 0
) -> NDArray[np.float32]:
    """float32 log-probabilities (V, N, C)."""
    random = np.random.default_rng(seed)
    logits = torch.from_numpy(random.normal(size=(views, num_samples, num_classes)) * 5)
    targets: NDArray[np.float32] = torch.log_softmax(logits.to(torch.float32), -1).numpy()
    return targets


@dataclass(frozen=True)
class SmallStore:
    """A store with what was committed to it: (V, N, C) by mentor, as decoded."""

    root: Path
    dataset: ImageDataset
    decoded: dict[str, NDArray[np.float32]]

    def open(self) -> TargetStore:
        return open_store(self.root)

    def array(self, mentor: str) -> ArrayLocation:
        return self.open().mentor(mentor).array


def block_of(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Blocks of at most `rows` samples instead of 8,192."""
    monkeypatch.setattr("kdcache.store.layout.TARGET_BLOCK", rows)


def commit_rows(
    store: TargetStore, mentor: str, key: ChunkKey, rows: NDArray[np.float32]
) -> CommitRecord:
    """Encodes and commits one block's rows as precompute does."""
    stored = store.mentor(mentor)
    return commit_chunk(
        stored.array,
        key,
        chunk_payload(stored.encoder.encode(rows), store.manifest.block, stored.encoder),
        rows=len(rows),
        correct=0,
        error_sums={},
        identity=stored.identity,
        encoder=stored.encoder,
    )


def make_store(
    root: Path,
    *,
    num_samples: int = 7,
    num_classes: int = 3,
    views: int = 2,
    mentors: Iterable[str] = ("r20",),
    encoder: str = "float16",
    index_N: Sequence[int] | None = None,
    skip: Iterable[tuple[str, int, int]] = (),
) -> SmallStore:
    """A store of random targets; the (mentor, view, block)s of `skip` are not committed."""
    dataset = small_dataset(num_samples, num_classes, index_N)
    manifest = new_manifest(dataset, RECIPE)
    ensure_store(root, manifest, dataset)
    decoded = {}
    for number, name in enumerate(mentors):
        chosen = find_encoder(encoder)
        mentor = mentor_manifest(name, num_classes, manifest.fingerprint)
        ensure_mentor(root, manifest, mentor, chosen, LOGITS, views)
        store = open_store(root)
        targets = random_targets(views, len(dataset), num_classes, seed=number)
        encoded = torch.from_numpy(chosen.encode(targets))
        decoded[name] = chosen.decode(encoded).numpy()
        for view in range(views):
            for block in range(store.manifest.num_blocks):
                if (name, view, block) not in set(skip):
                    rows = store.manifest.block_rows(block)
                    commit_rows(store, name, (view, block), targets[view, rows])
    return SmallStore(root=root, dataset=dataset, decoded=decoded)


# Forging: what somebody writes who knows the rule of the seal


def resealed(content: bytes) -> bytes:
    """A document with the seal that its bytes must have, by the rule alone."""
    (seal,) = re.findall(rb'"seal": ?"([0-9a-f]{64})"', content)
    blank = content.replace(seal, b"0" * 64)
    return blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode())


def alter(path: Path, change: Callable[[dict[str, Any]], object], *, reseal: bool = True) -> None:
    """Changes a JSON document; without `reseal` as an editor does, who knows of no seal."""
    document = json.loads(path.read_bytes())
    change(document)
    content = json.dumps(document).encode()
    path.write_bytes(resealed(content) if reseal else content)


def alter_attributes(
    path: Path, change: Callable[[dict[str, Any]], object], *, reseal: bool = True
) -> None:
    """Changes `attributes.kdcache` of a zarr.json."""
    alter(path, lambda document: change(document["attributes"]["kdcache"]), reseal=reseal)


def files_of(root: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a folder, with its time: what must not change where nothing is written."""
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def index_damage(array: ArrayLocation) -> str | None:
    """Why an array's index cannot be used."""
    return read_commits(array, "").index_damage
