"""The folder at a URL: files and names read and written, tried again where the network fails."""

import os
from collections.abc import Callable, Iterable
from typing import Any

from kdcache import durable
from kdcache.errors import KdcacheError, StoreError, Unreachable
from kdcache.remote import waiting
from kdcache.remote.address import shown_url
from kdcache.remote.arriving import ArrivingDocument, LocalFailure, TooLarge
from kdcache.remote.failures import lasting, told
from kdcache.remote.folder import Arriving, Content, Folder, NotListed, NotThere
from kdcache.remote.patience import Patience
from kdcache.remote.protocols import open_folder

CONNECTIONS = 8
PROGRESS = 2**16  # bytes: an attempt that brought as many is no failed one
MOST_NAMES = 2**20
_BUGS = (TypeError, AttributeError, NameError, NotImplementedError, ImportError, MemoryError)


class Connection:
    """One folder at a URL or path. For several threads at once; a fork or a pickle connects anew.

    Whatever fails is tried again (`Patience`), from where it was cut where the server can do that.
    Raises Unreachable when patience ends; StoreError for what no waiting changes: a protocol that
    is not known or not installed, no permission, no such bucket; NoSpace; Stopped.
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        self.address = shown_url(place)
        self._place = str(place)
        self._patience = Patience(self.address)
        self._opened: Folder | None = None
        self._process = 0

    def fetch(self, name: str, arriving: Arriving) -> None:
        """A file's bytes. Raises NotThere, TooLarge."""
        _require_name(name)
        if not (isinstance(arriving, ArrivingDocument) and arriving.may_change):
            self._persist(name, lambda folder: folder.fetch(name, arriving), lambda: arriving.got)
            return
        most = 0

        def attempt(folder: Folder) -> None:
            nonlocal most
            most = max(most, arriving.got)  # to come as far once more is no progress
            arriving.restart()
            folder.fetch(name, arriving)

        self._persist(name, attempt, lambda: max(most, arriving.got))

    def names(self, folder: str) -> list[str]:
        """The names in a folder, of files and folders. Raises NotThere, NotListed."""
        return list(self._listing(folder))

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of the files directly in a folder; {} where there is none. Raises NotListed."""
        if not self._folder().tells_sizes:
            raise NotListed("web servers' listings do not tell the bytes of files")
        try:
            found = self._listing(folder)
        except NotThere:
            return {}
        return {name: size for name, size in found.items() if size is not None}

    def put(self, name: str, content: Content) -> None:
        """Writes a file: it appears whole, replacing what was there. A Path: the file's bytes."""
        _require_name(name)
        self._folder().require_writable()
        self._persist(name, lambda folder: folder.put(name, content), writing=True)

    def put_many(self, files: Iterable[tuple[str, Content]]) -> None:
        """Several files, one after another; one commit where each put would be one (hf://)."""
        files = list(files)
        if not self.commits_puts:
            for name, content in files:
                self.put(name, content)
            return
        for name, _ in files:
            _require_name(name)
        self._folder().require_writable()
        what = f"{len(files)} files"
        self._persist(what, lambda folder: folder.put_many(files), writing=True)

    @property
    def commits_puts(self) -> bool:
        """Whether each put is a commit in a history, so that `put_many` should be used."""
        return self._folder().commits_puts

    def require_writable(self) -> None:
        """Raises StoreError where the protocol can only read; the server is not asked."""
        self._folder().require_writable()

    def stop(self) -> None:
        """Gives up whatever any thread does here, now and later: Stopped is raised there."""
        self._folder().stopped = True

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _folder(self) -> Folder:
        if self._opened is None or self._process != os.getpid():
            if self._process != os.getpid():
                self._patience = Patience(self.address)  # a fork: another may hold its lock
            self._opened, self._process = open_folder(self._place, self.address), os.getpid()
            self._opened.while_waiting = self._patience.look
        return self._opened

    def _listing(self, folder: str) -> dict[str, int | None]:
        if folder:
            _require_name(folder)
        found: dict[str, int | None] = {}

        def attempt(place: Folder) -> None:
            found.clear()
            found.update(place.listing(folder))

        self._persist(folder, attempt)
        if len(found) > MOST_NAMES:
            raise StoreError(f"{self.address}/{folder} lists more than {MOST_NAMES:,} names")
        # A page may link anywhere, and a server answer anything.
        return {name: size for name, size in found.items() if _is_name(name)}

    def _persist(
        self,
        name: str,
        attempt: Callable[[Folder], None],
        got: Callable[[], int] = lambda: 0,
        *,
        writing: bool = False,
    ) -> None:
        folder = self._folder()
        what = f"{self.address}/{name}" if name else self.address
        attempts, before = self._patience.attempts(), got()
        while True:
            try:
                attempt(folder)
                self._patience.answered()
                return
            except LocalFailure as error:
                raise error.__cause__ or error from None
            except (NotListed, TooLarge):
                self._patience.answered()
                raise
            except (KdcacheError, *_BUGS):
                raise
            except Exception as error:  # each protocol's library has errors of its own
                final = lasting(what, error, writing=writing)
                if final is not None:
                    raise final from error
                if isinstance(error, FileNotFoundError | NotADirectoryError):
                    self._patience.answered()
                    raise NotThere(what) from None
                if got() >= before + PROGRESS:
                    attempts.progressed()
                before = got()
                wait = attempts.wait(told(error))
                if wait is None:
                    raise self._unreachable(
                        what, told(error), attempts.failures, writing
                    ) from error
                waiting.sleep(wait, folder.is_stopped)

    def _unreachable(self, what: str, reason: str, failures: int, writing: bool) -> Unreachable:
        done, kept = ("written", "pushed") if writing else ("read", "fetched")
        return Unreachable(
            f"{what} cannot be {done} ({reason}), tried {failures} times. "
            f"What was {kept} is kept; check the network and the server, then run the same "
            "command again to go on"
        )


def _require_name(name: str) -> None:
    """Names may come from a stranger's index: none leads out of the folder."""
    if not all(map(_is_part, name.split("/"))):
        raise StoreError(f"{name!r:.200} is no name of a file in a folder: it may lead elsewhere")


def _is_name(name: str) -> bool:
    return _is_part(name) and not durable.is_aside(name)


def _is_part(name: str) -> bool:
    return name not in ("", ".", "..") and name.isprintable() and not {"/", "\\"} & set(name)
