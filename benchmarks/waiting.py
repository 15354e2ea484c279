"""How much of the time a device has nothing to do.

torch.profiler lists what ran on the device, kernels and copies with their beginning and end (of a
CUDA graph too); the time that none of them covers, between the first step's beginning and the last
one's end, the device waited. On the CPU, where host and device are one, it is operators that are
listed, and what is left is Python.
"""

import time
from collections.abc import Iterable

from torch.profiler import ProfilerActivity, profile

from benchmarks.steps import run_epoch, synchronize
from kdcache.train.loop import TrainingLoop


def waiting_share(loop: TrainingLoop, steps: int) -> float:
    """Between 0 and 1, over so many steps; the loop has been warmed up."""
    on_cuda = loop.device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU
    synchronize(loop.device)
    with profile(activities=[activity]) as profiled:
        started = time.perf_counter()
        run_epoch(loop, steps)
        synchronize(loop.device)
        seconds = time.perf_counter() - started
    busy = covered(
        (event.time_range.start, event.time_range.end)
        for event in profiled.events() or ()
        if event.device_type.name == ("CUDA" if on_cuda else "CPU")
    )
    return max(0.0, 1 - busy / 1e6 / seconds)  # the profiler counts microseconds


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union of (beginning, end)."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
