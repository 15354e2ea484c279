"""Moving many files at once, so that a cut at any moment wastes little."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from kdcache.remote.connection import CONNECTIONS

PART_AT_ONCE = 10  # what is on its way is at most a tenth of what is to be moved
_LOOK = 0.2  # seconds after which somebody is asked whether to stop

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def moved_at_once(
    items: Sequence[Item],
    move: Callable[[Item], Outcome],
    num_bytes: Callable[[Item], int],
    should_stop: Callable[[], bool],
) -> Iterator[tuple[Item, Outcome]]:
    """Moves these in threads, in order; gives each with its outcome as it is done, in any order.

    At most `CONNECTIONS` at once, and at most a tenth of all bytes (one item at least). What `move`
    raises is raised here; the others that are on their way are waited for then, but not when an
    interruption ends it: that does not wait for the network. Asked to stop, no more are begun.
    """
    left = deque(items)
    most = sum(map(num_bytes, items)) // PART_AT_ONCE
    on_way: dict[Future[Outcome], Item] = {}
    pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="kdcache-move")
    waits = False
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
                yield on_way.pop(future), future.result()
            if should_stop():
                left.clear()
        waits = True
    except Exception:
        waits = True
        raise
    finally:
        pool.shutdown(wait=waits, cancel_futures=True)
