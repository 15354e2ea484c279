"""Reading committed chunks: each checked, and once more where somebody healed it in between."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kdcache.errors import DamagedTargets, MissingTargets
from kdcache.store.array_documents import chunk_bytes
from kdcache.store.checked_files import CheckedFiles
from kdcache.store.chunks import (
    CHECKSUM_BYTES,
    ChunkReader,
    DamagedChunk,
    can_hold,
    unpack_payload,
)
from kdcache.store.commit_record import ChunkKey, CommitRecord
from kdcache.store.commits import read_record
from kdcache.store.healing import healing_command
from kdcache.store.manifest import Manifest
from kdcache.store.stored_mentor import StoredMentor

if TYPE_CHECKING:
    from kdcache.store.target_store import TargetStore


def require_files(
    store: "TargetStore",
    chosen: Iterable[StoredMentor],
    view: int,
    blocks: Iterable[int] | None = None,
) -> None:
    """Raises unless each of these chunks of a view (None: all) has a file of its size.

    Called before memory is taken for a view, so that none is taken for what is only claimed.
    """
    wanted = range(store.manifest.num_blocks) if blocks is None else list(blocks)
    chosen = list(chosen)
    store.expect((stored, view, block) for stored in chosen for block in wanted)
    for stored in chosen:
        for block in wanted:
            record = _record(store, stored, (view, block))
            path = stored.array.chunk(view, block)
            if store.remote is not None:  # its bytes are proven by fetching them
                _fetch(store, stored, path, record)
                continue
            try:
                size = path.lstat().st_size
            except OSError:
                reason = "the file is gone"
                raise damaged_chunk(store, stored, record.key, path, reason) from None
            if size != record.bytes + CHECKSUM_BYTES:
                healed = healed_record(store, stored, record)
                if healed is None or size != healed.bytes + CHECKSUM_BYTES:
                    reason = f"{size} bytes instead of {record.bytes + CHECKSUM_BYTES}"
                    raise damaged_chunk(store, stored, record.key, path, reason)


def read_block(
    store: "TargetStore",
    stored: StoredMentor,
    view: int,
    block: int,
    buffer: memoryview,
    reader: ChunkReader,
) -> None:
    """One chunk, still encoded, into `buffer` (bytes; a whole chunk, padding included).

    Raises MissingTargets when it was never committed, DamagedTargets when it was and is broken.
    """
    record = _record(store, stored, (view, block))
    path = stored.array.chunk(view, block)
    try:
        _read(store, path, record, partial(reader.read_into, buffer))
    except DamagedChunk as error:
        if healed := healed_record(store, stored, record):
            with suppress(DamagedChunk):
                return _read(store, path, healed, partial(reader.read_into, buffer))
        raise damaged_chunk(store, stored, record.key, path, str(error)) from error


def check_block(
    store: "TargetStore", stored: StoredMentor, key: ChunkKey, reader: ChunkReader
) -> str | None:
    """Why a committed chunk is not what was committed (every byte is read); None if it is."""
    try:
        _read(store, stored.array.chunk(*key), stored.commits[key], reader.check)
    except DamagedChunk as error:
        return str(error)
    return None


def decode_into(
    rows_B: NDArray[np.float32],
    store: "TargetStore",
    stored: StoredMentor,
    view: int,
    positions_B: NDArray[np.int64],
) -> None:
    """Decoded targets (B, *row) of the samples at these positions of the store, chunk by chunk."""
    block_rows = store.manifest.block
    block_B = positions_B // block_rows
    reader = chunk_reader(store, stored)
    chunk = _empty_chunk(store.manifest, stored)
    for block in np.unique(block_B).tolist():
        read_block(store, stored, view, block, chunk.data.cast("B"), reader)
        wanted = block_B == block
        rows = chunk[positions_B[wanted] - block * block_rows]
        rows_B[wanted] = stored.encoder.round_trip(rows, store.labels_N[positions_B[wanted]])


def decode_payload(
    manifest: Manifest,
    stored: StoredMentor,
    payload: memoryview,
    labels_B: NDArray[np.int64],
) -> NDArray[np.float32]:
    """A chunk's payload as float32 targets (B, *row), of the samples with these labels.

    Raises DamagedChunk for one that is no whole chunk.
    """
    chunk = _empty_chunk(manifest, stored)
    unpack_payload(payload, chunk.data.cast("B"), stored.encoder)
    return stored.encoder.round_trip(chunk[: len(labels_B)], labels_B)


class BlockLoader:
    """Loads blocks of mentors' targets as resident rows: read, checked and unpacked.

    Of mentors whose stored rows are alike: of the encoder's family and the row's shape of `like`.
    `checked`: as `ChunkReader` has it. Keeps its buffers. Not for two threads at once.
    """

    def __init__(
        self, store: "TargetStore", like: StoredMentor, checked: CheckedFiles | None = None
    ) -> None:
        self._store = store
        self._reader = chunk_reader(store, like, checked)
        self._chunk = _empty_chunk(store.manifest, like) if like.encoder.unpacks else None

    def load(self, stored: StoredMentor, view: int, block: int, rows: NDArray[np.generic]) -> None:
        """Fills `rows` (block, *resident row), contiguous; what pads a short block is undefined.

        Raises as `read_block`.
        """
        if self._chunk is None:
            read_block(self._store, stored, view, block, rows.data.cast("B"), self._reader)
            return
        read_block(self._store, stored, view, block, self._chunk.data.cast("B"), self._reader)
        labels = self._store.block_labels(block)
        rows[: len(labels)] = stored.encoder.unpack(self._chunk[: len(labels)], labels)


def _empty_chunk(manifest: Manifest, stored: StoredMentor) -> NDArray[np.generic]:
    shape = (manifest.block, *stored.encoder.stored_row(stored.row_shape))
    return np.empty(shape, dtype=stored.encoder.dtype)


def chunk_reader(
    store: "TargetStore", stored: StoredMentor, checked: CheckedFiles | None = None
) -> ChunkReader:
    """A reader of these targets' chunks; `checked`: for training alone (`checked_files`)."""
    raw = chunk_bytes(store.manifest, stored.encoder, stored.row_shape)
    return ChunkReader(stored.encoder, raw, checked)


def _read(
    store: "TargetStore", path: Path, record: CommitRecord, read: Callable[[Path, int, int], None]
) -> None:
    """Reads a chunk, which of a store at a URL is fetched first.

    What an earlier run fetched may be older than its record, or have suffered: it is fetched again.
    Who reads the same mirror by other records, or makes room there, may change even that at any
    moment: then it is fetched into a file of its own.
    """
    if store.remote is None:
        return read(path, record.bytes, record.checksum)
    fresh = False
    while not fresh:
        with store.remote.holding(path, record) as fresh:
            try:
                return read(path, record.bytes, record.checksum)
            except DamagedChunk:
                if not fresh:
                    path.unlink(missing_ok=True)
    with store.remote.fetched_apart(path, record) as apart:
        read(apart, record.bytes, record.checksum)


def _fetch(store: "TargetStore", stored: StoredMentor, path: Path, record: CommitRecord) -> None:
    assert store.remote is not None
    try:
        with store.remote.holding(path, record):
            return
    except DamagedChunk as error:
        if healed := healed_record(store, stored, record):
            with suppress(DamagedChunk), store.remote.holding(path, healed):
                return
        raise damaged_chunk(store, stored, record.key, path, str(error)) from error


def damaged_chunk(
    store: "TargetStore", stored: StoredMentor, key: ChunkKey, path: Path, reason: str
) -> DamagedTargets:
    """The error that tells what is wrong with a chunk, and how to heal it."""
    return DamagedTargets(
        f"{_called(stored)}, view {key[0]}, block {key[1]} are damaged: {reason} "
        f"({store.shown(path)}). Make exactly what is missing or damaged anew with: "
        f"{_healing(store, stored, damaged=[key[0]])}"
    )


def _record(store: "TargetStore", stored: StoredMentor, key: ChunkKey) -> CommitRecord:
    if key in stored.commits:
        return stored.commits[key]
    for wrong in stored.broken:
        if wrong.key == key:
            raise damaged_chunk(store, stored, key, wrong.path, wrong.reason)
    raise MissingTargets(
        f"{store.address} has no {_called(stored)} for view {key[0]}, block {key[1]} "
        f"({len(stored.commits)} chunks are committed); compute them with: "
        f"{_healing(store, stored)}"
    )


def healed_record(
    store: "TargetStore", stored: StoredMentor, record: CommitRecord
) -> CommitRecord | None:
    """The record that now stands in this one's place, if somebody healed its chunk."""
    if store.remote is not None:
        store.remote.fetch_record(stored.array, record.key)
    found = read_record(stored.array, record.key)
    if found is None or found == record or found.identity != record.identity:
        return None
    raw = chunk_bytes(store.manifest, stored.encoder, stored.row_shape)
    return found if can_hold(found.bytes, raw, stored.encoder) else None


def _called(stored: StoredMentor) -> str:
    what = "targets" if stored.kind.primary else stored.kind.name
    return f"{what} of mentor {stored.manifest.name!r}"


def _healing(store: "TargetStore", stored: StoredMentor, damaged: Sequence[int] = ()) -> str:
    name, kind = stored.manifest.name, stored.kind.name
    return healing_command(store, [name], [kind], damaged=bool(damaged), views=damaged)
