"""Gathering: how what was pushed becomes visible, without a lock.

pushes, as listed -> each store's document -> the index -> listed again, and all of it once more

What is shown is made from all pushes that can be listed, and again until what was written knows
every one of them. Whoever writes last has therefore seen all; whoever is killed leaves a push that
the next one of the same views gathers. Nothing here asks a clock.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from itertools import chain
from typing import Any

from kdcache.errors import DamagedTargets, NoSpace, RunFailed, StoreError, Unreachable
from kdcache.remote import Connection, NotListed
from kdcache.share.hub_card import hub_card
from kdcache.store.commits import MOST_INDEX_BYTES
from kdcache.store.gathered import GatheredStore
from kdcache.store.hub_documents import (
    HubIndex,
    ListedStore,
    fetch_bytes,
    fetch_document,
    listed_mentor,
    opened_document,
    read_index_document,
)
from kdcache.store.hub_layout import (
    CARD,
    HUB_FORMAT,
    HUB_INDEX,
    MENTORS,
    gathered_name,
    parse_push,
    push_name,
    store_folder,
)
from kdcache.store.hub_listing import list_store
from kdcache.store.merging import TooMuch, merge_gathered
from kdcache.store.sealed import BLANK, SEAL, seal

MOST_ROUNDS = 50  # of gathering, while others push at the same time
MOST_FILES = 10_000  # in pushes/, and in mentors/
MOST_GATHERED = 2**30  # bytes of push documents that are read for one store, and for all others
MOST_ENTRY_BYTES = 2**22  # of a mentor's
Files = Mapping[str, int]  # bytes, by name


class Gathering:
    """Makes what the hub at a connection shows. `url`: the hub, as it is told."""

    def __init__(self, connection: Connection, url: str) -> None:
        self._connection, self._url = connection, url

    def run(self, *fingerprints: str) -> None:
        """Makes what is shown of these stores, and of all that the index does not know whole, and
        the index, of all pushes and mentors there.

        What was made once is made again in each round: somebody slower, who knew less, may have
        replaced it. What is wrong with another store than these is the matter of who pushes it.
        Raises RunFailed where others push without end, or pushed more than a reader takes.
        """
        made = set(fingerprints)
        for _ in range(MOST_ROUNDS):
            pushes, mentors = list_pushes(self._connection), self._mentor_names()
            known = known_index(self._connection)
            index = HubIndex(
                stores=self._gather_stores(pushes, known, made, frozenset(fingerprints)),
                mentors=self._gather_mentors(mentors, known),
            )
            index = self._put_index(index)
            self._connection.put(CARD, hub_card(index, self._url).encode())
            if list_pushes(self._connection) == pushes and self._mentor_names() == mentors:
                return
        raise RunFailed(
            f"{self._url}: others pushed while this was gathered, {MOST_ROUNDS} times. What was "
            "pushed is there; run the same command again to have it shown"
        )

    def _gather_stores(
        self,
        pushes: Mapping[str, Files],
        known: HubIndex,
        made: set[str],
        asked: frozenset[str],
    ) -> dict[str, ListedStore]:
        """`made`: stores to make whatever the index says; those that are made are added."""
        stores = {}
        left = MOST_GATHERED
        for fingerprint, files in sorted(pushes.items()):
            listed = known.stores.get(fingerprint)
            if fingerprint in asked:
                listed = self._gather_store(fingerprint, files)
            elif listed is None or set(listed.pushes) != set(files) or fingerprint in made:
                left -= sum(files.values())
                made.add(fingerprint)
                try:
                    if left >= 0:
                        listed = self._gather_store(fingerprint, files)
                except (Unreachable, NoSpace):
                    raise
                except (RunFailed, StoreError):
                    pass
            if listed is not None:
                stores[fingerprint] = listed
        for fingerprint in {*known.stores, *asked} - set(pushes):
            self._show_nothing(fingerprint)
        return stores

    def _gather_store(self, fingerprint: str, files: Files) -> ListedStore | None:
        """Writes what these pushes have together; None where there is nothing in any of them.

        Memory: the largest of the pushes, and what they have together.
        """
        largest = max(files, key=lambda sha256: (files[sha256], sha256))
        too_much = RunFailed(
            f"{self._url}/{store_folder(fingerprint)} cannot be shown anew: the documents of what "
            f"was pushed have {sum(files.values()):,} bytes, and together more arrays or records "
            f"than a reader takes of one store; the largest is {push_name(fingerprint, largest)}. "
            "If that is not the team's, remove it and push again; else begin another hub for more "
            "views or mentors"
        )
        if sum(size for size in files.values() if size <= MOST_INDEX_BYTES) > MOST_GATHERED:
            raise too_much
        pushes = list(files)

        def read() -> Iterator[GatheredStore]:
            for sha256 in sorted(files):
                if files[sha256] > MOST_INDEX_BYTES:  # no push wrote it
                    continue
                try:
                    pushed = self._read_push(fingerprint, sha256)
                except FileNotFoundError:  # listed, and gone: a later round sees which
                    pushes.remove(sha256)
                    continue
                if pushed is not None:
                    yield pushed

        found = read()
        first = next(found, None)
        if first is None:
            self._show_nothing(fingerprint)
            return None
        try:
            gathered = merge_gathered(chain([first], found))
        except TooMuch:
            raise too_much from None
        content = sealed_gathered(gathered, pushes)
        if len(content) > MOST_INDEX_BYTES:
            raise too_much
        self._connection.put(gathered_name(fingerprint), content)
        return list_store(gathered, tuple(pushes))

    def _show_nothing(self, fingerprint: str) -> None:
        """Takes back what was shown of views of which no push is left, and only that."""
        name = gathered_name(fingerprint)
        try:
            document = fetch_document(self._connection, name)
            if document is None:
                return
            shown = GatheredStore.from_json(document, f"{self._url}/{name}")
        except DamagedTargets:
            return
        if shown.arrays:
            self._connection.put(name, sealed_gathered(replace(shown, arrays={}), []))

    def _read_push(self, fingerprint: str, sha256: str) -> GatheredStore | None:
        """A push's document; None for one that is proven not to be what its name says, or is of a
        later version: its own writer, should he come again, puts it right.

        Raises FileNotFoundError where there is none; StoreError where it cannot be read now.
        """
        name = push_name(fingerprint, sha256)
        origin = f"{self._url}/{name}"
        content = fetch_bytes(self._connection, name, MOST_INDEX_BYTES)
        if content is None:
            raise FileNotFoundError(origin)
        if content_sha256(content) != sha256:
            return None
        try:
            pushed = GatheredStore.from_json(opened_document(content, origin), origin)
        except StoreError:  # whatever it is, these are its bytes
            return None
        return pushed if pushed.manifest.fingerprint == fingerprint else None

    def _gather_mentors(
        self, names: frozenset[str], known: HubIndex
    ) -> tuple[Mapping[str, Any], ...]:
        entries = {entry["file"]: entry for entry in known.mentors}
        found = (entries.get(name) or self._mentor_entry(name) for name in sorted(names))
        return tuple(entry for entry in found if entry is not None)

    def _put_index(self, index: HubIndex) -> HubIndex:
        """Writes it; as much of it as can be read again."""
        content = seal({**index.to_json(), SEAL: BLANK}, for_people=False)
        if len(content) > MOST_INDEX_BYTES:
            index = _without_the_longest(index)
            content = seal({**index.to_json(), SEAL: BLANK}, for_people=False)
        self._connection.put(HUB_INDEX, content)
        return index

    def _mentor_names(self) -> frozenset[str]:
        return frozenset(
            name
            for name, size in _files(self._connection, MENTORS).items()
            if _ENTRY.fullmatch(name) and size <= MOST_ENTRY_BYTES
        )

    def _mentor_entry(self, name: str) -> Mapping[str, Any] | None:
        """What the index says of a mentor's checkpoint; None for an entry that is none."""
        try:
            document = fetch_document(self._connection, f"{MENTORS}/{name}")
            return None if document is None else {"file": name, **listed_mentor(document)}
        except Unreachable:
            raise
        except (StoreError, ValueError):
            return None


def list_pushes(connection: Connection) -> Mapping[str, Files]:
    """Bytes of all pushes' documents at a hub, by SHA-256, by fingerprint."""
    found: dict[str, dict[str, int]] = {}
    for name, size in _files(connection, "pushes").items():
        parsed = parse_push(name)
        if parsed is not None:
            found.setdefault(parsed[0], {})[parsed[1]] = size
    return dict(found)


def known_index(connection: Connection) -> HubIndex:
    """The index as it is; an empty one where it is missing or damaged: it is made anew."""
    try:
        return read_index_document(connection) or HubIndex()
    except DamagedTargets:
        return HubIndex()


def sealed_gathered(gathered: GatheredStore, pushes: list[str] | None = None) -> bytes:
    """The document of a push, or of the `pushes` that are gathered in it."""
    stated = {} if pushes is None else {"pushes": sorted(pushes)}
    document = {"hub": HUB_FORMAT, **stated, **gathered.to_json(), SEAL: BLANK}
    return seal(document, for_people=False)


def content_sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _files(connection: Connection, folder: str) -> Files:
    """The files in a folder, with their bytes. Raises RunFailed for more than are looked at."""
    try:
        files = connection.sizes(folder)
    except NotListed as error:
        raise StoreError(
            f"{connection.address}/{folder} cannot be listed ({error}), so it can be read, not "
            "pushed to"
        ) from error
    if len(files) > MOST_FILES:
        raise RunFailed(
            f"{connection.address}/{folder} has {len(files):,} files; a hub has at most "
            f"{MOST_FILES:,} there, and nothing more can be pushed to it. Whoever looks after the "
            "hub can remove what is not the team's; else begin another hub"
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
