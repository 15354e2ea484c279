"""Files that appear whole or not at all, and stay: written aside, fsynced, renamed."""

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

Bytes = bytes | bytearray | memoryview


def aside(path: Path) -> Path:
    """A new hidden name in the same folder, for a file that is not yet to be seen."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def write_aside(path: Path, parts: Iterable[Bytes]) -> Path:
    """Writes and fsyncs a file beside `path`; returns where. `publish` makes it appear."""
    make_folder(path.parent)
    temporary = aside(path)
    try:
        with open(temporary, "xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def make_folder(folder: Path) -> None:
    """Makes a folder and its parents, each durable in its own parent."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)


def publish(temporary: Path, path: Path) -> None:
    """Renames a file or a whole fsynced folder into place, so that it survives a power cut."""
    os.replace(temporary, path)
    fsync_folder(path.parent)


def write_file(path: Path, *parts: Bytes) -> None:
    """A whole file, durably, replacing what was there."""
    temporary = write_aside(path, parts)
    try:
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def fsync_file(path: Path) -> None:
    """Makes a written file's content durable."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def fsync_folder(folder: Path) -> None:
    """Makes a folder's entries durable (a no-op where folders cannot be opened)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Fsyncs every file and folder below `folder`, and `folder` itself."""
    for parent, _, names in os.walk(folder):
        for name in names:
            fsync_file(Path(parent) / name)
        fsync_folder(Path(parent))
