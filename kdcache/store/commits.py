"""Commit records: the only truth about what a store holds."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from kdcache import durable
from kdcache.errors import StoreError
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


def read_commits(array: ArrayLocation, identity: str, *, use_index: bool = True) -> Commits:
    """Every committed chunk of an array.

    The folder's listing decides what exists; the gathered index only spares opening each record,
    and what it lacks is read one by one. A record that is not what was written, or is of targets
    of another `identity`, is broken; so is one that the index knows and that is gone.
    """
    listed = listed_records(array)
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
    for name, _ in listed_records(array, [key]):
        with suppress(ValueError, FileNotFoundError):
            return read_record_file(array.commits / name)
    return None


def sealed_index(records: Iterable[CommitRecord]) -> bytes:
    """The file that gathers these records."""
    gathered = {record.file_name: vars(record) for record in records}
    return seal({"records": gathered, SEAL: BLANK})


def sealed_record(record: CommitRecord) -> bytes:
    """A record's file."""
    return seal({**vars(record), SEAL: BLANK})


def write_commit_index(array: ArrayLocation, records: Iterable[CommitRecord]) -> None:
    """Gathers the records into one file, for opening a large store in one read."""
    require_inside(array.root, array.folder)
    content = sealed_index(records)
    if len(content) <= MOST_INDEX_BYTES:
        durable.write_file(array.commit_index, content, within=array.root)


def listed_records(
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
