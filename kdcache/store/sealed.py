"""Sealed documents: JSON files that carry the SHA-256 of their own bytes.

Every zarr.json, commit record and index of a store is one. The seal is 64 hex digits under the key
"seal"; it is the SHA-256 of the file's bytes with these digits replaced by zeros. So one altered
byte anywhere in the file is noticed before the file is parsed, in any language, whatever that byte
means. A seal proves that nothing happened to a file, not who wrote it.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from kdcache import durable, untrusted
from kdcache.errors import DamagedTargets

SEAL = "seal"
BLANK = "0" * 64
MOST_BYTES = 2**22  # of one document; a manifest has 4 kB, an index has its own limit
# Lists and objects: ours have one in 100 bytes, and one in 3 bytes takes seconds to read.
_BYTES_A_CONTAINER = 32
_FREE_CONTAINERS = 1000
_HEX = frozenset("0123456789abcdef")
_SEAL_PATTERN = re.compile(rb'"seal": ?"([0-9a-f]{64})"')


def seal(document: dict[str, Any], *, for_people: bool = True) -> bytes:
    """A JSON document's bytes, with the blank seal that is somewhere in it filled in.

    `for_people`: on many lines. What has many records is on one: spelling it takes a tenth then.
    """
    indent = 2 if for_people else None
    blank = json.dumps(document, indent=indent, allow_nan=False).encode()
    (found,) = _SEAL_PATTERN.finditer(blank)
    digest = hashlib.sha256(blank).hexdigest().encode()
    return blank[: found.start(1)] + digest + blank[found.end(1) :]


def write_sealed(path: Path, document: dict[str, Any], *, within: Path | None = None) -> None:
    """Seals a document and writes it durably, replacing what was there. `within`: the store."""
    durable.write_file(path, seal(document), within=within)


def read_sealed(path: Path, *, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """A sealed document. Raises DamagedDocument with the reason, FileNotFoundError.

    A file that this process may not or cannot read now says nothing about the file: OSError.
    """
    try:
        content = untrusted.read_bytes(path, most_bytes=most_bytes, follow_links=False)
    except NotADirectoryError as error:
        raise FileNotFoundError(*error.args, str(path)) from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in untrusted.UNREADABLE:
            raise
        raise DamagedDocument(path, str(error)) from error
    return unsealed(content, path)


def unsealed(content: bytes, path: Path) -> dict[str, Any]:
    """The document that these bytes of a file are. Raises DamagedDocument."""
    seals = _SEAL_PATTERN.findall(content)
    if len(seals) != 1:
        raise DamagedDocument(
            path, f"{len(content)} bytes without a seal: cut short, or not kdcache's"
        )
    if hashlib.sha256(content.replace(seals[0], BLANK.encode())).hexdigest().encode() != seals[0]:
        raise DamagedDocument(path, "its content is not what was sealed")
    if is_crowded(content, free=_FREE_CONTAINERS):
        containers = _containers(content)
        raise DamagedDocument(path, f"{containers:,} lists and objects in {len(content):,} bytes")
    try:
        document = untrusted.parse_json(content)
    except ValueError as error:
        raise DamagedDocument(path, str(error)) from error
    if not isinstance(document, dict):
        raise DamagedDocument(path, "not a JSON object")
    if b"\\u00" in content and len(_SEAL_PATTERN.findall(_as_written(document))) > 1:
        raise DamagedDocument(path, "it has a seal in disguise")
    return document


def is_crowded(content: bytes, free: int = 0) -> bool:
    """Whether a document has so many lists and objects, beside `free` ones, that none is read."""
    return _containers(content) > free + len(content) // _BYTES_A_CONTAINER


def _containers(content: bytes) -> int:
    return content.count(b"[") + content.count(b"{")


def _as_written(document: dict[str, Any]) -> bytes:
    """As a writer has it: the letters of a key can be escaped, and then do not look like a seal."""
    return json.dumps(document).encode()


def is_sha256(text: object) -> bool:
    """Whether it is 64 hexadecimal digits."""
    return isinstance(text, str) and len(text) == 64 and set(text) <= _HEX


class DamagedDocument(DamagedTargets):
    """A document of a store is not what was written: `path`, `reason`."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} is damaged: {reason}. Run the store's `kdcache precompute` command again: it "
            "makes anew exactly what is missing or damaged"
        )
        self.path = path
        self.reason = reason
