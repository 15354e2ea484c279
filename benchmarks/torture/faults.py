"""Every call by which a process changes a folder, watched, and broken where asked.

A handler is given each operation before it happens, and the call that makes it happen. It may make
it, make half of it, raise what the operating system could raise, or kill the process.
"""

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.torture.world import LOCKS

CREATE, WRITE, FSYNC = "create", "write", "fsync"
RENAME, UNLINK, MKDIR = "rename", "unlink", "mkdir"


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One call. `path` is absolute; `content`: of a write; `to`: of a rename."""

    kind: str
    path: Path
    content: bytes = b""
    to: Path | None = None

    def within(self, root: Path) -> str:
        """In words."""
        return f"{self.kind} of {os.path.relpath(self.to or self.path, root)}"


Handler = Callable[[Operation, Callable[..., Any]], Any]  # a write's call takes other bytes


@contextmanager
def watched(folder: Path, handler: Handler) -> Iterator[None]:
    """Gives `handler` every operation of this process below `folder`; locks are left alone."""
    folder = folder.resolve()
    real_open, real_write, real_fsync = os.open, os.write, os.fsync
    real_replace, real_unlink, real_mkdir = os.replace, os.unlink, os.mkdir

    def inside(path: Path) -> bool:
        return folder in path.parents and path.name not in LOCKS

    def opened(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        def call() -> int:
            return real_open(path, flags, mode, dir_fd=dir_fd)

        if dir_fd is None and flags & os.O_CREAT and inside(where := _absolute(path)):
            return int(handler(Operation(kind=CREATE, path=where), call))
        return call()

    def write(descriptor: int, content: Any) -> int:
        path = _path_of(descriptor)
        if not inside(path):
            return real_write(descriptor, content)

        def call(other: bytes | None = None) -> int:
            return real_write(descriptor, content if other is None else other)

        return int(handler(Operation(kind=WRITE, path=path, content=bytes(content)), call))

    def fsync(descriptor: Any) -> None:
        path = _path_of(descriptor)
        if inside(path) or path == folder:
            handler(Operation(kind=FSYNC, path=path), lambda: real_fsync(descriptor))
        else:
            real_fsync(descriptor)

    def replace(source: Any, to: Any) -> None:
        if inside(_absolute(to)):
            operation = Operation(kind=RENAME, path=_absolute(source), to=_absolute(to))
            handler(operation, lambda: real_replace(source, to))
        else:
            real_replace(source, to)

    def unlink(path: Any, *, dir_fd: int | None = None) -> None:
        def call() -> None:
            real_unlink(path, dir_fd=dir_fd)

        # One that is not there is no operation, so that moments are the same in every run.
        if dir_fd is None and inside(_absolute(path)) and os.path.lexists(path):
            handler(Operation(kind=UNLINK, path=_absolute(path)), call)
        else:
            call()

    def mkdir(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        def call() -> None:
            real_mkdir(path, mode, dir_fd=dir_fd)

        if dir_fd is None and inside(_absolute(path)) and not os.path.lexists(path):
            handler(Operation(kind=MKDIR, path=_absolute(path)), call)
        else:
            call()

    with ExitStack() as stack:
        for name, broken in (
            ("open", opened),
            ("write", write),
            ("fsync", fsync),
            ("replace", replace),
            ("unlink", unlink),
            ("mkdir", mkdir),
        ):
            stack.enter_context(patch.object(os, name, broken))
        yield


def _absolute(path: Any) -> Path:
    absolute = Path(os.path.abspath(os.fsdecode(path)))
    return Path(os.path.realpath(absolute.parent)) / absolute.name


def _path_of(descriptor: int) -> Path:
    """Linux; elsewhere nothing counts as inside."""
    try:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    except OSError:
        return Path("/")


class Recorder:
    """Lets everything happen and remembers it, in order."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def __call__(self, operation: Operation, call: Callable[..., Any]) -> Any:
        result = call()
        self.operations.append(operation)
        return result


class KillAt:
    """Kills the process at the operation number `moment` (from 0): BEFORE, MIDWAY or AFTER it."""

    BEFORE, MIDWAY, AFTER = WAYS = ("before", "midway", "after")

    def __init__(self, moment: int, way: str) -> None:
        self._left = moment
        self._way = way

    def __call__(self, operation: Operation, call: Callable[..., Any]) -> Any:
        self._left -= 1
        if self._left >= 0:
            return call()
        if self._left == -1 and self._way == KillAt.MIDWAY and operation.kind == WRITE:
            call(operation.content[: len(operation.content) // 2])
        if self._left == -1 and self._way == KillAt.AFTER:
            call()
        os.kill(os.getpid(), signal.SIGKILL)


class FullDisk:
    """Refuses all that takes room from operation number `moment` on; half a write still fits."""

    def __init__(self, moment: int) -> None:
        self._left = moment

    def __call__(self, operation: Operation, call: Callable[..., Any]) -> Any:
        self._left -= 1
        if self._left >= 0 or operation.kind == UNLINK:
            return call()
        if self._left == -1 and len(operation.content) > 1:
            return call(operation.content[: len(operation.content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Vanishing:
    """Removes a folder before the operation number `moment`."""

    def __init__(self, moment: int, folder: Path) -> None:
        self._left = moment
        self._folder = folder

    def __call__(self, operation: Operation, call: Callable[..., Any]) -> Any:
        self._left -= 1
        if self._left == -1:
            shutil.rmtree(self._folder, ignore_errors=True)
        return call()


class ShortWrites:
    """An operating system that takes few bytes at once, as it may do at any time."""

    MOST = 7

    def __call__(self, operation: Operation, call: Callable[..., Any]) -> Any:
        return call(operation.content[: self.MOST]) if operation.kind == WRITE else call()
