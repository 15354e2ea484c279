"""The disk that mirrors take: bounded, and what was not used for longest makes way."""

import os
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from kdcache import durable
from kdcache.errors import UsageError

MOST_GB = 20.0
VARIABLE = "KDCACHE_MIRROR_GB"
_EMPTIED = 0.9  # of the bound, when something must go: not every chunk is to look for room anew
_LEFT_OVER = 3600  # seconds after which an unfinished file is of a killed process


def most_mirrored() -> int:
    """Bytes of chunks that all mirrors of a home may have: `$KDCACHE_MIRROR_GB`, or 20 GB."""
    given = os.environ.get(VARIABLE)
    try:
        gigabytes = MOST_GB if given is None else float(given)
        if not 0 <= gigabytes < 1e9:
            raise ValueError
    except ValueError:
        raise UsageError(f"{VARIABLE} must be a number of gigabytes, got {given!r:.40}") from None
    return int(gigabytes * 1e9)


class MirrorSpace:
    """The chunks of every mirror in the folder `home`, together at most `most` bytes.

    Several processes may share it: each looks anew after a sixteenth of the bound, and whenever
    something must go, so together they may pass the bound by a sixteenth each for a moment.
    """

    def __init__(self, home: Path, most: int) -> None:
        self.most = most
        self.home = home
        self._lock = Lock()
        self._total: int | None = None  # when last looked, plus what was taken since
        self._taken = 0  # since then
        self._on_way = 0
        self._used: dict[Path, float] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"home": self.home, "most": self.most}

    def __setstate__(self, state: dict[str, Any]) -> None:
        MirrorSpace.__init__(self, **state)

    def use(self, path: Path) -> None:
        """Notes that a chunk is used now."""
        self._used[path] = time.time()

    def reserve(self, num_bytes: int, keep: Collection[Path], last: Collection[Path]) -> bool:
        """Makes room for a chunk; whether there is now. It counts in any case: `settle` it.

        `keep` stays, and of `last` goes only what must, from its end.
        """
        with self._lock:
            if self._total is None or self._taken > self.most // 16:
                self._look()
            if self._now + num_bytes > self.most:
                self._evict(num_bytes, keep, last)
            self._on_way += num_bytes
            return self._now <= self.most

    def settle(self, num_bytes: int, *, kept: bool) -> None:
        """A reserved chunk is there, or is not."""
        with self._lock:
            self._on_way -= num_bytes
            if kept and self._total is not None:
                self._total += num_bytes
                self._taken += num_bytes

    @property
    def _now(self) -> int:
        return (self._total or 0) + self._on_way

    def _evict(self, num_bytes: int, keep: Collection[Path], last: Collection[Path]) -> None:
        found = self._look()
        order = {path: place for place, path in enumerate(last)}
        goes_first = sorted(
            (path for path in found if path not in keep),
            key=lambda path: (path in order, -order.get(path, 0), found[path][1]),
        )
        for path in goes_first:
            aim = self.most if path in order else _EMPTIED * self.most
            if self._now + num_bytes <= aim:
                break
            with suppress(FileNotFoundError):
                path.unlink()
            self._total = (self._total or 0) - found[path][0]
            self._used.pop(path, None)

    def _look(self) -> dict[Path, tuple[int, float]]:
        """Size and last use of every chunk that is there; left-over unfinished ones go."""
        found = {}
        for folder, _, names in os.walk(self.home):
            parts = Path(folder).relative_to(self.home).parts
            if len(parts) < 5 or parts[1] != "mentors" or parts[4] != "c":
                continue
            for name in names:
                path = Path(folder, name)
                with suppress(FileNotFoundError):
                    status = path.stat()
                    if durable.is_aside(name):
                        if status.st_mtime < time.time() - _LEFT_OVER:
                            path.unlink()
                        continue
                    used = max(status.st_atime, status.st_mtime, self._used.get(path, 0))
                    found[path] = (status.st_size, used)
        self._total, self._taken = sum(size for size, _ in found.values()), 0
        return found
