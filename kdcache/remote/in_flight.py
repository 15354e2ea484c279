"""Moving many files at once, so that a cut at any moment wastes little."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from kdcache.remote.connection import CONNECTIONS

PART_AT_ONCE = 16  # what is on its way is at most a sixteenth of what is to be moved
_LOOK = 0.2  # seconds after which somebody is asked whether to stop

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def most_at_once(total_bytes: int) -> int:
    """Bytes that may be on their way, of so many that are to be moved; one item always may."""
    return total_bytes // PART_AT_ONCE


def moved_at_once(
    items: Sequence[Item],
    move: Callable[[Item], Outcome],
    num_bytes: Callable[[Item], int],
    should_stop: Callable[[], bool],
) -> Iterator[tuple[Item, Outcome]]:
    """Moves these in threads, in order; gives each with its outcome as it is done, in any order.

    At most `CONNECTIONS` at once, and at most a sixteenth of all bytes (one item at least). Where
    `move` raises, no more are begun, those on their way are given, and then it is raised. Asked to
    stop, no more are begun. An interruption does not wait for the network.
    """
    left = deque(items)
    most = most_at_once(sum(map(num_bytes, items)))
    on_way: dict[Future[Outcome], Item] = {}
    failed: BaseException | None = None
    pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="kdcache-move")
    try:
        while left or on_way:
            taken = sum(map(num_bytes, on_way.values()))
            while left and len(on_way) < CONNECTIONS:
                taken += num_bytes(left[0])
                if on_way and taken > most:
                    break
                item = left.popleft()
                on_way[pool.submit(move, item)] = item
            done, _ = wait(on_way, timeout=_LOOK, return_when=FIRST_COMPLETED)
            for future in done:
                item = on_way.pop(future)
                if (error := future.exception()) is None:
                    yield item, future.result()
                else:
                    failed = failed or error
            if failed is not None or should_stop():
                left.clear()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if failed is not None:
        raise failed
