"""What is on its way: bytes taken as they come, never more than were announced."""

import hashlib
import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

import crc32c

from kdcache import durable

CHECKSUM_BYTES = 4


class TooLarge(Exception):
    """More bytes arrive than there can be."""


class LocalFailure(Exception):
    """What arrived cannot be written here; `__cause__` is the OSError."""


class ArrivingDocument:
    """A small file or a listing, kept in memory. `most`: bytes taken, at most.

    `may_change`: the file may be replaced by another meanwhile, so that after a cut its rest may be
    the other's: it is then fetched from its beginning.
    """

    def __init__(self, most: int, *, may_change: bool = False) -> None:
        self.most = most
        self.may_change = may_change
        self.expected: int | None = None
        self.content = bytearray()

    @property
    def got(self) -> int:
        return len(self.content)

    def write(self, part: bytes) -> None:
        """Raises TooLarge."""
        if len(self.content) + len(part) > self.most:
            raise TooLarge(f"it has more than {self.most:,} bytes")
        self.content += part

    def restart(self) -> None:
        """Forgets what came: the server begins anew."""
        self.content.clear()


class ArrivingChunk:
    """A file of `expected` bytes whose last four are the CRC32C of the others, written aside.

    Its place is a hidden name beside `path`, made with its folder when the first byte comes: of
    what is not at the server nothing is left here. `publish` makes it appear, `remove` gives it up.
    Nothing is fsynced: what a power cut leaves is checked when it is read, and fetched anew.
    """

    def __init__(self, path: Path, expected: int) -> None:
        self.most = self.expected = expected
        self.got = 0
        self.first = b""
        self._path = path
        self._crc = 0
        self._trailer = b""
        self._temporary = durable.aside(path)
        self._file: io.FileIO | None = None

    def write(self, part: bytes) -> None:
        """Raises TooLarge, LocalFailure."""
        self.first = self.first or part[:200]
        if self.got + len(part) > self.most:
            raise TooLarge(f"more than {self.expected} bytes")
        payload = part[: max(0, self.expected - CHECKSUM_BYTES - self.got)]
        self._crc = crc32c.crc32c(payload, self._crc)
        self._trailer += part[len(payload) :]
        try:
            self._file = self._file or self._opened()
            rest = memoryview(part)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise LocalFailure from error
        self.got += len(part)

    def restart(self) -> None:
        """Forgets what came: the server begins anew."""
        self.got, self._crc, self._trailer, self.first = 0, 0, b"", b""
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()

    def has_checksum(self, checksum: int) -> bool:
        """Whether it is whole, and its CRC32C is this one and what it says itself."""
        return self._trailer == struct.pack("<I", self._crc) and self._crc == checksum

    def publish(self) -> None:
        """Makes it appear. Raises LocalFailure."""
        assert self._file is not None, "what is published came, and has bytes"
        try:
            self._file.close()
            self._temporary.replace(self._path)
        except OSError as error:
            raise LocalFailure from error

    def remove(self) -> None:
        """Leaves nothing aside."""
        if self._file is not None:
            self._file.close()
            self._temporary.unlink(missing_ok=True)

    def _opened(self) -> io.FileIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return open(self._temporary, "xb", buffering=0)


class ArrivingFile:
    """A file of at most `expected` bytes, written aside as `temporary`, whatever is in it.

    Its SHA-256 is known when it has come. `remove` gives it up. `tell`: called with the bytes that
    are there, as they come.
    """

    def __init__(
        self, temporary: Path, expected: int, tell: Callable[[int], None] = lambda got: None
    ) -> None:
        self.most = self.expected = expected
        self.got = 0
        self._temporary, self._tell = temporary, tell
        self._hash = hashlib.sha256()
        try:
            self._file = open(temporary, "xb", buffering=0)  # noqa: SIM115  (closed by finish, remove)
        except OSError as error:
            raise LocalFailure from error

    def write(self, part: bytes) -> None:
        """Raises TooLarge, LocalFailure."""
        if self.got + len(part) > self.most:
            raise TooLarge(f"more than {self.expected} bytes")
        try:
            rest = memoryview(part)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise LocalFailure from error
        self._hash.update(part)
        self.got += len(part)
        self._tell(self.got)

    def restart(self) -> None:
        """Forgets what came: the server begins anew."""
        self.got, self._hash = 0, hashlib.sha256()
        self._file.seek(0)
        self._file.truncate()

    def sha256(self) -> str:
        """Of what came, 64 hex digits."""
        return self._hash.hexdigest()

    def finish(self) -> None:
        """What came stays, where the disk is asked to keep it."""
        os.fsync(self._file.fileno())
        self._file.close()

    def remove(self) -> None:
        """Leaves nothing aside."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def sounds_like_a_page(content: bytes | bytearray) -> bool:
    """Whether it begins as web pages do."""
    start = bytes(content[:200]).lstrip().lower()
    return start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body"))
