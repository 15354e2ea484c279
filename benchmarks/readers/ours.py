"""Our own reader: a view that lies in memory. (`streamed.py` has all it takes to have it there.)"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.readers.reader import Given, Opened
from kdcache.resident import ResidentView

CPU = torch.device("cpu")


@contextmanager
def resident(given: Given) -> Iterator[Opened]:
    """`ResidentView`, loaded before."""
    store = given.store
    yield Opened(take=ResidentView(store, store.mentors, CPU).load(given.view).__getitem__)
