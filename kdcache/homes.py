"""Where things live: `$KDCACHE_HOME` (stores, mentors, mirrors, data) and `$KDCACHE_DATA`."""

import os
from pathlib import Path

import platformdirs


def home() -> Path:
    """`$KDCACHE_HOME`, or the user's cache folder."""
    given = os.environ.get("KDCACHE_HOME")
    return Path(given).expanduser() if given else Path(platformdirs.user_cache_dir("kdcache"))


def stores() -> Path:
    """Stores made without `--store`; searched by `train-student` without `--store`."""
    return home() / "stores"


def mirrors() -> Path:
    """What was fetched of stores at URLs, a folder for each; it may be removed at any time."""
    return home() / "mirrors"


def data_dir(given: str | os.PathLike[str] | None = None) -> Path:
    """`given`, else `$KDCACHE_DATA`, else `data/` in the home."""
    chosen = given or os.environ.get("KDCACHE_DATA")
    return Path(chosen).expanduser() if chosen else home() / "data"


def mentor_library(dataset: str) -> Path:
    """Where `train-mentor` puts a dataset's checkpoints and their sidecars."""
    return home() / "mentors" / dataset.replace(":", ".")


def checkpoint_folders(dataset: str) -> list[Path]:
    """Folders searched for a mentor's checkpoint, in order: the library, then the shared data."""
    folders = [mentor_library(dataset)]
    if os.environ.get("KDCACHE_DATA"):
        folders.append(data_dir() / "mentors" / dataset.replace(":", "."))
    return folders
