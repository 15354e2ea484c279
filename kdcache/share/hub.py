"""A hub: what it holds, and how what was pushed becomes visible, without a lock.

Each push leaves a document of its own, named by its content, and is then *gathered*: the stores'
documents and the index are made from all pushes that can be listed, and again until what was
written knows every one of them. Whoever writes last has therefore seen all; whoever is killed
leaves a push that the next one gathers. Nothing here asks a clock.
"""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from kdcache.card import store_card
from kdcache.errors import DamagedTargets, RunFailed, StoreError, Unreachable, UsageError
from kdcache.remote import Connection, NotListed, NotThere, folder_of, is_url
from kdcache.share.hub_card import hub_card
from kdcache.store import TargetStore, open_store
from kdcache.store.commits import MOST_INDEX_BYTES
from kdcache.store.gathered import GatheredStore, merge_gathered
from kdcache.store.hub_documents import (
    HubIndex,
    ListedStore,
    fetch_bytes,
    fetch_document,
    is_hub,
    list_store,
    listed_mentor,
    marker,
    opened_document,
    read_index_document,
)
from kdcache.store.hub_layout import (
    CARD,
    HUB_FORMAT,
    HUB_INDEX,
    HUB_MARKER,
    MENTORS,
    gathered_name,
    parse_push,
    push_name,
    store_folder,
)
from kdcache.store.sealed import BLANK, SEAL, seal

MOST_ROUNDS = 50  # of gathering, while others push at the same time


class Hub:
    """The hub at a URL or in a folder. `url`: as given; `connection`: to its folder.

    Raises UsageError for no URL at all.
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        self.url = str(place).rstrip("/") or str(place)
        self.connection = Connection(
            self.url if is_url(self.url) else folder_of(self.url).absolute().as_uri()
        )

    def store_address(self, fingerprint: str) -> str:
        """Where `open_store` finds the store of these views."""
        return f"{self.url}/{store_folder(fingerprint)}"

    def short_address(self, fingerprint: str) -> str:
        """The same, for people: it is found by how the fingerprint begins."""
        return self.store_address(fingerprint[:16])

    def index(self) -> HubIndex:
        """What the hub holds: one request. Raises StoreError where there is no hub."""
        index = read_index_document(self.connection)
        if index is None:
            raise StoreError(
                f"there is no hub at {self.url}: it has no {HUB_INDEX}. Begin one with: "
                f"kdcache push STORE {self.url}"
            )
        return index

    def open(self, fingerprint: str) -> TargetStore | None:
        """The store of these views; None where the hub has none, or is none yet."""
        if fetch_document(self.connection, gathered_name(fingerprint)) is None:
            return None
        return open_store(self.store_address(fingerprint))

    def gathered(self, fingerprint: str) -> GatheredStore | None:
        """What the hub shows of these views; None where that is nothing. One request."""
        document = fetch_document(self.connection, gathered_name(fingerprint))
        if document is None:
            return None
        return GatheredStore.from_json(document, self.store_address(fingerprint))

    def begin(self) -> None:
        """Makes the hub, where there is none. Raises StoreError for a folder of something else."""
        if is_hub(self.connection):
            return
        try:
            names = {name for name in self.connection.names("") if not name.startswith(".")}
        except (NotThere, NotListed):
            names = set()
        if HUB_MARKER in names:  # somebody was first, since we asked
            is_hub(self.connection)
            return
        if names - {CARD}:
            raise StoreError(
                f"{self.url} holds something else than a hub ({', '.join(sorted(names)[:5])}). "
                f"Name a new or empty folder, such as {self.url}/kdcache"
            )
        self.connection.put(HUB_MARKER, marker())

    def add_push(self, pushed: GatheredStore) -> None:
        """Adds what was pushed, and gathers. Its chunks and lists are there already."""
        content = seal({"hub": HUB_FORMAT, **pushed.to_json(), SEAL: BLANK})
        if len(content) > MOST_INDEX_BYTES:
            raise UsageError(
                f"the records of this push have {len(content):,} bytes, a hub takes "
                f"{MOST_INDEX_BYTES:,}. Push fewer --views or --mentors at a time"
            )
        name = push_name(pushed.manifest.fingerprint, _sha256(content))
        self.connection.put(name, content)
        self.gather(pushed.manifest.fingerprint)

    def is_gathered(self, fingerprint: str) -> bool:
        """Whether the index knows every push of these views; false after one that was cut."""
        listed = self._known_index().stores.get(fingerprint)
        known = frozenset() if listed is None else frozenset(listed.pushes)
        return self._pushes().get(fingerprint, frozenset()) == known

    def put_card(self, fingerprint: str) -> None:
        """Writes the card of a store that is shown."""
        card = store_card(open_store(self.store_address(fingerprint)))
        self.connection.put(f"{store_folder(fingerprint)}/{CARD}", card.encode())

    def gather(self, *fingerprints: str) -> None:
        """Makes what is shown of these stores, and of all that the index does not know whole, and
        the index, of all pushes and mentors there.

        What was made once is made again in each round: somebody slower, who knew less, may have
        replaced it. Raises RunFailed where others push without end.
        """
        made = set(fingerprints)
        for _ in range(MOST_ROUNDS):
            pushes, mentors = self._pushes(), self._mentor_names()
            index = self._gather_once(pushes, mentors, made)
            self.connection.put(CARD, hub_card(index, self.url).encode())
            if self._pushes() == pushes and self._mentor_names() == mentors:
                return
        raise RunFailed(
            f"{self.url}: others pushed while this was gathered, {MOST_ROUNDS} times. What was "
            "pushed is there; run the same command again to have it shown"
        )

    def _gather_once(
        self, pushes: Mapping[str, frozenset[str]], mentors: frozenset[str], made: set[str]
    ) -> HubIndex:
        """`made`: stores to make whatever the index says; those that are made are added."""
        known = self._known_index()
        stores = {}
        for fingerprint, names in sorted(pushes.items()):
            listed = known.stores.get(fingerprint)
            if listed is None or frozenset(listed.pushes) != names or fingerprint in made:
                made.add(fingerprint)
                listed = self._gather_store(fingerprint, names) or listed
            if listed is not None:
                stores[fingerprint] = listed
        entries = {entry.get("file"): entry for entry in known.mentors}
        index = HubIndex(
            stores=stores,
            mentors=tuple(
                entry
                for name in sorted(mentors)
                if (entry := entries.get(name) or self._mentor_entry(name)) is not None
            ),
        )
        self.connection.put(HUB_INDEX, seal({**index.to_json(), SEAL: BLANK}))
        return index

    def _gather_store(self, fingerprint: str, names: frozenset[str]) -> ListedStore | None:
        """Writes what these pushes have together; None where none of them can be read."""
        found, sound = [], []
        for sha256 in sorted(names):
            pushed = self._read_push(fingerprint, sha256)
            sound += [sha256] if pushed is not None else []
            found += [pushed] if pushed is not None else []
        if not found:
            return None
        gathered = merge_gathered(found)
        document = {"hub": HUB_FORMAT, "pushes": sorted(names), **gathered.to_json(), SEAL: BLANK}
        content = seal(document)
        if len(content) > MOST_INDEX_BYTES:
            raise RunFailed(
                f"{self.store_address(fingerprint)} has records of {len(content):,} bytes, more "
                f"than the {MOST_INDEX_BYTES:,} that are read. Begin another hub for more views"
            )
        self.connection.put(gathered_name(fingerprint), content)
        return list_store(gathered, tuple(names))

    def _read_push(self, fingerprint: str, sha256: str) -> GatheredStore | None:
        """A push's document; None for one that is not what its name says: its own writer, should
        he come again, puts it right."""
        name = push_name(fingerprint, sha256)
        origin = f"{self.url}/{name}"
        try:
            content = fetch_bytes(self.connection, name, MOST_INDEX_BYTES)
            if content is None or _sha256(content) != sha256:
                return None
            pushed = GatheredStore.from_json(opened_document(content, origin), origin)
        except Unreachable:
            raise
        except StoreError:
            return None
        return pushed if pushed.manifest.fingerprint == fingerprint else None

    def _known_index(self) -> HubIndex:
        """The index as it is; an empty one where it is missing or damaged: it is made anew."""
        try:
            return read_index_document(self.connection) or HubIndex()
        except DamagedTargets:
            return HubIndex()

    def _pushes(self) -> dict[str, frozenset[str]]:
        """The SHA-256 of all pushes there, by fingerprint."""
        found: dict[str, set[str]] = {}
        for name in self._names("pushes"):
            parsed = parse_push(name)
            if parsed is not None:
                found.setdefault(parsed[0], set()).add(parsed[1])
        return {fingerprint: frozenset(names) for fingerprint, names in found.items()}

    def _mentor_names(self) -> frozenset[str]:
        return frozenset(name for name in self._names(MENTORS) if name.endswith(".json"))

    def _mentor_entry(self, name: str) -> Mapping[str, Any] | None:
        """What the index says of a mentor's checkpoint; None for an entry that is none."""
        try:
            document = fetch_document(self.connection, f"{MENTORS}/{name}")
            return None if document is None else {"file": name, **listed_mentor(document)}
        except Unreachable:
            raise
        except (StoreError, ValueError):
            return None

    def _names(self, folder: str) -> list[str]:
        try:
            return self.connection.names(folder)
        except NotThere:
            return []
        except NotListed as error:
            raise StoreError(
                f"{self.url}/{folder} cannot be listed ({error}), so it can be read, not pushed to"
            ) from error


def default_hub(given: str | None) -> str:
    """`given`, else `$KDCACHE_HUB`. Raises UsageError where there is neither."""
    place = given or os.environ.get("KDCACHE_HUB")
    if not place:
        raise UsageError("name a hub: a URL or a shared folder, as argument or in $KDCACHE_HUB")
    return place


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
