"""What a hub says of mentors' checkpoints: one entry for each, and which of them is meant.

The hub's index lists them; an entry itself has the sidecar too, and is read when it is chosen. It
is found by the caller's name and a SHA-256, and must be of just these.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kdcache.datasets import Preprocessing
from kdcache.errors import CheckpointError, StoreError
from kdcache.mentor_library import SUFFIXES, library_stem
from kdcache.models import long_name
from kdcache.share.hub import Hub
from kdcache.store.gathered import is_sha256
from kdcache.store.hub_documents import fetch_bytes, opened_document
from kdcache.store.hub_layout import MENTORS

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
        return entry_name(self.dataset, self.name, self.sha256)

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


def choose_checkpoint(
    hub: Hub, name: str, dataset: str, start: str | None, preferred: set[str]
) -> SharedCheckpoint:
    there = shared_checkpoints(hub, name, dataset)
    found = [sha256 for sha256 in there if sha256.startswith((start or "").lower())]
    if len(found) > 1 and start is None:
        found = [sha256 for sha256 in found if sha256 in preferred] or found
    if len(found) == 1:
        return read_entry(hub, name, dataset, found[0])
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


def read_entry(hub: Hub, name: str, dataset: str, sha256: str) -> SharedCheckpoint:
    """What a hub says of one checkpoint. Raises CheckpointError for what no push wrote."""
    file = entry_name(dataset, name, sha256)
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
        shared = read_entry(hub, name, dataset, sha256)
        top1 = (shared.sidecar or {}).get("test_top1")
        known = f", test top-1 {top1:.2f}" if isinstance(top1, int | float) else ""
        return f"{sha256}  {shared.bytes:,} bytes{known}"
    return sha256


def entry_name(dataset: str, name: str, sha256: str) -> str:
    return f"{dataset.replace(':', '.')}.{library_stem(name)}.{sha256[:16]}.json"


def _require_sidecar(sidecar: Any) -> None:
    """Raises ValueError for one that no loader takes, or that is too large for a hub."""
    if not isinstance(sidecar, Mapping):
        raise ValueError("a sidecar is a JSON object")
    if len(json.dumps(sidecar)) > MOST_SIDECAR:
        raise ValueError(f"a sidecar has at most {MOST_SIDECAR:,} bytes")
    if sidecar.get("preprocessing") is not None:
        Preprocessing.from_description(sidecar["preprocessing"])
