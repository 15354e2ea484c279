"""What a hub says of mentors' checkpoints: one entry for each, and which of them is meant.

The hub's index lists them; an entry itself has the sidecar too, and is read when it is chosen. Its
file is named by the mentor and by its own content, so it is what it was when it was pushed, and one
checkpoint that was pushed with two sidecars has two.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from kdcache.datasets import Preprocessing
from kdcache.errors import CheckpointError, DamagedTargets, StoreError
from kdcache.headline import headline
from kdcache.mentor_library import SUFFIXES, library_stem
from kdcache.models import long_name
from kdcache.share.hub import Hub
from kdcache.store.hub_documents import fetch_bytes, opened_document
from kdcache.store.hub_layout import HUB_FORMAT, MENTORS
from kdcache.store.sealed import BLANK, SEAL, is_sha256, seal

MOST_CHECKPOINT = 2**33  # bytes
MOST_SIDECAR = 2**20  # bytes of JSON
_MOST_ENTRY = 2 * MOST_SIDECAR  # a document is indented
MOST_LISTED = 20
MOST_CLASSES = 2**20
_MOST_TEXT = 200
_DIGITS = 16  # of the SHA-256 in an entry's file name


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
class Entry:
    """One that a hub's index lists. `digest`: how the SHA-256 of the entry itself begins, 16 hex
    digits; `sha256`: of the checkpoint, as the index states it."""

    name: str
    dataset: str
    digest: str
    sha256: str

    @property
    def file(self) -> str:
        return f"{_start(self.name, self.dataset)}{self.digest}.json"


def entry_of(shared: SharedCheckpoint) -> tuple[Entry, bytes]:
    """The entry of a checkpoint, and its content."""
    content = seal({"hub": HUB_FORMAT, **asdict(shared), SEAL: BLANK})
    digest = hashlib.sha256(content).hexdigest()[:_DIGITS]
    entry = Entry(name=shared.name, dataset=shared.dataset, digest=digest, sha256=shared.sha256)
    return entry, content


def shared_checkpoints(hub: Hub, name: str, dataset: str) -> list[Entry]:
    """All that a hub has of a mentor. Raises StoreError where there is no hub."""
    pattern = re.compile(re.escape(_start(name, dataset)) + rf"([0-9a-f]{{{_DIGITS}}})\.json")
    return sorted(
        (
            Entry(name=name, dataset=dataset, digest=match[1], sha256=listed["sha256"])
            for listed in hub.index().mentors
            if (listed.get("name"), listed.get("dataset")) == (name, dataset)
            and (match := pattern.fullmatch(listed["file"]))
        ),
        key=lambda entry: (entry.sha256, entry.digest),
    )


def choose_checkpoint(
    hub: Hub, name: str, dataset: str, start: str | None, preferred: set[str]
) -> SharedCheckpoint:
    """The one that is meant. `start`: how its SHA-256 or that of its entry begins; `preferred`:
    SHA-256s of which one may decide it. Raises CheckpointError for none and for several."""
    there = shared_checkpoints(hub, name, dataset)
    begins = (start or "").lower()
    found = [entry for entry in there if entry.sha256.startswith(begins)]
    found = found or [entry for entry in there if entry.digest.startswith(begins)]
    if start is None and len({entry.sha256 for entry in found}) > 1:
        found = [entry for entry in found if entry.sha256 in preferred] or found
    one = len({entry.sha256 for entry in found}) == 1
    if one and len(found) <= MOST_LISTED and (same := _the_same(hub, found)):
        return same
    if not there:
        others = sorted({f"{e.get('name')} ({e.get('dataset')})" for e in hub.index().mentors})
        raise CheckpointError(
            f"{hub.url} has no checkpoint of mentor {name!r} for {dataset}; it has "
            f"{', '.join(others) or 'none of any mentor'}. Ask who has it for: kdcache push-mentor "
            f"{name} --dataset {dataset} --hub {hub.url}"
        )
    listed = found or there
    what = "descriptions of one checkpoint" if one else "checkpoints"
    sha = listed[0].digest if one else listed[0].sha256[:12]
    raise CheckpointError(
        f"{hub.url} has {len(found)} {what} of mentor {name!r} for {dataset}"
        + (f" whose SHA-256 begins with {start}" if start else "")
        + ":"
        + "".join(f"\n  {_told(hub, entry, one)}" for entry in listed[:MOST_LISTED])
        + f"\nTake one with: kdcache pull-mentor {name} --dataset {dataset} --hub {hub.url} --sha "
        f"{sha}"
    )


def known_checkpoint(hub: Hub, shared: SharedCheckpoint) -> SharedCheckpoint | None:
    """What the hub says of the same checkpoint, another preprocessing before the same one; None
    where it says nothing that can be believed."""
    found: SharedCheckpoint | None = None
    with suppress(StoreError):  # no index yet, or a damaged one
        there = shared_checkpoints(hub, shared.name, shared.dataset)
        same = [entry for entry in there if entry.sha256 == shared.sha256]
        for known in _readable(hub, same[:MOST_LISTED]):
            found = known
            if known.preprocessing != shared.preprocessing:
                break
    return found


def read_entry(hub: Hub, entry: Entry) -> SharedCheckpoint:
    """What a hub says of one checkpoint. Raises CheckpointError for what no push wrote."""
    place = f"{hub.url}/{MENTORS}/{entry.file}"
    content = fetch_bytes(hub.connection, f"{MENTORS}/{entry.file}", _MOST_ENTRY)
    if content is None:
        raise CheckpointError(f"{place} is gone, though the hub's index has it. Push it again")
    try:
        shared = SharedCheckpoint.from_json(opened_document(content, place))
        digest = hashlib.sha256(content).hexdigest()
        if not digest.startswith(entry.digest):
            raise ValueError(f"its SHA-256 is {digest[:_DIGITS]}.., not what its name says")
        stated = (shared.name, shared.dataset, shared.sha256)
        if stated != (entry.name, entry.dataset, entry.sha256):
            raise ValueError(f"it is of {shared.name} ({shared.dataset}), {shared.sha256[:16]}..")
        if shared.architecture != long_name(entry.name):
            raise ValueError(f"it is of a {shared.architecture}")
    except ValueError as error:
        raise CheckpointError(
            f"{place} is no mentor's entry as a push writes it: {error}. Nothing was taken"
        ) from error
    return shared


def _the_same(hub: Hub, entries: list[Entry]) -> SharedCheckpoint | None:
    """What entries of one checkpoint say, those that can be believed; None where they differ in
    how it is to be run. Raises what is wrong with a single one."""
    known = _readable(hub, entries) if len(entries) > 1 else []
    first, *others = known or [read_entry(hub, entries[0])]
    agree = all(other.preprocessing == first.preprocessing for other in others)
    return first if agree else None


def _readable(hub: Hub, entries: list[Entry]) -> list[SharedCheckpoint]:
    """Those that can be believed."""
    found = []
    for entry in entries:
        with suppress(CheckpointError, DamagedTargets):
            found.append(read_entry(hub, entry))
    return found


def _told(hub: Hub, entry: Entry, one: bool) -> str:
    """A line of a listing; what else is known of it only where it can be read. `one`: they are all
    of one checkpoint."""
    name = entry.digest if one else entry.sha256
    with suppress(CheckpointError, StoreError):
        shared = read_entry(hub, entry)
        if one:
            return f"{name}  preprocessing {shared.preprocessing or 'of the dataset'}"
        measure, value = headline(shared.sidecar or {})
        known = f", {measure} {value:.2f}" if isinstance(value, int | float) else ""
        return f"{name}  {shared.bytes:,} bytes{known}"
    return name


def _start(name: str, dataset: str) -> str:
    """How the names of its entries' files begin."""
    return f"{dataset.replace(':', '.')}.{library_stem(name)}."


def _require_sidecar(sidecar: Any) -> None:
    """Raises ValueError for one that no loader takes, or that is too large for a hub."""
    if not isinstance(sidecar, Mapping):
        raise ValueError("a sidecar is a JSON object")
    if len(json.dumps(sidecar)) > MOST_SIDECAR:
        raise ValueError(f"a sidecar has at most {MOST_SIDECAR:,} bytes")
    if sidecar.get("preprocessing") is not None:
        Preprocessing.from_description(sidecar["preprocessing"])
