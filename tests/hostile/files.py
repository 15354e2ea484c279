"""What is no file where one belongs, and what leads out of the store."""

import os
import shutil
import socket
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

from tests.hostile.forging import (
    ARRAY,
    CHUNK,
    GROUP,
    INDEX,
    PACKED,
    RECORD,
    ROOT,
    Make,
    path_of,
)  # fmt: skip

CASES: dict[str, Make] = {}


def replaced(path: Path) -> Path:
    """The path, with nothing there any more."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _socket(path: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path.parent)  # a socket's address is short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("s")
        os.rename("s", path.name)  # it may be longer than an address
    finally:
        os.fchdir(here)
        os.close(here)


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("a file")


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


OTHERS: dict[str, Callable[[Path, Path], object]] = {
    "gone": lambda path, outside: None,
    "link to a secret": lambda path, outside: path.symlink_to(outside / "secret"),
    "link to a folder": lambda path, outside: path.symlink_to(outside / "folder"),
    "link to /dev/zero": lambda path, outside: path.symlink_to("/dev/zero"),
    "link to itself": lambda path, outside: path.symlink_to(path),
    "link to nothing": lambda path, outside: path.symlink_to(outside / "not-there"),
    "FIFO": lambda path, outside: os.mkfifo(path),
    "socket": lambda path, outside: _socket(path),
    "folder": lambda path, outside: _folder(path),
    "file": lambda path, outside: path.write_bytes(b"x"),
    "sparse file": lambda path, outside: _sparse(path),
}
_PATHS = (
    *(ROOT, GROUP, ARRAY, RECORD, INDEX, CHUNK, PACKED, ".lock", ".writers", "index", "labels"),
    *("index/zarr.json", "index/c", "index/c/0", "index/.zarray", "index/.zattrs", "labels/c/0"),
    *("mentors", "mentors/zarr.json", "mentors/r8", "mentors/r8/logits"),
    *("mentors/r8/logits/c", "mentors/r8/logits/c/1", "mentors/r8/logits/c/1/0"),
    *("mentors/r8/logits/commits", "mentors/r99", "mentors/\x1b[2J", "mentors/\udcff", "."),
)


def _put_other(pattern: str, make: Callable[[Path, Path], object], root: Path, out: Path) -> None:
    path = replaced(path_of(root, pattern))
    make(path, out)


for _pattern, (_name, _make) in product(_PATHS, OTHERS.items()):
    if _pattern == "." and _name in ("link to a folder", "link to nothing"):
        continue  # the user named that link, so a new store is made where it leads
    CASES[f"{ascii(_pattern)[1:-1]} is: {_name}"] = partial(_put_other, _pattern, _make)


def _elsewhere(pattern: str, root: Path, outside: Path) -> None:
    """The folder itself moved out, and a link to it put there: everything inside is right."""
    path = path_of(root, pattern)
    target = root.parent / "out" / "moved"
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(exist_ok=True)
    moved = outside / "folder" / "moved"
    shutil.rmtree(moved, ignore_errors=True)
    path.rename(moved)
    path.symlink_to(moved)


for _pattern in ("mentors", "mentors/r8", "mentors/r8/logits", "mentors/r8/logits/commits",
                 "mentors/r8/logits/c", "mentors/r8/logits/c/1", "index", "labels/c",
                 ROOT, RECORD, INDEX, CHUNK):  # fmt: skip
    CASES[f"{_pattern} lies elsewhere"] = partial(_elsewhere, _pattern)
