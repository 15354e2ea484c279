"""What every protocol can do with a folder of files: one attempt at a time, no patience."""

import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path

from kdcache.errors import StoreError
from kdcache.remote.arriving import ArrivingChunk, ArrivingDocument, ArrivingFile

Arriving = ArrivingDocument | ArrivingChunk | ArrivingFile
MOST_READ = 2**24  # bytes of a file that is held in memory while it is written elsewhere
Content = bytes | bytearray | memoryview | Path  # a Path: the bytes of the file there


class NotThere(Exception):
    """The server says that there is no such file or folder."""


class NotListed(Exception):
    """The server does not list the folder; the message says what it answered."""


class Folder(ABC):
    """One folder by one protocol. For several threads at once.

    Names are of files below it, parts joined by "/"; who calls has checked them. Any exception of
    the protocol's library may leave; FileNotFoundError: there is no such thing.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.stopped = False
        self.while_waiting: Callable[[], None] = lambda: None  # often, as long as something is

    @abstractmethod
    def fetch(self, name: str, arriving: Arriving) -> None:
        """Writes into `arriving` what it has not got yet."""

    @abstractmethod
    def listing(self, folder: str) -> dict[str, int | None]:
        """Files with their bytes and folders with None, directly in a folder ("": this one)."""

    @abstractmethod
    def put(self, name: str, content: Content) -> None:
        """The whole file appears atomically, replacing what was there."""

    def put_many(self, files: Iterable[tuple[str, Content]]) -> None:
        """Several files, in this order or all at once."""
        for name, content in files:
            self.put(name, content)

    @property
    def commits_puts(self) -> bool:
        """Whether each put, or put_many, is a commit in a history."""
        return False

    @property
    def tells_sizes(self) -> bool:
        return True

    @abstractmethod
    def require_writable(self) -> None:
        """Raises StoreError where the protocol cannot write; what the server says is not asked."""

    def is_stopped(self) -> bool:
        self.while_waiting()
        return self.stopped


def read_only(address: str, why: str) -> StoreError:
    return StoreError(
        f"{address} can be read only: {why}. Push to a folder, s3://, gs://, sftp:// or "
        "hf://datasets/... instead"
    )


def as_bytes(content: Content) -> memoryview:
    """What is to be written; a large file is mapped, not read into memory."""
    if not isinstance(content, Path):
        return memoryview(content).cast("B")
    with open(content, "rb") as file:
        if os.fstat(file.fileno()).st_size <= MOST_READ:
            return memoryview(file.read())
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
