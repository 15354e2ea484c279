"""Replay proof: what sampled views look like, so that a drifted replay is noticed in time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdcache import philox
from kdcache.datasets import ImageDataset, open_dataset
from kdcache.errors import ReplayMismatch, StoreError, StoreMismatch, UsageError
from kdcache.factories import require_named
from kdcache.store.manifest import require_equal
from kdcache.store.sampled_views import ONE_LEVEL, TOLERATED, SampledView, sampled_view
from kdcache.versions import library_versions
from kdcache.views import Recipe

if TYPE_CHECKING:
    from kdcache.store.target_store import TargetStore

SAMPLED_VIEWS = 16
VIEW_RANGE = 256  # sampled view numbers are below this; a view need not be stored to be proven


def replay_checksums(dataset: ImageDataset, recipe: Recipe) -> list[dict[str, Any]]:
    """What 16 Philox-chosen (view, index) pairs look like: `SampledView.to_json`."""
    words = philox.words(0, philox.Purpose.REPLAY_PROOF, np.arange(SAMPLED_VIEWS))
    views = philox.below(words[:, 0], min(VIEW_RANGE, recipe.num_views or VIEW_RANGE))
    positions = philox.below(words[:, 1], len(dataset))
    return [
        _sampled(dataset, recipe, int(view), int(index)).to_json()
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
    here = stored_part.identity()
    content = (here.keys() | manifest.dataset.keys()) - {"name", "split"}
    if any(here.get(key) != manifest.dataset.get(key) for key in content):
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

    Pixels of exact recipes must be equal; those of tolerant ones within one level on 99.9% of the
    sampled values of all entries together, and made with the same parameters.
    Raises StoreError for a proof of samples that are not in the dataset.
    """
    sides = _Sides(written_by, running)
    off_B = []
    for entry in proof:
        if entry["index"] not in dataset.index_N:
            raise StoreError(
                f"the store's replay proof is of sample {entry['index']}, which the store does "
                "not hold. No writer wrote this: fetch the store again from where it came"
            )
        here = _sampled(dataset, recipe, entry["view"], entry["index"])
        if recipe.exact:
            _require_checksum(entry, here, sides)
        else:
            off_B.append(_levels_off(entry, here, sides))
    if not recipe.exact:
        _require_near(proof, off_B, sides)


@dataclass(frozen=True)
class _Sides:
    written_by: dict[str, str]
    running: dict[str, str]

    def mismatch(self, what: str) -> ReplayMismatch:
        return ReplayMismatch(
            f"{what}.\n  store written by {self.written_by}\n  running          {self.running}\n"
            "Use the versions that wrote the store, or precompute a new one"
        )


def _require_checksum(entry: dict[str, Any], here: SampledView, sides: _Sides) -> None:
    if here.sha256 != entry["sha256"]:
        raise sides.mismatch(
            f"view {here.view} of sample {here.index} replays as other pixels than the mentors "
            f"saw: SHA-256 {here.sha256[:16]}... here, {entry['sha256'][:16]}... in the store"
        )


def _levels_off(entry: dict[str, Any], here: SampledView, sides: _Sides) -> NDArray[np.int64]:
    """By how many levels each sampled value differs, int64. Raises for other parameters."""
    if not here.has_parameters(entry["parameters"]):
        raise sides.mismatch(
            f"view {here.view} of sample {here.index} is made with other parameters than the view "
            f"that the mentors saw: {here.to_json()['parameters']} here, {entry['parameters']} in "
            "the store"
        )
    values = np.frombuffer(here.pixel_values, dtype=np.uint8).astype(np.int64)
    stored = np.frombuffer(bytes.fromhex(entry["pixels"]), dtype=np.uint8)
    if len(stored) != len(values):
        raise StoreError(
            f"the store's replay proof has {len(stored)} values of view {here.view} of sample "
            f"{here.index}, a writer takes {len(values)}: fetch the store again from where it came"
        )
    off: NDArray[np.int64] = np.abs(values - stored)
    return off


def _require_near(
    proof: Sequence[dict[str, Any]], off_B: Sequence[NDArray[np.int64]], sides: _Sides
) -> None:
    """Within one level on 99.9% of the values of all entries together."""
    further_B = [int((off > ONE_LEVEL).sum()) for off in off_B]
    further, values = sum(further_B), sum(len(off) for off in off_B)
    if further > TOLERATED * values:
        worst = int(np.argmax(further_B))
        raise sides.mismatch(
            f"the sampled views replay as other pixels than the mentors saw: {further:,} of "
            f"{values:,} values ({further / values:.2%}) differ by more than one level of 255, "
            f"{TOLERATED:.1%} may; by {max(int(off.max()) for off in off_B)} at most; most of them "
            f"in view {proof[worst]['view']} of sample {proof[worst]['index']} ({further_B[worst]} "
            f"of {len(off_B[worst])})"
        )


def _sampled(dataset: ImageDataset, recipe: Recipe, view: int, index: int) -> SampledView:
    return sampled_view(dataset.images(np.array([index], dtype=np.int64)), recipe, view, index)
