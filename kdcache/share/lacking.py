"""What a hub lacks of a store: not shown there, and of that not even moved there yet."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from kdcache.encode import KINDS
from kdcache.errors import MissingTargets, StoreError, StoreMismatch
from kdcache.moving import Move
from kdcache.remote import Connection, NotListed
from kdcache.store import (
    ChunkKey,
    Damage,
    StoredMentor,
    TargetStore,
    healing_command,
)
from kdcache.store.gathered import GatheredStore
from kdcache.store.hub_layout import chunk_file, chunk_folder
from kdcache.two_stores import lost_records

Chosen = Sequence[tuple[StoredMentor, Sequence[ChunkKey]]]


def choose_chunks(
    store: TargetStore, mentors: Sequence[str] | None, views: set[int] | None
) -> tuple[Chosen, list[Damage]]:
    """Each kind of each mentor with its committed chunks, and chunks that lost their record.

    Raises MissingTargets, DamagedTargets.
    """
    chosen: list[tuple[StoredMentor, list[ChunkKey]]] = []
    damaged: list[Damage] = []

    def chooses(key: ChunkKey) -> bool:
        return views is None or key[0] in views

    for name in dict.fromkeys(store.mentors if mentors is None else mentors):
        there = store.kinds(name) or (store.manifest.primary.name,)
        for kind in [kind for kind in KINDS if kind in there]:
            stored = store.mentor(name, kind)
            keys = sorted(filter(chooses, stored.commits))
            if keys:
                chosen.append((stored, keys))
            damaged += lost_records(store, stored, chooses)
    if not chosen:
        raise MissingTargets(
            f"{store.address} has nothing of that to push yet. Compute it with: "
            f"{healing_command(store, mentors or store.mentors)}"
        )
    return chosen, damaged


def beside_blocks(
    store: TargetStore, shown: GatheredStore | None, address: str
) -> GatheredStore | None:
    """What is shown, as far as a store's chunks can stand beside it.

    What is cut as this version cuts is shown before all else. Raises StoreMismatch for a store that
    is cut otherwise than what is shown.
    """
    if shown is None or shown.manifest.block == store.manifest.block:
        return shown
    if store.manifest.block == store.manifest.usual_block:
        return None
    raise StoreMismatch(
        f"{address} is cut into blocks of {shown.manifest.block:,} samples, {store.address} "
        f"into blocks of {store.manifest.block:,}: their chunks cannot stand in one store. "
        "Push it to another hub"
    )


@dataclass(frozen=True)
class Compared:
    """Chunks of a store beside what a hub shows: `lacking` there, there as the `same` bytes, and
    how many are `different`, by title."""

    lacking: list[Move]
    same: list[Move]
    different: Counter[str]


def compare(chosen: Chosen, shown: GatheredStore | None) -> Compared:
    """Each list view by view."""
    arrays = {} if shown is None else shown.arrays
    found = Compared([], [], Counter())
    for stored, keys in chosen:
        known = arrays[stored.identity].records if stored.identity in arrays else {}
        for key in keys:
            chunk = Move(stored=stored, record=stored.commits[key])
            if key not in known:
                found.lacking.append(chunk)
            elif known[key].sha256 == chunk.record.sha256:
                found.same.append(chunk)
            else:
                found.different[stored.title] += 1
    for chunks in (found.lacking, found.same):
        chunks.sort(key=lambda chunk: chunk.record.key)
    return found


def not_there(chunks: Sequence[Move], connection: Connection) -> list[Move]:
    """Those that no earlier push, cut before it was shown, left at the hub."""
    identities = {chunk.stored.identity for chunk in chunks}
    sizes = {identity: sizes_at(connection, chunk_folder(identity)) for identity in identities}
    return [
        chunk
        for chunk in chunks
        if sizes[chunk.stored.identity].get(chunk_file(chunk.record)) != chunk.file_bytes
    ]


def other_variants(chosen: Chosen, shown: GatheredStore | None) -> list[str]:
    """A line for each mentor that is shown by another checkpoint, run shape or encoder, too."""
    variants = {} if shown is None else shown.variants()
    return [
        f"{array.name}: the hub also has it by {array.encoder['name']}, checkpoint "
        f"{array.mentor['checkpoint_sha256'][:12]} ({array.identity[:16]})"
        for stored, _ in chosen
        for array in variants.get(stored.manifest.name, ())
        if stored.kind.name == array.kind and array.identity != stored.identity
    ]


def sizes_at(connection: Connection, folder: str) -> dict[str, int]:
    """Bytes of the files there. Raises StoreError where that cannot be listed."""
    try:
        return connection.sizes(folder)
    except NotListed as error:
        raise StoreError(
            f"{connection.address}/{folder} cannot be listed ({error}), so nothing can be pushed"
        ) from error
