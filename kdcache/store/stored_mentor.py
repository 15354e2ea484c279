"""One mentor of a store: its documents, what of its targets is committed, and what is wrong."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from kdcache.encode import ENCODERS, Encoder, TargetKind
from kdcache.errors import StoreError
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
from kdcache.store.sealed import BLANK, SEAL, DamagedDocument, read_sealed
from kdcache.store.zarr_metadata import targets_metadata

CHANCE_FACTOR = 2.0


@dataclass(frozen=True, kw_only=True)
class StoredMentor:
    """One mentor's array: who it is, how it is encoded, what is committed.

    `broken`: chunks whose commit record is gone, damaged or of something else. `index_damage`: why
    the gathered index of its commits cannot be used; None when it is sound, or not there.
    """

    manifest: MentorManifest
    kind: TargetKind
    array: ArrayLocation
    encoder: Encoder
    declared_views: int
    commits: Mapping[ChunkKey, CommitRecord]
    broken: Sequence[BrokenRecord] = ()
    index_damage: str | None = None

    @cached_property
    def identity(self) -> str:
        """What every commit record of this array states."""
        return targets_identity(self.manifest, self.kind, self.encoder)

    @property
    def accuracy(self) -> float | None:
        """Top-1 percent on its committed views; None before the first."""
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


def open_mentor(group: Path, manifest: Manifest, kind: TargetKind) -> StoredMentor:
    """The mentor in the folder `group` of a store with that manifest.

    Raises DamagedTargets for documents that are not what was written, StoreError for a mentor of
    another store or an encoder unknown here.
    """
    require_inside(group.parent.parent, group / kind.name / "commits")
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
    array = mentor_array(group.parent.parent, mentor, manifest, kind)
    encoder, views = read_array(array, manifest, kind)
    stored = stored_as(mentor, encoder, views, manifest, kind, array)
    known = stored.committed_views
    if known > views:  # arrays only grow, and do so before chunks of new views are committed
        encoder, views = read_array(array, manifest, kind)
        if known > views:
            last = f"view {known - 1} is committed: an old version of it"
            raise DamagedDocument(array.metadata, f"it declares {views} views, {last}")
    return replace(stored, declared_views=views)


def is_made(group: Path) -> bool:
    """Whether a mentor's folder is one: its zarr.json comes last, so without it nothing is lost.

    Unless something is committed in it: then its zarr.json was lost.
    """
    return (group / METADATA).exists() or has_commits(group)


def has_commits(group: Path) -> bool:
    """Whether anything is, or by its index was, committed of the mentor in that folder."""
    return any(any(group.glob(names)) for names in ("*/commits/*.json", "*/commits.json"))


def mentor_array(
    root: Path, mentor: MentorManifest, manifest: Manifest, kind: TargetKind
) -> ArrayLocation:
    """Where a mentor's targets of one kind lie."""
    rank = len(kind.row_shape(manifest.dataset))
    return ArrayLocation(root=root, mentor=mentor.name, kind=kind.name, row_rank=rank)


def stored_as(
    mentor: MentorManifest,
    encoder: Encoder,
    views: int,
    manifest: Manifest,
    kind: TargetKind,
    array: ArrayLocation,
    *,
    use_index: bool = True,
) -> StoredMentor:
    """What is committed of exactly these targets, whatever the mentor's documents say."""
    found = read_commits(array, targets_identity(mentor, kind, encoder), use_index=use_index)
    sound, unfit = _fit_to_array(found, encoder, manifest, kind, array)
    return StoredMentor(
        manifest=mentor,
        kind=kind,
        array=array,
        encoder=encoder,
        declared_views=views,
        commits=sound,
        broken=(*found.broken, *unfit),
        index_damage=found.index_damage,
    )


def read_array(array: ArrayLocation, manifest: Manifest, kind: TargetKind) -> tuple[Encoder, int]:
    """The encoder and number of views of a mentor's array.

    Its zarr.json must be exactly the one written for them. Raises DamagedTargets when it is not
    what was written, StoreError for an array of another shape or an unknown encoder.
    """
    try:
        document = read_sealed(array.metadata)
    except FileNotFoundError:
        raise DamagedDocument(array.metadata, "the file is gone") from None
    try:
        described = document["attributes"]["kdcache"]["encoder"]
        views, *_ = document["shape"]
        document["attributes"]["kdcache"][SEAL] = BLANK
        encoder = ENCODERS.get(described["name"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{array.metadata} is not an array of targets ({error})") from error
    if encoder is None or encoder.describe() != described:
        raise StoreError(
            f"{array.metadata}: targets were encoded by {str(described)[:200]}, which this version "
            f"of kdcache cannot decode (it knows {', '.join(sorted(ENCODERS))}); use the version "
            "that wrote it"
        )
    if type(views) is not int or not 1 <= views < 2**40:
        raise StoreError(f"{array.metadata} states {str(views)[:80]} views")
    shape = (views, manifest.num_samples, *kind.row_shape(manifest.dataset))
    attributes = {"kind": kind.name, "encoder": encoder.describe(), SEAL: BLANK}
    expected = targets_metadata(encoder, kind, shape, manifest.block, attributes)
    different = [key for key in {*expected, *document} if expected.get(key) != document.get(key)]
    if different:
        key = min(different)
        raise StoreError(
            f"{array.metadata} is not the array the manifest is for: {key} is "
            f"{str(document.get(key))[:200]}, expected {expected.get(key)}"
        )
    return encoder, views


def chunk_bytes(manifest: Manifest, encoder: Encoder, kind: TargetKind) -> int:
    """Bytes of one whole chunk before compression."""
    row = int(np.prod(kind.row_shape(manifest.dataset), dtype=np.int64))
    return manifest.block * row * np.dtype(encoder.dtype).itemsize


def _fit_to_array(
    found: Commits, encoder: Encoder, manifest: Manifest, kind: TargetKind, array: ArrayLocation
) -> tuple[dict[ChunkKey, CommitRecord], list[BrokenRecord]]:
    """Splits records into those that can be of this array's chunks, and the others."""
    raw = chunk_bytes(manifest, encoder, kind)
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
