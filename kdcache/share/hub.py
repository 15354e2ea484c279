"""A hub: what it holds, and how what was pushed becomes visible, without a lock.

Each push leaves a document of its own, named by its content, and is then *gathered*: the stores'
documents and the index are made from all pushes that can be listed, and again until what was
written knows every one of them. Whoever writes last has therefore seen all; whoever is killed
leaves a push that the next one gathers. Nothing here asks a clock.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import chain
from typing import Any

from kdcache.card import store_card
from kdcache.errors import (
    DamagedTargets,
    NoSpace,
    RunFailed,
    StoreError,
    Unreachable,
    UsageError,
)
from kdcache.remote import Connection, NotListed, NotThere, folder_of, is_url
from kdcache.share.hub_card import hub_card
from kdcache.store import TargetStore, open_store
from kdcache.store.commits import MOST_INDEX_BYTES
from kdcache.store.gathered import GatheredStore, TooMuch, merge_gathered
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
from kdcache.store.opening import open_at_hub
from kdcache.store.sealed import BLANK, SEAL, seal

MOST_ROUNDS = 50  # of gathering, while others push at the same time
MOST_FILES = 10_000  # in pushes/, and in mentors/
MOST_GATHERED = 2**30  # bytes of push documents that are read for one store, and for all others
MOST_ENTRY_BYTES = 2**22  # of a mentor's
_OURS = frozenset(
    {HUB_MARKER, HUB_INDEX, CARD, MENTORS, "chunks", "lists", "pushes", "stores", "checkpoints"}
)
Files = Mapping[str, int]  # bytes, by name


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
        """Makes the hub, where there is none, or its marker was lost or damaged.

        Raises StoreError for a folder of something else, RunFailed for a hub that somebody filled
        with more than is gathered.
        """
        damage = None
        try:
            if is_hub(self.connection):
                self._pushes()
                return
        except DamagedTargets as error:
            damage = error
        try:
            names = {name for name in self.connection.names("") if not name.startswith(".")}
        except (NotThere, NotListed):
            names = set()
        if HUB_MARKER in names and damage is None and is_hub(self.connection):
            return  # somebody was first, since we asked
        is_a_hubs = "pushes" in names and names <= _OURS
        if damage is not None and not is_a_hubs:
            raise damage
        if names - {CARD} and not is_a_hubs:
            raise StoreError(
                f"{self.url} holds something else than a hub ({', '.join(sorted(names)[:5])}). "
                f"Name a new or empty folder, such as {self.url}/kdcache"
            )
        self.connection.put(HUB_MARKER, marker())

    def add_push(self, pushed: GatheredStore) -> None:
        """Adds what was pushed, and gathers. Its chunks and lists are there already."""
        content = seal({"hub": HUB_FORMAT, **pushed.to_json(), SEAL: BLANK}, for_people=False)
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
        known = set() if listed is None else set(listed.pushes)
        return set(self._pushes().get(fingerprint, {})) == known

    def put_card(self, fingerprint: str) -> None:
        """Writes the card of a store that is shown."""
        card = store_card(open_at_hub(self.store_address(fingerprint), self.connection))
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
            index = self._gather_once(pushes, mentors, made, frozenset(fingerprints))
            self.connection.put(CARD, hub_card(index, self.url).encode())
            if self._pushes() == pushes and self._mentor_names() == mentors:
                return
        raise RunFailed(
            f"{self.url}: others pushed while this was gathered, {MOST_ROUNDS} times. What was "
            "pushed is there; run the same command again to have it shown"
        )

    def _gather_once(
        self,
        pushes: Mapping[str, Files],
        mentors: frozenset[str],
        made: set[str],
        asked: frozenset[str],
    ) -> HubIndex:
        """`made`: stores to make whatever the index says; those that are made are added.

        What is wrong with another store than the `asked` ones is the matter of who pushes it.
        """
        known = self._known_index()
        stores = {}
        left = MOST_GATHERED
        for fingerprint, files in sorted(pushes.items()):
            listed = known.stores.get(fingerprint)
            if fingerprint in asked:
                listed = self._gather_store(fingerprint, files) or listed
            elif listed is None or set(listed.pushes) != set(files) or fingerprint in made:
                left -= sum(files.values())
                made.add(fingerprint)
                try:
                    if left >= 0:
                        listed = self._gather_store(fingerprint, files) or listed
                except (Unreachable, NoSpace):
                    raise
                except (RunFailed, StoreError):
                    pass
            if listed is not None:
                stores[fingerprint] = listed
        entries = {entry["file"]: entry for entry in known.mentors}
        index = HubIndex(
            stores=stores,
            mentors=tuple(
                entry
                for name in sorted(mentors)
                if (entry := entries.get(name) or self._mentor_entry(name)) is not None
            ),
        )
        content = seal({**index.to_json(), SEAL: BLANK}, for_people=False)
        if len(content) > MOST_INDEX_BYTES:
            index = _without_the_longest(index)
            content = seal({**index.to_json(), SEAL: BLANK}, for_people=False)
        self.connection.put(HUB_INDEX, content)
        return index

    def _gather_store(self, fingerprint: str, files: Files) -> ListedStore | None:
        """Writes what these pushes have together; None where none of them can be read.

        Memory: the largest of the pushes, and what they have together. Raises RunFailed for more
        than any reader takes.
        """
        largest = max(files, key=lambda sha256: (files[sha256], sha256))
        too_much = RunFailed(
            f"{self.store_address(fingerprint)} cannot be shown anew: the documents of what was "
            f"pushed have {sum(files.values()):,} bytes, and together more arrays or records than "
            f"a reader takes of one store; the largest is {push_name(fingerprint, largest)}. "
            "If that is not the team's, remove it and push again; else begin another hub for more "
            "views or mentors"
        )
        if sum(size for size in files.values() if size <= MOST_INDEX_BYTES) > MOST_GATHERED:
            raise too_much
        read = (
            pushed
            for sha256 in sorted(files)
            if files[sha256] <= MOST_INDEX_BYTES  # else no push wrote it
            and (pushed := self._read_push(fingerprint, sha256)) is not None
        )
        try:
            first = next(read, None)
            if first is None:
                return None
            gathered = merge_gathered(chain([first], read))
        except TooMuch:
            raise too_much from None
        pushes = sorted(files)
        document = {"hub": HUB_FORMAT, "pushes": pushes, **gathered.to_json(), SEAL: BLANK}
        content = seal(document, for_people=False)
        if len(content) > MOST_INDEX_BYTES:
            raise too_much
        self.connection.put(gathered_name(fingerprint), content)
        return list_store(gathered, tuple(pushes))

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

    def _pushes(self) -> Mapping[str, Files]:
        """Bytes of all pushes' documents there, by SHA-256, by fingerprint."""
        found: dict[str, dict[str, int]] = {}
        for name, size in self._files("pushes").items():
            parsed = parse_push(name)
            if parsed is not None:
                found.setdefault(parsed[0], {})[parsed[1]] = size
        return dict(found)

    def _mentor_names(self) -> frozenset[str]:
        return frozenset(
            name
            for name, size in self._files(MENTORS).items()
            if _ENTRY.fullmatch(name) and size <= MOST_ENTRY_BYTES
        )

    def _mentor_entry(self, name: str) -> Mapping[str, Any] | None:
        """What the index says of a mentor's checkpoint; None for an entry that is none."""
        try:
            document = fetch_document(self.connection, f"{MENTORS}/{name}")
            return None if document is None else {"file": name, **listed_mentor(document)}
        except Unreachable:
            raise
        except (StoreError, ValueError):
            return None

    def _files(self, folder: str) -> Files:
        """The files in a folder, with their bytes. Raises RunFailed for more than are looked at."""
        try:
            files = self.connection.sizes(folder)
        except NotListed as error:
            raise StoreError(
                f"{self.url}/{folder} cannot be listed ({error}), so it can be read, not pushed to"
            ) from error
        if len(files) > MOST_FILES:
            raise RunFailed(
                f"{self.url}/{folder} has {len(files):,} files; a hub has at most {MOST_FILES:,} "
                "there, and nothing more can be pushed to it. Whoever looks after the hub can "
                "remove what is not the team's; else begin another hub"
            )
        return files


_ENTRY = re.compile(r"[A-Za-z0-9._+-]{1,300}\.json")


def _without_the_longest(index: HubIndex) -> HubIndex:
    """An index that can be read: stores are listed from the shortest description on, and those
    that are left out can still be opened by their address."""
    lengths = {name: len(json.dumps(asdict(store))) for name, store in index.stores.items()}
    left, kept = MOST_INDEX_BYTES // 3, {}  # indented, a description has twice its length
    for name in sorted(lengths, key=lambda name: (lengths[name], name)):
        left -= lengths[name]
        if left >= 0:
            kept[name] = index.stores[name]
    return replace(index, stores=kept)


def default_hub(given: str | None) -> str:
    """`given`, else `$KDCACHE_HUB`. Raises UsageError where there is neither."""
    place = given or os.environ.get("KDCACHE_HUB")
    if not place:
        raise UsageError("name a hub: a URL or a shared folder, as argument or in $KDCACHE_HUB")
    return place


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
