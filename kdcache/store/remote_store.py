"""A store at a URL: a mirror folder that fills on demand, and is then read like any store.

Documents are fetched whenever the store is opened; a sample list when it is first needed; a chunk
right before it is read, or ahead of that. A commit record that the gathered index has is not
fetched: an empty file of its name says that it is there.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from filelock import FileLock

from kdcache import durable, homes
from kdcache.encode import KINDS
from kdcache.errors import KdcacheError, StoreError
from kdcache.remote import (
    CONNECTIONS,
    ArrivingDocument,
    ChunkFetcher,
    Connection,
    MirrorSpace,
    NotListed,
    NotThere,
    TooLarge,
    WantedChunk,
    WrongChunk,
    mirror_name,
    most_mirrored,
    sounds_like_a_page,
)
from kdcache.store.chunks import CHECKSUM_BYTES, DamagedChunk
from kdcache.store.commit_record import ChunkKey, CommitRecord
from kdcache.store.commits import (
    MOST_INDEX_BYTES,
    MOST_RECORD_BYTES,
    read_index,
    read_record_file,
    record_key,
)
from kdcache.store.layout import METADATA, SPARE_ENCODER, ArrayLocation, listed, member_name
from kdcache.store.manifest import Manifest, read_manifest
from kdcache.store.sealed import MOST_BYTES

MOST_LIST_BYTES = 2**30  # of a list of samples
MOST_DOCUMENTS = 2**30  # bytes that opening a store fetches; a name counts as a block of the disk
_NAME_BYTES = 2**12
MOST_MENTORS = 1000


class RemoteStore:
    """The store at a URL and its mirror, the folder `root`. `address`: the URL as it is told.

    `mirrors`: the folder that holds the mirror; None: the user's. `most`: bytes of chunks that all
    mirrors there may have; None: `most_mirrored()`. Safe to pickle and to fork.
    """

    def __init__(self, url: str, mirrors: Path | None = None, most: int | None = None) -> None:
        home = homes.mirrors() if mirrors is None else mirrors
        self._connection = Connection(url)
        self.address = self._connection.address
        self.root = home / mirror_name(url)
        self._chunks = ChunkFetcher(
            self._connection, MirrorSpace(home, most_mirrored() if most is None else most)
        )
        self._allowance = MOST_DOCUMENTS
        self._counting = Lock()

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
                self._fetch_documents(pool)
                waits = True
            except Exception:
                waits = True
                raise
            finally:
                pool.shutdown(wait=waits, cancel_futures=True)
            yield

    def _fetch_documents(self, pool: ThreadPoolExecutor) -> None:
        mentors = pool.submit(self._mentor_names)
        if not self._fetch(METADATA, MOST_BYTES):
            raise StoreError(
                f"{self.address} has no {METADATA}: it is not the address of a store's folder"
            )
        read_manifest(self.root)
        names = mentors.result()
        for gone in set(listed(self.root / "mentors")) - set(names):
            self._forget_documents(f"mentors/{gone}")
        groups = {f"mentors/{name}": pool.submit(self._mentor, name) for name in names}
        arrays = [
            f"{group}/{kind}"
            for group, found in groups.items()
            for kind in KINDS
            if kind in found.result() or self._forget_documents(f"{group}/{kind}")
        ]
        documents = [
            *((f"{group}/{METADATA}", MOST_BYTES) for group in groups),
            *((f"{array}/{METADATA}", MOST_BYTES) for array in arrays),
            *((f"{array}/commits.json", MOST_INDEX_BYTES) for array in arrays),
        ]
        fetches = [pool.submit(self._fetch, *document) for document in documents]
        listings = {array: pool.submit(self._names, f"{array}/commits") for array in arrays}
        for fetch in fetches:
            fetch.result()
        records = []
        for array, names_of in listings.items():
            gathered, _ = read_index(self.root / array / "commits.json")
            records += self._note_records(array, names_of.result(), gathered)
        list(pool.map(partial(self._fetch, most=MOST_RECORD_BYTES), records))

    def _mentor_names(self) -> list[str]:
        try:
            names = self._connection.names("mentors")
        except NotThere:
            return []
        except NotListed as error:
            raise StoreError(self._cannot_list(str(error))) from error
        if METADATA not in names:  # it is in every store
            raise StoreError(self._cannot_list("it answered with another page"))
        found = [name for name in names if name != METADATA and _is_member(name)]
        if len(found) > MOST_MENTORS:
            raise StoreError(f"{self.address} has more than {MOST_MENTORS:,} mentors")
        return found

    def _cannot_list(self, why: str) -> str:
        return (
            f"the server does not list the folder {self.address}/mentors/ ({why}), so which "
            "mentors it has cannot be known. Turn listings on (nginx: `autoindex on;`; "
            "`python -m http.server` has them), use a protocol that lists (s3://, gs://, "
            "sftp://), or copy the store to a local folder"
        )

    def _mentor(self, name: str) -> list[str]:
        return self._names(f"mentors/{name}")

    def _names(self, folder: str) -> list[str]:
        self._count(_NAME_BYTES)
        with suppress(NotThere, NotListed):
            names = self._connection.names(folder)
            self._count(_NAME_BYTES * len(names))
            return names
        return []

    def _note_records(
        self, array: str, names: Sequence[str], gathered: dict[str, CommitRecord]
    ) -> list[str]:
        """Makes the mirror's records those of these names; gives which must be fetched."""
        folder = self.root / array / "commits"
        there = {name for name in names if record_key(name) is not None}
        here = set(listed(folder))
        for name in here - there:
            (folder / name).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        for name in there - here:
            (folder / name).touch()
        lacking = [name for name in sorted(there) if name not in gathered]
        return [f"{array}/commits/{name}" for name in lacking if not _is_record(folder / name)]

    def _forget_documents(self, folder: str) -> bool:
        """Of what is no longer there; its chunks stay until they make way. False."""
        for path in [*(self.root / folder).glob("**/*.json")]:
            path.unlink(missing_ok=True)
        return False

    def _fetch(self, name: str, most: int) -> bool:
        """A document into the mirror; whether there is one. Raises StoreError for a web page."""
        arriving = ArrivingDocument(most)
        path = self.root / name
        try:
            self._connection.fetch(name, arriving)
        except NotThere:
            path.unlink(missing_ok=True)
            return False
        except TooLarge as error:
            raise StoreError(f"{self.address}/{name}: {error}. No writer wrote this") from None
        content = bytes(arriving.content)
        self._count(len(content))
        if sounds_like_a_page(content):
            raise StoreError(
                f"{self.address}/{name}: a web page of {len(content):,} bytes arrived instead "
                f"of a store's document; it begins {content[:80]!r}. Is this the address of the "
                "store's folder itself, and may it be read without logging in?"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = durable.aside(path)
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _count(self, num_bytes: int) -> None:
        """Raises StoreError when a store has more documents than any writer made."""
        with self._counting:
            self._allowance -= num_bytes
            if self._allowance < 0:
                raise StoreError(
                    f"{self.address}: its documents have more than {MOST_DOCUMENTS:,} bytes. Copy "
                    "it to a local folder if you trust it"
                )

    # Reading

    def fetch_list(self, name: str, manifest: Manifest) -> None:
        """The list `index` or `labels`."""
        most = min(8 * manifest.num_samples + CHECKSUM_BYTES, MOST_LIST_BYTES)
        with self.explained():
            self._fetch(f"{name}/{METADATA}", MOST_BYTES)
            self._fetch(f"{name}/c/0", most)

    def fetch_all_documents(self) -> None:
        """Those too that opening does not read, and every commit record by itself."""
        records = [
            path.relative_to(self.root).as_posix()
            for path in self.root.glob("mentors/*/*/commits/*.json")
        ]
        spares = [
            path.with_name(SPARE_ENCODER).relative_to(self.root).as_posix()
            for path in self.root.glob(f"mentors/*/*/{METADATA}")
        ]
        with self.explained(), ThreadPoolExecutor(CONNECTIONS) as pool:
            pool.submit(self._fetch, f"mentors/{METADATA}", MOST_BYTES).result()
            list(pool.map(partial(self._fetch, most=MOST_BYTES), spares))
            list(pool.map(partial(self._fetch, most=MOST_RECORD_BYTES), records))

    def fetch_record(self, array: ArrayLocation, key: ChunkKey) -> None:
        """What now is the commit record of a chunk: somebody may have healed it."""
        folder = array.commits.relative_to(self.root).as_posix()
        names = [name for name in self._names(folder) if record_key(name) == key]
        for path in array.commits.glob(f"{key[0]:06d}.{key[1]:06d}.*"):
            if path.name not in names:
                path.unlink(missing_ok=True)
        for name in names:
            self._fetch(f"{folder}/{name}", MOST_RECORD_BYTES)

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
            self._connection.fetch(wanted.name, arriving)
        except NotThere:
            raise DamagedChunk("the file is gone") from None
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
            name=path.relative_to(self.root).as_posix(),
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

    def _told(self, text: str) -> str:
        return text.replace(str(self.root), self.address)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_counting"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _counting=Lock())


def _is_record(path: Path) -> bool:
    try:
        read_record_file(path)
    except ValueError:
        return False
    return True


def _is_member(name: str) -> bool:
    try:
        return len(name) <= 200 and member_name(name) == name
    except KdcacheError:
        return False
