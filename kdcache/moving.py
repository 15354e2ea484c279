"""Moving chunks between two stores that are there: in threads, each checked, committed together.

source -> payload -> check -> written aside          in threads, `CONNECTIONS` at once
                                  -> committed       in one more, whatever has come meanwhile
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from kdcache.errors import KdcacheError
from kdcache.filling import Progress
from kdcache.remote import most_at_once, moved_at_once
from kdcache.store import (
    ChunkKey,
    CommitRecord,
    Damage,
    DamagedChunk,
    PreparedChunk,
    StoredMentor,
    TargetStore,
    prepare_copy,
    publish_chunks,
    read_payload_of,
)
from kdcache.store.chunks import CHECKSUM_BYTES
from kdcache.wanted import TargetsKey

Check = Callable[[StoredMentor, ChunkKey, memoryview], str | None]


@dataclass(frozen=True, kw_only=True)
class Move:
    """A chunk that is to go elsewhere: whose it is, and as what it was committed in the source."""

    stored: StoredMentor
    record: CommitRecord

    @property
    def key(self) -> TargetsKey:
        return self.stored.manifest.name, self.stored.kind.name

    @property
    def file_bytes(self) -> int:
        """Of the chunk's file: the payload and its CRC32C."""
        return self.record.bytes + CHECKSUM_BYTES

    def damage(self, source: TargetStore, reason: str) -> Damage:
        """What is told where this chunk is not what it should be."""
        path = source.shown(self.stored.array.chunk(*self.record.key))
        return Damage.of_chunk(self.stored, self.record.key, path, reason)


class Moved:
    """What was moved so far.

    `seen`: chunks that came, good or not, of `seen_bytes`; `chunks`, `bytes`: now committed.
    `damaged`: what was not as committed, `refused`: by the check. `different`: chunks, by title, in
    whose place another writer had committed other bytes meanwhile.
    """

    def __init__(self) -> None:
        self.seen = self.seen_bytes = self.chunks = self.bytes = 0
        self.damaged: list[Damage] = []
        self.refused: list[Damage] = []
        self.different: Counter[str] = Counter()


class Mover:
    """Moves chunks of `source` into `store`, whose targets of these mentors and kinds are `there`.

    `check`: as `CopyJob` has it.
    """

    def __init__(
        self,
        source: TargetStore,
        store: TargetStore,
        there: Mapping[TargetsKey, StoredMentor],
        check: Check | None,
    ) -> None:
        self._source, self._store, self._there, self._check = source, store, there, check

    def run(
        self,
        moves: Sequence[Move],
        moved: Moved,
        progress: Progress | None,
        should_stop: Callable[[], bool],
    ) -> None:
        """Moves these, and notes it in `moved`. Whatever ends it, what arrived is committed."""
        total = sum(move.record.bytes for move in moves)
        most_waiting = most_at_once(total) // 2  # as much is being committed then
        arrived: list[tuple[Move, _Arrived]] = []
        with ThreadPoolExecutor(1, thread_name_prefix="kdcache-commit") as committer:
            committing: Future[None] | None = None

            def commit_arrived() -> None:
                nonlocal committing
                if committing is not None:
                    committing.result()
                committing = committer.submit(self._commit, arrived.copy(), moved)
                arrived.clear()

            try:
                for one in moved_at_once(
                    moves, self._take, lambda move: move.record.bytes, should_stop
                ):
                    arrived.append(one)
                    waiting = sum(move.record.bytes for move, _ in arrived)
                    if committing is None or committing.done() or waiting > most_waiting:
                        commit_arrived()
                    if progress is not None:
                        progress(moved.seen_bytes, total)
            except Exception:
                with suppress(OSError, KdcacheError):  # the first error is the one to tell
                    commit_arrived()
                raise
            commit_arrived()
            if committing is not None:
                committing.result()
        if progress is not None:
            progress(moved.seen_bytes, total)

    def _take(self, move: Move) -> "_Arrived":
        """One chunk, in a thread of its own."""
        key = move.record.key
        try:
            chunk = read_payload_of(self._source, move.stored, key)
            if self._check is not None:
                reason = self._check(move.stored, key, chunk.payload)
                if reason is not None:
                    return _Arrived(refused=reason)
            prepared = prepare_copy(self._store, self._there[move.key], chunk)
            return _Arrived(prepared=prepared)
        except DamagedChunk as error:
            return _Arrived(damage=str(error))

    def _commit(self, arrived: "Sequence[tuple[Move, _Arrived]]", moved: Moved) -> None:
        good = [(move, one.prepared) for move, one in arrived if one.prepared is not None]
        committed = publish_chunks([prepared for _, prepared in good])
        for (move, prepared), record in zip(good, committed, strict=True):
            moved.chunks += 1
            moved.bytes += prepared.record.bytes
            if record.sha256 != prepared.record.sha256:  # another writer was first
                moved.different[move.stored.title] += 1
        for move, one in arrived:
            moved.seen += 1
            moved.seen_bytes += move.record.bytes
            if one.damage is not None:
                moved.damaged.append(move.damage(self._source, one.damage))
            if one.refused is not None:
                moved.refused.append(move.damage(self._source, one.refused))


@dataclass(frozen=True, kw_only=True)
class _Arrived:
    """A chunk that was checked and lies aside in the destination, or why none does."""

    prepared: PreparedChunk | None = None
    damage: str | None = None
    refused: str | None = None
