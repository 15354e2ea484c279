"""Opening a store and reading from it."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.canonical import array_sha256
from kdcache.encode import ENCODERS, LOGITS, Encoder, TargetKind
from kdcache.errors import DamagedTargets, MissingTargets, StoreError
from kdcache.store.chunks import read_chunk_into
from kdcache.store.commits import ChunkKey, CommitRecord, load_commits
from kdcache.store.layout import ArrayLocation, member_name
from kdcache.store.manifest import (
    Manifest,
    MentorManifest,
    read_attributes,
    read_manifest,
    read_mentor_manifest,
)


@dataclass(frozen=True, kw_only=True)
class StoredMentor:
    """One mentor's array: who it is, how it is encoded, what is committed."""

    manifest: MentorManifest
    array: ArrayLocation
    encoder: Encoder
    declared_views: int
    commits: Mapping[ChunkKey, CommitRecord]

    def complete_views(self, num_blocks: int) -> list[int]:
        """Views of which every block is committed, ascending."""
        return [
            view
            for view in range(self.declared_views)
            if all((view, block) in self.commits for block in range(num_blocks))
        ]


def is_intact(stored: StoredMentor, key: ChunkKey, chunk_bytes: int) -> bool:
    """Whether a chunk is committed, and its file still is what was committed (every byte)."""
    record = stored.commits.get(key)
    if record is None or record.bytes != chunk_bytes:
        return False
    buffer = memoryview(bytearray(chunk_bytes))
    try:
        read_chunk_into(buffer, stored.array.chunk(*key), record, mentor=stored.manifest.name)
    except DamagedTargets:
        return False
    return True


class TargetStore:
    """A store opened for reading; a snapshot of what was committed at that moment.

    Attributes: `root`, `manifest`, `fingerprint`, `kind`, `mentors` (names, alphabetical),
    `num_samples`, `num_views` (the most any mentor was given), `index_N` (int64, the samples'
    permanent integers, ascending).
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifest: Manifest = read_manifest(root)
        self.kind: TargetKind = LOGITS
        self._mentors = {
            mentor.manifest.name: mentor
            for mentor in _open_mentors(root, self.kind, (self.num_samples, *self.row_shape))
        }

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def mentors(self) -> list[str]:
        return list(self._mentors)

    @cached_property
    def num_samples(self) -> int:
        return self.manifest.num_samples

    @property
    def num_views(self) -> int:
        return max((m.declared_views for m in self._mentors.values()), default=0)

    @cached_property
    def row_shape(self) -> tuple[int, ...]:
        return self.kind.row_shape(self.manifest.dataset)

    @cached_property
    def index_N(self) -> NDArray[np.int64]:
        return self._sample_list("index")

    @cached_property
    def labels_N(self) -> NDArray[np.int64]:
        return self._sample_list("labels")

    @cached_property
    def _is_range(self) -> bool:
        """Whether the samples are 0 to N - 1, so that an index is its own position."""
        return bool(self.index_N[-1] == self.num_samples - 1)

    def _sample_list(self, name: str) -> NDArray[np.int64]:
        """`index` or `labels`, proven by the hash in the manifest (Zarr reads lost chunks as 0)."""
        import zarr

        folder = self.root / name
        try:
            values_N = np.asarray(zarr.open_array(folder, mode="r")[:])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StoreError(f"{folder}: the array is missing or damaged ({error})") from error
        if (
            values_N.dtype != np.int64
            or values_N.shape != (self.num_samples,)
            or array_sha256(values_N) != self.manifest.dataset[f"{name}_sha256"]
        ):
            raise StoreError(
                f"{folder} is not the list the manifest was made with (SHA-256 differs); fetch the "
                "store again from where it came"
            )
        return values_N

    def mentor(self, name: str) -> StoredMentor:
        """One mentor. Raises MissingTargets, naming those that are there."""
        if name not in self._mentors:
            raise MissingTargets(
                f"{self.root} has no mentor {name!r}; it has {', '.join(self.mentors) or 'none'}. "
                f"Add it with: kdcache precompute --mentors {name} --dataset "
                f"{self.manifest.dataset['name']} --store {self.root}"
            )
        return self._mentors[name]

    def usable_views(self, mentors: Sequence[str]) -> list[int]:
        """Views complete for all these mentors. Raises MissingTargets when there is none."""
        complete = [set(self.mentor(m).complete_views(self.manifest.num_blocks)) for m in mentors]
        usable = sorted(set.intersection(*complete)) if complete else []
        if not usable:
            raise MissingTargets(
                f"{self.root} has no view complete for {', '.join(mentors) or 'no mentor'}; "
                "finish it by running its `kdcache precompute` command again"
            )
        return usable

    def positions(self, index_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row positions of permanent sample integers. Raises MissingTargets for an unknown one."""
        index_B = np.asarray(index_B, dtype=np.int64)
        if (
            self._is_range
            and index_B.size
            and 0 <= index_B.min() <= index_B.max() < self.num_samples
        ):
            return index_B
        positions_B = np.searchsorted(self.index_N, index_B).clip(max=self.num_samples - 1)
        unknown = index_B[self.index_N[positions_B] != index_B]
        if unknown.size:
            raise MissingTargets(
                f"{self.root} holds no targets for {unknown.size} of the samples asked for (first: "
                f"{unknown[0]}); it holds {self.num_samples} samples of "
                f"{self.manifest.dataset['name']} ({self.manifest.dataset['split']})"
            )
        return positions_B

    def read_block(self, mentor: str, view: int, block: int, buffer: memoryview) -> None:
        """One chunk, still encoded, into `buffer` (bytes; a whole chunk, padding included).

        Raises MissingTargets when it was never committed, DamagedTargets when it was and is broken.
        """
        stored = self.mentor(mentor)
        record = stored.commits.get((view, block))
        if record is None:
            raise MissingTargets(
                f"{self.root} has no targets of mentor {mentor!r} for view {view}, block {block} "
                f"({len(stored.commits)} chunks are committed); compute them by running its "
                "`kdcache precompute` command again"
            )
        if record.bytes != len(buffer):
            raise StoreError(
                f"{self.root}: mentor {mentor!r}, view {view}, block {block}: the commit record "
                f"states {record.bytes} bytes, a chunk has {len(buffer)}"
            )
        read_chunk_into(buffer, stored.array.chunk(view, block), record, mentor=mentor)

    def targets(
        self, view: int, index: NDArray[np.int64], mentors: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """Targets as decoded, in the order asked: float32 log-probabilities (B, M, C).

        For looking and checking; training uses `TargetStream`. Raises MissingTargets.
        """
        positions_B = self.positions(index)
        names = self.mentors if mentors is None else list(mentors)
        rows_BMC = np.empty((len(positions_B), len(names), *self.row_shape), dtype=np.float32)
        block_B = positions_B // self.manifest.block
        for column, name in enumerate(names):
            encoder = self.mentor(name).encoder
            chunk = np.empty((self.manifest.block, *self.row_shape), dtype=encoder.dtype)
            for block in np.unique(block_B).tolist():
                self.read_block(name, view, block, chunk.data.cast("B"))
                wanted = block_B == block
                rows = chunk[positions_B[wanted] - block * self.manifest.block]
                rows_BMC[wanted, column] = encoder.decode(torch.from_numpy(rows)).numpy()
        return rows_BMC


def open_store(path: str | os.PathLike[str]) -> TargetStore:
    """Opens the store at a path for reading. Raises StoreError when it is none."""
    root = local_path(path)
    if not root.exists():
        raise StoreError(f"{root} does not exist. Make a store with `kdcache precompute --store`")
    return TargetStore(root)


def local_path(path: str | os.PathLike[str]) -> Path:
    """A store's folder. Raises StoreError for a URL."""
    if "://" in str(path):
        raise StoreError(
            f"{path}: this version uses stores by path only; copy the store to a local or mounted "
            "folder"
        )
    return Path(path).expanduser()


def is_store(path: Path) -> bool:
    """Whether `path` looks like one of our stores, of any format."""
    try:
        return "format" in read_attributes(path / "zarr.json")
    except StoreError:
        return False


def _open_mentors(root: Path, kind: TargetKind, rows: tuple[int, ...]) -> list[StoredMentor]:
    """Every stored mentor; `rows` is the shape (N, *row) its array must have in each view."""
    mentors = []
    for group in sorted((root / "mentors").glob("[!.]*/zarr.json")):  # hidden: being built
        manifest = read_mentor_manifest(group)
        if member_name(manifest.name) != group.parent.name:
            raise StoreError(f"{group} describes the mentor {manifest.name!r}, not its folder's")
        array = ArrayLocation(
            root=root, mentor=manifest.name, kind=kind.name, row_rank=len(rows) - 1
        )
        views, *shape = array_shape(array)
        if tuple(shape) != rows:
            raise StoreError(
                f"{array.metadata}: a view has the shape {tuple(shape)}, the manifest says {rows}"
            )
        mentors.append(
            StoredMentor(
                manifest=manifest,
                array=array,
                encoder=_encoder(array),
                declared_views=views,
                commits=load_commits(array),
            )
        )
    return mentors


def array_shape(array: ArrayLocation) -> tuple[int, ...]:
    """An array's shape (views, N, *row), from its metadata."""
    try:
        shape = json.loads(array.metadata.read_bytes())["shape"]
        if not (isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)):
            raise TypeError(f"shape {shape!r}")
        if len(shape) != array.row_rank + 2:
            raise ValueError(f"shape {shape!r}")
        return tuple(shape)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{array.metadata} is not the Zarr v3 array it should be ({error})"
        ) from error


def _encoder(array: ArrayLocation) -> Encoder:
    described = read_attributes(array.metadata).get("encoder")
    name = described.get("name") if isinstance(described, dict) else None
    encoder = ENCODERS.get(name) if isinstance(name, str) else None
    if encoder is None or encoder.describe() != described:
        raise StoreError(
            f"{array.metadata}: targets were encoded by {described}, which this version of kdcache "
            f"cannot decode (it knows {', '.join(sorted(ENCODERS))}); use the version that wrote it"
        )
    return encoder
