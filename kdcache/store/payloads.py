"""Chunks on their way between stores: still encoded, each with its commit record."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdcache.store.array_documents import chunk_bytes
from kdcache.store.chunk_reading import healed_record
from kdcache.store.chunks import CHECKSUM_BYTES, DamagedChunk, crc32c, load_payload, require_whole
from kdcache.store.commit_record import ChunkKey, CommitRecord
from kdcache.store.commits import STRANGER
from kdcache.store.committing import PreparedChunk, prepare_chunk, publish_chunks
from kdcache.store.stored_mentor import StoredMentor

if TYPE_CHECKING:
    from kdcache.store.target_store import TargetStore


@dataclass(frozen=True)
class RecordedPayload:
    """A chunk's payload, and its commit record. To make one is to check it: each byte, once.

    Raises DamagedChunk for a payload whose size, CRC32C or SHA-256 is not the record's.
    """

    record: CommitRecord
    payload: memoryview

    def __post_init__(self) -> None:
        record, payload = self.record, self.payload
        if payload.nbytes != record.bytes:
            raise DamagedChunk(f"{payload.nbytes} bytes instead of {record.bytes}")
        if crc32c(payload) != record.checksum:
            raise DamagedChunk("its CRC32C differs from the committed one")
        if hashlib.sha256(payload).hexdigest() != record.sha256:
            raise DamagedChunk("its SHA-256 differs from the committed one")

    @property
    def file(self) -> bytes:
        """The chunk's file: a copy of the payload, and its CRC32C."""
        return b"".join((self.payload, self.record.checksum.to_bytes(CHECKSUM_BYTES, "little")))


def read_payload_of(store: "TargetStore", stored: StoredMentor, key: ChunkKey) -> RecordedPayload:
    """A committed chunk as it is stored. For several threads at once.

    Of a store at a URL: as the mirror has it already, else fetched past the mirror, once more where
    it is not what was committed. Where somebody healed the chunk after the store was opened, the
    healed one. Memory: the payload. Raises DamagedChunk, Unreachable; KeyError for a chunk that was
    never committed.
    """
    record = stored.commits[key]
    path = stored.array.chunk(*key)
    try:
        return _read(store, path, record)
    except DamagedChunk:
        if healed := healed_record(store, stored, record):
            with suppress(DamagedChunk):
                return _read(store, path, healed)
        raise


def _read(store: "TargetStore", path: Path, record: CommitRecord) -> RecordedPayload:
    def here() -> RecordedPayload:
        return RecordedPayload(record, load_payload(path, record.bytes, record.checksum))

    if store.remote is None:
        return here()
    with suppress(DamagedChunk):  # the mirror may have it
        return here()
    with suppress(DamagedChunk):  # once more: the network may be at fault
        return RecordedPayload(record, store.remote.payload(path, record))
    return RecordedPayload(record, store.remote.payload(path, record))


def prepare_copy(
    store: "TargetStore", stored: StoredMentor, chunk: RecordedPayload
) -> PreparedChunk:
    """Writes a chunk of another store aside in `stored`, of `store`; `publish_chunks` commits it.

    For several threads at once. Memory: a chunk before compression, where it is compressed.

    Raises DamagedChunk for targets of another identity, other samples, and what does not unpack to
    a whole chunk; else as `commit_chunk`.
    """
    record, manifest = chunk.record, store.manifest
    if record.identity != stored.identity:
        raise DamagedChunk(STRANGER)
    if record.block >= manifest.num_blocks or record.rows != manifest.num_rows(record.block):
        raise DamagedChunk(f"its record states {record.rows} rows of block {record.block}")
    raw = chunk_bytes(manifest, stored.encoder, stored.row_shape)
    require_whole(chunk.payload, stored.encoder, raw)
    return prepare_chunk(stored.array, record, chunk.payload, stored.encoder)


def commit_copy(store: "TargetStore", stored: StoredMentor, chunk: RecordedPayload) -> CommitRecord:
    """Commits a chunk of another store to `stored`, of `store`, as the other committed it.

    What is there and intact stays, and its record is returned: it may have other bytes, if another
    machine computed it. Errors as `prepare_copy`'s.
    """
    (committed,) = publish_chunks([prepare_copy(store, stored, chunk)])
    return committed
