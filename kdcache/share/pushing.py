"""Push: what a hub lacks of a store, moved there, then shown.

    store -> payload, checked -> chunk, named by its content -> what was pushed -> gathered

A chunk that is there already is not moved again, whether it is shown or was left by a push that was
cut. Nothing is shown before all that this push states is there.
"""

import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.card import licence_of
from kdcache.errors import DamagedTargets, RunFailed, StoreError
from kdcache.filling import Progress, never
from kdcache.moving import Move
from kdcache.remote import moved_at_once
from kdcache.share.hub import Hub
from kdcache.share.lacking import (
    beside_blocks,
    choose_chunks,
    compare,
    not_there,
    other_variants,
    sizes_at,
)
from kdcache.store import (
    ChunkKey,
    Damage,
    DamagedChunk,
    StoredMentor,
    TargetStore,
    healing_command,
    open_store,
    read_payload_of,
)
from kdcache.store.gathered import GatheredStore, gather_array
from kdcache.store.hub_layout import chunk_file, chunk_folder, chunk_name, list_name
from kdcache.store.layout import LISTS
from kdcache.store.sample_lists import list_content
from kdcache.two_stores import asked_views, incomplete_views

MOST_TOGETHER = 2**27  # bytes of chunks in one commit, where puts are commits in a history


@dataclass(frozen=True, kw_only=True)
class PushResult:
    """What a push did.

    `address`: where what was pushed is read; `short_address`, for people.
    `num_chunks`, `num_bytes`: moved. `damaged`: chunks of the store that are not what was
    committed; they are not at the hub. `healing`: the command that computes them again. `stopped`:
    it was asked to; what was moved is there, and is shown by the push that finishes.
    """

    address: str
    short_address: str
    stopped: bool
    num_chunks: int
    num_bytes: int
    damaged: Sequence[Damage]
    healing: str | None
    seconds: float

    @property
    def ok(self) -> bool:
        return not (self.stopped or self.damaged)


class PushJob:
    """One push: made, looked at, then run.

    `store`: a store or its path. `hub`: a hub, its URL or folder; made where there is none.
    `mentors`: names; None: all. Each goes with all its kinds of targets. `views`: how many, or
    which; None: all. Chunks that are committed go, whether their views are complete or not.
    `overwrite`: moves those too that the hub has, so that a file damaged there is whole again.
    `licence`: for the card there; None: as the store's own card says, else as the hub's does.

    Attributes: `address`, where the store is then; `lacking`: views that were asked for and are not
    complete in the store, by title; `chunks` that the hub does not show; `planned`,
    those of them that it does not have; `num_bytes`: of these; `shown`: how many it shows already;
    `different`: chunks, by title, that it shows with other bytes (of the same targets, computed on
    another machine): its own stay; `damaged`: of the store, known before any chunk is read;
    `beside`: mentors that it has of the same name and another
    checkpoint, run shape or encoder: both are kept.

    Raises MissingTargets, UsageError; StoreMismatch for a store that is cut into other blocks than
    the hub's; StoreError for what is no hub and not empty, or cannot be written; Unreachable.
    """

    def __init__(
        self,
        store: TargetStore | str | Path,
        hub: Hub | str,
        *,
        mentors: Sequence[str] | None = None,
        views: int | Sequence[int] | None = None,
        overwrite: bool = False,
        licence: str | None = None,
    ) -> None:
        self.store = store if isinstance(store, TargetStore) else open_store(store)
        self.hub = hub if isinstance(hub, Hub) else Hub(hub)
        self.hub.connection.require_writable()
        self._begun = self.hub.is_begun()
        self.address = self.hub.store_address(self.store.fingerprint)
        asked = asked_views(views)
        self._chosen, self.damaged = choose_chunks(
            self.store, mentors, None if asked is None else set(asked)
        )
        self._seen = self.hub.shown(self.store.fingerprint)
        shown = beside_blocks(self.store, self._seen, self.address)
        compared = compare(self._chosen, shown)
        self.chunks, self.different = compared.lacking, compared.different
        self.shown = sum(len(keys) for _, keys in self._chosen) - len(self.chunks)
        self.planned = (
            [*compared.lacking, *compared.same]
            if overwrite
            else not_there(self.chunks, self.hub.connection)
        )
        self.num_bytes = sum(chunk.file_bytes for chunk in self.planned)
        self.beside = other_variants(self._chosen, shown)
        self.lacking = incomplete_views(
            (stored for stored, _ in self._chosen), asked, self.store.manifest.num_blocks
        )
        self._overwrite = overwrite
        self._licence, self._new_card = licence or licence_of(self.store), licence is not None

    def run(
        self, *, progress: Progress | None = None, should_stop: Callable[[], bool] = never
    ) -> PushResult:
        """Moves what is planned, and has it shown; stops between chunks when asked to.

        Memory: the chunks that are on their way (`moved_at_once`). Raises Unreachable, NoSpace,
        StoreError; what was moved is found by the next push.
        """
        started = time.perf_counter()
        lost: dict[tuple[str, ChunkKey], Damage] = {}
        moved = moved_bytes = done = 0
        if not self._begun:
            self.hub.begin()
        for chunk, reason in self._moved(should_stop):
            done += chunk.file_bytes
            if reason is None:
                moved, moved_bytes = moved + 1, moved_bytes + chunk.file_bytes
            else:
                lost[chunk.stored.identity, chunk.record.key] = chunk.damage(self.store, reason)
            if progress is not None:
                progress(done, self.num_bytes)
        stopped = moved + len(lost) < len(self.planned)
        if not stopped:
            self._show(lost)
        damaged = [*self.damaged, *lost.values()]
        variants = self._variants()
        names = dict.fromkeys(damage.mentor for damage in damaged if damage.mentor is not None)
        return PushResult(
            address=self.address + variants,
            short_address=self.hub.short_address(self.store.fingerprint) + variants,
            stopped=stopped,
            num_chunks=moved,
            num_bytes=moved_bytes,
            damaged=damaged,
            healing=healing_command(self.store, list(names), damaged=True) if names else None,
            seconds=time.perf_counter() - started,
        )

    def _moved(self, should_stop: Callable[[], bool]) -> Iterator[tuple[Move, str | None]]:
        """Each planned chunk, and why it was not moved (it is damaged); None: it was."""
        if self.hub.connection.commits_puts:
            yield from self._moved_in_commits(should_stop)
        else:
            yield from moved_at_once(
                self.planned, self._move, lambda chunk: chunk.file_bytes, should_stop
            )

    def _move(self, chunk: Move) -> str | None:
        try:
            self.hub.connection.put(chunk_name(chunk.record), self._file(chunk))
        except DamagedChunk as error:
            return str(error)
        return None

    def _moved_in_commits(
        self, should_stop: Callable[[], bool]
    ) -> Iterator[tuple[Move, str | None]]:
        left = list(self.planned)
        while left and not should_stop():
            outcomes: list[tuple[Move, str | None]] = []
            files: list[tuple[str, bytes]] = []
            while left and sum(len(content) for _, content in files) < MOST_TOGETHER:
                chunk = left.pop(0)
                try:
                    files.append((chunk_name(chunk.record), self._file(chunk)))
                    outcomes.append((chunk, None))
                except DamagedChunk as error:
                    outcomes.append((chunk, str(error)))
            self.hub.connection.put_many(files)
            yield from outcomes

    def _file(self, chunk: Move) -> bytes:
        """The chunk's file, every byte of it checked. Raises DamagedChunk."""
        return read_payload_of(self.store, chunk.stored, chunk.record.key).file

    def _show(self, lost: Container[tuple[str, ChunkKey]]) -> None:
        """States what is there now, once all of it is: its bytes are asked for again.

        `lost`: identities and keys of chunks that are damaged here.
        """
        fingerprint = self.store.fingerprint
        self._put_lists()
        sound = [
            chunk for chunk in self.chunks if (chunk.stored.identity, chunk.record.key) not in lost
        ]
        if sound:
            self._state(sound)
        elif not self.hub.is_gathered(fingerprint):
            self.hub.gather(fingerprint)
        elif not self._new_card:
            return
        # Somebody may have lost the push that showed the others: then they are stated once more.
        self._seen = self.hub.shown(fingerprint)
        hidden = compare(self._chosen, self._seen).lacking
        missing = {chunk_name(chunk.record) for chunk in not_there(hidden, self.hub.connection)}
        if again := [chunk for chunk in hidden if chunk_name(chunk.record) not in missing]:
            self._state(again)
            self._seen = self.hub.shown(fingerprint)
        if compare([(chunk.stored, [chunk.record.key]) for chunk in sound], self._seen).lacking:
            raise RunFailed(
                f"{self.address} does not show what was pushed: somebody pushed the same views cut "
                "into other blocks at the same time. Run the same command again"
            )
        self.hub.put_card(fingerprint, self._licence)

    def _variants(self) -> str:
        """What an address needs to name what was pushed: the identity of each mentor that another
        variant stands for, where none is named."""
        chosen = set() if self._seen is None else set(self._seen.choose().arrays)
        mentors = [stored.identity for stored, _ in self._chosen if stored.kind.primary]
        return "".join(f"+{identity[:16]}" for identity in mentors if identity not in chosen)

    def _state(self, chunks: Sequence[Move]) -> None:
        """Pushes the document of these chunks, which are there."""
        arrays = {}
        for stored, _ in self._chosen:
            of_it = [chunk for chunk in chunks if chunk.stored is stored]
            if of_it:
                self._require_there(stored, of_it)
                arrays[stored.identity] = gather_array(stored, [c.record.key for c in of_it])
        self.hub.add_push(GatheredStore(manifest=self.store.manifest, arrays=arrays))

    def _put_lists(self) -> None:
        """Puts the lists of samples there, where they are not."""
        there = {} if self._overwrite else sizes_at(self.hub.connection, "lists")
        for name in LISTS:
            sha256 = self.store.manifest.dataset[f"{name}_sha256"]
            values_N = self.store.index_N if name == "index" else self.store.labels_N
            content = list_content(values_N)
            if there.get(sha256) != len(content):
                self.hub.connection.put(list_name(sha256), content)

    def _require_there(self, stored: StoredMentor, chunks: Sequence[Move]) -> None:
        """Raises StoreError where what was moved has not arrived whole."""
        sizes = sizes_at(self.hub.connection, chunk_folder(stored.identity))
        for chunk in chunks:
            if (found := sizes.get(chunk_file(chunk.record))) != chunk.file_bytes:
                raise StoreError(
                    f"{self.hub.url}/{chunk_name(chunk.record)} has {found or 0:,} bytes after it "
                    f"was moved there, not {chunk.file_bytes:,}. Nothing of this push is shown; "
                    "run the same command again"
                )


def push_store(
    store: TargetStore | str | Path,
    hub: Hub | str,
    *,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = never,
    **options: Any,
) -> str:
    """Pushes what a hub lacks of a store, and returns the store's address there.

    The options are `PushJob`'s. Calling it again moves only what is missing. Raises DamagedTargets
    where the store had damaged chunks: all others were pushed.
    """
    job = PushJob(store, hub, **options)
    result = job.run(progress=progress, should_stop=should_stop)
    if result.damaged:
        raise DamagedTargets(
            f"{len(result.damaged)} chunks of {job.store.address} are damaged and were not pushed; "
            f"all others were. The first: {result.damaged[0]}. Compute them again with: "
            f"{result.healing}"
        )
    return result.address
