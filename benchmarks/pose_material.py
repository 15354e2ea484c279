"""Procedural people, and stores of mentors that point at their joints, for what only keeps time.

No photograph of a person and no trained network is in it: no licence is needed. A mentor here is
its labels' Gaussians, moved, of all heights, with noise between; so its maps take about the bytes
of a good network's, and nothing in a training step depends on more.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.material import Settings
from benchmarks.stick_figures import gradients
from benchmarks.stick_people import SPLITS, write_split
from kdcache.datasets import ImageDataset, open_dataset
from kdcache.encode import HEATMAPS, find_encoder
from kdcache.heatmaps import STRIDE, gaussian_heatmaps
from kdcache.store import (
    MentorManifest,
    TargetStore,
    chunk_payload,
    commit_chunk,
    ensure_mentor,
    ensure_store,
    new_manifest,
    open_store,
    write_commit_index,
)
from kdcache.views import PoseAffine

DATASET = "coco-keypoints"
MOVED, NOISE = 3.0, 0.003  # view pixels; of a peak of 1
LOWEST = 0.3  # peak


def procedural_people(settings: Settings, people: int) -> ImageDataset:
    """So many people on images of 640 x 480, below `settings.folder`/people."""
    folder = settings.folder / "people"
    if not folder.is_dir():
        for split, count in zip(SPLITS, (people, 16), strict=True):
            write_split(folder, split, count, 0, gradients)
    return open_dataset(DATASET, data_dir=str(folder))


def pointing_store(
    root: Path,
    dataset: ImageDataset,
    recipe: PoseAffine,
    *,
    mentors: int,
    views: int,
    block: int | None = None,
) -> TargetStore:
    """A complete store of heatmap8. `block`: its rows; None: the kind's own."""
    encoder = find_encoder("heatmap8")
    manifest = new_manifest(dataset, recipe)
    manifest = manifest if block is None else replace(manifest, block=block)
    ensure_store(root, manifest, dataset)
    for number in range(mentors):
        mentor = MentorManifest(
            fingerprint=manifest.fingerprint,
            name=f"mentor{number}",
            architecture="synthetic",
            num_classes=dataset.num_classes,
            checkpoint_sha256="0" * 64,
            preprocessing=dataset.preprocessing.describe(),
            run_shape={},
        )
        ensure_mentor(root, manifest, mentor, encoder, HEATMAPS, views)
    store = open_store(root)
    for number, name in enumerate(store.mentors):
        stored = store.mentor(name)
        records = []
        for view in range(views):
            for at in range(manifest.num_blocks):
                index_B = dataset.index_N[manifest.block_rows(at)]
                maps = pointing_maps(dataset, recipe, index_B, view, number)
                record = commit_chunk(
                    stored.array,
                    (view, at),
                    chunk_payload(encoder.encode(maps), manifest.block, encoder),
                    rows=manifest.num_rows(at),
                    correct=0,
                    error_sums={},
                    identity=stored.identity,
                    encoder=encoder,
                )
                records.append(record)
        write_commit_index(stored.array, records)
    return open_store(root)


def pointing_maps(
    dataset: ImageDataset,
    recipe: PoseAffine,
    index_B: NDArray[np.int64],
    view: int,
    mentor: int,
) -> NDArray[np.float32]:
    """float32 (B, J, H, W): what one of these mentors says of a view, sample by sample."""
    joints_BJ3 = dataset.labels_in_view(recipe, index_B, view)
    height, width = recipe.height // STRIDE, recipe.width // STRIDE
    maps = np.empty((*joints_BJ3.shape[:2], height, width), dtype=np.float32)
    for row, index in enumerate(index_B.tolist()):
        rng = np.random.default_rng((mentor, view, index))
        joints_J3 = joints_BJ3[row].copy()
        joints_J3[:, :2] += rng.normal(0, MOVED, (len(joints_J3), 2))
        maps[row] = gaussian_heatmaps(torch.from_numpy(joints_J3)[None], height, width)[0].numpy()
        maps[row] *= rng.uniform(LOWEST, 1, (len(joints_J3), 1, 1))
        maps[row] += rng.normal(0, NOISE, maps[row].shape)
    return maps


def stored_bytes(store: TargetStore, names: Sequence[str]) -> float:
    """Of a row, as chunks lie on the disk."""
    rows = store.num_samples * store.num_views
    chunks = [record for name in names for record in store.mentor(name).commits.values()]
    return sum(record.bytes for record in chunks) / rows / len(names)
