"""`--samples N`: the same balanced, nested part of a dataset for everybody."""

import numpy as np
from numpy.typing import NDArray

from kdcache.errors import UsageError


def balanced_samples(
    labels_N: NDArray[np.int64], num_classes: int, count: int
) -> NDArray[np.int64]:
    """The indices (ascending int64) of a class-balanced part of `count` samples.

    The first floor(count / classes) samples of each class in dataset order; the remainder goes to
    the lowest class ids. A smaller count is always contained in a larger one. `count` equal to the
    dataset's size is the whole dataset. Raises UsageError when a class has too few samples.
    """
    if count == len(labels_N):
        return np.arange(count)
    if not 0 < count < len(labels_N):
        raise UsageError(f"--samples must lie in 1 to {len(labels_N)} (the dataset), got {count}")
    quota, remainder = divmod(count, num_classes)
    chosen = []
    for label in range(num_classes):
        of_class = np.flatnonzero(labels_N == label)
        wanted = quota + (label < remainder)
        if wanted > len(of_class):
            smallest = int(np.bincount(labels_N, minlength=num_classes).min())
            raise UsageError(
                f"--samples {count} asks for {wanted} samples of class {label}, which has "
                f"{len(of_class)}; take at most {smallest * num_classes} samples, or all "
                f"{len(labels_N)}"
            )
        chosen.append(of_class[:wanted])
    return np.sort(np.concatenate(chosen))
