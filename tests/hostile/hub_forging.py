"""Changing a hub's documents and sealing them: what whoever may write to a hub can do."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from kdcache.canonical import json_sha256
from tests.hostile.forging import read, resealed, write

WRONG = (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError)


def gathered_of(root: Path) -> Path:
    """The good store's document: that of r14 in more than one push later on."""
    return root / "stores" / fingerprint_of(root) / "store.json"


def fingerprint_of(root: Path) -> str:
    """Of the views that the victim has too: its store is the one of view seed 0."""
    for path in sorted((root / "stores").glob("*/store.json")):
        with suppress(*WRONG):
            if read(path)["manifest"]["view_seed"] == 0:
                return path.parent.name
    raise AssertionError("the good hub has lost its store")


def push_of(root: Path) -> Path:
    """The document of the push to the good store."""
    return next(iter(sorted((root / "pushes").glob(f"{fingerprint_of(root)}.*"))))


def rename_push(path: Path) -> Path:
    """A push's document under the name that its content asks for."""
    with suppress(*WRONG):
        fingerprint = read(path)["manifest"]["fingerprint"]
        if isinstance(fingerprint, str) and len(fingerprint) == 64 and fingerprint.isalnum():
            path = path.rename(path.with_name(f"{fingerprint}{path.name[64:]}"))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(path.with_name(f"{path.name[:65]}{sha256}.json"))


def edit_gathered(root: Path, change: Callable[[Any], object], *, agree: bool = True) -> None:
    """The same change of the store's document and of the push that it gathers, as if it had been
    pushed so; fingerprints and identities are made to fit."""
    for path in (push_of(root), gathered_of(root)):
        document = read(path)
        with suppress(KeyError):  # pushes are listed in one of them
            change(document)
        if agree:
            make_agree(document)
        write(path, document)
        if path.parent.name == "pushes":
            rename_push(path)
    if agree:
        with suppress(*WRONG):
            folder = gathered_of_any(root)
            stated = read(folder / "store.json")["manifest"]["fingerprint"]
            if len(stated) == 64 and stated.isalnum():
                folder.rename(folder.with_name(stated))


def gathered_of_any(root: Path) -> Path:
    """The folder of the store that was changed."""
    for path in sorted((root / "stores").glob("*/store.json")):
        if read(path)["manifest"]["fingerprint"] != path.parent.name:
            return path.parent
    raise LookupError


def make_agree(document: Any) -> None:
    """Fingerprints and identities made to fit what the document says now."""
    with suppress(*WRONG):
        manifest = document["manifest"]
        manifest["fingerprint"] = json_sha256(
            {key: manifest[key] for key in ("dataset", "recipe", "view_seed")}
        )
    with suppress(*WRONG):
        for array in document["arrays"]:
            with suppress(*WRONG):
                array["mentor"]["fingerprint"] = document["manifest"]["fingerprint"]
                array["identity"] = json_sha256(
                    {
                        "mentor": array["mentor"],
                        "kind": array["kind"],
                        "encoder": array["metadata"]["attributes"]["kdcache"]["encoder"],
                    }
                )


def agree_hub(root: Path) -> None:
    """Every document of a hub made to fit, as far as it can be."""
    for path in sorted(root.glob("pushes/*.json")) + sorted(root.glob("stores/*/store.json")):
        with suppress(*WRONG):
            document = read(path)
            make_agree(document)
            write(path, document)
            if path.parent.name == "pushes":
                rename_push(path)


def put_text(path: Path, text: str) -> None:
    """A document of this text, sealed where it has a seal."""
    path.write_bytes(resealed(text.encode()))


def add_push(root: Path, change: Callable[[Any], object], *, agree: bool = False) -> None:
    """One more push of the good store's views, by a stranger, that nobody has gathered yet."""
    document = read(push_of(root))
    change(document)
    if agree:
        make_agree(document)
    path = root / "pushes" / f"{fingerprint_of(root)}.{'0' * 64}.json"
    write(path, document)
    rename_push(path)


def encoded(document: Any) -> str:
    return json.dumps(document, indent=2)
