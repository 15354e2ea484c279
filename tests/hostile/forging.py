"""Sealing whatever one likes: what an attacker does, since a seal is no signature."""

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from kdcache.canonical import json_sha256

BLANK = b"0" * 64
_SEAL = re.compile(rb'"seal": ?"([0-9a-f]{64})"')

Change = Callable[[Any], object]
Make = Callable[[Path, Path], object]  # (a copy of the good store, a folder outside of it)

ROOT = "zarr.json"
GROUP = "mentors/r8/zarr.json"
ARRAY = "mentors/r8/logits/zarr.json"
RECORD = "mentors/r8/logits/commits/000001.000000.*.json"
INDEX = "mentors/r8/logits/commits.json"
FEATURES = "mentors/r8/features/zarr.json"
CHUNK = "mentors/r8/logits/c/1/0/0"
PACKED = "mentors/r14/logits/c/1/0/0"


def resealed(content: bytes) -> bytes:
    """These bytes with a right seal, where they have room for one."""
    found = list(_SEAL.finditer(content))
    if len(found) != 1:
        return content
    start, end = found[0].span(1)
    blank = content[:start] + BLANK + content[end:]
    digest = hashlib.sha256(blank).hexdigest().encode()
    return blank[:start] + digest + blank[end:]


def write(path: Path, document: Any) -> None:
    """Any JSON value (NaN too), sealed if it has a seal."""
    path.write_bytes(resealed(json.dumps(document, indent=2).encode()))


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def edit(path: Path, change: Change) -> None:
    """Changes one document and seals it."""
    document = read(path)
    change(document)
    write(path, document)


def attributes(path: Path, change: Change) -> None:
    """Changes a zarr.json's `attributes.kdcache` and seals it."""
    edit(path, lambda document: change(document["attributes"]["kdcache"]))


def agree(root: Path) -> None:
    """Fingerprints and identities made to fit what the documents say now; without an index."""
    named = _fingerprint(root / "zarr.json")
    for group in sorted((root / "mentors").glob("*/zarr.json")):
        try:
            document = read(group)
            mentor = document["attributes"]["kdcache"]
            mentor["fingerprint"] = named or mentor["fingerprint"]
            write(group, document)
            described = {key: value for key, value in mentor.items() if key != "seal"}
        except (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError):
            continue
        for kind in ("logits", "features", "logsumexp"):
            _agree_array(group.parent / kind, described)


def _agree_array(folder: Path, mentor: Any) -> None:
    try:
        array = read(folder / "zarr.json")["attributes"]["kdcache"]
        identity = json_sha256(
            {"mentor": mentor, "kind": array["kind"], "encoder": array["encoder"]}
        )
    except (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return
    (folder / "commits.json").unlink(missing_ok=True)
    for record in (folder / "commits").glob("*.json"):
        if record.is_file() and not record.is_symlink():
            with suppress(ValueError, AttributeError):
                edit(record, partial(_identify, identity))


def _identify(identity: str, record: Any) -> None:
    record.update(identity=identity)


def _fingerprint(manifest: Path) -> str | None:
    try:
        document = read(manifest)
        stated = document["attributes"]["kdcache"]
        stated["fingerprint"] = json_sha256(
            {key: stated[key] for key in ("dataset", "recipe", "view_seed")}
        )
        write(manifest, document)
        return str(stated["fingerprint"])
    except (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return None


def put(value: Any, at: tuple[str | int, ...], new: Any) -> None:
    """`value[at[0]][at[1]].. = new`."""
    for key in at[:-1]:
        value = value[key]
    value[at[-1]] = new


def path_of(root: Path, pattern: str) -> Path:
    return next(iter(sorted(root.glob(pattern)))) if "*" in pattern else root / pattern


def rename(path: Path) -> None:
    """A record under the name that its content asks for, where that is a name."""
    record = read(path)
    view, block, crc = (record.get(key) for key in ("view", "block", "crc32c"))
    numbers = type(view) is int and type(block) is int
    if numbers and isinstance(crc, str) and crc.isalnum() and len(crc) == 8:
        path.rename(path.with_name(f"{view:06d}.{block:06d}.{crc}.json"))
