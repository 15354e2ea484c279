"""Waiting for the network without outliving the program, or whoever asked it to stop."""

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from kdcache.errors import Stopped

_GRACE = 10.0  # seconds that what is on its way has left when the user interrupts
_LOOK = 0.1

_interrupted_at: float | None = None


def interrupt(*, asked: bool) -> None:
    """Notes that the user asked to stop (or that a new run begins, which nobody has stopped).

    Safe in a signal handler: nothing is locked. Waits for servers that do not answer end at once
    then, transfers a little later.
    """
    global _interrupted_at
    _interrupted_at = time.monotonic() if asked else None


def is_interrupted(grace: float = 0.0) -> bool:
    """Whether the user asked to stop at least `grace` seconds ago."""
    return _interrupted_at is not None and time.monotonic() >= _interrupted_at + grace


def is_ending() -> bool:
    """Whether the program has ended, and Python only waits for threads that are still at work.

    There is no public way to ask: the main thread counts as alive until pools' threads are joined.
    """
    ending = getattr(threading, "_SHUTTING_DOWN", False)
    return bool(ending) or not threading.main_thread().is_alive()


def sleep(seconds: float, given_up: Callable[[], bool]) -> None:
    """Raises Stopped as soon as the program ends, the user interrupts or it is `given_up`."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if is_ending() or is_interrupted() or given_up():
            raise Stopped("stopped while the server did not answer; what was moved is kept")
        time.sleep(min(left, _LOOK))


def run(work: Coroutine[Any, Any, Any], given_up: Callable[[], bool]) -> Any:
    """Runs a coroutine on fsspec's own thread; cancels it and raises Stopped as `sleep` does."""
    from fsspec.asyn import get_loop

    running = asyncio.run_coroutine_threadsafe(work, get_loop())
    try:
        while not concurrent.futures.wait([running], timeout=_LOOK).done:
            if is_ending() or is_interrupted(_GRACE) or given_up():
                raise Stopped("stopped while a file was on its way; what was moved is kept")
    except BaseException:  # an interruption of this thread, too
        running.cancel()
        raise
    return running.result()
