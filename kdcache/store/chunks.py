"""Chunk files: how rows become one, and reading one into memory that is already there."""

import struct
from collections.abc import Callable
from pathlib import Path

import crc32c as crc32c_library
import numpy as np
from numpy.typing import NDArray

from kdcache import untrusted
from kdcache.durable import Bytes
from kdcache.encode import Encoder
from kdcache.store.checked_files import CheckedFiles, FileState

CHECKSUM_BYTES = 4


def crc32c(payload: Bytes) -> int:
    """CRC32C (Castagnoli), in hardware, without holding the interpreter."""
    return crc32c_library.crc32c(payload)


def chunk_payload(rows: NDArray[np.generic], block: int, encoder: Encoder) -> Bytes:
    """A chunk file's content before its CRC32C: `rows` padded to `block`, then compressed."""
    chunk = np.full((block, *rows.shape[1:]), encoder.fill, rows.dtype)
    chunk[: len(rows)] = rows
    if encoder.compression is None:
        return chunk.data.cast("B")
    from numcodecs import zstd

    compressed: bytes = zstd.compress(chunk, encoder.zstd_level)
    if not can_hold(len(compressed), chunk.nbytes, encoder):
        raise ValueError(
            f"{chunk.nbytes} bytes of targets became {len(compressed)}: the mentor says the same "
            f"of every sample. Check its checkpoint, or use --encoder {encoder.uncompressed}"
        )
    return compressed


def can_hold(payload_bytes: int, raw_bytes: int, encoder: Encoder) -> bool:
    """Whether a payload of that size can be a chunk of `raw_bytes`.

    A thousandfold compression is taken for a decompression bomb: targets of real mentors unpack to
    1.2 times their size, easy ones to 10.
    """
    if encoder.compression is None:
        return payload_bytes == raw_bytes
    return payload_bytes <= most_payload(raw_bytes) and raw_bytes <= 2**16 + 1000 * payload_bytes


def most_payload(raw_bytes: int) -> int:
    """What a chunk of `raw_bytes` may take compressed: above Zstandard's own worst case."""
    return raw_bytes + raw_bytes // 128 + 1024


def raw_size(payload: Bytes, encoder: Encoder) -> int:
    """Bytes of a chunk before compression, as its payload says."""
    view = memoryview(payload).cast("B")
    return len(view) if encoder.compression is None else _frame(view)[0] or 0


class ChunkReader:
    """Reads chunk files of one encoder, each checked; keeps its buffers for what is compressed.

    `raw_bytes`: of one whole chunk before compression. `checked`: files that need not be checked
    again while they stay unchanged, and where those go that are; None: every byte is checked at
    every reading. Not for two threads at once.
    """

    def __init__(
        self, encoder: Encoder, raw_bytes: int, checked: CheckedFiles | None = None
    ) -> None:
        self._compression = encoder.compression
        self._raw_bytes = raw_bytes
        self._checked = checked
        self._payload = bytearray()
        self._raw = bytearray()

    def read_into(self, buffer: memoryview, path: Path, payload_bytes: int, checksum: int) -> None:
        """Fills `buffer` (bytes, exactly a raw chunk's size) from a chunk file.

        Raises DamagedChunk when the file is gone, is no regular file, has another size or another
        CRC32C than committed, or does not decompress to a whole chunk.
        """
        if self._compression is None:
            if payload_bytes != len(buffer):
                raise DamagedChunk(f"{payload_bytes} bytes committed, a chunk has {len(buffer)}")
            read_payload(buffer, path, checksum, self._checked)
            return
        if payload_bytes > len(self._payload):
            _require_size(path, payload_bytes)  # before memory is taken for it
            self._payload = bytearray(payload_bytes)
        payload = memoryview(self._payload)[:payload_bytes]
        read_payload(payload, path, checksum, self._checked)
        _decompress(payload, buffer)

    def check(self, path: Path, payload_bytes: int, checksum: int) -> None:
        """Reads a whole chunk and keeps nothing of it. Raises DamagedChunk as `read_into` does."""
        if len(self._raw) != self._raw_bytes:
            _require_size(path, payload_bytes)  # before memory is taken for it
            self._raw = bytearray(self._raw_bytes)
        self.read_into(memoryview(self._raw), path, payload_bytes, checksum)


def unpack_payload(payload: memoryview, buffer: memoryview, encoder: Encoder) -> None:
    """Fills `buffer` (bytes, exactly a raw chunk's size) from a payload in memory.

    Raises DamagedChunk for one that is no whole chunk.
    """
    if not can_hold(len(payload), len(buffer), encoder):
        raise DamagedChunk(f"{len(payload)} bytes cannot be a chunk of {len(buffer)}")
    if encoder.compression is None:
        buffer[:] = payload
    else:
        _decompress(payload, buffer)


def read_payload(
    buffer: memoryview,
    path: Path,
    checksum: int,
    checked: CheckedFiles | None = None,
    *,
    hashes: bool = True,
) -> None:
    """Reads a whole chunk file: the payload into `buffer`, then its CRC32C.

    `checked`: as `ChunkReader` has it. `hashes`: else the file's last bytes alone are compared with
    `checksum`, and the payload is the caller's to check. Raises DamagedChunk; OSError where this
    process may not or cannot read it now.
    """
    try:
        with untrusted.open_unbuffered(path, follow_links=False) as file:
            state = None if checked is None else FileState(file.fileno())
            got = 0
            while got < len(buffer) and (more := file.readinto(buffer[got:])):
                got += more
            trailer = file.read(CHECKSUM_BYTES + 1)
            if got == len(buffer) and len(trailer) == CHECKSUM_BYTES:
                if not hashes and trailer == struct.pack("<I", checksum):
                    return
                _require_checksum(buffer, trailer, checksum, checked, state)
                return
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedChunk("the file is gone") from None
    except ValueError as error:
        raise DamagedChunk(str(error)) from None
    except OSError as error:
        if error.errno not in untrusted.UNREADABLE:
            raise
        raise DamagedChunk(f"it cannot be read ({error.strerror})") from None
    _require_size(path, len(buffer))
    raise DamagedChunk("it changed while it was read")


def load_payload(path: Path, payload_bytes: int, checksum: int) -> memoryview:
    """A chunk file's payload in memory of its own, not hashed. Raises as `read_payload`."""
    _require_size(path, payload_bytes)  # before memory is taken for it
    payload = memoryview(bytearray(payload_bytes))
    read_payload(payload, path, checksum, hashes=False)
    return payload


def require_whole(payload: memoryview, encoder: Encoder, raw_bytes: int) -> None:
    """Raises DamagedChunk for a payload that is no whole chunk of `raw_bytes`; unpacks it."""
    if not can_hold(len(payload), raw_bytes, encoder):
        raise DamagedChunk(f"{len(payload)} bytes cannot be a chunk of {raw_bytes}")
    if encoder.compression is not None:
        _decompress(payload, memoryview(bytearray(raw_bytes)))


def _require_checksum(
    buffer: memoryview,
    trailer: bytes,
    checksum: int,
    checked: CheckedFiles | None,
    state: FileState | None,
) -> None:
    """While the file is open: `state` is how it stood before it was read."""
    known = checked is not None and state is not None and checked.knows(state, checksum)
    stated = struct.unpack("<I", trailer)[0]
    if stated != checksum or not (known or crc32c(buffer) == checksum):
        raise DamagedChunk("its CRC32C differs from the committed one")
    if checked is not None and state is not None and not known:
        checked.remember(state, checksum)


class DamagedChunk(Exception):
    """A chunk file is not what was committed; the message says in what way."""


def _require_size(path: Path, payload_bytes: int) -> None:
    try:
        size = path.lstat().st_size
    except OSError:
        raise DamagedChunk("the file is gone") from None
    if size != payload_bytes + CHECKSUM_BYTES:
        raise DamagedChunk(f"{size} bytes instead of {payload_bytes + CHECKSUM_BYTES}")


def _decompress(payload: memoryview, buffer: memoryview) -> None:
    """One Zstandard frame of exactly the buffer's size; what it claims is checked first."""
    from numcodecs import zstd

    decompress: Callable[[memoryview, memoryview], object] = zstd.decompress
    claimed, frame_bytes = _frame(payload)
    if claimed != len(buffer):
        raise DamagedChunk(f"it unpacks to {claimed} bytes, a chunk has {len(buffer)}")
    if frame_bytes != len(payload):
        raise DamagedChunk(f"its frame ends at byte {frame_bytes} of {len(payload)}")
    try:
        decompress(payload, buffer)
    except (RuntimeError, ValueError) as error:
        raise DamagedChunk(f"it does not unpack ({error})") from None


def _frame(payload: memoryview) -> tuple[int | None, int]:
    """What a Zstandard frame states (RFC 8878, sections 3.1.1 and 3.1.1.2): the size of its content
    (None where it has none, or it is no such frame), and where the frame ends.

    The library would read several frames in a row, and skip what says that it is to be skipped.
    """
    if len(payload) < 5 or bytes(payload[:4]) != b"\x28\xb5\x2f\xfd":
        return None, 0
    descriptor = payload[4]
    single_segment = descriptor >> 5 & 1
    field_bytes = (1 if single_segment else 0, 2, 4, 8)[descriptor >> 6]
    start = 5 + (not single_segment) + (0, 1, 2, 4)[descriptor & 3]
    end = start + field_bytes
    value = int.from_bytes(payload[start:end], "little")
    content_bytes = None if not field_bytes else value + 256 * (field_bytes == 2)
    last = False
    while not last and end < len(payload):
        block = int.from_bytes(payload[end : end + 3], "little")
        last, repeated = bool(block & 1), block >> 1 & 3 == 1
        end += 3 + (1 if repeated else block >> 3)
    return content_bytes, end + 4 * (descriptor >> 2 & 1)
