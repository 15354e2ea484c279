"""Mentors' checkpoints at a hub, so that a mentor can be run by who never trained it.

    push: read by our own reader -> HUB/checkpoints/<sha256> -> HUB/mentors/<entry>.json -> index
    pull: the index's entry -> size -> SHA-256 -> read by our own reader -> the mentor library

Weights are named by their content, an entry by the mentor's name and its weights. Nothing that a
hub says becomes a path: names are the caller's, a suffix is one of four.
"""

import hashlib
import json
import mmap
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdcache import durable, homes
from kdcache.checkpoints import file_sha256, load_weights
from kdcache.datasets import DEFAULT_DATASET, Preprocessing, num_classes_of
from kdcache.errors import CheckpointError, DamagedTargets, StoreError
from kdcache.mentor_library import (
    SUFFIXES,
    find_checkpoint,
    library_stem,
    mentor_name,
    read_sidecar,
    sidecar_path,
)
from kdcache.models import build_network, long_name
from kdcache.remote import ArrivingFile, NotListed, NotThere, TooLarge
from kdcache.share.hub import Hub
from kdcache.store.gathered import is_sha256
from kdcache.store.hub_documents import fetch_bytes, opened_document
from kdcache.store.hub_layout import HUB_FORMAT, MENTORS
from kdcache.store.sealed import BLANK, SEAL, seal
from kdcache.untrusted import open_file

MOST_CHECKPOINT = 2**33  # bytes
MOST_SIDECAR = 2**20  # bytes of JSON
_MOST_ENTRY = 2 * MOST_SIDECAR  # a document is indented
MOST_LISTED = 20
MOST_CLASSES = 2**20
_MOST_TEXT = 200


@dataclass(frozen=True, kw_only=True)
class SharedCheckpoint:
    """What a hub says of one checkpoint: whose it is, and how it is known.

    `bytes`: of the weights file; `suffix`: of its name; `sidecar`: what lay beside it, None for
    nothing. Raises ValueError for what no push writes.
    """

    name: str
    architecture: str
    dataset: str
    num_classes: int
    sha256: str
    bytes: int
    suffix: str
    sidecar: Mapping[str, Any] | None

    def __post_init__(self) -> None:
        for text in (self.name, self.architecture, self.dataset, self.suffix):
            if not isinstance(text, str) or not text.isprintable() or len(text) > _MOST_TEXT:
                raise ValueError("name, architecture, dataset and suffix are plain texts")
        if not is_sha256(self.sha256):
            raise ValueError("its SHA-256 is none")
        if type(self.bytes) is not int or not 0 < self.bytes <= MOST_CHECKPOINT:
            raise ValueError(f"it has 1 to {MOST_CHECKPOINT:,} bytes, not {self.bytes!r:.40}")
        if type(self.num_classes) is not int or not 0 < self.num_classes <= MOST_CLASSES:
            raise ValueError(f"it has 1 to {MOST_CLASSES:,} classes, not {self.num_classes!r:.40}")
        if self.suffix not in SUFFIXES:
            raise ValueError(f"its suffix is {self.suffix!r}, none of {', '.join(SUFFIXES)}")
        if self.sidecar is not None:
            _require_sidecar(self.sidecar)

    @property
    def file(self) -> str:
        """The name of its entry's file."""
        return _entry_name(self.dataset, self.name, self.sha256)

    @property
    def preprocessing(self) -> Any:
        """As its sidecar states it; None where it is the dataset's."""
        return (self.sidecar or {}).get("preprocessing")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "SharedCheckpoint":
        """Raises ValueError for what no push writes; passes over what later versions add."""
        try:
            return cls(**{name: value[name] for name in cls.__dataclass_fields__})
        except (TypeError, KeyError) as error:
            raise ValueError(f"it lacks {error}") from error


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
        if known := _entry_at(hub, shared):
            _require_same_preprocessing(sidecar_path(path), shared, hub, known)
        moved = 0
        if not _is_there(hub, shared):
            with memoryview(content) as whole:
                hub.connection.put(f"checkpoints/{shared.sha256}", whole)
            moved = len(content)
    if known is None:
        document = {"hub": HUB_FORMAT, **asdict(shared), SEAL: BLANK}
        hub.connection.put(f"{MENTORS}/{shared.file}", seal(document))
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

    `sha256`: how the one that is meant begins, where the hub has several; `preferred`: SHA-256s of
    which one may decide it. `num_classes`: of the dataset, where it is open already. `library`: the
    folder; None: the user's. `progress`: in bytes.

    Nothing appears in the library that is not the weights of this network, with the SHA-256 that
    the entry states; another checkpoint of the name that is there is never overwritten. Raises
    CheckpointError with what is there and what is to do.
    """
    hub = hub if isinstance(hub, Hub) else Hub(hub)
    name = mentor_name(name)
    shared = _choose(hub, name, dataset, sha256, set(preferred))
    folder = homes.mentor_library(dataset) if library is None else library
    stem = library_stem(name)
    if (here := _require_no_other(folder, stem, hub, shared)) is not None:
        _require_same_preprocessing(sidecar_path(here), _as_here(here, shared), hub, shared)
        return Moved(shared=shared, path=here, bytes=0)
    path = folder / f"{stem}{shared.suffix}"
    durable.make_folder(folder)
    temporary = folder / f".{stem}.{secrets.token_hex(6)}{shared.suffix}"  # the reader asks for one
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


def shared_checkpoints(hub: Hub, name: str, dataset: str) -> list[str]:
    """The SHA-256s of all that a hub has of a mentor. Raises StoreError where there is no hub."""
    return sorted(
        {
            entry["sha256"]
            for entry in hub.index().mentors
            if (entry.get("name"), entry.get("dataset")) == (name, dataset)
            and is_sha256(entry.get("sha256"))
        }
    )


def _choose(
    hub: Hub, name: str, dataset: str, start: str | None, preferred: set[str]
) -> SharedCheckpoint:
    there = shared_checkpoints(hub, name, dataset)
    found = [sha256 for sha256 in there if sha256.startswith((start or "").lower())]
    if len(found) > 1 and start is None:
        found = [sha256 for sha256 in found if sha256 in preferred] or found
    if len(found) == 1:
        return _entry(hub, name, dataset, found[0])
    if not there:
        others = sorted({f"{e.get('name')} ({e.get('dataset')})" for e in hub.index().mentors})
        raise CheckpointError(
            f"{hub.url} has no checkpoint of mentor {name!r} for {dataset}; it has "
            f"{', '.join(others) or 'none of any mentor'}. Ask who has it for: kdcache push-mentor "
            f"{name} --dataset {dataset} --hub {hub.url}"
        )
    listed = found or there
    raise CheckpointError(
        f"{hub.url} has {len(found)} checkpoints of mentor {name!r} for {dataset}"
        + (f" whose SHA-256 begins with {start}" if start else "")
        + ":"
        + "".join(f"\n  {_told(hub, name, dataset, sha256)}" for sha256 in listed[:MOST_LISTED])
        + f"\nTake one with: kdcache pull-mentor {name} --dataset {dataset} --hub {hub.url} --sha "
        f"{listed[0][:12]}"
    )


def _entry(hub: Hub, name: str, dataset: str, sha256: str) -> SharedCheckpoint:
    """What a hub says of one checkpoint. Raises CheckpointError for what no push wrote."""
    file = _entry_name(dataset, name, sha256)
    place = f"{hub.url}/{MENTORS}/{file}"
    content = fetch_bytes(hub.connection, f"{MENTORS}/{file}", _MOST_ENTRY)
    if content is None:
        raise CheckpointError(f"{place} is gone, though the hub's index has it. Push it again")
    try:
        shared = SharedCheckpoint.from_json(opened_document(content, place))
        if (shared.name, shared.dataset, shared.sha256) != (name, dataset, sha256):
            raise ValueError(f"it is of {shared.name} ({shared.dataset}), {shared.sha256[:16]}..")
        if shared.architecture != long_name(name):
            raise ValueError(f"it is of a {shared.architecture}")
    except ValueError as error:
        raise CheckpointError(
            f"{place} is no mentor's entry as a push writes it: {error}. Nothing was taken"
        ) from error
    return shared


def _told(hub: Hub, name: str, dataset: str, sha256: str) -> str:
    """A line of a listing; what else is known of it only where it can be read."""
    with suppress(CheckpointError, StoreError):
        shared = _entry(hub, name, dataset, sha256)
        top1 = (shared.sidecar or {}).get("test_top1")
        known = f", test top-1 {top1:.2f}" if isinstance(top1, int | float) else ""
        return f"{sha256}  {shared.bytes:,} bytes{known}"
    return sha256


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


def _entry_at(hub: Hub, shared: SharedCheckpoint) -> SharedCheckpoint | None:
    """What the hub says of the same checkpoint; None where it says nothing that can be believed."""
    with suppress(CheckpointError, DamagedTargets):
        return _entry(hub, shared.name, shared.dataset, shared.sha256)
    return None


def _entry_name(dataset: str, name: str, sha256: str) -> str:
    return f"{dataset.replace(':', '.')}.{library_stem(name)}.{sha256[:16]}.json"


def _is_there(hub: Hub, shared: SharedCheckpoint) -> bool:
    return _sizes(hub).get(shared.sha256) == shared.bytes


def _sizes(hub: Hub) -> Mapping[str, int]:
    """Of the checkpoints at a hub, as far as it says."""
    try:
        return hub.connection.sizes("checkpoints")
    except NotListed:
        return {}


def _require_sidecar(sidecar: Any) -> None:
    """Raises ValueError for one that no loader takes, or that is too large for a hub."""
    if not isinstance(sidecar, Mapping):
        raise ValueError("a sidecar is a JSON object")
    if len(json.dumps(sidecar)) > MOST_SIDECAR:
        raise ValueError(f"a sidecar has at most {MOST_SIDECAR:,} bytes")
    if sidecar.get("preprocessing") is not None:
        Preprocessing.from_description(sidecar["preprocessing"])
