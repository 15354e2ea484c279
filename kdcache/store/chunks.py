"""Reading one chunk into memory that is already there."""

import struct
from pathlib import Path

from kdcache.errors import DamagedTargets
from kdcache.store.commits import CHECKSUM_BYTES, CommitRecord, crc32c


def read_chunk_into(buffer: memoryview, path: Path, record: CommitRecord, *, mentor: str) -> None:
    """Fills `buffer` (bytes, exactly the payload's size) from a chunk file and checks it.

    Raises DamagedTargets when the file is gone, has another size, or another CRC32C than committed.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            got = file.readinto(buffer)
            trailer = file.read(CHECKSUM_BYTES + 1)
    except FileNotFoundError:
        raise damaged(mentor, record, path, "the file is gone") from None
    if got != record.bytes or len(trailer) != CHECKSUM_BYTES:
        size = path.stat().st_size
        expected = record.bytes + CHECKSUM_BYTES
        raise damaged(mentor, record, path, f"{size} bytes instead of {expected}")
    checksums = {crc32c(buffer), struct.unpack("<I", trailer)[0], int(record.crc32c, 16)}
    if len(checksums) != 1:
        raise damaged(mentor, record, path, "its CRC32C differs from the committed one")


def damaged(mentor: str, record: CommitRecord, path: Path, reason: str) -> DamagedTargets:
    """The error for a chunk that is not what was committed."""
    return DamagedTargets(
        f"targets of mentor {mentor!r}, view {record.view}, block {record.block} are damaged: "
        f"{reason} ({path}). Run the store's `kdcache precompute` command again: it recomputes "
        "exactly what is missing or damaged"
    )
