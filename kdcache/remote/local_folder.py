"""A folder of this machine, or one that it shares with others."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kdcache import durable
from kdcache.errors import StoreError
from kdcache.remote.folder import Arriving, Content, Folder, as_bytes

_PART = 2**20
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a pipe in a file's place must not be waited for
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
# A link to itself, a socket, a name that no file can have: no waiting makes a file of them.
_NO_FILE = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.ENAMETOOLONG})


class LocalFolder(Folder):
    """Symbolic links below it are refused: a stranger's could lead to any file of ours."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self._root = root
        self._made = False

    def fetch(self, name: str, arriving: Arriving) -> None:
        with _as_missing(name):
            descriptor = os.open(self._inside(name), _FLAGS)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FileNotFoundError(errno.ENOENT, "no file", name)
            os.lseek(descriptor, arriving.got, os.SEEK_SET)
            while part := os.read(descriptor, _PART):
                arriving.write(part)
        finally:
            os.close(descriptor)

    def listing(self, folder: str) -> dict[str, int | None]:
        found: dict[str, int | None] = {}
        with _as_missing(folder), os.scandir(self._inside(folder)) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    found[entry.name] = None
                elif entry.is_file(follow_symlinks=False):
                    try:
                        found[entry.name] = entry.stat(follow_symlinks=False).st_size
                    except FileNotFoundError:  # replaced meanwhile
                        continue
        return found

    def put(self, name: str, content: Content) -> None:
        if not self._made:
            durable.make_folder(self._root)
            self._made = True
        # A folder that vanishes later is not made again: a share was unmounted.
        path = self._inside(name)
        self._make_folder(path.parent)
        temporary = durable.write_aside(path, [as_bytes(content)], within=self._root)
        try:
            self._open_up(temporary, 0o666)
            durable.publish(temporary, path)
        finally:
            durable.remove(temporary)

    def _make_folder(self, folder: Path) -> None:
        missing = []
        while folder != self._root and not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for folder in reversed(missing):
            durable.make_folder(folder, within=self._root)
            self._open_up(folder, 0o2777)

    def _open_up(self, path: Path, most: int) -> None:
        """Lets in whom the root lets in, though this user's umask would not: others write here
        too. `most`: of the root's bits."""
        if os.name == "posix":
            mode = stat.S_IMODE(path.stat().st_mode)
            wanted = mode | stat.S_IMODE(self._root.stat().st_mode) & most
            if wanted != mode:
                with suppress(PermissionError):  # a disk without modes; somebody else made it
                    path.chmod(wanted)

    def require_writable(self) -> None:
        """The protocol can write."""

    def _inside(self, name: str) -> Path:
        path = self._root / name if name else self._root
        real = Path(os.path.realpath(self._root), name)
        if os.path.realpath(path) != str(real):
            raise StoreError(
                f"{path} lies behind a symbolic link inside {self._root}, which may lead anywhere; "
                "put the files themselves there"
            )
        return path


@contextmanager
def _as_missing(name: str) -> Iterator[None]:
    """Says of what can never be read that it is not there: it must not be waited for."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_FILE:
            raise FileNotFoundError(errno.ENOENT, "no file", name) from error
        raise
