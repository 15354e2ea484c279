"""A store at a hub: one document describes it all, chunks are found by their content.

So opening it is one request. Mentors of one name that differ stand side by side at a hub; a store
has one of them, the fullest, or the one that its address names.
"""

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kdcache.errors import StoreError
from kdcache.remote import Connection, shown_url
from kdcache.store.commit_record import ChunkKey, CommitRecord
from kdcache.store.commits import MOST_INDEX_BYTES, sealed_index, sealed_record
from kdcache.store.gathered import GatheredStore
from kdcache.store.hub_documents import opened_document
from kdcache.store.hub_layout import (
    GATHERED,
    HubAddress,
    chunk_name,
    gathered_name,
    list_name,
)
from kdcache.store.layout import LISTS, METADATA, ArrayLocation, listed
from kdcache.store.manifest import Manifest
from kdcache.store.remote_store import NAME_BYTES, RemoteStore
from kdcache.store.sealed import BLANK, SEAL, seal
from kdcache.store.zarr_metadata import list_metadata

INDEX = "commits.json"
LOOKS = 10  # times as long as reading the document took, it is not read again


class NotAtHub(StoreError):
    """A hub has no store of these views."""


class HubStore(RemoteStore):
    """The store at this address of a hub; its fingerprint in full."""

    def __init__(
        self,
        address: HubAddress,
        mirrors: Path | None = None,
        most: int | None = None,
        connection: Connection | None = None,
    ) -> None:
        self._place = address
        self.fingerprint = address.fingerprint
        self._looks_again = 0.0  # not before that moment of the clock
        super().__init__(address.hub, shown_url(str(address)), mirrors, most, connection)

    @property
    def hub(self) -> str:
        """The hub, as it is told."""
        return self._connection.address

    def fetch_documents(self, pool: ThreadPoolExecutor) -> None:
        gathered = self._gathered(fetch=True)
        documents = self._documents(gathered)
        records = gathered.records_of()
        for array, of_it in records.items():
            index = sealed_index(of_it)
            if len(index) <= MOST_INDEX_BYTES:
                documents[f"{array}/{INDEX}"] = index
        self.count(sum(map(len, documents.values())))
        self.count(NAME_BYTES * sum(map(len, records.values())))
        for group in listed(self.root / "mentors"):
            if f"mentors/{group}/{METADATA}" not in documents:
                self.forget_documents(f"mentors/{group}")
        for name, content in documents.items():
            path = self.root / name
            if not (path.is_file() and path.read_bytes() == content):
                self.keep(path, content)
        for array, of_it in records.items():
            self.note_records(array, [record.file_name for record in of_it])
            if f"{array}/{INDEX}" not in documents:
                self._keep_records(array, of_it)

    def _gathered(self, *, fetch: bool) -> GatheredStore:
        """What the hub has of it, of each mentor the variant that the address names."""
        name = gathered_name(self.fingerprint)
        if fetch and not self.fetch(name, MOST_INDEX_BYTES, into=GATHERED):
            raise NotAtHub(
                f"{self._place.hub} has no store of the views {self.fingerprint}. See what is "
                f"there with: kdcache list {self._place.hub}"
            )
        origin = f"{self._connection.address}/{name}"
        whole = GatheredStore.from_json(
            opened_document((self.root / GATHERED).read_bytes(), origin), origin
        )
        if whole.manifest.fingerprint != self.fingerprint:
            raise StoreError(
                f"{origin} describes the views {whole.manifest.fingerprint}. No writer wrote it "
                "there: push the store again, or ask who looks after the hub"
            )
        return whole.choose(self._place.variants)

    def _documents(self, gathered: GatheredStore) -> dict[str, bytes]:
        """The store's documents as its writer makes them, by path in the mirror."""
        num_samples = gathered.manifest.num_samples
        lists = {
            f"{name}/{METADATA}": seal(list_metadata(num_samples, {SEAL: BLANK})) for name in LISTS
        }
        return {**gathered.documents(), **lists}

    def fetch_all_documents(self) -> None:
        """Each record by itself; the rest was read when the store was opened."""
        for array, records in self._gathered(fetch=False).records_of().items():
            self._keep_records(array, records)

    def _keep_records(self, array: str, records: Iterable[CommitRecord]) -> None:
        for record in records:
            self.keep(self.root / array / "commits" / record.file_name, sealed_record(record))

    def fetch_record(self, array: ArrayLocation, key: ChunkKey) -> None:
        """As the hub's document says now; other chunks stay as they were.

        Where many chunks are damaged, most of the time goes into reading them, not the document.
        """
        started = time.monotonic()
        if started < self._looks_again:
            return
        self.allow_again()
        gathered = self._gathered(fetch=True)
        self._looks_again = time.monotonic() + LOOKS * (time.monotonic() - started)
        folder = array.folder.relative_to(self.root).as_posix()
        records = gathered.records_of().get(folder, [])
        for path in array.commits.glob(f"{key[0]:06d}.{key[1]:06d}.*"):
            path.unlink(missing_ok=True)
        for record in records:
            if record.key == key:
                self.keep(array.commits / record.file_name, sealed_record(record))

    def list_name(self, name: str, manifest: Manifest) -> str:
        return list_name(manifest.dataset[f"{name}_sha256"])

    def chunk_name(self, path: Path, record: CommitRecord) -> str:
        return chunk_name(record)
