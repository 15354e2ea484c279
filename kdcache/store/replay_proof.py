"""Replay proof: checksums of sampled views, so that a drifted replay is noticed in time."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcache import philox
from kdcache.datasets import ImageDataset, open_dataset
from kdcache.errors import ReplayMismatch, StoreError, StoreMismatch, UsageError
from kdcache.factories import require_named
from kdcache.store.manifest import require_equal
from kdcache.versions import library_versions
from kdcache.views import Recipe

if TYPE_CHECKING:
    from kdcache.store.target_store import TargetStore

SAMPLED_VIEWS = 16
VIEW_RANGE = 256  # sampled view numbers are below this; a view need not be stored to be proven


def replay_checksums(dataset: ImageDataset, recipe: Recipe) -> list[dict[str, Any]]:
    """SHA-256 of the pixels of 16 Philox-chosen (view, index) pairs."""
    words = philox.words(0, philox.Purpose.REPLAY_PROOF, np.arange(SAMPLED_VIEWS))
    views = philox.below(words[:, 0], min(VIEW_RANGE, recipe.num_views or VIEW_RANGE))
    positions = philox.below(words[:, 1], len(dataset))
    return [
        {
            "view": int(view),
            "index": int(index),
            "sha256": _pixel_sha256(dataset, recipe, view, index),
        }
        for view, index in zip(views, dataset.index_N[positions], strict=True)
    ]


def dataset_at_hand(
    store: "TargetStore", name: str | None = None, data_dir: str | Path | None = None
) -> ImageDataset:
    """The dataset a store says it is of, or `name`, if it is here; nothing is downloaded.

    Whether it is what the mentors saw, `proven_dataset` says. Raises DatasetError, UsageError.
    """
    described = store.manifest.dataset
    origin = f"store {store.address}"
    name = name or require_named(described["name"], option="--dataset", origin=origin)
    return open_dataset(name, described["split"], data_dir=data_dir, download=False)


def proven_dataset(store: "TargetStore", dataset: ImageDataset) -> ImageDataset:
    """The store's part of `dataset`, proven to be what the mentors saw.

    Content is compared (samples, labels, pixels; a name may differ), then sampled views are
    replayed. Raises StoreMismatch, ReplayMismatch.
    """
    manifest = store.manifest
    remedy = "Use the dataset the store was made from, or precompute a store for this one"
    try:
        stored_part = dataset.subset(store.index_N)
    except UsageError as error:
        raise StoreMismatch(
            f"the dataset is not the one of the store {store.address}, which holds "
            f"{manifest.num_samples} samples of {manifest.dataset['name']} "
            f"({manifest.dataset['split']}): {error}. {remedy}"
        ) from error
    content = {"num_classes", "image_shape", "index_sha256", "labels_sha256", "pixels_sha256"}
    here = stored_part.identity()
    if any(here[key] != manifest.dataset.get(key) for key in content):
        require_equal(
            "the dataset",
            (f"store {store.address}", manifest.dataset),
            ("dataset here", here),
            remedy,
        )
    require_replay(
        manifest.replay_proof, stored_part, store.recipe, manifest.written_by, library_versions()
    )
    return stored_part


def require_replay(
    proof: Sequence[dict[str, Any]],
    dataset: ImageDataset,
    recipe: Recipe,
    written_by: dict[str, str],
    running: dict[str, str],
) -> None:
    """Replays the proof's views and compares. Raises ReplayMismatch with both sides.

    Raises StoreError for a proof of samples that are not in the dataset.
    """
    for sampled in proof:
        if sampled["index"] not in dataset.index_N:
            raise StoreError(
                f"the store's replay proof is of sample {sampled['index']}, which the store does "
                "not hold. No writer wrote this: fetch the store again from where it came"
            )
        got = _pixel_sha256(dataset, recipe, sampled["view"], sampled["index"])
        if got != sampled["sha256"]:
            raise ReplayMismatch(
                f"view {sampled['view']} of sample {sampled['index']} replays as other pixels than "
                f"the mentors saw: SHA-256 {got[:16]}... here, {sampled['sha256'][:16]}... in the "
                f"store.\n  store written by {written_by}\n  running          {running}\n"
                "Use the versions that wrote the store, or precompute a new one"
            )


def _pixel_sha256(dataset: ImageDataset, recipe: Recipe, view: int, index: int) -> str:
    index_1 = np.array([index], dtype=np.int64)
    pixels = recipe(dataset.images(index_1), index_1, int(view))
    return hashlib.sha256(pixels.tobytes()).hexdigest()
