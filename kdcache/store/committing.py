"""Committing: the one way that chunks and their records appear in a store."""

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcache import durable
from kdcache.encode import Encoder
from kdcache.store.chunks import ChunkReader, DamagedChunk, crc32c, raw_size
from kdcache.store.commit_record import ChunkKey, CommitRecord
from kdcache.store.commits import (
    listed_records,
    read_record_file,
    require_folder,
    sealed_record,
    store_lock,
    withdraw,
)
from kdcache.store.layout import ArrayLocation, require_inside


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
        record_aside = durable.write_aside(
            array.commits / record.file_name, [sealed_record(record)], within=array.root
        )
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
    listed_of = {array: listed_records(array, keys) for array, keys in keys_of.items()}
    for one in prepared:
        names = [name for name, key in listed_of[one.array] if key == one.record.key]
        present = [one.array.commits / name for name in names]
        reader = ChunkReader(one.encoder, one.raw_bytes)
        theirs = _intact_record(one.array, present, one.record, reader)
        if theirs is None and present:
            withdraw(one.array, present)
        yield theirs


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
