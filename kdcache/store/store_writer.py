"""Making and growing stores. Every step appears whole or not at all; arrays only grow."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from kdcache import durable
from kdcache.datasets import ImageDataset
from kdcache.encode import Encoder, TargetKind
from kdcache.errors import StoreError
from kdcache.store.commits import store_lock
from kdcache.store.layout import FORMAT, ArrayLocation, block_size, member_name
from kdcache.store.manifest import Manifest, MentorManifest, fingerprint
from kdcache.store.replay_proof import replay_checksums
from kdcache.store.target_store import TargetStore, array_shape, is_store
from kdcache.versions import library_versions
from kdcache.views import Recipe


def new_manifest(dataset: ImageDataset, recipe: Recipe) -> Manifest:
    """The manifest a store of these views has."""
    identity, described = dataset.identity(), recipe.describe()
    return Manifest(
        format=FORMAT,
        fingerprint=fingerprint(identity, described, recipe.seed),
        dataset=identity,
        recipe=described,
        view_seed=recipe.seed,
        block=block_size(len(dataset)),
        replay_proof=replay_checksums(dataset, recipe),
        written_by=library_versions(),
    )


def create_store(root: Path, manifest: Manifest, dataset: ImageDataset) -> None:
    """Makes an empty store. Whoever is second of two at once finds the first one's.

    Raises StoreError when `root` is a folder with something else in it.
    """
    if root.exists() and not is_store(root) and (not root.is_dir() or any(root.iterdir())):
        raise StoreError(
            f"{root} exists and is not a kdcache store; name a new or empty folder with --store"
        )
    with _published_tree(root.resolve()) as folder:  # a link to an empty folder is filled there
        zarr.create_group(store=folder, attributes={"kdcache": manifest.to_json()})
        zarr.create_group(store=folder / "mentors")
        for name, values_N in (
            ("index", dataset.index_N),
            ("labels", dataset.labels(dataset.index_N)),
        ):
            _write_small_array(folder / name, values_N)


def add_mentor(
    store: TargetStore, mentor: MentorManifest, encoder: Encoder, kind: TargetKind, views: int
) -> None:
    """Makes an empty array for a new mentor (or finds the one a second writer just made)."""
    array = ArrayLocation(
        root=store.root, mentor=mentor.name, kind=kind.name, row_rank=len(store.row_shape)
    )
    with _published_tree(store.root / "mentors" / member_name(mentor.name)) as folder:
        zarr.create_group(store=folder, attributes={"kdcache": mentor.to_json()})
        zarr.create_array(
            store=folder / array.kind,
            shape=(views, store.num_samples, *store.row_shape),
            chunks=(1, store.manifest.block, *store.row_shape),
            dtype=encoder.dtype,
            compressors=[Crc32cCodec()],
            filters=None,
            fill_value=float("nan"),
            dimension_names=("view", "sample", *kind.dimension_names),
            attributes={"kdcache": {"kind": kind.name, "encoder": encoder.describe()}},
        )


def grow_views(array: ArrayLocation, views: int) -> None:
    """Declares at least `views` views; never fewer than before."""
    with store_lock(array.root):
        if views <= array_shape(array)[0]:
            return
        metadata = json.loads(array.metadata.read_bytes())
        metadata["shape"][0] = views
        durable.write_file(array.metadata, json.dumps(metadata, indent=2).encode())


def _write_small_array(folder: Path, values_N: NDArray[np.int64]) -> None:
    array = zarr.create_array(
        store=folder,
        shape=values_N.shape,
        chunks=values_N.shape,
        dtype="int64",
        compressors=[Crc32cCodec()],
        filters=None,
        dimension_names=("sample",),
    )
    array[:] = values_N


@contextmanager
def _published_tree(destination: Path) -> Iterator[Path]:
    """A folder built aside that appears as `destination` at the end, unless that came first."""
    durable.make_folder(destination.parent)
    building = durable.aside(destination)
    try:
        yield building
        durable.fsync_tree(building)
        try:
            durable.publish(building, destination)
        except OSError:
            if not (destination / "zarr.json").exists():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
