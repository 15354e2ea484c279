"""Commit records: the only truth about what a store holds, and the one writer of chunks."""

import hashlib
import re
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from kdcache import durable
from kdcache.encode import Encoder
from kdcache.errors import StoreError
from kdcache.store.chunks import ChunkReader, DamagedChunk, crc32c, raw_size
from kdcache.store.commit_record import ChunkKey, CommitRecord
from kdcache.store.layout import ArrayLocation, listed, require_inside
from kdcache.store.sealed import BLANK, SEAL, DamagedDocument, read_sealed, seal

GONE = "the commit record is gone"
STRANGER = "its record is of targets of another mentor, encoder or store"
MOST_RECORD_BYTES = 2**14  # a record has about 600
MOST_INDEX_BYTES = 2**26  # 100,000 records; a larger array is opened record by record
_RECORD_NAME = re.compile(r"(\d{6,18})\.(\d{6,18})\.([0-9a-f]{8})\.json")


@dataclass(frozen=True, kw_only=True)
class BrokenRecord:
    """A commit record that cannot be believed, so that its chunk must be computed again."""

    key: ChunkKey
    path: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class Commits:
    """What an array's commits folder says: `records` by chunk, and what is wrong with it.

    `index_damage`: why the gathered index cannot be used; None when it is sound, or not there.
    """

    records: Mapping[ChunkKey, CommitRecord]
    broken: tuple[BrokenRecord, ...] = ()
    index_damage: str | None = None


@contextmanager
def store_lock(root: Path) -> Iterator[None]:
    """Held for moments only: while a chunk and its record appear, and while documents change.

    Raises StoreError when the store's folder has vanished (taking the lock would make it again).
    """
    require_folder(root)
    require_inside(root, root / ".lock")
    with FileLock(root / ".lock"):
        yield


def require_folder(root: Path) -> None:
    """Raises StoreError when a store's folder has vanished."""
    if not root.is_dir():
        raise StoreError(
            f"the store {root} vanished while it was written to; what is left of this run is lost "
            "with it. Find out who removed it, then run the same command again"
        )


def commit_chunk(
    array: ArrayLocation,
    key: ChunkKey,
    payload: durable.Bytes,
    *,
    rows: int,
    correct: int,
    error_sums: Mapping[str, float],
    identity: str,
    encoder: Encoder,
) -> CommitRecord:
    """Makes one chunk that was computed here part of the store, by `commit_recorded`.

    Raises StoreError when the store's folder vanished or a link inside it leads elsewhere, OSError
    when the disk is full or not writable.
    """
    view, block = key
    record = CommitRecord(
        view=view,
        block=block,
        rows=rows,
        bytes=len(memoryview(payload).cast("B")),
        crc32c=f"{crc32c(payload):08x}",
        sha256=hashlib.sha256(payload).hexdigest(),
        identity=identity,
        correct=correct,
        error_sums=dict(error_sums),
    )
    return commit_recorded(array, record, payload, encoder)


def commit_recorded(
    array: ArrayLocation, record: CommitRecord, payload: durable.Bytes, encoder: Encoder
) -> CommitRecord:
    """Makes one chunk part of the store; that the record is the payload's is the caller's word.

    A kill at any moment leaves either no record (the chunk counts as missing) or a whole one.
    Returns the record that is there now. Errors as `commit_chunk`'s.
    """
    (committed,) = publish_chunks([prepare_chunk(array, record, payload, encoder)])
    return committed


@dataclass(frozen=True, kw_only=True)
class PreparedChunk:
    """A chunk and its record, written aside and fsynced: nobody sees them until they are published.

    `raw_bytes`: of the chunk before compression. `chunk`: where its file will be.
    """

    array: ArrayLocation
    record: CommitRecord
    encoder: Encoder
    raw_bytes: int
    chunk: Path
    chunk_aside: Path
    record_aside: Path

    def drop(self) -> None:
        """Leaves nothing aside."""
        durable.remove(self.chunk_aside)
        durable.remove(self.record_aside)


def prepare_chunk(
    array: ArrayLocation, record: CommitRecord, payload: durable.Bytes, encoder: Encoder
) -> PreparedChunk:
    """Writes a chunk and its record aside, for `publish_chunks`. For several threads at once."""
    chunk = array.chunk(*record.key)
    require_folder(array.root)
    require_inside(array.root, chunk.parent)
    require_inside(array.root, array.commits)
    content = [payload, struct.pack("<I", record.checksum)]
    chunk_aside = durable.write_aside(chunk, content, within=array.root)
    try:
        path = array.commits / record.file_name
        record_aside = durable.write_aside(path, [sealed_record(record)], within=array.root)
    except BaseException:
        durable.remove(chunk_aside)
        raise
    return PreparedChunk(
        array=array,
        record=record,
        encoder=encoder,
        raw_bytes=raw_size(payload, encoder),
        chunk=chunk,
        chunk_aside=chunk_aside,
        record_aside=record_aside,
    )


def publish_chunks(prepared: Sequence[PreparedChunk]) -> list[CommitRecord]:
    """Makes chunks of one store, each another, part of it: the only way that chunks and records
    appear in a store. Returns the records that are there now.

    Under the store's lock: a chunk that is committed already and intact stays, and its record is
    returned. If it is damaged, its record is withdrawn first. All chunks are renamed into place,
    then their folders fsynced, then all records appear: so many cost few waits for the disk.
    """
    if not prepared:
        return []
    root = prepared[0].array.root
    try:
        with store_lock(root):
            committed = list(_there_already(prepared))
            new = [one for one, theirs in zip(prepared, committed, strict=True) if theirs is None]
            for one in new:
                durable.move(one.chunk_aside, one.chunk)
            for one in new:
                durable.fsync_folder(one.chunk.parent)
            for one in new:
                durable.move(one.record_aside, one.array.commits / one.record.file_name)
            for folder in dict.fromkeys(one.array.commits for one in new):
                durable.fsync_folder(folder)
    finally:
        for one in prepared:
            one.drop()
    return [
        one.record if theirs is None else theirs
        for one, theirs in zip(prepared, committed, strict=True)
    ]


def _there_already(prepared: Sequence[PreparedChunk]) -> Iterator[CommitRecord | None]:
    """The records of those chunks that are there and intact; those of others are withdrawn."""
    keys_of: dict[ArrayLocation, set[ChunkKey]] = {}
    for one in prepared:
        keys_of.setdefault(one.array, set()).add(one.record.key)
    listed_of = {array: _listed_records(array, keys) for array, keys in keys_of.items()}
    for one in prepared:
        names = [name for name, key in listed_of[one.array] if key == one.record.key]
        present = [one.array.commits / name for name in names]
        reader = ChunkReader(one.encoder, one.raw_bytes)
        theirs = _intact_record(one.array, present, one.record, reader)
        if theirs is None and present:
            withdraw(one.array, present)
        yield theirs


def read_commits(array: ArrayLocation, identity: str, *, use_index: bool = True) -> Commits:
    """Every committed chunk of an array.

    The folder's listing decides what exists; the gathered index only spares opening each record,
    and what it lacks is read one by one. A record that is not what was written, or is of targets
    of another `identity`, is broken; so is one that the index knows and that is gone.
    """
    listed = _listed_records(array)
    folder = array.commits
    there = {key for _, key in listed}
    gathered, index_damage = read_index(array.commit_index) if use_index else ({}, None)
    records: dict[ChunkKey, CommitRecord] = {}
    broken = [
        BrokenRecord(key=record.key, path=folder / name, reason=GONE)
        for name, record in gathered.items()
        if record.key not in there
    ]
    for name, key in listed:
        try:
            record = gathered.get(name) or read_record_file(folder / name)
            if record.identity != identity:
                raise ValueError(STRANGER)
            if key in records:
                raise ValueError("two records name this chunk")
            records[key] = record
        except FileNotFoundError:
            continue  # a writer that heals this chunk has just withdrawn it
        except ValueError as error:
            broken.append(BrokenRecord(key=key, path=folder / name, reason=str(error)))
    for wrong in broken:
        records.pop(wrong.key, None)
    return Commits(records=records, broken=tuple(broken), index_damage=index_damage)


def gather_commits(array: ArrayLocation, identity: str) -> None:
    """Writes the index anew from the records themselves, unless it says what they say.

    It may also know of records that are gone; it is left to say so until these are there again.
    """
    gathered, damage = read_index(array.commit_index)
    on_disk = read_commits(array, identity, use_index=False).records
    knows_more = any(record.key not in on_disk for record in gathered.values())
    says_it = gathered == {record.file_name: record for record in on_disk.values()}
    if damage is not None or not (knows_more or says_it):
        write_commit_index(array, on_disk.values())


def read_record(array: ArrayLocation, key: ChunkKey) -> CommitRecord | None:
    """The record of one chunk, read anew; None where there is none to be believed."""
    for name, _ in _listed_records(array, [key]):
        with suppress(ValueError, FileNotFoundError):
            return read_record_file(array.commits / name)
    return None


def write_commit_index(array: ArrayLocation, records: Iterable[CommitRecord]) -> None:
    """Gathers the records into one file, for opening a large store in one read."""
    require_inside(array.root, array.folder)
    content = sealed_index(records)
    if len(content) <= MOST_INDEX_BYTES:
        durable.write_file(array.commit_index, content, within=array.root)


def sealed_index(records: Iterable[CommitRecord]) -> bytes:
    """The file that gathers these records."""
    gathered = {record.file_name: asdict(record) for record in records}
    return seal({"records": gathered, SEAL: BLANK})


def sealed_record(record: CommitRecord) -> bytes:
    """A record's file."""
    return seal({**vars(record), SEAL: BLANK})


def _listed_records(
    array: ArrayLocation, keys: Collection[ChunkKey] | None = None
) -> list[tuple[str, ChunkKey]]:
    """The names of an array's record files, or of those of some of its chunks, in order."""
    names = listed(array.commits)
    if keys is not None:
        starts = {f"{view:06d}.{block:06d}" for view, block in keys}
        names = [name for name in names if name.rsplit(".", 2)[0] in starts]
    return [(name, key) for name in names if (key := record_key(name)) is not None]


def record_key(name: str) -> ChunkKey | None:
    """The chunk whose record has that file name; None for a name that is no record's."""
    match = _RECORD_NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def _intact_record(
    array: ArrayLocation, present: list[Path], wanted: CommitRecord, reader: ChunkReader
) -> CommitRecord | None:
    """The one record among `present`, if it is of the wanted targets and its chunk is intact."""
    if len(present) != 1:
        return None
    try:
        record = read_record_file(present[0])
        reader.check(array.chunk(*record.key), record.bytes, record.checksum)
    except (ValueError, FileNotFoundError, DamagedChunk):
        return None
    same = (record.identity, record.rows) == (wanted.identity, wanted.rows)
    return record if same else None


def withdraw(array: ArrayLocation, records: Iterable[Path]) -> None:
    """Removes record files, durably, one by one. Under the store's lock."""
    require_inside(array.root, array.commits)
    for path in records:
        durable.remove(path)
        durable.fsync_folder(array.commits)


def read_record_file(path: Path) -> CommitRecord:
    """One record file. Raises ValueError for one that is not what was written."""
    try:
        document = read_sealed(path, most_bytes=MOST_RECORD_BYTES)
    except DamagedDocument as error:
        raise ValueError(error.reason) from error
    document.pop(SEAL, None)
    return CommitRecord.from_json(path.name, document)


def read_index(path: Path) -> tuple[dict[str, CommitRecord], str | None]:
    """The gathered records by file name, and why they cannot be used."""
    try:
        gathered = read_sealed(path, most_bytes=MOST_INDEX_BYTES).get("records")
        if not isinstance(gathered, dict):
            raise ValueError("it has no records")
        return {n: CommitRecord.from_json(n, value) for n, value in gathered.items()}, None
    except FileNotFoundError:
        return {}, None
    except DamagedDocument as error:
        return {}, error.reason
    except ValueError as error:
        return {}, str(error)
