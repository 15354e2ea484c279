"""Opening a store and reading from it."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.encode import LOGITS, TargetKind
from kdcache.errors import DamagedTargets, MissingTargets, StoreError
from kdcache.store.chunks import CHECKSUM_BYTES, ChunkReader, DamagedChunk, can_hold
from kdcache.store.commit_record import ChunkKey, CommitRecord
from kdcache.store.commits import read_record
from kdcache.store.healing import healing_command
from kdcache.store.layout import LISTS, listed
from kdcache.store.manifest import Manifest, read_manifest
from kdcache.store.sample_lists import read_list
from kdcache.store.stored_mentor import StoredMentor, chunk_bytes, is_made, open_mentor
from kdcache.views import Recipe, recipe_from_description


class TargetStore:
    """A store opened for reading; a snapshot of what was committed at that moment.

    Attributes: `root`, `manifest`, `fingerprint`, `kind`, `mentors` (names, alphabetical),
    `num_samples`, `num_views` (the most any mentor was given), `index_N` (int64, the samples'
    permanent integers, ascending).

    `manifest`: given where the store's own is damaged and this one is to take its place.
    """

    def __init__(self, root: Path, manifest: Manifest | None = None) -> None:
        self.root = root
        self.manifest: Manifest = manifest or read_manifest(root)
        self.kind: TargetKind = LOGITS
        self._mentors: dict[str, StoredMentor | StoreError] = {}
        for group in _mentor_folders(root):
            try:
                mentor = open_mentor(group, self.manifest, self.kind)
                self._mentors[mentor.manifest.name] = mentor
            except StoreError as error:
                self._mentors[group.name] = error

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def mentors(self) -> list[str]:
        return list(self._mentors)

    @property
    def sound_mentors(self) -> list[StoredMentor]:
        """The mentors that can be opened."""
        return [mentor for mentor in self._mentors.values() if isinstance(mentor, StoredMentor)]

    @property
    def mentor_errors(self) -> dict[str, StoreError]:
        """Why the others cannot be opened; by name, or folder where the name is not known."""
        return {n: mentor for n, mentor in self._mentors.items() if isinstance(mentor, StoreError)}

    @cached_property
    def num_samples(self) -> int:
        return self.manifest.num_samples

    @property
    def num_views(self) -> int:
        return max((m.declared_views for m in self.sound_mentors), default=0)

    @cached_property
    def row_shape(self) -> tuple[int, ...]:
        return self.kind.row_shape(self.manifest.dataset)

    @cached_property
    def recipe(self) -> Recipe:
        """How its views are made."""
        return recipe_from_description(self.manifest.recipe, self.manifest.view_seed)

    @cached_property
    def index_N(self) -> NDArray[np.int64]:
        return read_list(self.root, LISTS[0], self.manifest)

    @cached_property
    def labels_N(self) -> NDArray[np.int64]:
        return read_list(self.root, LISTS[1], self.manifest)

    @cached_property
    def _is_range(self) -> bool:
        """Whether the samples are 0 to N - 1, so that an index is its own position."""
        return bool(self.index_N[-1] == self.num_samples - 1)

    def mentor(self, name: str) -> StoredMentor:
        """One mentor. Raises MissingTargets, naming those that are there; DamagedTargets."""
        found = self._mentors.get(name) or self._mentors.get(name.replace(":", "."))
        if found is None:
            raise MissingTargets(
                f"{self.root} has no mentor {name!r}; it has {', '.join(self.mentors) or 'none'}. "
                f"Add it with: {healing_command(self, [name])}"
            )
        if isinstance(found, StoreError):
            raise found
        return found

    def usable_views(
        self, mentors: Sequence[str], wanted: Sequence[int] | None = None
    ) -> list[int]:
        """Views complete for all these mentors, among the `wanted` ones (None: all).

        Raises MissingTargets when there is none, DamagedTargets when one lost a commit record:
        it is not passed over in silence.
        """
        for name in mentors:
            for wrong in self.mentor(name).broken:
                if wanted is None or wrong.key[0] in wanted:
                    raise self._damaged(name, wrong.key, wrong.path, wrong.reason)
        complete = [set(self.mentor(m).complete_views(self.manifest.num_blocks)) for m in mentors]
        usable = sorted(set.intersection(*complete)) if complete else []
        if not usable:
            raise MissingTargets(
                f"{self.root} has no view complete for {', '.join(mentors) or 'no mentor'}; "
                f"finish it with: {healing_command(self, mentors)}"
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
                f"{self.manifest.dataset['name']} ({self.manifest.dataset['split']}). Ask for "
                "these only (--samples), or precompute another store"
            )
        return positions_B

    def chunk_bytes(self, mentor: str) -> int:
        """Bytes of one of a mentor's chunks in memory, still encoded."""
        return chunk_bytes(self.manifest, self.mentor(mentor).encoder, self.kind)

    def require_files(
        self, mentors: Sequence[str], view: int, blocks: Iterable[int] | None = None
    ) -> None:
        """Raises unless each of these chunks of a view (None: all) has a file of its size.

        Called before memory is taken for a view, so that none is taken for what is only claimed.
        """
        chosen = range(self.manifest.num_blocks) if blocks is None else list(blocks)
        for name in mentors:
            stored = self.mentor(name)
            for block in chosen:
                record = self._record(name, (view, block))
                path = stored.array.chunk(view, block)
                try:
                    size = path.lstat().st_size
                except OSError:
                    raise self._damaged(name, record.key, path, "the file is gone") from None
                if size != record.bytes + CHECKSUM_BYTES:
                    healed = self._healed(stored, record)
                    if healed is None or size != healed.bytes + CHECKSUM_BYTES:
                        reason = f"{size} bytes instead of {record.bytes + CHECKSUM_BYTES}"
                        raise self._damaged(name, record.key, path, reason)

    def read_block(
        self, mentor: str, view: int, block: int, buffer: memoryview, reader: ChunkReader
    ) -> None:
        """One chunk, still encoded, into `buffer` (bytes; a whole chunk, padding included).

        Raises MissingTargets when it was never committed, DamagedTargets when it was and is broken.
        """
        record = self._record(mentor, (view, block))
        stored = self.mentor(mentor)
        path = stored.array.chunk(view, block)
        try:
            reader.read_into(buffer, path, record.bytes, record.checksum)
        except DamagedChunk as error:
            if healed := self._healed(stored, record):
                with suppress(DamagedChunk):
                    return reader.read_into(buffer, path, healed.bytes, healed.checksum)
            raise self._damaged(mentor, record.key, path, str(error)) from error

    def targets(
        self, view: int, index: NDArray[np.int64], mentors: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """Targets as decoded, in the order asked: float32 log-probabilities (B, M, C).

        For looking and checking; training uses `TargetStream`. Raises MissingTargets.
        """
        positions_B = self.positions(index)
        names = self.mentors if mentors is None else list(mentors)
        block_B = positions_B // self.manifest.block
        blocks = np.unique(block_B).tolist()
        self.require_files(names, view, blocks)
        rows_BMC = np.empty((len(positions_B), len(names), *self.row_shape), dtype=np.float32)
        for column, name in enumerate(names):
            encoder = self.mentor(name).encoder
            reader = ChunkReader(encoder, self.chunk_bytes(name))
            chunk = np.empty((self.manifest.block, *self.row_shape), dtype=encoder.dtype)
            for block in blocks:
                self.read_block(name, view, block, chunk.data.cast("B"), reader)
                wanted = block_B == block
                rows = chunk[positions_B[wanted] - block * self.manifest.block]
                rows_BMC[wanted, column] = encoder.decode(torch.from_numpy(rows)).numpy()
        return rows_BMC

    def _record(self, mentor: str, key: ChunkKey) -> CommitRecord:
        stored = self.mentor(mentor)
        if key in stored.commits:
            return stored.commits[key]
        for wrong in stored.broken:
            if wrong.key == key:
                raise self._damaged(mentor, key, wrong.path, wrong.reason)
        raise MissingTargets(
            f"{self.root} has no targets of mentor {mentor!r} for view {key[0]}, block {key[1]} "
            f"({len(stored.commits)} chunks are committed); compute them with: "
            f"{healing_command(self, [mentor])}"
        )

    def _healed(self, stored: StoredMentor, record: CommitRecord) -> CommitRecord | None:
        """The record that now stands in this one's place, if somebody healed its chunk."""
        found = read_record(stored.array, record.key)
        if found is None or found == record or found.identity != record.identity:
            return None
        raw = chunk_bytes(self.manifest, stored.encoder, self.kind)
        return found if can_hold(found.bytes, raw, stored.encoder) else None

    def _damaged(self, mentor: str, key: ChunkKey, path: Path, reason: str) -> DamagedTargets:
        return DamagedTargets(
            f"targets of mentor {mentor!r}, view {key[0]}, block {key[1]} are damaged: {reason} "
            f"({path}). Compute exactly what is missing or damaged again with: "
            f"{healing_command(self, [mentor])}"
        )


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


def _mentor_folders(root: Path) -> list[Path]:
    """The folders of mentors, alphabetical; not hidden ones, nor those never finished."""
    names = [name for name in listed(root / "mentors") if not name.startswith(".")]
    folders = [root / "mentors" / name for name in names]
    return [folder for folder in folders if folder.is_dir() and is_made(folder)]
