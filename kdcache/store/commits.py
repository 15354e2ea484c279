"""Commit records: the only truth about what a store holds, and the one function that makes them."""

import hashlib
import re
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from kdcache import durable
from kdcache.encode import Encoder
from kdcache.errors import StoreError
from kdcache.store.chunks import ChunkReader, DamagedChunk, crc32c
from kdcache.store.layout import MOST_VIEWS, ArrayLocation, listed, require_inside
from kdcache.store.plain import require_plain
from kdcache.store.sealed import BLANK, SEAL, DamagedDocument, read_sealed, write_sealed

ChunkKey = tuple[int, int]  # (view, block)
MOST_RECORD_BYTES = 2**14  # a record has about 600
LARGEST_SUM = 1e100
MOST_SUMS = 100  # names; a writer has seven
_RECORD_NAME = re.compile(r"(\d{6,18})\.(\d{6,18})\.([0-9a-f]{8})\.json")


@dataclass(frozen=True, kw_only=True)
class CommitRecord:
    """One committed chunk.

    `rows`: samples, without padding. `bytes`: of the payload, without its CRC32C. `crc32c`,
    `sha256`: of the payload. `identity`: of what was computed (`StoredMentor.identity`).
    `correct`: rows whose largest log-probability is the label's. `error_sums`: what encoding cost.
    """

    view: int
    block: int
    rows: int
    bytes: int
    crc32c: str
    sha256: str
    identity: str
    correct: int
    error_sums: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> ChunkKey:
        return self.view, self.block

    @property
    def checksum(self) -> int:
        return int(self.crc32c, 16)

    @property
    def file_name(self) -> str:
        """Holds the checksum, so that a record under one name never changes."""
        return f"{self.view:06d}.{self.block:06d}.{self.crc32c}.json"

    @classmethod
    def from_json(cls, name: str, value: Any) -> "CommitRecord":
        """The record of that file name. Raises ValueError for what no writer wrote."""
        try:
            record = cls(**value)
            counts = [getattr(record, count) for count in _COUNTS]
            if not all(type(count) is int and 0 <= count < 2**62 for count in counts):
                raise ValueError("counts must be integers from 0 up")
            if record.view >= MOST_VIEWS or record.correct > record.rows:
                raise ValueError(f"it states view {record.view}, {record.correct} of {record.rows}")
            digests = (record.crc32c, 8), (record.sha256, 64), (record.identity, 64)
            if not all(_is_hex(digest, length) for digest, length in digests):
                raise ValueError("checksums must be hexadecimal")
            _require_sums(record.error_sums)
        except (TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"not a commit record of this format ({error})") from error
        if record.file_name != name:
            raise ValueError(f"it holds the record of another chunk ({record.file_name})")
        return record


def _require_sums(sums: Mapping[str, Any]) -> None:
    """Raises ValueError for error sums whose means over all chunks would not be numbers."""
    numbers = sums.values()
    if not all(type(s) in (int, float) and 0 <= s < LARGEST_SUM for s in numbers):
        raise ValueError("error sums must be numbers from 0 up")
    if sums.get("measured_rows", 1) < 1 or len(sums) > MOST_SUMS:
        raise ValueError("its error sums are none that a writer made")
    require_plain("error_sums", dict(sums))


_COUNTS = ("view", "block", "rows", "bytes", "correct")


def _is_hex(text: Any, length: int) -> bool:
    return isinstance(text, str) and bool(re.fullmatch(f"[0-9a-f]{{{length}}}", text))


@dataclass(frozen=True, kw_only=True)
class BrokenRecord:
    """A commit record that cannot be believed, so that its chunk must be computed again."""

    key: ChunkKey
    path: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class Commits:
    """What an array's commits folder says: `records` by chunk, and what is wrong with it."""

    records: Mapping[ChunkKey, CommitRecord]
    broken: tuple[BrokenRecord, ...] = ()


def store_lock(root: Path) -> FileLock:
    """Held for moments only: while a chunk and its record appear, and while documents change.

    Raises StoreError when the store's folder has vanished (taking the lock would make it again).
    """
    if not root.is_dir():
        raise StoreError(
            f"the store {root} vanished while it was written to; what is left of this run is lost "
            "with it. Find out who removed it, then run the same command again"
        )
    require_inside(root, root / ".lock")
    return FileLock(root / ".lock")


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
    """Makes one chunk part of the store. All writing of chunks goes through here.

    The chunk is written aside and fsynced; then, under the store's lock, renamed into place, and
    its record appears the same way. A kill at any moment leaves either no record (the chunk counts
    as missing) or a whole one. If the chunk is committed already and is intact, it stays and its
    record is returned; if it is damaged, its record is withdrawn first and this chunk heals it.

    Raises StoreError when the store's folder vanished or a link inside it leads elsewhere, OSError
    when the disk is full or not writable.
    """
    view, block = key
    checksum = crc32c(payload)
    record = CommitRecord(
        view=view,
        block=block,
        rows=rows,
        bytes=len(memoryview(payload).cast("B")),
        crc32c=f"{checksum:08x}",
        sha256=hashlib.sha256(payload).hexdigest(),
        identity=identity,
        correct=correct,
        error_sums=dict(error_sums),
    )
    chunk = array.chunk(view, block)
    lock = store_lock(array.root)
    require_inside(array.root, chunk.parent)
    require_inside(array.root, array.commits)
    temporary = durable.write_aside(chunk, [payload, struct.pack("<I", checksum)])
    try:
        with lock:
            present = [path for path, _ in _listed_records(array, key)]
            theirs = _intact_record(array, present, identity, encoder)
            if theirs is not None:
                return theirs
            _withdraw(array, present)
            durable.publish(temporary, chunk)
            write_sealed(array.commits / record.file_name, {**asdict(record), SEAL: BLANK})
    finally:
        durable.remove(temporary)
    return record


def read_commits(array: ArrayLocation, identity: str, *, use_index: bool = True) -> Commits:
    """Every committed chunk of an array.

    The folder's listing decides what exists; the gathered index only spares opening each record,
    and what it lacks is read one by one. A record that is not what was written, or is of targets
    of another `identity`, is broken; so is one that the index knows and that is gone.
    """
    listed = _listed_records(array)
    there = {key for _, key in listed}
    gathered = _read_index(array.commit_index, len(listed)) if use_index else {}
    records: dict[ChunkKey, CommitRecord] = {}
    broken = [
        BrokenRecord(key=record.key, path=array.commits / name, reason="the commit record is gone")
        for name, record in gathered.items()
        if record.key not in there
    ]
    for path, key in listed:
        try:
            record = gathered.get(path.name) or _read_record(path)
            if record.identity != identity:
                raise ValueError("its record is of targets of another mentor, encoder or store")
            if key in records:
                raise ValueError("two records name this chunk")
            records[key] = record
        except FileNotFoundError:
            continue  # a writer that heals this chunk has just withdrawn it
        except ValueError as error:
            broken.append(BrokenRecord(key=key, path=path, reason=str(error)))
    for wrong in broken:
        records.pop(wrong.key, None)
    return Commits(records=records, broken=tuple(broken))


def read_record(array: ArrayLocation, key: ChunkKey) -> CommitRecord | None:
    """The record of one chunk, read anew; None where there is none to be believed."""
    for path, _ in _listed_records(array, key):
        with suppress(ValueError, FileNotFoundError):
            return _read_record(path)
    return None


def write_commit_index(array: ArrayLocation, records: Iterable[CommitRecord]) -> None:
    """Gathers the records into one file, for opening a large store in one read."""
    require_inside(array.root, array.folder)
    gathered = {record.file_name: asdict(record) for record in records}
    write_sealed(array.commit_index, {"records": gathered, SEAL: BLANK})


def index_damage(array: ArrayLocation, num_records: int) -> str | None:
    """Why the gathered index cannot be used; None when it is sound, or not there."""
    try:
        _read_sound_index(array.commit_index, num_records)
    except FileNotFoundError:
        return None
    except ValueError as error:
        return str(error)
    return None


def _listed_records(
    array: ArrayLocation, key: ChunkKey | None = None
) -> list[tuple[Path, ChunkKey]]:
    """The record files of an array, or of one of its chunks, by name."""
    start = "" if key is None else f"{key[0]:06d}.{key[1]:06d}."
    names = [name for name in listed(array.commits) if name.startswith(start)]
    matches = [match for name in names if (match := _RECORD_NAME.fullmatch(name))]
    return [(array.commits / m[0], (int(m[1]), int(m[2]))) for m in matches]


def _intact_record(
    array: ArrayLocation, present: list[Path], identity: str, encoder: Encoder
) -> CommitRecord | None:
    """The one record among `present` whose chunk is what it says; None otherwise."""
    if len(present) != 1:
        return None
    try:
        record = _read_record(present[0])
        ChunkReader(encoder).check(array.chunk(*record.key), record.bytes, record.checksum)
    except (ValueError, FileNotFoundError, DamagedChunk):
        return None
    return record if record.identity == identity else None


def _withdraw(array: ArrayLocation, present: Iterable[Path]) -> None:
    for path in present:
        durable.remove(path)
        durable.fsync_folder(array.commits)


def _read_record(path: Path) -> CommitRecord:
    """One record file. Raises ValueError for one that is not what was written."""
    try:
        document = read_sealed(path, most_bytes=MOST_RECORD_BYTES)
    except DamagedDocument as error:
        raise ValueError(error.reason) from error
    document.pop(SEAL, None)
    return CommitRecord.from_json(path.name, document)


def _read_index(path: Path, num_records: int) -> dict[str, CommitRecord]:
    try:
        return _read_sound_index(path, num_records)
    except (FileNotFoundError, ValueError):
        return {}


def _read_sound_index(path: Path, num_records: int) -> dict[str, CommitRecord]:
    """The gathered records. Raises ValueError for an index that is not what was written."""
    most_bytes = MOST_RECORD_BYTES * (num_records + 64)
    try:
        document = read_sealed(path, most_bytes=most_bytes)
    except DamagedDocument as error:
        raise ValueError(error.reason) from error
    gathered = document.get("records")
    if not isinstance(gathered, dict):
        raise ValueError("it has no records")
    return {name: CommitRecord.from_json(name, value) for name, value in gathered.items()}
