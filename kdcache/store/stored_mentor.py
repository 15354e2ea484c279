"""One mentor's targets of one kind: its documents, what is committed, and what is wrong."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from kdcache.encode import LOGITS, Encoder, TargetKind
from kdcache.errors import StoreError
from kdcache.store.array_documents import chunk_bytes, kinds_in, mentor_array, read_array
from kdcache.store.chunks import ChunkReader, DamagedChunk, can_hold
from kdcache.store.commit_record import ChunkKey, CommitRecord
from kdcache.store.commits import BrokenRecord, Commits, read_commits
from kdcache.store.layout import METADATA, ArrayLocation, member_name, require_inside
from kdcache.store.manifest import (
    Manifest,
    MentorManifest,
    read_mentor_manifest,
    targets_identity,
)
from kdcache.store.sealed import DamagedDocument

CHANCE_FACTOR = 2.0


@dataclass(frozen=True, kw_only=True)
class StoredMentor:
    """One mentor's array of one kind: who it is, how it is encoded, what is committed.

    `row_shape`: of one (view, sample). `broken`: chunks whose commit record is gone, damaged or of
    something else. `index_damage`: why the gathered index of its commits cannot be used; None when
    it is sound, or not there.
    """

    manifest: MentorManifest
    kind: TargetKind
    array: ArrayLocation
    encoder: Encoder
    row_shape: tuple[int, ...]
    declared_views: int
    commits: Mapping[ChunkKey, CommitRecord]
    broken: Sequence[BrokenRecord] = ()
    index_damage: str | None = None

    @cached_property
    def identity(self) -> str:
        """What every commit record of this array states."""
        return targets_identity(self.manifest, self.kind, self.encoder)

    @property
    def title(self) -> str:
        """What these targets are called in tables."""
        return title(self.manifest.name, self.kind)

    @property
    def accuracy(self) -> float | None:
        """Top-1 percent on its committed views; None before the first, and of what is no logits."""
        if self.kind is not LOGITS:
            return None
        rows = sum(record.rows for record in self.commits.values())
        correct = sum(record.correct for record in self.commits.values())
        return 100 * correct / rows if rows else None

    def near_chance(self) -> str | None:
        """A warning for a mentor that is hardly better than guessing; None for any other."""
        accuracy, chance = self.accuracy, 100 / self.manifest.num_classes
        if accuracy is None or accuracy >= CHANCE_FACTOR * chance:
            return None
        name = self.manifest.name
        return (
            f"mentor {name} is right on {accuracy:.2f}% of its cached views, near chance "
            f"({chance:.2f}%): is its class order, preprocessing or checkpoint another dataset's? "
            f"Give the right one with --checkpoint {name}=FILE, into another --store"
        )

    @property
    def committed_views(self) -> int:
        """One more than the highest view of which anything is committed: an array has as many."""
        return max((view + 1 for view, _ in self.commits), default=0)

    def complete_views(self, num_blocks: int) -> list[int]:
        """Views of which every block is committed, ascending."""
        counts = Counter(view for view, _ in self.commits)  # whatever number is declared
        return sorted(v for v, n in counts.items() if n == num_blocks and v < self.declared_views)

    def damage(self, key: ChunkKey, reader: ChunkReader) -> str | None:
        """Why a committed chunk is not what was committed (every byte is read); None if it is."""
        record = self.commits[key]
        try:
            reader.check(self.array.chunk(*key), record.bytes, record.checksum)
        except DamagedChunk as error:
            return str(error)
        return None


def title(mentor: str, kind: TargetKind) -> str:
    """A mentor's primary targets by its name alone; its other kinds by both names."""
    return mentor if kind.primary else f"{mentor} {kind.name}"


def open_mentor(
    group: Path, manifest: Manifest
) -> tuple[str, dict[str, StoredMentor | StoreError]]:
    """The name of the mentor in the folder `group`, and its targets by the name of their kind.

    For what cannot be opened, why: DamagedTargets for documents that are not what was written,
    StoreError for a mentor of another store or an encoder unknown here. The primary
    kind is always there.
    """
    kinds = kinds_in(group, manifest.primary)
    try:
        mentor = _open_group(group, manifest)
    except StoreError as error:
        return group.name, dict.fromkeys((kind.name for kind in kinds), error)
    opened: dict[str, StoredMentor | StoreError] = {}
    for kind in kinds:
        try:
            opened[kind.name] = _open_array(group, mentor, manifest, kind)
        except StoreError as error:
            opened[kind.name] = error
    return mentor.name, opened


def _open_group(group: Path, manifest: Manifest) -> MentorManifest:
    require_inside(group.parent.parent, group)
    if not (group / METADATA).exists():
        raise DamagedDocument(group / METADATA, "the file is gone")
    mentor = read_mentor_manifest(group / METADATA)
    if member_name(mentor.name) != group.name:
        raise StoreError(
            f"{group} describes the mentor {mentor.name!r}, not its folder's: move that folder out "
            "of the store, or give it its name back"
        )
    if mentor.fingerprint != manifest.fingerprint:
        raise StoreError(
            f"{group}: its targets are for the views {mentor.fingerprint}, this store's are "
            f"{manifest.fingerprint}. If the other mentors say the same, the manifest is what is "
            "wrong: put the store's own zarr.json back, or remove it and run the store's "
            "`kdcache precompute` command. Else move that folder out of the store"
        )
    return mentor


def _open_array(
    group: Path, mentor: MentorManifest, manifest: Manifest, kind: TargetKind
) -> StoredMentor:
    array = mentor_array(group.parent.parent, mentor, kind)
    require_inside(array.root, array.commits)
    encoder, row_shape, views = read_array(array, manifest, kind)
    stored = stored_as(mentor, encoder, row_shape, views, manifest, kind, array)
    known = stored.committed_views
    if known > views:  # arrays only grow, and do so before chunks of new views are committed
        encoder, row_shape, views = read_array(array, manifest, kind)
        if known > views:
            last = f"view {known - 1} is committed: an old version of it"
            raise DamagedDocument(array.metadata, f"it declares {views} views, {last}")
    return replace(stored, declared_views=views)


def stored_as(
    mentor: MentorManifest,
    encoder: Encoder,
    row_shape: tuple[int, ...],
    views: int,
    manifest: Manifest,
    kind: TargetKind,
    array: ArrayLocation,
    *,
    use_index: bool = True,
) -> StoredMentor:
    """What is committed of exactly these targets, whatever the mentor's documents say."""
    found = read_commits(array, targets_identity(mentor, kind, encoder), use_index=use_index)
    sound, unfit = _fit_to_array(found, encoder, row_shape, manifest, array)
    return StoredMentor(
        manifest=mentor,
        kind=kind,
        array=array,
        encoder=encoder,
        row_shape=row_shape,
        declared_views=views,
        commits=sound,
        broken=(*found.broken, *unfit),
        index_damage=found.index_damage,
    )


def _fit_to_array(
    found: Commits,
    encoder: Encoder,
    row_shape: tuple[int, ...],
    manifest: Manifest,
    array: ArrayLocation,
) -> tuple[dict[ChunkKey, CommitRecord], list[BrokenRecord]]:
    """Splits records into those that can be of this array's chunks, and the others."""
    raw = chunk_bytes(manifest, encoder, row_shape)
    sound, unfit = {}, []
    for key, record in found.records.items():
        reason = None
        if record.block >= manifest.num_blocks or record.rows != manifest.num_rows(record.block):
            reason = f"its record states {record.rows} rows of block {record.block}"
        elif not can_hold(record.bytes, raw, encoder):
            reason = f"its record states {record.bytes} bytes, a chunk has {raw}"
        if reason is None:
            sound[key] = record
        else:
            path = array.commits / record.file_name
            unfit.append(BrokenRecord(key=key, path=path, reason=reason))
    return sound, unfit
