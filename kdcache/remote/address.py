"""What is a URL, how it is shown, and what its mirror is called."""

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from urllib.request import url2pathname

from kdcache.errors import UsageError


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a store's place is a URL that must be fetched; file:// is a folder like any other."""
    return "://" in str(path) and not str(path).startswith("file://")


def folder_of(path: str | os.PathLike[str]) -> Path:
    """The folder that a path or a file:// URL names. Raises UsageError for another host's."""
    text = str(path)
    if not text.startswith("file://"):
        return Path(path).expanduser()
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost"):
        raise UsageError(f"{text} names a file of the host {parts.netloc!r}; write file:///PATH")
    return Path(url2pathname(parts.path))


def shown_url(place: str | os.PathLike[str]) -> str:
    """A URL as it is told, recorded and mirrored: without password, and without a slash at its end.

    A path, or a file:// URL: the folder's absolute path. Raises UsageError for a URL with a query
    or fragment: names of files cannot be put behind it.
    """
    if not is_url(place):
        return str(folder_of(place).absolute())
    url = str(place)
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise UsageError(
            f"{_without_password(parts.netloc)}{parts.path}: a store's URL names a folder, and can "
            "have no ? or # part; give credentials as its protocol has it (environment, .netrc)"
        )
    shown = urlunsplit((parts.scheme, _without_password(parts.netloc), parts.path, "", ""))
    # What is between :// and the path may be empty (memory://), which urlunsplit leaves out.
    shown = shown if "://" in shown else f"{parts.scheme}://{parts.path.lstrip('/')}"
    return shown.rstrip("/") if not shown.endswith("://") else shown


def mirror_name(url: str | os.PathLike[str]) -> str:
    """The name of a URL's mirror folder: something to recognise it by, and a hash."""
    shown = shown_url(url)
    told = re.sub("[^A-Za-z0-9]+", "-", shown.split("://", 1)[-1]).strip("-")[-40:]
    return f"{told}-{hashlib.sha256(shown.encode()).hexdigest()[:16]}"


def _without_password(netloc: str) -> str:
    user, at, host = netloc.rpartition("@")
    return f"{user.partition(':')[0]}@{host}" if at else netloc
