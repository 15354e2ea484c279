"""Pruning: mentors or views are dropped, so that a kill at any moment leaves a sound store.

The order is that of committing, backwards: first the gathered index forgets the records (a record
that it knows and that is gone would be a lost one), then the records go, then a mentor's documents,
and last the chunks, which nobody counts any more. What a kill left, the same prune again removes.
V never becomes smaller. All is done by names of folders: damaged documents can be dropped too.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kdcache import durable
from kdcache.encode import KINDS, PRIMARY
from kdcache.errors import MissingTargets, StoreError, UsageError
from kdcache.store.commits import read_index, record_key, store_lock, write_commit_index
from kdcache.store.layout import (
    METADATA,
    MOST_VIEWS,
    SPARE_ENCODER,
    ArrayLocation,
    listed,
    member_name,
    require_inside,
)
from kdcache.store.opening import local_path, open_store
from kdcache.store.target_store import TargetStore
from kdcache.store.writers import explained, writing


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What a prune drops of one mentor: all of it, or `views`. `files`: how many, of `bytes`."""

    mentor: str
    views: Sequence[int] | None
    files: int
    bytes: int


class PruneJob:
    """One prune: made, looked at, then run.

    `mentors`: names, dropped with all their targets; with `views` only those views of them. `views`
    alone: of every mentor. How many (the first), or which.

    Attributes: `root`; `planned`: what goes, mentor by mentor; `num_bytes`: of it.

    Raises UsageError where neither is given; MissingTargets for a mentor that is not there, and for
    views of which nothing is; StoreError for a folder that is no store, or a store at a URL.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        mentors: Sequence[str] | None = None,
        views: int | Sequence[int] | None = None,
    ) -> None:
        self.root = local_path(root)
        if not mentors and views is None:
            raise UsageError("say what to drop: --mentors, --views, or views of some with both")
        store = open_store(self.root)
        asked = range(views) if isinstance(views, int) else sorted(set(views or ()))
        if views is not None and not (asked and 0 <= asked[0] <= asked[-1] < MOST_VIEWS):
            raise UsageError(f"--views is how many, or a list of numbers from 0; got {views}")
        self._views = None if views is None else frozenset(asked)
        names = list(dict.fromkeys(mentors if mentors else store.mentors))
        self._groups = {name: self.root / "mentors" / member_name(name) for name in names}
        for name, group in self._groups.items():
            require_inside(self.root, group)
            if not group.is_dir():
                raise MissingTargets(
                    f"{self.root} has no mentor {name!r}; it has "
                    f"{', '.join(store.mentors) or 'none'}"
                )
        self.planned = [one for name in names if (one := self._planned(name)) is not None]
        self.num_bytes = sum(one.bytes for one in self.planned)
        if not self.planned:
            raise MissingTargets(_nothing_of(store, names))

    def _planned(self, mentor: str) -> Pruned | None:
        group = self._groups[mentor]
        files = list(_files(group)) if self._views is None else []
        views: set[int] = set()
        for array in self._arrays(mentor) if self._views is not None else ():
            there = _views_there(array) & (self._views or frozenset())
            views |= there
            files += [array.commits / name for name in _records(array, there)]
            files += [path for view in there for path in _files(array.folder / "c" / str(view))]
        if self._views is not None and not views:
            return None
        return Pruned(
            mentor=mentor,
            views=None if self._views is None else sorted(views),
            files=len(files),
            bytes=sum(_size(path) for path in files),
        )

    def _arrays(self, mentor: str) -> list[ArrayLocation]:
        """The arrays of a mentor's folder: those of every kind that this version knows."""
        kinds = [kind for kind in KINDS if (self._groups[mentor] / kind).is_dir()]
        return [ArrayLocation(root=self.root, mentor=mentor, kind=kind) for kind in kinds]

    def run(self, *, progress: Callable[[int, int], None] | None = None) -> int:
        """Drops what is planned; the bytes that were freed. `progress`: in bytes.

        Raises StoreError while another writer works on the store, and where it cannot be written.
        """
        total, freed = self.num_bytes, 0
        with explained(self.root), writing(self.root) as is_alone, store_lock(self.root):
            if not is_alone():
                raise StoreError(
                    f"another command writes to {self.root} now, so nothing was dropped. Wait "
                    "until it has ended, then run the same command again"
                )
            for one in self.planned:
                if one.views is None:
                    steps = self._drop_mentor(one.mentor)
                else:
                    steps = self._drop_views(one.mentor, frozenset(one.views))
                for num_bytes in steps:
                    freed += num_bytes
                    if progress is not None:
                        progress(min(freed, total), total)
        return freed

    def _drop_views(self, mentor: str, views: frozenset[int]) -> Iterator[int]:
        for array in self._arrays(mentor):
            require_inside(self.root, array.commits)
            _forget_in_index(array, views)
            for name in _records(array, views):
                yield _remove(array.commits / name)
            if array.commits.is_dir():
                durable.fsync_folder(array.commits)
            for view in sorted(views & _chunk_views(array)):
                yield from _remove_folder(self.root, array.folder / "c" / str(view))

    def _drop_mentor(self, mentor: str) -> Iterator[int]:
        group = self._groups[mentor]
        folders = [path for path in (group / name for name in listed(group)) if _is_folder(path)]
        for folder in folders:  # whatever kinds these are
            require_inside(self.root, folder / "commits")
            yield _remove(folder / "commits.json")
            durable.fsync_folder(folder)
            for name in listed(folder / "commits"):
                yield _remove(folder / "commits" / name)
            if (folder / "commits").is_dir():
                durable.fsync_folder(folder / "commits")
        for folder in folders:  # from here on the mentor has nothing, and is sound
            if folder.name not in PRIMARY:
                yield from _drop_documents(folder)
        yield _remove(group / METADATA)
        durable.fsync_folder(group)  # from here on there is no such mentor
        for folder in folders:
            if folder.name in PRIMARY:
                yield from _drop_documents(folder)
        yield from _remove_folder(self.root, group)


def _drop_documents(folder: Path) -> Iterator[int]:
    for name in (METADATA, SPARE_ENCODER, "calibration.json"):
        yield _remove(folder / name)
    durable.fsync_folder(folder)


def _forget_in_index(array: ArrayLocation, views: frozenset[int]) -> None:
    """Takes these views' records out of the gathered index; what it knows of others it keeps.

    A damaged one knows nothing: it goes, and is gathered anew from the records at the next writing.
    """
    gathered, damage = read_index(array.commit_index)
    if damage is not None:
        durable.remove(array.commit_index)
        durable.fsync_folder(array.folder)
        return
    kept = [record for record in gathered.values() if record.view not in views]
    if len(kept) < len(gathered):
        write_commit_index(array, kept)


def _records(array: ArrayLocation, views: Sequence[int] | set[int] | frozenset[int]) -> list[str]:
    """The names of record files of these views, sound or not."""
    names = listed(array.commits)
    return [name for name in names if (key := record_key(name)) is not None and key[0] in views]


def _views_there(array: ArrayLocation) -> set[int]:
    """Views of which there is anything: a record, a line of the index, a chunk without record."""
    recorded = {key[0] for name in listed(array.commits) if (key := record_key(name)) is not None}
    gathered, _ = read_index(array.commit_index)
    return recorded | {record.view for record in gathered.values()} | _chunk_views(array)


def _chunk_views(array: ArrayLocation) -> set[int]:
    names = listed(array.folder / "c")
    return {int(name) for name in names if name.isascii() and name.isdecimal() and len(name) < 19}


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        yield from (Path(place) / name for name in (*names, *links))


def _remove_folder(root: Path, folder: Path) -> Iterator[int]:
    """Removes a folder with all that is in it; links in it are removed, not followed."""
    require_inside(root, folder)
    for place, folders, names in os.walk(folder, topdown=False):
        for name in names:
            yield _remove(Path(place) / name)
        for name in folders:
            path = Path(place) / name
            if path.is_symlink():
                yield _remove(path)
            else:
                with suppress(FileNotFoundError):
                    path.rmdir()
    with suppress(FileNotFoundError):
        folder.rmdir()
    durable.fsync_folder(folder.parent)


def _remove(path: Path) -> int:
    size = _size(path)
    durable.remove(path)
    return size


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _nothing_of(store: TargetStore, names: Sequence[str]) -> str:
    return (
        f"{store.root} has nothing of these views of {', '.join(names) or 'any mentor'}: there is "
        "nothing to drop"
    )


def prune_store(
    root: str | os.PathLike[str],
    *,
    mentors: Sequence[str] | None = None,
    views: int | Sequence[int] | None = None,
) -> int:
    """Drops mentors (`mentors` alone), views of all (`views` alone), or views of some; the bytes
    that were freed. Errors as `PruneJob`'s. Safe to kill: the same call again finishes it."""
    return PruneJob(root, mentors=mentors, views=views).run()
