"""Ctrl-C and SIGTERM: asked once, a run stops at its next step; asked twice, at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from kdcache.errors import Stopped
from kdcache.remote import interrupt

STOPPED_AT_ONCE = "stopped; what was committed is kept. Run the same command again to go on"


class StopNow(KeyboardInterrupt):
    """Raised by the signal handler itself; no `except Exception` on the way swallows it."""


class StopRequest:
    """Callable by a running loop: whether it was asked to stop."""

    def __init__(self) -> None:
        self.signal_number = 0
        self._polled = False

    def __call__(self) -> bool:
        self._polled = True
        return self.signal_number != 0

    def receive(self, signal_number: int, frame: FrameType | None) -> None:
        """The signal handler. Nobody polls yet, or asked again: raises StopNow on the spot."""
        interrupt(asked=True)  # nothing waits for servers any more
        asked_before = self.signal_number != 0
        self.signal_number = signal_number
        if asked_before or not self._polled:
            raise StopNow


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Handles SIGINT and SIGTERM while a run goes on; exit codes 130 and 143."""
    request = StopRequest()
    signals = (signal.SIGINT, signal.SIGTERM)
    interrupt(asked=False)
    previous = {number: signal.signal(number, request.receive) for number in signals}
    try:
        yield request
    except (Stopped, KeyboardInterrupt) as error:
        stopped = error if isinstance(error, Stopped) else Stopped(STOPPED_AT_ONCE)
        stopped.exit_code = 128 + (request.signal_number or signal.SIGINT)
        raise stopped from error
    finally:
        interrupt(asked=False)
        for number, handler in previous.items():
            signal.signal(number, handler)
