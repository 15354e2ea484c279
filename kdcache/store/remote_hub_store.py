"""A store at a hub: one document describes it all, chunks are found by their content.

So opening it is one request. Mentors of one name that differ stand side by side at a hub; a store
has one of them, the fullest, or the one that its address names.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from kdcache.errors import StoreError
from kdcache.remote import Connection, mirror_name, shown_url
from kdcache.store.commit_record import ChunkKey, CommitRecord
from kdcache.store.commits import (
    MOST_INDEX_BYTES,
    read_index,
    read_record,
    sealed_index,
    sealed_record,
)
from kdcache.store.gathered import GatheredStore
from kdcache.store.hub_documents import fetch_bytes, opened_document
from kdcache.store.hub_layout import (
    GATHERED,
    HubAddress,
    chunk_name,
    gathered_name,
    list_name,
)
from kdcache.store.layout import LISTS, METADATA, ArrayLocation, listed
from kdcache.store.manifest import Manifest, read_manifest
from kdcache.store.mirror_note import (
    NOTE,
    MirrorNote,
    names_hash,
    note_bytes,
    read_note,
    source_of,
)
from kdcache.store.remote_store import NAME_BYTES, RemoteStore
from kdcache.store.sealed import BLANK, SEAL, seal
from kdcache.store.zarr_metadata import list_metadata

INDEX = "commits.json"
NAMED = 16  # digits of an identity in an address
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
        self._seen: dict[str, dict[ChunkKey, CommitRecord]] = {}  # when it last looked, by array
        self._content = b""  # of the hub's document, and what it says, while the store is opened
        self._gathered: GatheredStore | None = None
        self._note: MirrorNote | None = None
        self._chosen: tuple[str, ...] = ()  # identities of the mentors' logits
        self._variants: dict[str, str] = {}  # mentors' names by identity, of all that the hub has
        super().__init__(address.hub, shown_url(str(address)), mirrors, most, connection)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Where a mentor has several variants, address and mirror become those of the chosen ones.

        So whatever is pushed later, who asks for that address has the same mentors.
        """
        self._content = self._fetched()
        noted_at = self.root / NOTE  # by the address that was asked for
        note = read_note(noted_at, source_of(self._content))
        if note is None:
            self._choose(self._read(self._content))
        else:
            self._variants, self._chosen = dict(note.names), note.chosen
            self._place = replace(self._place, variants=note.variants)
        self.address = shown_url(str(self._place))
        self.root = self.root.with_name(mirror_name(self.address))
        self._note = note
        try:
            with super().opened():
                if self._note is not None and self._note != note:
                    self.keep(noted_at, note_bytes(self._note))
                yield
        finally:
            self._content, self._gathered, self._note = b"", None, None

    def _choose(self, whole: GatheredStore) -> None:
        """One variant of each mentor; those that have several are named in the address."""
        variants = whole.variants()
        self._gathered = whole.choose(self._place.variants)
        self._variants = {a.identity: name for name, those in variants.items() for a in those}
        self._chosen = tuple(sorted(self._variants.keys() & self._gathered.arrays.keys()))
        several = (one for one in self._chosen if len(variants[self._variants[one]]) > 1)
        self._place = replace(self._place, variants=tuple(one[:NAMED] for one in several))

    def address_of(self, identities: Iterable[str]) -> str:
        asked = tuple(identities)
        whose = {self._variants.get(identity) for identity in asked}
        kept = (
            identity
            for identity in self._chosen
            if self._variants[identity] not in whose and identity[:NAMED] in self._place.variants
        )
        variants = sorted(identity[:NAMED] for identity in (*kept, *asked))
        return shown_url(str(replace(self._place, variants=tuple(variants))))

    def has_variant(self, identity: str) -> bool:
        """Whether the hub has the logits of this identity, chosen or not."""
        return identity in self._variants

    @property
    def hub(self) -> str:
        """The hub, as it is told."""
        return self._connection.address

    def fetch_documents(self, pool: ThreadPoolExecutor) -> None:
        self._keep_unless(self.root / GATHERED, self._content)
        if self._note is not None and self._note.stands(self.root):
            return
        gathered = self._gathered or self._read(self._content).choose(self._place.variants)
        documents = self._documents(gathered)
        records = gathered.records_of()
        for array, of_it in records.items():
            index = sealed_index(of_it)
            if len(index) <= MOST_INDEX_BYTES:
                documents[f"{array}/{INDEX}"] = index
        self.count(sum(map(len, documents.values())))
        self.count(NAME_BYTES * sum(map(len, records.values())))
        self._forget_others(documents)
        for name, content in documents.items():
            self._keep_unless(self.root / name, content)
        for array, of_it in records.items():
            self.note_records(array, [record.file_name for record in of_it])
            if f"{array}/{INDEX}" not in documents:
                self._keep_records(array, of_it)
        self._note = self._noted(documents, records)

    def _keep_unless(self, path: Path, content: bytes) -> None:
        """Unless it is there."""
        if not (path.is_file() and path.read_bytes() == content):
            self.keep(path, content)

    def _noted(
        self, documents: Mapping[str, bytes], records: Mapping[str, Iterable[CommitRecord]]
    ) -> MirrorNote | None:
        """What was laid out; None of what is too large for an index, and is kept by record."""
        if any(f"{array}/{INDEX}" not in documents for array in records):
            return None
        return MirrorNote(
            source=source_of(self._content),
            variants=self._place.variants,
            chosen=self._chosen,
            names=self._variants,
            documents={name: sha256(content).hexdigest() for name, content in documents.items()},
            records={
                array: names_hash(record.file_name for record in of_it)
                for array, of_it in records.items()
            },
        )

    def _forget_others(self, documents: Mapping[str, bytes]) -> None:
        """Mentors, kinds and documents that the store no longer has, or its variant never had."""
        for group in listed(self.root / "mentors"):
            if f"mentors/{group}/{METADATA}" not in documents:
                self.forget_documents(f"mentors/{group}")
        for folder in self.root.glob("mentors/*/*"):
            name = folder.relative_to(self.root).as_posix()
            if f"{name}/{METADATA}" not in documents:
                self.forget_documents(name)
            for path in folder.glob("*.json"):
                if f"{name}/{path.name}" not in documents:
                    path.unlink(missing_ok=True)

    def _fetched(self) -> bytes:
        """The hub's document, as it is now."""
        content = fetch_bytes(self._connection, gathered_name(self.fingerprint), MOST_INDEX_BYTES)
        if content is None:
            raise NotAtHub(
                f"{self.hub} has no store of the views {self.fingerprint}. See what is "
                f"there with: kdcache list {self.hub}"
            )
        return content

    def _read(self, content: bytes) -> GatheredStore:
        """What the hub's document says, of all variants."""
        origin = f"{self._connection.address}/{gathered_name(self.fingerprint)}"
        whole = GatheredStore.from_json(opened_document(content, origin), origin)
        if whole.manifest.fingerprint != self.fingerprint:
            raise StoreError(
                f"{origin} describes the views {whole.manifest.fingerprint}. No writer wrote it "
                "there: push the store again, or ask who looks after the hub"
            )
        return whole

    def _records(self, content: bytes) -> dict[str, list[CommitRecord]]:
        """The records of the chosen variants, by array; none of one that is no longer there."""
        whole = self._read(content)
        return whole.choose([one for one in self._chosen if one in whole.arrays]).records_of()

    def _documents(self, gathered: GatheredStore) -> dict[str, bytes]:
        """The store's documents as its writer makes them, by path in the mirror."""
        num_samples = gathered.manifest.num_samples
        lists = {
            f"{name}/{METADATA}": seal(list_metadata(num_samples, {SEAL: BLANK})) for name in LISTS
        }
        return {**gathered.documents(), **lists}

    def fetch_all_documents(self) -> None:
        """Each record by itself; the rest was read when the store was opened."""
        for array, records in self._records((self.root / GATHERED).read_bytes()).items():
            self._keep_records(array, records)

    def _keep_records(self, array: str, records: Iterable[CommitRecord]) -> None:
        for record in records:
            self.keep(self.root / array / "commits" / record.file_name, sealed_record(record))

    def fetch_record(self, array: ArrayLocation, key: ChunkKey) -> None:
        """As the hub's document said within the last moments; other chunks stay as they were.

        Where many chunks are damaged, most of the time goes into reading them, not the document.
        """
        started = time.monotonic()
        if started >= self._looks_again:
            self._seen = {
                array_name: {record.key: record for record in records}
                for array_name, records in self._records(self._fetched()).items()
            }
            self._looks_again = time.monotonic() + LOOKS * (time.monotonic() - started)
        record = self._seen.get(array.folder.relative_to(self.root).as_posix(), {}).get(key)
        for path in array.commits.glob(f"{key[0]:06d}.{key[1]:06d}.*"):
            if record is None or path.name != record.file_name:
                path.unlink(missing_ok=True)
        if record is not None:
            self.keep(array.commits / record.file_name, sealed_record(record))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_looks_again": 0.0, "_seen": {}}

    def list_name(self, name: str, manifest: Manifest) -> str:
        return list_name(manifest.dataset[f"{name}_sha256"])

    def chunk_name(self, path: Path, record: CommitRecord) -> str:
        return chunk_name(record)

    def shown(self, path: Path) -> str:
        """The hub's file that a path of the mirror is from: of a chunk, a list, or documents."""
        name = gathered_name(self.fingerprint)
        with suppress(StoreError, ValueError, OSError):
            match path.relative_to(self.root).parts:
                case [listing, *_] if listing in LISTS:
                    name = self.list_name(listing, read_manifest(self.root))
                case ["mentors", mentor, kind, "c", view, block, *_]:
                    array = ArrayLocation(root=self.root, mentor=mentor, kind=kind)
                    key = int(view), int(block)
                    record = _gathered_record(array.commit_index, key) or read_record(array, key)
                    name = name if record is None else chunk_name(record)
        return self._url(name)


def _gathered_record(index: Path, key: ChunkKey) -> CommitRecord | None:
    """What a mirror's gathered index says of a chunk: found without a listing of all records."""
    try:
        return _read_index(index, index.stat().st_mtime_ns).get(key)
    except FileNotFoundError:
        return None


@lru_cache(maxsize=1)  # of many damaged chunks, each is to be told
def _read_index(index: Path, changed: int) -> dict[ChunkKey, CommitRecord]:
    return {record.key: record for record in read_index(index)[0].values()}
