"""What the mirror of a hub's store was laid out from, so that the same is not laid out twice.

A note beside the mirror's documents; whatever it says is checked against the mirror first, and one
that cannot be read is none.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from kdcache.store.layout import LISTS, METADATA, listed
from kdcache.versions import library_versions

NOTE = "mirror.json"
_WHERE = (METADATA, f"mentors/{METADATA}", f"mentors/*/{METADATA}", "mentors/*/*/*.json")


@dataclass(frozen=True, kw_only=True)
class MirrorNote:
    """`source`: of what was laid out (`source_of`). `variants`, `chosen`, `names`: as opening it
    found them. `documents`: their SHA-256 by path; `records`: that of their names, by array."""

    source: str
    variants: tuple[str, ...]
    chosen: tuple[str, ...]
    names: Mapping[str, str]
    documents: Mapping[str, str]
    records: Mapping[str, str]

    def stands(self, root: Path) -> bool:
        """Whether the mirror has exactly these documents and records."""
        there = {path.relative_to(root).as_posix() for place in _WHERE for path in root.glob(place)}
        there.update(name for name in self.documents if name.startswith(LISTS))
        return (
            there == self.documents.keys()
            and all(_hash_of(root / name) == found for name, found in self.documents.items())
            and all(
                names_hash(listed(root / array / "commits")) == found
                for array, found in self.records.items()
            )
        )


def source_of(content: bytes) -> str:
    """Names a hub's document, as this version lays it out."""
    return f"{library_versions()['kdcache']} {hashlib.sha256(content).hexdigest()}"


def names_hash(names: Iterable[str]) -> str:
    """Of file names without a line's end, in whatever order."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def read_note(path: Path, source: str) -> MirrorNote | None:
    """The note of a mirror that was laid out from this; None where there is none."""
    try:
        value = json.loads(path.read_bytes())
        note = MirrorNote(
            **{**value, "variants": tuple(value["variants"]), "chosen": tuple(value["chosen"])}
        )
        return note if note.source == source else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def note_bytes(note: MirrorNote) -> bytes:
    return json.dumps(asdict(note)).encode()


def _hash_of(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
