"""A store's folder at a URL: its documents are found by listing, and fetched one by one."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from kdcache.encode import KINDS
from kdcache.errors import KdcacheError, StoreError
from kdcache.remote import CONNECTIONS, NotListed, NotThere, shown_url
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
from kdcache.store.remote_store import NAME_BYTES, RemoteStore
from kdcache.store.sample_lists import list_path
from kdcache.store.sealed import MOST_BYTES

MOST_MENTORS = 1000


class NoStore(StoreError):
    """There is no store's folder at a URL."""


class RemoteFolder(RemoteStore):
    """The store whose folder is at a URL."""

    def __init__(self, url: str, mirrors: Path | None = None, most: int | None = None) -> None:
        super().__init__(url, shown_url(url), mirrors, most)

    def fetch_documents(self, pool: ThreadPoolExecutor) -> None:
        mentors = pool.submit(self._mentor_names)
        if not self.fetch(METADATA, MOST_BYTES):
            raise NoStore(
                f"{self.address} has no {METADATA}: it is not the address of a store's folder"
            )
        read_manifest(self.root)
        names = mentors.result()
        for gone in set(listed(self.root / "mentors")) - set(names):
            self.forget_documents(f"mentors/{gone}")
        groups = {f"mentors/{name}": pool.submit(self._mentor, name) for name in names}
        arrays = [
            f"{group}/{kind}"
            for group, found in groups.items()
            for kind in KINDS
            if kind in found.result() or self.forget_documents(f"{group}/{kind}")
        ]
        documents = [
            *((f"{group}/{METADATA}", MOST_BYTES) for group in groups),
            *((f"{array}/{METADATA}", MOST_BYTES) for array in arrays),
            *((f"{array}/commits.json", MOST_INDEX_BYTES) for array in arrays),
        ]
        fetches = [pool.submit(self.fetch, *document) for document in documents]
        listings = {array: pool.submit(self._names, f"{array}/commits") for array in arrays}
        for fetch in fetches:
            fetch.result()
        records = []
        for array, names_of in listings.items():
            gathered, _ = read_index(self.root / array / "commits.json")
            records += self._note_records(array, names_of.result(), gathered)
        list(pool.map(partial(self.fetch, most=MOST_RECORD_BYTES), records))

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
        self.count(NAME_BYTES)
        with suppress(NotThere, NotListed):
            names = self._connection.names(folder)
            self.count(NAME_BYTES * len(names))
            return names
        return []

    def _note_records(
        self, array: str, names: Sequence[str], gathered: dict[str, CommitRecord]
    ) -> list[str]:
        """Makes the mirror's records those of these names; gives which must be fetched."""
        folder = self.root / array / "commits"
        lacking = [name for name in self.note_records(array, names) if name not in gathered]
        return [f"{array}/commits/{name}" for name in lacking if not _is_record(folder / name)]

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
            pool.submit(self.fetch, f"mentors/{METADATA}", MOST_BYTES).result()
            list(pool.map(partial(self.fetch, most=MOST_BYTES), spares))
            list(pool.map(partial(self.fetch, most=MOST_RECORD_BYTES), records))

    def fetch_record(self, array: ArrayLocation, key: ChunkKey) -> None:
        """What now is the commit record of a chunk: somebody may have healed it."""
        folder = array.commits.relative_to(self.root).as_posix()
        names = [name for name in self._names(folder) if record_key(name) == key]
        for path in array.commits.glob(f"{key[0]:06d}.{key[1]:06d}.*"):
            if path.name not in names:
                path.unlink(missing_ok=True)
        for name in names:
            self.fetch(f"{folder}/{name}", MOST_RECORD_BYTES)

    def fetch_list(self, name: str, manifest: Manifest) -> None:
        with self.explained():
            self.fetch(f"{name}/{METADATA}", MOST_BYTES)
        super().fetch_list(name, manifest)

    def list_name(self, name: str, manifest: Manifest) -> str:
        return list_path(Path(), name).as_posix()

    def chunk_name(self, path: Path, record: CommitRecord) -> str:
        return path.relative_to(self.root).as_posix()


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
