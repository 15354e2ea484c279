"""How long a server that does not answer is waited for, and what is said meanwhile."""

import logging
import os
import time
from threading import Lock
from typing import Any

from kdcache.errors import UsageError

WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds between attempts, whatever the server
LONGEST_WAIT = 10.0
SECONDS = 120.0
SILENCE = 10.0  # seconds without any answer, after which it is said
VARIABLE = "KDCACHE_PATIENCE"
_log = logging.getLogger("kdcache")  # Python prints warnings to stderr when nobody configured it


def most_patience() -> float:
    """Seconds a server that has answered before is waited for: `$KDCACHE_PATIENCE`, or 120.

    Raises UsageError.
    """
    given = os.environ.get(VARIABLE)
    try:
        seconds = SECONDS if given is None else float(given)
        if not 0 <= seconds < 1e9:
            raise ValueError
    except ValueError:
        raise UsageError(f"{VARIABLE} must be a number of seconds, got {given!r:.40}") from None
    return seconds


def most_silence() -> float:
    """Seconds that a request may bring nothing, after which it has failed."""
    return min(60.0, max(SILENCE, most_patience()))


class Patience:
    """Of all threads of one connection: they wait for the same server.

    One that never answered is tried again `len(WAITS)` times: its name may be wrong. One that did
    answer is waited for `most_patience()` seconds from the first failure since, with one warning
    when that begins and one when it answers again. A file that fails while others come is not worth
    the longer wait.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = Lock()
        self._answers = 0
        self._answers_before = False
        self._silent_since: float | None = None
        self._warned = False
        self._asked_at: float | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"address": self._address}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Patience.__init__(self, **state)

    def answered(self) -> None:
        """The server did what it was asked to, or said clearly that it will not."""
        with self._lock:
            self._answers += 1
            self._answers_before = True
            self._silent_since = None
            warned, self._warned = self._warned, False
        if warned:
            _log.warning("%s answers again", self._address)

    def look(self) -> None:
        """Called while somebody waits: says once that a server never answered for `SILENCE`."""
        if self._asked_at is None or self._warned or self._answers_before:
            return
        if time.monotonic() < self._asked_at + SILENCE:
            return
        with self._lock:
            warns, self._warned = not (self._warned or self._answers_before), True
        if warns:
            _log.warning("%s has not answered for %.0f s; still waiting", self._address, SILENCE)

    def attempts(self) -> "Attempts":
        """For one file."""
        self._asked_at = self._asked_at or time.monotonic()
        return Attempts(self)

    def _wait(self, failures: int, alone: int, reason: str) -> float | None:
        with self._lock:
            now = time.monotonic()
            self._silent_since = self._silent_since or now
            longest = most_patience() if self._answers_before else 0.0
            left = longest - (now - self._silent_since)
            if failures <= len(WAITS):
                wait: float | None = WAITS[failures - 1]
            elif left > 0 and alone <= len(WAITS):
                wait = min(LONGEST_WAIT, left, WAITS[-1] * 2 ** (failures - len(WAITS)))
            else:
                self._answers_before = False  # whoever asks next need not wait as long again
                return None
            warns = failures > 1 and not self._warned
            self._warned = self._warned or warns
        if warns:
            waits_up_to = max(left, sum(WAITS[failures - 1 :]))
            _log.warning(
                "%s does not answer (%s); waiting up to %.0f s", self._address, reason, waits_up_to
            )
        return wait


class Attempts:
    """One file's attempts in a row that brought nothing."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.failures = self._alone = 0
        self._answers = patience._answers

    def progressed(self) -> None:
        """The failed attempt brought a part of the file."""
        self._patience.answered()
        self.failures = self._alone = 0

    def wait(self, reason: str) -> float | None:
        """After another failure: seconds until the next attempt; None: it is given up."""
        self.failures += 1
        answers = self._patience._answers
        self._alone += answers > self._answers
        self._answers = answers
        return self._patience._wait(self.failures, self._alone, reason)
