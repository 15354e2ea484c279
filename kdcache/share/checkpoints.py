"""Mentors' checkpoints at a hub, so that a mentor can be run by who never trained it.

    push: read by our own reader -> HUB/checkpoints/<sha256> -> HUB/mentors/<entry>.json -> index
    pull: the index's entry -> size -> SHA-256 -> read by our own reader -> the mentor library

Weights are named by their content, an entry by the mentor's name and its own content. Nothing that
a hub says becomes a path: names are the caller's, a suffix is one of four.
"""

import hashlib
import json
import mmap
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from kdcache import durable, homes
from kdcache.checkpoints import file_sha256, load_weights
from kdcache.datasets import DEFAULT_DATASET, ImageDataset, num_classes_of
from kdcache.errors import CheckpointError, StoreError
from kdcache.mentor_library import (
    SUFFIXES,
    find_checkpoint,
    how_to_get,
    library_stem,
    mentor_name,
    read_sidecar,
    sidecar_path,
)
from kdcache.models import build_network, long_name
from kdcache.remote import ArrivingFile, LocalFailure, NotListed, NotThere, TooLarge
from kdcache.share.hub import Hub
from kdcache.share.mentor_entries import (
    MOST_CHECKPOINT,
    Entry,
    SharedCheckpoint,
    choose_checkpoint,
    entry_of,
    known_checkpoint,
    shared_checkpoints,
)
from kdcache.store.hub_layout import MENTORS
from kdcache.untrusted import open_file


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What a push or a pull of a checkpoint did: `path`, the file here; `bytes` that moved, 0 where
    it was there already."""

    shared: SharedCheckpoint
    path: Path
    bytes: int


def push_mentor(
    name: str,
    hub: Hub | str,
    *,
    dataset: str = DEFAULT_DATASET,
    data_dir: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Moved:
    """Puts a mentor's checkpoint and sidecar at a hub; nothing moves where it is there already.

    `checkpoint`: None: as `--mentors` finds it. Raises CheckpointError for a file that is not the
    weights of this network for this dataset, that is larger than 8 GiB, or whose sidecar is too
    large or differs from what the hub has; UsageError for an unknown name.
    """
    hub = hub if isinstance(hub, Hub) else Hub(hub)
    hub.connection.require_writable()
    name = mentor_name(name)
    path = Path(checkpoint) if checkpoint is not None else find_checkpoint(name, dataset)
    num_classes = num_classes_of(dataset, data_dir)
    load_weights(build_network(name, num_classes), path)
    size = path.stat().st_size
    if size > MOST_CHECKPOINT:
        raise CheckpointError(f"{path} has {size:,} bytes; a hub takes {MOST_CHECKPOINT:,}")
    with open_file(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            shared = SharedCheckpoint(
                name=name,
                architecture=long_name(name),
                dataset=dataset,
                num_classes=num_classes,
                sha256=hashlib.sha256(content).hexdigest(),
                bytes=len(content),
                suffix=path.suffix,
                sidecar=read_sidecar(path),
            )
        except ValueError as error:
            raise CheckpointError(f"{sidecar_path(path)}: {error}. Correct it") from error
        hub.begin()
        if known := known_checkpoint(hub, shared):
            _require_same_preprocessing(sidecar_path(path), shared, hub, known)
        moved = 0
        if not _is_there(hub, shared):
            hub.connection.put(f"checkpoints/{shared.sha256}", path)  # of any size: not read whole
            moved = shared.bytes
    if known is None:
        entry, document = entry_of(shared)
        hub.connection.put(f"{MENTORS}/{entry.file}", document)
    hub.gather()
    return Moved(shared=shared, path=path, bytes=moved)


def pull_mentor(
    name: str,
    hub: Hub | str,
    *,
    dataset: str = DEFAULT_DATASET,
    data_dir: str | os.PathLike[str] | None = None,
    sha256: str | None = None,
    num_classes: int | None = None,
    preferred: Iterable[str] = (),
    library: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Moved:
    """Takes a mentor's checkpoint and sidecar from a hub into the mentor library.

    `sha256`: how the one that is meant begins, or its entry's, where the hub has several;
    `preferred`: SHA-256s of which one may decide it. `num_classes`: of the dataset, where it is
    open already. `library`: the folder; None: the user's. `progress`: in bytes.

    Nothing appears in the library that is not the weights of this network, with the SHA-256 that
    the entry states; another checkpoint of the name that is there is never overwritten. Raises
    CheckpointError with what is there and what is to do, StoreError where the library cannot be
    written.
    """
    hub = hub if isinstance(hub, Hub) else Hub(hub)
    name = mentor_name(name)
    shared = choose_checkpoint(hub, name, dataset, sha256, set(preferred))
    folder = homes.mentor_library(dataset) if library is None else library
    stem = library_stem(name)
    if (here := _require_no_other(folder, stem, hub, shared)) is not None:
        _require_same_preprocessing(sidecar_path(here), _as_here(here, shared), hub, shared)
        return Moved(shared=shared, path=here, bytes=0)
    path = folder / f"{stem}{shared.suffix}"
    temporary = folder / f".{stem}.{secrets.token_hex(6)}{shared.suffix}"  # the reader asks for one
    with _written(folder):
        durable.make_folder(folder)
        arriving = ArrivingFile(temporary, shared.bytes, lambda got: progress(got, shared.bytes))
        try:
            _fetch(hub, shared, arriving)
            load_weights(
                build_network(name, num_classes or num_classes_of(dataset, data_dir)), temporary
            )
            _require_no_other(folder, stem, hub, shared)
            # The sidecar first: a checkpoint that is there always has its own.
            sidecar = sidecar_path(path)
            if shared.sidecar is not None:
                durable.write_file(sidecar, json.dumps(shared.sidecar, indent=2).encode())
            else:
                durable.remove(sidecar)
            durable.publish(temporary, path)
        finally:
            arriving.remove()
    return Moved(shared=shared, path=path, bytes=shared.bytes)


def find_or_pull(
    name: str,
    hub: Hub,
    dataset: ImageDataset,
    *,
    preferred: Iterable[str] = (),
    library: Path | None = None,
) -> Path | Moved:
    """The checkpoint that is here, else the hub's, taken into the mentor library.

    `preferred`, `library`: as `pull_mentor` has them. Raises CheckpointError where there is none at
    either place, and for several at the hub.
    """
    with suppress(CheckpointError):
        return find_checkpoint(name, dataset.name)
    there: list[Entry] = []
    with suppress(StoreError):  # no hub yet; one that cannot be reached was noticed before
        there = shared_checkpoints(hub, name, dataset.name)
    if not there:
        raise CheckpointError(how_to_get(name, dataset.name, hub.url))
    return pull_mentor(
        name,
        hub,
        dataset=dataset.name,
        num_classes=dataset.num_classes,
        preferred=preferred,
        library=library,
    )


@contextmanager
def _written(library: Path) -> Iterator[None]:
    """The operating system's refusals while the mentor library is written, as a StoreError."""
    try:
        yield
    except (OSError, LocalFailure) as error:
        cause = error.__cause__ or error if isinstance(error, LocalFailure) else error
        reason = getattr(cause, "strerror", None) or str(cause)
        raise StoreError(
            f"the mentor library {library} cannot be written ({reason}); nothing was taken. Make "
            "room there, or check its permissions ($KDCACHE_HOME names another place), then run "
            "the same command again"
        ) from cause


def _fetch(hub: Hub, shared: SharedCheckpoint, arriving: ArrivingFile) -> None:
    """Raises CheckpointError unless what the entry states arrived."""
    name = f"checkpoints/{shared.sha256}"
    what = f"{hub.url}/{name}"
    again = (
        f"Ask who pushed it to remove that file and run: kdcache push-mentor {shared.name} "
        f"--dataset {shared.dataset} --hub {hub.url}"
    )
    there = _sizes(hub).get(shared.sha256, shared.bytes)
    if there != shared.bytes:
        raise CheckpointError(f"{what} has {there:,} bytes instead of {shared.bytes:,}. {again}")
    try:
        hub.connection.fetch(name, arriving)
    except NotThere:
        raise CheckpointError(f"{what} is gone. {again}") from None
    except TooLarge:
        raise CheckpointError(f"{what} has more than {shared.bytes:,} bytes. {again}") from None
    arriving.finish()
    if arriving.got != shared.bytes or arriving.sha256() != shared.sha256:
        raise CheckpointError(
            f"{what} is not what was pushed: {arriving.got:,} bytes with the SHA-256 "
            f"{arriving.sha256()[:16]}.., expected {shared.bytes:,} with {shared.sha256[:16]}... "
            f"Nothing was taken. {again}"
        )


def _require_no_other(folder: Path, stem: str, hub: Hub, shared: SharedCheckpoint) -> Path | None:
    """The same checkpoint, if it is here. Raises CheckpointError for another of that name."""
    same = None
    for suffix in SUFFIXES:
        path = folder / f"{stem}{suffix}"
        if not path.is_file():
            continue
        if (sha256 := file_sha256(path)) != shared.sha256:
            raise CheckpointError(
                f"{path} is another checkpoint of mentor {shared.name!r}, and is not "
                f"overwritten:\n  here        SHA-256 {sha256}\n  at the hub  SHA-256 "
                f"{shared.sha256} ({hub.url})\nMove it out of the mentor library to take the "
                "hub's, or keep it: a store has targets of one of them"
            )
        same = same or path
    return same


def _require_same_preprocessing(
    sidecar: Path, here: SharedCheckpoint, hub: Hub, there: SharedCheckpoint
) -> None:
    """Raises CheckpointError for one checkpoint that is to be run in two ways."""
    if here.preprocessing != there.preprocessing:
        raise CheckpointError(
            f"mentor {here.name!r}: the same checkpoint ({here.sha256[:16]}..) has another "
            f"preprocessing:\n  {sidecar}: {here.preprocessing or 'the dataset' + chr(39) + 's'}\n"
            f"  {hub.url}: {there.preprocessing or 'the dataset' + chr(39) + 's'}\n"
            "Find out which it was trained with, and correct the sidecar that is wrong"
        )


def _as_here(path: Path, shared: SharedCheckpoint) -> SharedCheckpoint:
    """The same checkpoint with the sidecar that it has here."""
    try:
        return SharedCheckpoint(**{**asdict(shared), "sidecar": read_sidecar(path)})
    except ValueError as error:
        raise CheckpointError(f"{sidecar_path(path)}: {error}. Correct it") from error


def _is_there(hub: Hub, shared: SharedCheckpoint) -> bool:
    return _sizes(hub).get(shared.sha256) == shared.bytes


def _sizes(hub: Hub) -> Mapping[str, int]:
    """Of the checkpoints at a hub, as far as it says."""
    try:
        return hub.connection.sizes("checkpoints")
    except NotListed:
        return {}
