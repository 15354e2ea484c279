"""Verify: every byte of a store against what was written."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kdcache import homes
from kdcache.encode import PRIMARY
from kdcache.errors import StoreError
from kdcache.store.chunk_reading import check_block, chunk_reader
from kdcache.store.commit_record import ChunkKey
from kdcache.store.commits import BrokenRecord, read_commits
from kdcache.store.layout import LISTS, METADATA
from kdcache.store.manifest import read_attributes
from kdcache.store.opening import is_elsewhere, local_path, open_store
from kdcache.store.sample_lists import list_damage
from kdcache.store.sealed import DamagedDocument
from kdcache.store.spare_encoder import spare_damage
from kdcache.store.store_writer import is_damaged_store
from kdcache.store.stored_mentor import StoredMentor
from kdcache.store.target_store import TargetStore

Progress = Callable[[int, int], None]  # (bytes read, bytes in all)

MOST_KEPT = 2**30  # bytes of chunks of a store at a URL, fetched and not yet checked


@dataclass(frozen=True, kw_only=True)
class Damage:
    """One thing in a store that is not what was written.

    `mentor`, `kind` (of its targets), `view` and `block` are None where it is not of one of them.
    """

    mentor: str | None = None
    kind: str | None = None
    view: int | None = None
    block: int | None = None
    path: str
    reason: str

    @classmethod
    def of_chunk(cls, stored: StoredMentor, key: ChunkKey, path: str, reason: str) -> "Damage":
        """One chunk's. `path`: as it is told."""
        return cls(
            mentor=stored.manifest.name,
            kind=stored.kind.name,
            view=key[0],
            block=key[1],
            path=path,
            reason=reason,
        )

    def __str__(self) -> str:
        parts = [f"mentor {self.mentor}"] if self.mentor is not None else []
        if self.kind is not None and self.kind not in PRIMARY:
            parts.append(self.kind)
        parts += [f"view {self.view}"] if self.view is not None else []
        parts += [f"block {self.block}"] if self.block is not None else []
        return ": ".join([*([", ".join(parts)] if parts else []), f"{self.path}: {self.reason}"])


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What verifying found: `damaged`, and how many committed chunks and bytes were read.

    `missing`: chunks that were never committed, by mentor (and kind, where it is no logits); these
    are no damage. `not_checked`: what could not be, and why. Where data and mentors are at hand
    (`kdcache.verification`): `replayed` views, `recomputed` rows (K of each mentor and kind).
    `healing`: the command that computes damaged bytes again; None where none are, or none can.
    """

    damaged: tuple[Damage, ...]
    chunks: int = 0
    bytes: int = 0
    missing: Mapping[str, int] = field(default_factory=dict)
    not_checked: tuple[str, ...] = ()
    replayed: int = 0
    recomputed: int = 0
    healing: str | None = None

    @property
    def ok(self) -> bool:
        """Whether everything that was read is what was written."""
        return not self.damaged

    def to_json(self) -> dict[str, Any]:
        """As `verify --json` prints it."""
        return {"ok": self.ok, **asdict(self), "not_checked": list(self.not_checked)}


def verify_store(root: str | Path, progress: Progress = lambda done, total: None) -> Verification:
    """Reads every document, record and chunk of a store and checks it. Writes nothing.

    Of a store at a URL all is fetched anew, none kept. Chunks that were never committed are no
    damage. Raises StoreError for a folder that is no store, or one of another format; Unreachable.
    """
    if is_elsewhere(root):
        homes.mirrors().mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(
            prefix="verify-", dir=homes.mirrors(), ignore_cleanup_errors=True
        ) as fresh:
            store = open_store(root, mirrors=Path(fresh), most_mirrored=MOST_KEPT)
            assert store.remote is not None
            store.remote.fetch_all_documents()
            return _verify(store, progress)
    try:
        store = open_store(root)
    except StoreError as error:
        metadata = local_path(root) / METADATA
        if not (isinstance(error, DamagedDocument) or is_damaged_store(local_path(root))):
            raise
        unread = ("all lists, records and chunks: the manifest is damaged",)
        return Verification(damaged=(_damage(error, metadata, str),), not_checked=unread)
    return _verify(store, progress)


def _verify(store: TargetStore, progress: Progress) -> Verification:
    if store.remote is not None:
        for name in LISTS:
            store.remote.fetch_list(name, store.manifest)
    damaged = list(_damaged_documents(store))
    total = sum(r.bytes for stored in store.sound_targets for r in stored.commits.values())
    chunks = done = 0
    for stored in store.sound_targets:
        damaged += _damaged_records(store, stored)
        reader = chunk_reader(store, stored)
        if (spare := spare_damage(stored.array, stored.encoder)) is not None:
            damaged.append(
                _damage(
                    spare,
                    stored.array.spare_encoder,
                    store.shown,
                    mentor=stored.manifest.name,
                    kind=stored.kind.name,
                )
            )
        store.expect((stored, *key) for key in sorted(stored.commits))
        for (view, block), record in sorted(stored.commits.items()):
            reason = check_block(store, stored, (view, block), reader)
            if reason is not None:
                path = store.shown(stored.array.chunk(view, block))
                damaged.append(Damage.of_chunk(stored, (view, block), path, reason))
            chunks, done = chunks + 1, done + record.bytes
            progress(done, total)
    blocks = store.manifest.num_blocks
    missing = {
        stored.title: stored.declared_views * blocks - len(stored.commits)
        for stored in store.sound_targets
    }
    return Verification(
        damaged=tuple(damaged),
        chunks=chunks,
        bytes=done,
        missing={name: count for name, count in missing.items() if count},
        not_checked=tuple(
            f"the {'targets' if kind in PRIMARY else kind} of mentor {name}"
            for name, kind in store.target_errors
        ),
    )


def _damaged_documents(store: TargetStore) -> Iterator[Damage]:
    """Sample lists, groups, and mentors that cannot be opened."""
    for name in LISTS:
        damage = list_damage(store.root, name, store.manifest)
        if damage is not None:
            yield _damage(damage, store.root / name, store.shown)
    try:
        read_attributes(store.root / "mentors" / METADATA)
    except StoreError as error:
        yield _damage(error, store.root / "mentors" / METADATA, store.shown)
    told = set()
    for (name, kind), reason in store.target_errors.items():
        if reason not in told:  # a mentor's own document is told once, not for each kind
            folder = store.root / "mentors" / name.replace(":", ".")
            yield _damage(reason, folder, store.shown, mentor=name, kind=kind)
        told.add(reason)


def _damage(
    error: StoreError,
    path: Path,
    shown: Callable[[Path], str],
    mentor: str | None = None,
    kind: str | None = None,
) -> Damage:
    reason = str(error)
    if path.name == METADATA and not path.exists():
        reason = "the file is gone"
    elif isinstance(error, DamagedDocument):
        path, reason = error.path, error.reason
    return Damage(mentor=mentor, kind=kind, path=shown(path), reason=reason)


def _damaged_records(store: TargetStore, stored: StoredMentor) -> Iterator[Damage]:
    """Commit records that are gone or cannot be believed, and an index that cannot be used."""
    on_disk = read_commits(stored.array, stored.identity, use_index=False)
    broken = {wrong.path: wrong for wrong in (*stored.broken, *on_disk.broken)}
    for key, record in stored.commits.items():  # taken from the index, where there is one
        if on_disk.records.get(key, record) != record:
            path = stored.array.commits / record.file_name
            differs = "the gathered index has another record under this name"
            broken[path] = BrokenRecord(key=key, path=path, reason=differs)
    for wrong in broken.values():
        yield Damage.of_chunk(stored, wrong.key, store.shown(wrong.path), wrong.reason)
    if stored.index_damage is not None:
        index = store.shown(stored.array.commit_index)
        mentor, kind = stored.manifest.name, stored.kind.name
        yield Damage(mentor=mentor, kind=kind, path=index, reason=stored.index_damage)
