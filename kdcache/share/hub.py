"""A hub: what it holds, how it begins, and how a push becomes part of it.

Each push leaves a document of its own, named by its content, and is then gathered (`gathering`).
"""

import os
from collections.abc import Mapping
from contextlib import suppress

from kdcache.card import MOST_CARD, stated_licence, store_card
from kdcache.errors import DamagedTargets, StoreError, UsageError
from kdcache.remote import Connection, NotListed, NotThere, folder_of, is_url
from kdcache.share.gathering import (
    Files,
    Gathering,
    content_sha256,
    known_index,
    list_pushes,
    sealed_gathered,
)
from kdcache.store.commits import MOST_INDEX_BYTES
from kdcache.store.gathered import GatheredStore
from kdcache.store.hub_documents import (
    HubIndex,
    fetch_bytes,
    fetch_document,
    is_hub,
    marker,
    read_index_document,
)
from kdcache.store.hub_layout import (
    CARD,
    HUB_INDEX,
    HUB_MARKER,
    MENTORS,
    gathered_name,
    hub_of,
    push_name,
    store_folder,
)
from kdcache.store.layout import METADATA
from kdcache.store.merging import TooMuch, merge_gathered
from kdcache.store.opening import open_at_hub
from kdcache.store.sealed import MOST_BYTES

_OURS = frozenset(
    {HUB_MARKER, HUB_INDEX, CARD, MENTORS, "chunks", "lists", "pushes", "stores", "checkpoints"}
)


class Hub:
    """The hub at a URL or in a folder. `url`: as given; `connection`: to its folder.

    Raises UsageError for no URL at all.
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        given = str(place)
        self.url = given if given.endswith("://") else given.rstrip("/") or given
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
            raise StoreError(f"there is no hub at {self.url}: {self._what_is_there()}")
        return index

    def exists(self) -> bool:
        """Whether anything was ever shown there: one request."""
        return read_index_document(self.connection) is not None

    def _what_is_there(self) -> str:
        """Where there is no hub: something else that was meant as one, or how to begin one."""
        if not is_url(self.url) and folder_of(self.url).is_file():
            return "it is a file. A hub is a URL or a folder"
        hub = hub_of(self.url)
        if hub is not None and read_index_document(Hub(hub).connection) is not None:
            return (
                f"it is in the hub {hub}. See what that holds with: kdcache list {hub}, and what a "
                "store of it holds with `kdcache inspect`"
            )
        with suppress(StoreError):
            found = fetch_bytes(self.connection, METADATA, MOST_BYTES)
            if found is not None and b'"zarr_format"' in found:
                return f"it is a store. See what it holds with: kdcache inspect {self.url}"
        return f"it has no {HUB_INDEX}. Begin one with: kdcache push STORE {self.url}"

    def gathered(self, fingerprint: str) -> GatheredStore | None:
        """What the hub shows of these views; None where that is nothing. One request.

        Raises DamagedTargets for what no push wrote.
        """
        document = fetch_document(self.connection, gathered_name(fingerprint))
        if document is None:
            return None
        found = GatheredStore.from_json(document, self.store_address(fingerprint))
        if found.manifest.fingerprint != fingerprint:
            raise DamagedTargets(
                f"{self.store_address(fingerprint)} describes the views "
                f"{found.manifest.fingerprint}. The next push of these views makes it anew"
            )
        return found

    def begin(self) -> None:
        """Makes the hub, where there is none, or its marker was lost or damaged. Errors as
        `is_begun`'s."""
        if not self.is_begun():
            self.connection.put(HUB_MARKER, marker())

    def is_begun(self) -> bool:
        """Whether there is a hub; else one can be begun there.

        Raises StoreError for a place of something else, and for a hub of another format; RunFailed
        for a hub that somebody filled with more than is gathered.
        """
        damage = None
        try:
            if is_hub(self.connection):
                self.pushes()
                return True
        except DamagedTargets as error:
            damage = error
        if not is_url(self.url) and folder_of(self.url).is_file():
            raise StoreError(f"{self.url} is a file. Name a new or empty folder, or a URL")
        try:
            names = {name for name in self.connection.names("") if not name.startswith(".")}
        except (NotThere, NotListed):
            names = set()
        if HUB_MARKER in names and damage is None:
            return is_hub(self.connection)  # somebody was first, since we asked
        is_a_hubs = "pushes" in names and names <= _OURS
        if damage is not None and not is_a_hubs:
            raise damage
        if names - {CARD} and not is_a_hubs:
            raise StoreError(
                f"{self.url} holds something else than a hub ({', '.join(sorted(names)[:5])}). "
                f"Name a new or empty folder, such as {self.url}/kdcache"
            )
        return False

    def add_push(self, pushed: GatheredStore) -> None:
        """Adds what was pushed, and gathers. Its chunks and lists are there already.

        Raises UsageError for more than a reader takes of one store, before anything is added;
        RunFailed where it is there and not shown.
        """
        fingerprint = pushed.manifest.fingerprint
        shown = self.shown(fingerprint)
        try:
            together = merge_gathered([pushed] if shown is None else [shown, pushed])
        except TooMuch:
            together = None
        content = sealed_gathered(pushed)
        if together is None or len(sealed_gathered(together)) > MOST_INDEX_BYTES:
            raise UsageError(
                f"{self.store_address(fingerprint)} would have more records with this push than a "
                f"reader takes of one store ({MOST_INDEX_BYTES:,} bytes of them). If what is there "
                f"is not the team's, remove its documents in {self.url}/pushes and push again. "
                "Else push fewer --views or --mentors, or to another hub"
            )
        self.connection.put(push_name(fingerprint, content_sha256(content)), content)
        self.gather(fingerprint)

    def gather(self, *fingerprints: str) -> None:
        """Makes what is shown of these stores, and of all that the index does not know whole, and
        the index (`Gathering`)."""
        Gathering(self.connection, self.url).run(*fingerprints)

    def is_gathered(self, fingerprint: str) -> bool:
        """Whether what is shown of these views, and the index, know every push of them; false after
        one that was cut."""
        there = set(self.pushes().get(fingerprint, ()))
        listed = known_index(self.connection).stores.get(fingerprint)
        if there != set(() if listed is None else listed.pushes):
            return False
        shown = self._sound(fingerprint)
        return there == set(() if shown is None else shown.pushes)

    def shown(self, fingerprint: str) -> GatheredStore | None:
        """What is shown, as a push has to take it: nothing where its document is damaged, or no
        push of these views is there any more. The next push makes it anew."""
        found = self._sound(fingerprint)
        return found if found is not None and self.pushes().get(fingerprint) else None

    def _sound(self, fingerprint: str) -> GatheredStore | None:
        try:
            return self.gathered(fingerprint)
        except DamagedTargets:
            return None

    def pushes(self) -> Mapping[str, Files]:
        """Bytes of all pushes' documents there, by SHA-256, by fingerprint."""
        return list_pushes(self.connection)

    def put_card(self, fingerprint: str, licence: str | None = None) -> None:
        """Writes the card of a store that is shown. `licence`: None: as its card says by now."""
        name = f"{store_folder(fingerprint)}/{CARD}"
        if licence is None:
            with suppress(StoreError):
                licence = stated_licence(fetch_bytes(self.connection, name, MOST_CARD) or b"")
        store = open_at_hub(self.store_address(fingerprint), self.connection)
        card = store_card(store, licence=licence)
        self.connection.put(name, card.encode())
