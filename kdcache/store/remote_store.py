"""A store elsewhere: a mirror folder that fills on demand, and is then read like any store.

Documents are fetched whenever the store is opened; a sample list when it is first needed; a chunk
right before it is read, or ahead of that. A commit record that a gathered document has is not
fetched: an empty file of its name says that it is there.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

from filelock import FileLock

from kdcache import durable, homes
from kdcache.errors import KdcacheError, StoreError
from kdcache.remote import (
    CONNECTIONS,
    ArrivingDocument,
    ChunkFetcher,
    Connection,
    MirrorSpace,
    NotThere,
    TooLarge,
    WantedChunk,
    WrongChunk,
    fetch_chunk,
    mirror_name,
    most_mirrored,
    require_size,
    sounds_like_a_page,
)
from kdcache.store.chunks import CHECKSUM_BYTES, DamagedChunk
from kdcache.store.commit_record import ChunkKey, CommitRecord
from kdcache.store.commits import record_key
from kdcache.store.layout import ArrayLocation, listed
from kdcache.store.manifest import Manifest
from kdcache.store.sample_lists import list_path

MOST_LIST_BYTES = 2**30  # of a list of samples
MOST_DOCUMENTS = 2**30  # bytes that opening a store fetches; a name counts as a block of the disk
NAME_BYTES = 2**12


class RemoteStore(ABC):
    """A store elsewhere and its mirror, the folder `root`. `address`: its URL, as it is told.

    `url`: of the folder that its files are fetched from. `mirrors`: the folder that holds the
    mirror; None: the user's. `most`: bytes of chunks that all mirrors there may have; None:
    `most_mirrored()`. `connection`: to `url`, where there is one already. Safe to pickle and to
    fork.
    """

    def __init__(
        self,
        url: str,
        address: str,
        mirrors: Path | None = None,
        most: int | None = None,
        connection: Connection | None = None,
    ) -> None:
        home = homes.mirrors() if mirrors is None else mirrors
        self._connection = Connection(url) if connection is None else connection
        self.address = address
        self.root = home / mirror_name(address)
        self._chunks = ChunkFetcher(
            self._connection, MirrorSpace(home, most_mirrored() if most is None else most)
        )
        self._allowance = MOST_DOCUMENTS
        self._counting = Lock()

    @property
    def hub(self) -> str | None:
        """The hub that it is at, as it is told; None for a store's folder."""
        return None

    # Opening

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Fetches every document that opening reads; nobody else changes them meanwhile.

        Raises StoreError for what is no store, or cannot be listed; Unreachable.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        self._allowance = MOST_DOCUMENTS
        with FileLock(self.root / ".lock"), self.explained():
            pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="kdcache-open")
            waits = False  # an interruption does not wait for the network
            try:
                self.fetch_documents(pool)
                waits = True
            except Exception:
                waits = True
                raise
            finally:
                pool.shutdown(wait=waits, cancel_futures=True)
            yield

    @abstractmethod
    def fetch_documents(self, pool: ThreadPoolExecutor) -> None:
        """Brings every document that opening reads into the mirror."""

    @abstractmethod
    def fetch_all_documents(self) -> None:
        """Those too that opening does not read, and every commit record by itself."""

    @abstractmethod
    def fetch_record(self, array: ArrayLocation, key: ChunkKey) -> None:
        """What now is the commit record of a chunk: somebody may have healed it."""

    @abstractmethod
    def list_name(self, name: str, manifest: Manifest) -> str:
        """Where the chunk of the list `index` or `labels` is fetched from."""

    @abstractmethod
    def chunk_name(self, path: Path, record: CommitRecord) -> str:
        """Where the chunk that the mirror has at `path` is fetched from."""

    def note_records(self, array: str, names: Iterable[str]) -> list[str]:
        """Makes the mirror's records those of these names; gives which of the names are records."""
        folder = self.root / array / "commits"
        there = {name for name in names if record_key(name) is not None}
        here = set(listed(folder))
        for name in here - there:
            (folder / name).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        for name in there - here:
            open(folder / name, "wb").close()  # Path.touch asks for each twice: 100,000 take 2 s
        return sorted(there)

    def forget_documents(self, folder: str) -> bool:
        """Of what is no longer there; its chunks stay until they make way. False."""
        for path in [*(self.root / folder).glob("**/*.json")]:
            path.unlink(missing_ok=True)
        return False

    def fetch(self, name: str, most: int, into: str | None = None) -> bool:
        """A document into the mirror, as `into` (None: under its own name); whether there is one.

        Raises StoreError for a web page.
        """
        arriving = ArrivingDocument(most, may_change=True)
        path = self.root / (into or name)
        try:
            self._connection.fetch(name, arriving)
        except NotThere:
            path.unlink(missing_ok=True)
            return False
        except TooLarge as error:
            raise StoreError(f"{self._url(name)}: {error}. No writer wrote this") from None
        content = bytes(arriving.content)
        self.count(len(content))
        if sounds_like_a_page(content):
            raise StoreError(
                f"{self._url(name)}: a web page of {len(content):,} bytes arrived instead "
                f"of a store's document; it begins {content[:80]!r}. Is this the address of the "
                "store's folder itself, and may it be read without logging in?"
            )
        self.keep(path, content)
        return True

    def keep(self, path: Path, content: bytes) -> None:
        """Puts a document into the mirror, whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = durable.aside(path)
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def count(self, num_bytes: int) -> None:
        """Raises StoreError when a store has more documents than any writer made."""
        with self._counting:
            self._allowance -= num_bytes
            if self._allowance < 0:
                raise StoreError(
                    f"{self.address}: its documents have more than {MOST_DOCUMENTS:,} bytes. Copy "
                    "it to a local folder if you trust it"
                )

    # Reading

    def address_of(self, identities: Iterable[str]) -> str:
        """Where the store with exactly these mentors' logits is found, whatever is added later."""
        return self.address

    def fetch_list(self, name: str, manifest: Manifest) -> None:
        """The list `index` or `labels`."""
        most = min(8 * manifest.num_samples + CHECKSUM_BYTES, MOST_LIST_BYTES)
        into = list_path(self.root, name).relative_to(self.root).as_posix()
        with self.explained():
            self.fetch(self.list_name(name, manifest), most, into)

    @contextmanager
    def holding(self, path: Path, record: CommitRecord) -> Iterator[bool]:
        """A chunk, fetched into the mirror at `path`, and kept there meanwhile.

        Gives whether it is fresh: checked against its record as it arrived. Raises DamagedChunk,
        Unreachable.
        """
        try:
            with self._chunks.hold(self._wanted(path, record)) as fresh:
                yield fresh
        except WrongChunk as error:
            raise DamagedChunk(str(error)) from None

    @contextmanager
    def fetched_apart(self, path: Path, record: CommitRecord) -> Iterator[Path]:
        """A chunk of the mirror's `path`, fetched into a file that nobody else has, and is removed.

        Raises as `holding`.
        """
        apart = durable.aside(path)
        try:
            fetch_chunk(self._connection, replace(self._wanted(path, record), path=apart))
            yield apart
        except WrongChunk as error:
            raise DamagedChunk(str(error)) from None
        finally:
            apart.unlink(missing_ok=True)

    def expect(self, chunks: Iterable[tuple[Path, CommitRecord]]) -> None:
        """These will be read next, in this order."""
        self._chunks.expect([self._wanted(path, record) for path, record in chunks])

    def payload(self, path: Path, record: CommitRecord) -> memoryview:
        """A chunk's payload, fetched straight into memory; not hashed, the caller checks it.

        Raises DamagedChunk for another size or last bytes, Unreachable.
        """
        wanted = self._wanted(path, record)
        arriving = ArrivingDocument(wanted.bytes)
        arriving.expected = wanted.bytes
        try:
            require_size(wanted)
            self._connection.fetch(wanted.name, arriving)
        except NotThere:
            raise DamagedChunk("the file is gone") from None
        except WrongChunk as error:
            raise DamagedChunk(str(error)) from None
        except TooLarge as error:
            raise DamagedChunk(f"{error}, which it should have") from None
        page = "; a web page arrived" if sounds_like_a_page(arriving.content) else ""
        if arriving.got != wanted.bytes:
            raise DamagedChunk(f"{arriving.got} bytes instead of {wanted.bytes}{page}")
        content = memoryview(arriving.content)
        if content[record.bytes :] != wanted.checksum.to_bytes(CHECKSUM_BYTES, "little"):
            raise DamagedChunk(f"its CRC32C differs from the committed one{page}")
        return content[: record.bytes]

    def _wanted(self, path: Path, record: CommitRecord) -> WantedChunk:
        return WantedChunk(
            path=path,
            name=self.chunk_name(path, record),
            bytes=record.bytes + CHECKSUM_BYTES,
            checksum=record.checksum,
        )

    # Telling

    def shown(self, path: Path) -> str:
        """A path of the mirror as the URL that it mirrors."""
        return self._told(str(path))

    def explain(self, error: KdcacheError) -> None:
        """Makes an error about the mirror one about the URL."""
        error.args = tuple(self._told(arg) if isinstance(arg, str) else arg for arg in error.args)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Makes errors about the mirror ones about the URL."""
        try:
            yield
        except KdcacheError as error:
            self.explain(error)
            raise

    def _url(self, name: str) -> str:
        return f"{self._connection.address}/{name}"

    def _told(self, text: str) -> str:
        return text.replace(str(self.root), self.address)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_counting"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _counting=Lock())
