"""A hub's index: what it holds, in one document.

It gathers what the stores' own documents say, for people and programs that choose; whoever opens a
store reads that store's. Built in `kdcache.share`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kdcache.errors import DamagedTargets, StoreError, UsageError
from kdcache.remote import ArrivingDocument, Connection, NotThere, TooLarge, sounds_like_a_page
from kdcache.store.commits import MOST_INDEX_BYTES
from kdcache.store.hub_layout import HUB_FORMAT, HUB_INDEX, HUB_MARKER
from kdcache.store.plain import require_plain
from kdcache.store.sealed import BLANK, SEAL, DamagedDocument, is_sha256, seal, unsealed


@dataclass(frozen=True, kw_only=True)
class ListedTargets:
    """One array at a hub. `accuracy`: top-1 percent, of logits."""

    identity: str
    mentor: str
    architecture: str
    checkpoint_sha256: str
    precision: str
    batch: int
    kind: str
    encoder: str
    views: int
    complete_views: int
    chunks: int
    bytes: int
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class ListedStore:
    """One store at a hub. `pushes`: the SHA-256 of those that are gathered in it."""

    fingerprint: str
    dataset: str
    split: str
    samples: int
    classes: int
    recipe: str
    view_seed: int
    targets: tuple[ListedTargets, ...]
    pushes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        return sum(one.bytes for one in self.targets)

    @property
    def views(self) -> int:
        return max((one.views for one in self.targets), default=0)


@dataclass(frozen=True, kw_only=True)
class HubIndex:
    """What a hub holds. `stores`: by fingerprint. `mentors`: entries of checkpoints, as stated."""

    stores: Mapping[str, ListedStore] = field(default_factory=dict)
    mentors: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "hub": HUB_FORMAT,
            "stores": [asdict(store) for _, store in sorted(self.stores.items())],
            "mentors": [dict(mentor) for mentor in self.mentors],
        }

    def find(self, start: str) -> ListedStore:
        """The one store whose fingerprint begins so. Raises UsageError for none or several."""
        found = [store for name, store in self.stores.items() if name.startswith(start)]
        if len(found) != 1:
            raise UsageError(
                f"{start} begins the fingerprints of {len(found)} stores there; there are "
                f"{', '.join(name[:16] for name in self.stores) or 'none'}"
            )
        return found[0]


def read_index_document(connection: Connection) -> HubIndex | None:
    """The index of the hub at this connection, one request; None where there is none."""
    document = fetch_document(connection, HUB_INDEX)
    if document is None:
        return None
    origin = f"{connection.address}/{HUB_INDEX}"
    try:
        listed = [_listed_store(value) for value in document["stores"]]
        mentors = tuple(_listed_entry(value) for value in document["mentors"])
        if len({store.fingerprint for store in listed}) != len(listed):
            raise ValueError("a store is there twice")
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise DamagedTargets(
            f"{origin} is no hub's index: {error}. No writer wrote it; the next push makes it anew"
        ) from error
    return HubIndex(stores={store.fingerprint: store for store in listed}, mentors=mentors)


def fetch_document(connection: Connection, name: str) -> dict[str, Any] | None:
    """A sealed document of a hub of a format known here; None where there is none."""
    content = fetch_bytes(connection, name, MOST_INDEX_BYTES)
    if content is None:
        return None
    return opened_document(content, f"{connection.address}/{name}")


def opened_document(content: bytes, origin: str) -> dict[str, Any]:
    """The document that these bytes of a hub's file are.

    Raises DamagedTargets for what no writer wrote, StoreError for another format of hubs.
    """
    if sounds_like_a_page(content):
        raise DamagedTargets(
            f"{origin}: a web page of {len(content):,} bytes arrived instead of a hub's document. "
            "Is this the address of the hub's folder, and may it be read without logging in?"
        )
    try:
        document = unsealed(content, Path(origin))
        if not isinstance(document.get(SEAL), str):  # elsewhere it would be sealed a second time
            raise DamagedDocument(Path(origin), "its seal is not its own")
    except DamagedDocument as error:
        raise DamagedTargets(
            f"{origin} is damaged: {error.reason}. Whoever pushes to the hub next makes it anew: "
            "kdcache push STORE HUB"
        ) from error
    require_hub_format(document, origin)
    return document


def fetch_bytes(connection: Connection, name: str, most: int) -> bytes | None:
    """A file of a hub; None where there is none. Raises DamagedTargets for one of more bytes."""
    arriving = ArrivingDocument(most, may_change=True)
    try:
        connection.fetch(name, arriving)
    except NotThere:
        return None
    except TooLarge as error:
        raise DamagedTargets(
            f"{connection.address}/{name}: {error}. No writer wrote this"
        ) from None
    return bytes(arriving.content)


def marker() -> bytes:
    """The content of hub.json: the same from everybody."""
    return seal({"hub": HUB_FORMAT, SEAL: BLANK})


def is_hub(connection: Connection) -> bool:
    """Whether there is a hub of a format known here. Raises StoreError for another format."""
    return fetch_document(connection, HUB_MARKER) is not None


def require_hub_format(document: Mapping[str, Any], origin: str) -> None:
    """Raises StoreError for a hub's document of a format that is not known here."""
    found = document.get("hub")
    if found != HUB_FORMAT or type(found) is not int:
        raise StoreError(
            f"{origin} is of hub format {str(found)[:40]!r}, this version of kdcache knows format "
            f"{HUB_FORMAT}; use a later version (pip install --upgrade kdcache)"
        )


def _listed_store(value: Any) -> ListedStore:
    """Raises TypeError, KeyError, ValueError for what no writer wrote."""
    require_text(value, "fingerprint", "dataset", "split", "recipe")
    require_counts(value, "samples", "classes", "view_seed")
    if not is_sha256(value["fingerprint"]) or not all(map(is_sha256, value["pushes"])):
        raise ValueError("a fingerprint or the name of a push is no SHA-256")
    targets = tuple(_listed_targets(one) for one in value["targets"])
    return ListedStore(**{**value, "targets": targets, "pushes": tuple(value["pushes"])})


def _listed_targets(value: Any) -> ListedTargets:
    require_text(
        value, "identity", "mentor", "architecture", "checkpoint_sha256", "precision", "kind"
    )
    require_text(value, "encoder")
    require_counts(value, "batch", "views", "complete_views", "chunks", "bytes")
    if value["accuracy"] is not None and not 0 <= value["accuracy"] <= 100:
        raise ValueError("an accuracy must lie from 0 to 100")
    return ListedTargets(**value)


def require_text(value: Any, *names: str) -> None:
    """Raises ValueError unless these members are texts that may be printed."""
    for name in names:
        if not isinstance(value[name], str):
            raise ValueError(f"{name} must be a text")
        require_plain(name, value[name])


def require_counts(value: Any, *names: str) -> None:
    """Raises ValueError unless these members are integers from 0 to 2^64."""
    for name in names:
        if type(value[name]) is not int or not 0 <= value[name] < 2**64:
            raise ValueError(f"{name} cannot be {value[name]!r:.80}")


def listed_mentor(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the index says of a checkpoint, of its own document. Raises ValueError."""
    try:
        require_text(document, "name", "dataset", "suffix")
        require_counts(document, "bytes")
        if not is_sha256(document["sha256"]):
            raise ValueError("its SHA-256 is none")
    except (TypeError, KeyError) as error:
        raise ValueError(f"it lacks {error}") from error
    return {key: document[key] for key in ("name", "dataset", "sha256", "suffix", "bytes")}


def _listed_entry(value: Any) -> Mapping[str, Any]:
    """An entry of the index. Raises TypeError, KeyError, ValueError for what no writer wrote."""
    if not isinstance(value, dict):
        raise ValueError("an entry must be an object")
    require_plain("an entry", value)
    require_text(value, "file")
    listed_mentor(value)
    return value
