"""Where everything of a hub lies (hub format 1; docs/format.md is the reference).

HUB/hub.json                                     what it is; the same bytes from everybody
HUB/chunks/<identity>/<view>.<block>.<sha256>    a chunk file, as a store has it
HUB/lists/<sha256>                               a list of samples, as a store's c/0 has it
HUB/pushes/<fingerprint>.<sha256>.json           what one push made complete
HUB/stores/<fingerprint>/store.json, README.md   all pushes of the same views, gathered; a card
HUB/checkpoints/<sha256>                         a mentor's weights
HUB/mentors/<dataset>.<name>.<sha256>.json       whose they are; sha256 of this document, 16 digits
HUB/index.json, README.md                        everything, gathered; a card

Whatever several people may write at once is named by its content. Only the gathered documents are
replaced, whole, and each can be made again from what they gather.
"""

import re
from dataclasses import dataclass

from kdcache.store.commit_record import CommitRecord

HUB_FORMAT = 1
HUB_MARKER = "hub.json"
HUB_INDEX = "index.json"
GATHERED = "store.json"
CARD = "README.md"
MENTORS = "mentors"
_STORE_ADDRESS = re.compile(
    r"(?P<hub>.+)/stores/(?P<start>[0-9a-f]{8,64})(?P<variants>(\+[0-9a-f]{8,64})*)"
)


@dataclass(frozen=True, kw_only=True)
class HubAddress:
    """A store at a hub: `hub`, its URL or folder; `fingerprint`, or how it begins; `variants`:
    identities of logits (or how they begin), where a mentor's name has several there."""

    hub: str
    fingerprint: str
    variants: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "+".join((f"{self.hub}/stores/{self.fingerprint}", *self.variants))


def parse_address(place: str) -> HubAddress | None:
    """The store at a hub that a URL or path may name by its form; None where it has another."""
    match = _STORE_ADDRESS.fullmatch(place.rstrip("/"))
    if match is None:
        return None
    variants = tuple(part for part in match["variants"].split("+") if part)
    return HubAddress(hub=match["hub"], fingerprint=match["start"], variants=variants)


def hub_of(place: str) -> str | None:
    """The hub whose store a URL or path means, well named or not: HUB of HUB/stores/ANYTHING."""
    match = _ABOUT_STORES.fullmatch(place.rstrip("/"))
    return match["hub"] if match else None


_ABOUT_STORES = re.compile(r"(?P<hub>.+)/stores(/[^/]*)?")


def chunk_name(record: CommitRecord) -> str:
    return f"{chunk_folder(record.identity)}/{chunk_file(record)}"


def chunk_folder(identity: str) -> str:
    return f"chunks/{identity}"


def chunk_file(record: CommitRecord) -> str:
    return f"{record.view:06d}.{record.block:06d}.{record.sha256}"


def list_name(sha256: str) -> str:
    return f"lists/{sha256}"


def store_folder(fingerprint: str) -> str:
    return f"stores/{fingerprint}"


def gathered_name(fingerprint: str) -> str:
    return f"{store_folder(fingerprint)}/{GATHERED}"


def push_name(fingerprint: str, sha256: str) -> str:
    return f"pushes/{fingerprint}.{sha256}.json"


def parse_push(name: str) -> tuple[str, str] | None:
    """Fingerprint and SHA-256 of a push document's file name; None for a name that is none."""
    match = _PUSH.fullmatch(name)
    return (match[1], match[2]) if match else None


_PUSH = re.compile(r"([0-9a-f]{64})\.([0-9a-f]{64})\.json")
