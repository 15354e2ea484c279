"""Commit records: the only truth about what a store holds, and the one function that makes them."""

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from filelock import FileLock

from kdcache import durable
from kdcache.canonical import canonical_json
from kdcache.errors import StoreError
from kdcache.store.layout import ArrayLocation

ChunkKey = tuple[int, int]  # (view, block)
CHECKSUM_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class CommitRecord:
    """One committed chunk. `bytes` counts the payload, without the 4 bytes of its CRC32C."""

    view: int
    block: int
    rows: int
    bytes: int
    crc32c: str
    sha256: str
    correct: int
    error_sums: Mapping[str, float] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """Holds the checksum, so that a record under one name never changes."""
        return f"{self.view:06d}.{self.block:06d}.{self.crc32c}.json"

    @classmethod
    def from_json(cls, value: Any, source: Path) -> "CommitRecord":
        try:
            record = cls(**value)
            if not all(isinstance(getattr(record, key), int) for key in _COUNTS):
                raise TypeError("counts must be integers")
            return record
        except TypeError as error:
            raise StoreError(
                f"{source} is not a commit record of this format ({error}); remove it and run "
                "`kdcache precompute` again, which recomputes that chunk"
            ) from error


_COUNTS = ("view", "block", "rows", "bytes", "correct")


def crc32c(payload: durable.Bytes) -> int:
    """CRC32C (Castagnoli), in hardware."""
    # The library takes numpy arrays but not memoryviews; this is a view, nothing is copied.
    return int(google_crc32c.value(np.frombuffer(payload, dtype=np.uint8)))


def store_lock(root: Path) -> FileLock:
    """Held for moments only: while a chunk and its record appear, and while an array grows."""
    return FileLock(root / ".lock")


def commit_chunk(
    array: ArrayLocation,
    key: ChunkKey,
    payload: durable.Bytes,
    *,
    rows: int,
    correct: int,
    error_sums: Mapping[str, float],
    replace: bool = False,
) -> CommitRecord:
    """Makes one chunk part of the store. All writing of chunks goes through here.

    The chunk is written aside and fsynced; then, under the store's lock, renamed into place, and
    its record appears the same way. A kill at any moment leaves either no record (the chunk counts
    as missing) or a whole one. If another writer committed the same chunk meanwhile, theirs stays
    and is returned. `replace` heals: the old record is withdrawn first.
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
        correct=correct,
        error_sums=dict(error_sums),
    )
    chunk = array.chunk(view, block)
    temporary = durable.write_aside(chunk, [payload, struct.pack("<I", checksum)])
    try:
        with store_lock(array.root):
            present = list(_record_files(array, key))
            theirs = _read_record(present[0]) if present and not replace else None
            if theirs is not None:
                return theirs
            for old in present:
                old.unlink()
                durable.fsync_folder(array.commits)
            durable.publish(temporary, chunk)
            durable.write_file(
                array.commits / record.file_name, canonical_json(asdict(record)).encode()
            )
    finally:
        temporary.unlink(missing_ok=True)
    return record


def load_commits(array: ArrayLocation) -> dict[ChunkKey, CommitRecord]:
    """Every committed chunk of an array.

    The folder's listing decides what exists; the gathered index only spares opening each record,
    and what it lacks is read one by one.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(array.commits) if _is_record(entry.name))
    except FileNotFoundError:
        return {}
    folder, gathered = array.commits, _read_index(array.commit_index)
    commits = {}
    for name in names:
        record = _gathered_record(gathered, name, folder) or _read_record(folder / name)
        if record is not None:
            commits[record.view, record.block] = record
    return commits


def write_commit_index(array: ArrayLocation, commits: Mapping[ChunkKey, CommitRecord]) -> None:
    """Gathers the records into one file, for opening a large store in one read."""
    gathered = {record.file_name: asdict(record) for record in commits.values()}
    durable.write_file(array.commit_index, canonical_json(gathered).encode())


def _record_files(array: ArrayLocation, key: ChunkKey) -> Iterator[Path]:
    return array.commits.glob(f"{key[0]:06d}.{key[1]:06d}.*.json")


def _is_record(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")


def _gathered_record(gathered: Mapping[str, Any], name: str, folder: Path) -> CommitRecord | None:
    """What the index says of a record; None unless it is exactly that record."""
    try:
        record = CommitRecord.from_json(gathered[name], folder)
    except (KeyError, StoreError):
        return None
    return record if record.file_name == name else None


def _read_record(path: Path) -> CommitRecord | None:
    """One record file; None when a writer that heals its chunk has just withdrawn it."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StoreError(
            f"{path} is not JSON ({error}); remove it and run `kdcache precompute` again, which "
            "recomputes that chunk"
        ) from error
    record = CommitRecord.from_json(value, path)
    if record.file_name != path.name:
        raise StoreError(f"{path} holds the record of another chunk ({record.file_name})")
    return record


def _read_index(path: Path) -> dict[str, Any]:
    try:
        gathered = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return gathered if isinstance(gathered, dict) else {}
