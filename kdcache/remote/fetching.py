"""Chunks from a URL into its mirror: fetched when they are read, and ahead of that when told."""

import os
import pickle
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.errors import Stopped
from kdcache.remote.arriving import ArrivingChunk, LocalFailure, TooLarge, sounds_like_a_page
from kdcache.remote.connection import CONNECTIONS, Connection
from kdcache.remote.folder import NotThere
from kdcache.remote.mirror_space import MirrorSpace
from kdcache.remote.waiting import is_ending

MOST_CHUNK = 2**32  # bytes of one; the largest that a writer makes has half as many
MOST_AHEAD = 2**28  # bytes fetched, or on their way, that nobody has read yet
_IDLE = 10.0  # seconds after which a thread without work ends


@dataclass(frozen=True, kw_only=True)
class WantedChunk:
    """A chunk file: where it lies in the mirror, its name at the URL, its size and its CRC32C."""

    path: Path
    name: str
    bytes: int
    checksum: int

    def is_there(self) -> bool:
        """Whether the mirror has a file of its size; what is in it is checked by who reads it."""
        try:
            return self.path.lstat().st_size == self.bytes
        except OSError:
            return False


class WrongChunk(Exception):
    """What the server has is not the chunk; the message says in what way."""


class ChunkFetcher:
    """Fetches the chunks of one store: `CONNECTIONS` at once, `MOST_AHEAD` bytes unread at most."""

    def __init__(self, connection: Connection, space: MirrorSpace) -> None:
        self._connection, self._space = connection, space
        self._process = os.getpid()
        self._condition = threading.Condition()
        self._expected: dict[Path, WantedChunk] = {}  # not read yet
        self._queue: deque[WantedChunk] = deque()  # of those, not begun
        self._ahead: dict[Path, int] = {}  # of those, begun or there
        self._urgent: deque[_Fetch] = deque()
        self._on_way: dict[Path, _Fetch] = {}
        self._held: Counter[Path] = Counter()
        self._has_room = True
        self._threads = self._resting = 0

    def expect(self, wanted: Sequence[WantedChunk]) -> None:
        """These will be read next, in this order: they are fetched ahead, in the background.

        What was expected before and is not among them is no longer. A failure ends reading ahead;
        who then needs a chunk fetches it, and meets the failure.
        """
        with self._changed():
            self._expected = {one.path: one for one in wanted}
            self._ahead = {p: n for p, n in self._ahead.items() if p in self._expected}
            new = (one for one in wanted if one.path not in self._on_way)
            self._queue = deque(one for one in new if not one.is_there())
            self._has_room = True

    @contextmanager
    def hold(self, wanted: WantedChunk) -> Iterator[bool]:
        """A chunk in the mirror, fetched now if need be, and kept there meanwhile.

        Gives whether it was fetched for this: then it is what was committed; else it may be
        anything of that size. Raises WrongChunk, Unreachable, OSError.
        """
        with self._changed():
            self._held[wanted.path] += 1
        try:
            fetched = False
            while not wanted.is_there():
                self._fetch_now(wanted)
                fetched = True
            self._space.use(wanted.path)
            yield fetched
        finally:
            with self._changed():
                self._held[wanted.path] -= 1
                if not self._held[wanted.path]:
                    del self._held[wanted.path]
                self._expected.pop(wanted.path, None)
                self._ahead.pop(wanted.path, None)
                self._has_room = True

    def __getstate__(self) -> dict[str, Any]:
        return {"connection": self._connection, "space": self._space}

    def __setstate__(self, state: dict[str, Any]) -> None:
        ChunkFetcher.__init__(self, **state)

    @contextmanager
    def _changed(self) -> Iterator[None]:
        if self._process != os.getpid():  # a fork: the parent's threads do not run here
            self.__setstate__(pickle.loads(pickle.dumps(self.__getstate__())))
        with self._condition:
            yield
            work = len(self._urgent) + len(self._queue)
            for _ in range(min(work - self._resting, CONNECTIONS - self._threads)):
                self._threads += 1
                # Daemons: a process that ends does not wait for the network.
                threading.Thread(target=self._work, name="kdcache-fetch", daemon=True).start()
            if work:  # waking threads costs as much as reading a small chunk
                self._condition.notify(work)

    def _fetch_now(self, wanted: WantedChunk) -> None:
        with self._changed():
            fetch = self._on_way.get(wanted.path)
            if fetch is None:
                if wanted.is_there():  # it has just come
                    return
                if wanted in self._queue:
                    self._queue.remove(wanted)
                fetch = self._on_way[wanted.path] = _Fetch(wanted, urgent=True)
                self._urgent.append(fetch)
        while not fetch.done.wait(0.2):
            if is_ending():
                raise Stopped("stopped while a chunk was fetched")
        if fetch.error is not None:
            raise fetch.error

    def _work(self) -> None:
        while (fetch := self._next()) is not None:
            room = True
            try:
                room = self._fetch(fetch)
            except BaseException as error:
                fetch.error = error
            with self._changed():
                del self._on_way[fetch.wanted.path]
                if fetch.error is not None:
                    self._queue.clear()
                elif not room:
                    self._has_room = False  # until something has been read
                    self._ahead.pop(fetch.wanted.path, None)
                    if fetch.wanted.path in self._expected:
                        self._queue.appendleft(fetch.wanted)
            fetch.done.set()

    def _next(self) -> "_Fetch | None":
        with self._condition:
            while True:
                if self._urgent:
                    return self._urgent.popleft()
                if self._queue and self._has_room:
                    wanted = self._queue[0]
                    ahead = sum(self._ahead.values())
                    if not ahead or ahead + wanted.bytes <= MOST_AHEAD:
                        self._queue.popleft()
                        self._ahead[wanted.path] = wanted.bytes
                        fetch = self._on_way[wanted.path] = _Fetch(wanted, urgent=False)
                        return fetch
                self._resting += 1
                woken = self._condition.wait(_IDLE)
                self._resting -= 1
                if not (woken or self._urgent or self._queue):
                    self._threads -= 1
                    return None

    def _fetch(self, fetch: "_Fetch") -> bool:
        """Fetches it; or gives False, where it can wait and there is no room."""
        wanted = fetch.wanted
        with self._condition:
            expected = list(self._expected)
            keep = {*self._held, *self._on_way}
        if not fetch.urgent:
            keep.update(expected)
        kept = False
        room = self._space.reserve(wanted.bytes, keep, expected)
        try:
            if room or fetch.urgent:
                fetch_chunk(self._connection, wanted)
                kept = True
            return kept
        finally:
            self._space.settle(wanted.bytes, kept=kept)


class _Fetch:
    """A chunk on its way."""

    def __init__(self, wanted: WantedChunk, *, urgent: bool) -> None:
        self.wanted, self.urgent = wanted, urgent
        self.done = threading.Event()
        self.error: BaseException | None = None


def fetch_chunk(connection: Connection, wanted: WantedChunk) -> None:
    """One chunk into the mirror, checked as it arrives; once more if it is not what it should be.

    Raises WrongChunk, Unreachable, OSError where the mirror cannot be written.
    """
    require_size(wanted)
    try:
        try:
            _fetch_once(connection, wanted)
        except WrongChunk:
            _fetch_once(connection, wanted)
    except LocalFailure as error:
        raise error.__cause__ or error from None


def require_size(wanted: WantedChunk) -> None:
    """Raises WrongChunk for a chunk larger than any: it would fill the disk, whatever is sent."""
    if wanted.bytes > MOST_CHUNK:
        raise WrongChunk(
            f"it states {wanted.bytes:,} bytes, of a chunk at most {MOST_CHUNK:,} are fetched"
        )


def _fetch_once(connection: Connection, wanted: WantedChunk) -> None:
    arriving = ArrivingChunk(wanted.path, wanted.bytes)
    try:
        try:
            connection.fetch(wanted.name, arriving)
        except NotThere:
            raise WrongChunk("the file is gone") from None
        except TooLarge as error:
            reason = f"{error}, which it should have"
            raise WrongChunk(reason + _of_a_page(arriving)) from None
        if arriving.got != wanted.bytes:
            reason = f"{arriving.got} bytes instead of {wanted.bytes}"
            raise WrongChunk(reason + _of_a_page(arriving))
        if not arriving.has_checksum(wanted.checksum):
            reason = "its CRC32C differs from the committed one"
            raise WrongChunk(reason + _of_a_page(arriving))
        arriving.publish()
    finally:
        arriving.remove()


def _of_a_page(arriving: ArrivingChunk) -> str:
    return "; a web page arrived" if sounds_like_a_page(arriving.first) else ""
