"""Copying chunks from one store to another of the same views: what merging and pulling are.

    source -> payload -> check -> commit          encoded as it is, several chunks at once

Nothing is decoded and nothing computed: a chunk arrives with the commit record that it was written
with, is checked against it (size, CRC32C, SHA-256, identity, and that it unpacks), and is committed
by the same function as any other. So the same copy run again goes on where it was cut.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.defaults import existing_store
from kdcache.encode import KINDS, PRIMARY
from kdcache.errors import DamagedTargets, MissingTargets, StoreError, UsageError
from kdcache.filling import Progress, fill_store, never
from kdcache.moving import Check, Move, Moved, Mover
from kdcache.plan import soundness
from kdcache.store import (
    ChunkKey,
    CommitRecord,
    Damage,
    HubStore,
    StoredMentor,
    TargetStore,
    healing_command,
    local_path,
    open_store,
    refuse_foreign,
    require_equal,
)
from kdcache.two_stores import (
    asked_views,
    described_targets,
    incomplete_views,
    lost_records,
    require_views_of,
)
from kdcache.wanted import TargetsKey, Wanted, present_targets


@dataclass(frozen=True, kw_only=True)
class CopyResult:
    """What a copy did.

    `stopped`: it was asked to stop before it was done. `healed`: damaged or lost documents of the
    destination that were made anew. `num_chunks`, `num_bytes`: copied. `damaged`: what the source
    has damaged, `refused`: what the job's `check` refused; neither is in the destination.
    `different`: chunks, by title, that both stores have sound and with other bytes; the
    destination's stayed. `healing`: the command that makes what is damaged anew; None where
    nothing is.
    """

    store: TargetStore
    stopped: bool
    healed: Sequence[Path]
    num_chunks: int
    num_bytes: int
    damaged: Sequence[Damage]
    refused: Sequence[Damage]
    different: Mapping[str, int]
    healing: str | None
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether all that was to be copied is there now."""
        return not (self.stopped or self.damaged or self.refused)


class CopyJob:
    """One copy: made, looked at, then run.

    `source`: a store, its path or URL. `destination`: the path of a new store, or of one of the
    same views, to which is added what it lacks or has damaged. `mentors`: names; None: all. Each
    goes with all its kinds of targets. `views`: how many, or which; None: all. `chunks`: of these
    mentors and kinds exactly these, of no others any; None: all. `check`: called from several
    threads for each chunk that arrived (the source's mentor, (view, block), payload); the reason
    that it gives for refusing one, or None.

    Attributes: `source`; `root`; `planned`: what moves, view by view; `num_bytes`: of it; `reused`:
    chunks that the destination has already; `lacking`: views that are not complete in the source,
    by title; `damaged`: what the source is known to have damaged before any chunk is read.

    Raises UsageError for a destination that is the source; StoreMismatch when the destination is of
    other views, or has another mentor of the same name; StoreError for a folder that is no store;
    MissingTargets where the source has nothing of what is asked for, or of a mentor that is named;
    DamagedTargets where a named mentor's documents are damaged.
    """

    def __init__(
        self,
        source: TargetStore | str | os.PathLike[str],
        destination: str | os.PathLike[str],
        *,
        mentors: Sequence[str] | None = None,
        views: int | Sequence[int] | None = None,
        chunks: Mapping[TargetsKey, Collection[ChunkKey]] | None = None,
        check: Check | None = None,
    ) -> None:
        self.source = source if isinstance(source, TargetStore) else open_store(source)
        self.root = local_path(destination)
        self._check = check
        if os.path.realpath(self.root) == os.path.realpath(self.source.root):
            raise UsageError(
                f"{self.root} is the source itself; name another folder as the destination"
            )
        refuse_foreign(self.root)
        existing = existing_store(self.root, self.source.manifest)
        if existing is not None:
            require_views_of(self.source, existing)
        asked = asked_views(views)
        self.damaged: list[Damage] = []
        self._only = chunks
        self._stored = self._choose_targets(mentors, None if asked is None else set(asked))
        self._wanted = tuple(
            Wanted(
                mentor=stored.manifest,
                kind=stored.kind,
                encoder=stored.encoder,
                width=stored.row_shape[0] if stored.kind.from_features else None,
            )
            for stored, _ in self._stored
        )
        self._views = {
            one.key: stored.declared_views
            if asked is None and self._only is None
            else 1 + max(view for view, _ in keys)
            for one, (stored, keys) in zip(self._wanted, self._stored, strict=True)
        }
        self.lacking = incomplete_views(
            (stored for stored, _ in self._stored), asked, self.source.manifest.num_blocks
        )
        self._different: Counter[str] = Counter()
        self.planned, self.reused = self._plan(existing)
        self.num_bytes = sum(move.record.bytes for move in self.planned)

    def _choose_targets(
        self, mentors: Sequence[str] | None, asked: set[int] | None
    ) -> list[tuple[StoredMentor, list[ChunkKey]]]:
        """Each kind of each mentor, and its chunks; what is damaged is noted, what is empty left.

        A kind other than logits goes along even where nothing of it is committed yet.
        """
        chosen: list[tuple[StoredMentor, list[ChunkKey]]] = []
        for name in dict.fromkeys(self.source.mentors if mentors is None else mentors):
            of_it: list[tuple[StoredMentor, list[ChunkKey]]] = []
            there = self.source.kinds(name) or [self.source.manifest.primary.name]
            kinds = [kind for kind in KINDS if kind in there]
            for kind in kinds if self._only is None else [k for n, k in self._only if n == name]:
                try:
                    stored = self.source.mentor(name, kind)
                except MissingTargets:
                    raise
                except StoreError as error:
                    if mentors is not None and kind in PRIMARY:
                        raise
                    self._note(name, kind, error)
                    continue
                keys = sorted(filter(self._chooses(name, kind, asked), stored.commits))
                self.damaged += lost_records(self.source, stored, self._chooses(name, kind, asked))
                if keys or (asked is None and self._only is None and of_it):
                    of_it.append((stored, keys))
            if mentors is not None and not of_it:
                raise MissingTargets(self._nothing_of(f"mentor {name!r}", [name], asked))
            chosen += of_it
        if not chosen and self.damaged:
            raise DamagedTargets(
                f"nothing of {self.source.address} can be copied: {self.damaged[0]}. Heal it with: "
                f"{self._healing(self.damaged)}"
            )
        if not chosen:
            raise MissingTargets(self._nothing_of("any mentor", self.source.mentors, asked))
        return chosen

    def _chooses(
        self, mentor: str, kind: str, asked: set[int] | None
    ) -> Callable[[ChunkKey], bool]:
        """Whether a chunk is asked for."""
        only = None if self._only is None else self._only[mentor, kind]
        return lambda key: (asked is None or key[0] in asked) and (only is None or key in only)

    def _nothing_of(self, whose: str, names: Sequence[str], asked: set[int] | None) -> str:
        what = "nothing" if asked is None else "none of these views"
        remedy = f"Compute it with: {healing_command(self.source, names)}" if names else ""
        return f"{self.source.address} has {what} of {whose} yet, so there is nothing to copy. " + (
            remedy or "Compute something into it first, with `kdcache precompute`"
        )

    def _healing(self, damaged: Sequence[Damage]) -> str | None:
        names = dict.fromkeys(d.mentor for d in damaged if d.mentor is not None)
        views = [d.view for d in damaged if d.view is not None]
        return healing_command(self.source, names, damaged=True, views=views) if names else None

    def _note(self, mentor: str, kind: str, error: StoreError) -> None:
        path = self.source.shown(self.source.root / "mentors" / mentor.replace(":", "."))
        self.damaged.append(Damage(mentor=mentor, kind=kind, path=path, reason=str(error)))

    def _plan(self, existing: TargetStore | None) -> tuple[list[Move], int]:
        """What moves, views in order; and how many chunks the destination has sound."""
        present: Mapping[TargetsKey, StoredMentor] = {}
        if existing is not None:
            present = self._present(existing)
        is_sound = soundness(self.source.manifest, self._wanted, present)
        moves, reused = [], 0
        for one, (stored, keys) in zip(self._wanted, self._stored, strict=True):
            for key in keys:
                record = stored.commits[key]
                if not is_sound(one, key):
                    moves.append(Move(stored=stored, record=record))
                    continue
                reused += 1
                if present[one.key].commits[key].sha256 != record.sha256:
                    self._different[stored.title] += 1
        return sorted(moves, key=lambda move: move.record.key), reused

    def _present(self, existing: TargetStore) -> Mapping[TargetsKey, StoredMentor]:
        for stored, _ in self._stored:
            try:
                there = existing.mentor(stored.manifest.name, stored.kind.name)
            except (MissingTargets, DamagedTargets):
                continue
            self._require_same(stored, there)
        present = present_targets(existing, self._wanted)
        for one, (stored, _) in zip(self._wanted, self._stored, strict=True):
            if one.key in present:  # its documents may be damaged: then its records decide
                self._require_same(stored, present[one.key])
        return present

    def by_targets(self) -> list[str]:
        """What is planned, a line for each mentor and kind."""
        found: dict[str, list[CommitRecord]] = {stored.title: [] for stored, _ in self._stored}
        for move in self.planned:
            found[move.stored.title].append(move.record)
        return [
            f"mentor {title}: {len(records):,} chunks, {sum(r.bytes for r in records):,} bytes"
            for title, records in found.items()
        ]

    def _require_same(self, stored: StoredMentor, there: StoredMentor) -> None:
        """Raises StoreMismatch unless both are the same mentor's, encoded by the same numbers."""
        if stored.identity != there.identity:
            require_equal(
                f"mentor {stored.title!r}",
                (f"source {self.source.address}", described_targets(stored)),
                (f"destination {self.root}", described_targets(there)),
                "Targets of one mentor must all be made alike: "
                f"{self._where_the_same_are(there)}leave it out with --mentors, or name a new "
                "folder as the destination",
            )

    def _where_the_same_are(self, there: StoredMentor) -> str:
        """The remedy for a mentor of which the hub has what is in the destination, too."""
        remote = self.source.remote
        if not (isinstance(remote, HubStore) and remote.has_variant(there.identity)):
            return ""
        return f"go on with {remote.address_of([there.identity])}, which has these; or "

    def run(
        self, *, progress: Progress | None = None, should_stop: Callable[[], bool] = never
    ) -> CopyResult:
        """Copies what is planned; stops between chunks when asked to. `progress`: in bytes.

        At most `CONNECTIONS` chunks are fetched at once, and at most a sixteenth of the bytes to
        move (one chunk at least); as many wait aside to be committed. Memory: the chunks that are
        fetched at once, and what they unpack to where they are compressed.

        Raises Unreachable, RunFailed for a full disk, StoreError for a folder that vanished or
        cannot be written. What arrived is committed.
        """
        started = time.perf_counter()
        moved = Moved()
        _, healed = fill_store(
            self.root,
            self.source.manifest,
            self.source,
            self._wanted,
            self._views,
            (),
            (lambda store: self._fill(store, moved, progress, should_stop))
            if self.planned
            else None,
            lambda store: require_views_of(self.source, store),
        )
        damaged = [*self.damaged, *moved.damaged]
        return CopyResult(
            store=open_store(self.root),
            stopped=moved.seen < len(self.planned),
            healed=healed,
            num_chunks=moved.chunks,
            num_bytes=moved.bytes,
            damaged=damaged,
            refused=moved.refused,
            different=self._different + moved.different,
            healing=self._healing(damaged),
            seconds=time.perf_counter() - started,
        )

    def _fill(
        self,
        store: TargetStore,
        moved: Moved,
        progress: Progress | None,
        should_stop: Callable[[], bool],
    ) -> int:
        there = {one.key: store.mentor(*one.key) for one in self._wanted}
        for one, (stored, _) in zip(self._wanted, self._stored, strict=True):
            self._require_same(stored, there[one.key])  # another writer may have been first
        mover = Mover(self.source, store, there, self._check)
        mover.run(self.planned, moved, progress, should_stop)
        return moved.chunks


def merge_stores(
    source: TargetStore | str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = never,
    **options: Any,
) -> TargetStore:
    """Copies what a store (also one at a URL) holds into another of the same views; returns that.

    The options are `CopyJob`'s. Incremental: calling it again copies only what is missing or
    damaged in the destination. Raises DamagedTargets where the source had damaged chunks: all
    others were copied.
    """
    job = CopyJob(source, destination, **options)
    result = job.run(progress=progress, should_stop=should_stop)
    if result.damaged or result.refused:
        first = [*result.damaged, *result.refused][0]
        raise DamagedTargets(
            f"{len(result.damaged) + len(result.refused)} chunks of {job.source.address} were not "
            f"copied to {job.root}; all others were. The first: {first}"
            + (f". Heal them with: {result.healing}" if result.healing else "")
        )
    return result.store
