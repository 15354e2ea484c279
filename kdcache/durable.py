"""Files that appear whole or not at all, and stay: written aside, fsynced, renamed.

Whatever reaches a store passes through these few calls of the operating system, so that the tests
can kill a process, or cut its power, at each of them.
"""

import errno
import os
import secrets
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

Bytes = bytes | bytearray | memoryview
_AT_ONCE = 8  # folders


def aside(path: Path) -> Path:
    """A new hidden name in the same folder, for a file that is not yet to be seen."""
    return path.with_name(aside_name(path.name))


def aside_name(name: str) -> str:
    """A new hidden name for a file that shall have this one."""
    return f".{name}.{secrets.token_hex(6)}.tmp"


def is_aside(name: str) -> bool:
    """Whether a file name is one that `aside` gives."""
    return name.startswith(".") and name.endswith(".tmp")


def write_aside(
    path: Path, parts: Iterable[Bytes], *, within: Path | None = None, in_durable: bool = True
) -> Path:
    """Writes and fsyncs a file beside `path`; returns where. `publish` makes it appear.

    Folders that are missing are made, but not `within` itself: it has vanished, and what is left of
    a run is no reason to make it again. Raises FileNotFoundError then. `in_durable`: they are made
    durable; else that is the caller's to do, before anything appears in them.
    """
    make_folder(path.parent, within=within, in_durable=in_durable)
    temporary = aside(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CLOSE_ON_EXEC, 0o666)
    try:
        for part in parts:
            _write_all(descriptor, memoryview(part).cast("B"))
        os.fsync(descriptor)
    except BaseException:
        remove(temporary)
        raise
    finally:
        os.close(descriptor)
    return temporary


_CLOSE_ON_EXEC = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def _write_all(descriptor: int, content: memoryview) -> None:
    """The operating system may take less than it is offered."""
    while content:
        content = content[os.write(descriptor, content) :]


def make_folder(folder: Path, *, within: Path | None = None, in_durable: bool = True) -> None:
    """Makes a folder and its parents (below `within`), each durable in its own parent where that is
    not the caller's to do (`in_durable`).

    An empty one that is there may be of a writer that was killed before it had come to that. (One
    with something in it is not: whoever put it there came through here.)
    """
    if not folder.is_dir():
        if folder == within:
            raise FileNotFoundError(errno.ENOENT, "it vanished", str(folder))
        make_folder(folder.parent, within=within, in_durable=in_durable)
        folder.mkdir(exist_ok=True)
        if in_durable:
            fsync_folder(folder.parent)
    elif in_durable and _is_empty(folder):
        with suppress(PermissionError):  # it was made by somebody else, where we may not look
            fsync_folder(folder.parent)


def _is_empty(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is None


def publish(temporary: Path, path: Path) -> None:
    """Renames a file into place, so that it survives a power cut."""
    move(temporary, path)
    fsync_folder(path.parent)


def move(temporary: Path, path: Path) -> None:
    """Renames a file into place. `fsync_folder` makes that durable."""
    _make_way(path)
    os.replace(temporary, path)


def write_file(path: Path, *parts: Bytes, within: Path | None = None) -> None:
    """A whole file, durably, replacing what was there. `within`: see `write_aside`."""
    temporary = write_aside(path, parts, within=within)
    try:
        publish(temporary, path)
    finally:
        remove(temporary)


def _make_way(path: Path) -> None:
    """Removes an empty folder in a file's place. Raises IsADirectoryError for a full one."""
    if path.is_dir() and not path.is_symlink():
        try:
            path.rmdir()
        except OSError as error:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path)) from error


def remove(path: Path) -> None:
    """Unlinks a file, if it is there. `fsync_folder` makes that durable."""
    _make_way(path)
    path.unlink(missing_ok=True)


def fsync_folders(folders: Iterable[Path]) -> None:
    """Makes the entries of several folders durable: at once, since each waits for the same disk."""
    folders = list(dict.fromkeys(folders))
    if len(folders) < 2:
        for folder in folders:
            fsync_folder(folder)
        return
    with ThreadPoolExecutor(min(len(folders), _AT_ONCE), thread_name_prefix="fsync") as pool:
        list(pool.map(fsync_folder, folders))


def fsync_folder(folder: Path) -> None:
    """Makes a folder's entries durable (a no-op where folders cannot be opened)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
