"""Whole epochs from a TargetStream, with all that it takes to have the views in memory."""

import os
from collections.abc import Sequence
from itertools import count, islice

import numpy as np
from numpy.typing import NDArray

from benchmarks.paired import Side, timed
from kdcache.store import TargetStore
from kdcache.stream import TargetStream


def streamed_epochs(
    stream: TargetStream, batches: Sequence[NDArray[np.int64]], epochs: int
) -> Side:
    """Whole epochs of these batches, each of another view, while the next view is being loaded.

    As many views are loaded as epochs are read, each with its checksums, and the last of them is
    waited for: nothing is left to whoever is timed next.
    """
    assert len(stream.views) > 2  # two would both stay in memory, and nothing would be loaded
    numbers = count()

    def read() -> None:
        for epoch in islice(numbers, epochs):
            with stream.view(stream.views[epoch % len(stream.views)]) as targets:
                for index_B in batches:
                    targets[index_B]
        stream.executor().submit(lambda: None).result()

    def side() -> float:
        forget_checks(stream.store)
        return timed(read)()

    return side


def forget_checks(store: TargetStore) -> None:
    """Chunks get the time of now: a reader that remembers what it checked checks them again."""
    for chunk in store.root.glob("mentors/*/*/c/**/*"):
        if chunk.is_file():
            os.utime(chunk)
